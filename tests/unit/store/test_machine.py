"""The local store against a model of it: any sequence of additions, checkouts, traces, failures and restarts."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from mmojo_forge.model.derivation import action_key
from mmojo_forge.model.digest import ActionKey, BlobDigest, DerivationId, TreeId, blake3_hex
from mmojo_forge.model.trace import Trace, TraceOutput
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.maintain.gc import GcPolicy
from mmojo_forge.store.protocol import Recorded, StoreError
from mmojo_forge.store.scratch import remove_tree

NAMES = st.sampled_from(["a", "b", "bin", "lib", "größe", "with space"])
CONTENTS = st.sampled_from([b"", b"x", b"same", b"y" * 5000])
FILES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.tuples(CONTENTS, st.booleans()), max_size=6
)


def _refusal(act: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        act()
    return caught.value.reason


class StoreMachine(RuleBasedStateMachine):
    """Trees are modelled by their files, traces by what was recorded first."""

    trees = Bundle("trees")

    @initialize()
    def open(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self.store = LocalStore.open(self.top / "store")
        self.known: dict[TreeId, Tree] = {}
        self.contents: dict[TreeId, dict[str, bytes]] = {}
        self.traces: dict[ActionKey, Trace] = {}
        self.resolved: dict[DerivationId, dict[str, TreeId]] = {}
        self.count = 0
        self.linked: TreeId | None = None

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            remove_tree(str(self.top.parent), self.top.name)

    def _lay_out(self, files: dict[str, tuple[bytes, bool]]) -> tuple[Path, Tree, dict[str, bytes]]:
        """The files on disk, and the tree that they should become; what collides is left out."""
        self.count += 1
        source = self.top / f"source-{self.count}"
        source.mkdir()
        entries: dict[str, TreeEntry] = {}
        contents = {}
        for path, (data, executable) in files.items():
            parents = ["/".join(path.split("/")[:end]) for end in range(1, path.count("/") + 1)]
            if path in entries or any(parent in contents for parent in parents):
                continue
            for parent in parents:
                entries[parent] = TreeEntry(parent, EntryKind.DIRECTORY)
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(data)
            (source / path).chmod(0o755 if executable else 0o644)
            kind = EntryKind.EXECUTABLE if executable else EntryKind.FILE
            entries[path] = TreeEntry(path, kind, BlobDigest(blake3_hex(data)), len(data))
            contents[path] = data
        return source, Tree.of(entries.values()), contents

    def _keep(self, tree: Tree, contents: dict[str, bytes]) -> TreeId:
        self.known[tree.id] = tree
        self.contents[tree.id] = contents
        return tree.id

    @rule(target=trees, files=FILES, move=st.booleans())
    def add_path(self, files: dict[str, tuple[bytes, bool]], move: bool) -> TreeId:
        source, expected, contents = self._lay_out(files)
        assert self.store.add_path(source, move=move) == expected
        return self._keep(expected, contents)

    @rule(target=trees, data=CONTENTS, executable=st.booleans())
    def add_file(self, data: bytes, executable: bool) -> TreeId:
        tree = self.store.add_file(io.BytesIO(data), executable=executable)
        return self._keep(tree, {"": data})

    @rule(target=trees, files=FILES, calls=st.integers(0, 30))
    def add_path_to_a_failing_disk(self, files: dict[str, tuple[bytes, bool]], calls: int) -> object:
        source, expected, contents = self._lay_out(files)
        left = [calls]
        rename = os.rename

        def failing(*args: object, **keywords: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "full")
            rename(*args, **keywords)  # type: ignore[arg-type]

        try:
            with mock.patch("os.rename", failing):
                tree = self.store.add_path(source)
        except StoreError as error:
            assert error.reason == "disk-full"
            return multiple()
        assert tree == expected
        return self._keep(tree, contents)

    @rule(tree=trees, name=st.sampled_from(["one", "two"]))
    def check_out(self, tree: TreeId, name: str) -> None:
        if tree not in self.known:
            assert _refusal(lambda: self.store.checkout(tree, name)) == "tree-missing"
            return
        path = self.store.checkout(tree, name)
        for below, data in self.contents[tree].items():
            assert (path / below if below else path).read_bytes() == data

    @rule(tree=trees)
    def read(self, tree: TreeId) -> None:
        if tree not in self.known:
            assert _refusal(lambda: self.store.read_tree(tree)) == "tree-missing"
            return
        assert self.store.read_tree(tree) == self.known[tree]
        for entry in self.known[tree].files():
            assert entry.digest is not None
            with self.store.open_blob(entry.digest, executable=entry.kind is EntryKind.EXECUTABLE) as file:
                assert len(file.read()) == entry.size

    @rule(tree=trees, text=st.sampled_from([b"1", b"2", b"3"]))
    def record(self, tree: TreeId, text: bytes) -> None:
        trace = Trace(action_key(text), "thing", text, {"out": TraceOutput(tree, 1)})
        first = self.traces.setdefault(trace.key, trace)
        answer = self.store.record(trace)
        assert (answer is Recorded.CONFLICT) == (first.outputs != trace.outputs)
        assert self.store.lookup([trace.key]) == {trace.key: first}

    @rule(tree=trees, letter=st.sampled_from("abc"), output=st.sampled_from(["out", "dev"]))
    def resolve(self, tree: TreeId, letter: str, output: str) -> None:
        derivation = DerivationId(letter * 64)
        self.resolved.setdefault(derivation, {})[output] = tree
        self.store.record_resolved({derivation: {output: tree}})

    @rule(tree=consumes(trees))
    def add_root(self, tree: TreeId) -> None:
        if tree not in self.known:
            return
        self.linked = tree
        self.store.add_root(self.top / "out" / "link", tree, "one")
        assert [root.tree for root in self.store.roots()] == [tree]

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = LocalStore.open(self.top / "store")

    @rule()
    def crash(self) -> None:
        """What the process had open is gone, and nothing was closed in order."""
        self.store._added = False
        os.close(self.store._scratch.fd)
        self.store._scratch.fd = -1
        self.store._database.close()
        self.store = LocalStore.open(self.top / "store")

    @rule(used=trees)
    def collect(self, used: TreeId) -> None:
        """All goes but what is linked and what this process has asked for."""
        self._collect(self.store, used)
        kept = {self.linked, used}
        self.known = {tree: one for tree, one in self.known.items() if tree in kept}

    @rule(used=trees)
    def collect_beside_another_process(self, used: TreeId) -> None:
        """What was used since the other one started stays too, which is a matter of seconds; what it asked for must."""
        with LocalStore.open(self.top / "store") as other:
            kept = self._collect(other, used) | {self.linked} & self.known.keys()
            there = other.valid_trees(self.known)
        assert kept <= there
        self.known = {tree: one for tree, one in self.known.items() if tree in there}

    def _collect(self, asker: LocalStore, used: TreeId) -> set[TreeId | None]:
        own = asker is self.store
        self.reopen()
        asker = self.store if own else asker
        kept = asker.valid_trees([used])
        assert kept == {used} & self.known.keys()
        self.store.maintenance.collect(GcPolicy(0), time.time() + 1e6)
        return set(kept)

    @invariant()
    def everything_is_there_and_nothing_else(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.valid_trees(self.known) == set(self.known)
        assert self.store.lookup(list(self.traces)) == self.traces
        assert self.store.lookup_resolved(list(self.resolved)) == self.resolved
        report = self.store.verify()
        assert report.findings == ()
        assert report.trees == len(self.known)


StoreMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)


class TestStoreAgainstItsModel(StoreMachine.TestCase):  # type: ignore[misc, valid-type]
    """Run by pytest."""


pytestmark = pytest.mark.filterwarnings("default::hypothesis.errors.HypothesisWarning")
