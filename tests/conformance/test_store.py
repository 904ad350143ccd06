"""What every store does: one suite, run over the local store and the one in memory."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import Limits, action_key
from mmojo_forge.model.digest import BlobDigest, DerivationId, Sha256, TreeId, blake3_hex
from mmojo_forge.model.trace import Trace, TraceOutput
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.memory import MemoryStore
from mmojo_forge.store.protocol import FileDigests, GcRoot, Recorded, Store

NOWHERE = TreeId("0" * 64)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    made: Store = LocalStore.open(tmp_path / "store") if request.param == "local" else MemoryStore(tmp_path / "store")
    yield made
    made.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree with every kind of entry."""
    top = tmp_path / "source"
    (top / "bin").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "bin" / "tool").write_bytes(b"#!/bin/sh\n")
    (top / "bin" / "tool").chmod(0o755)
    (top / "bin" / "tool.txt").write_bytes(b"#!/bin/sh\n")
    (top / "größe").write_bytes(b"x" * 300_000)
    (top / "bin" / "alias").symlink_to("../größe")
    return top


def refusal(act: Callable[[], object]) -> str:
    """The reason with which the act is refused."""
    with pytest.raises(ForgeError) as caught:
        act()
    return caught.value.reason


def trace_of(text: bytes, tree: TreeId, **facts: float) -> Trace:
    return Trace(
        key=action_key(text),
        name="tool-1.0",
        preimage=text,
        outputs={"out": TraceOutput(tree, 10)},
        seconds=facts.get("seconds", 0.0),
        peak_memory_bytes=int(facts.get("memory", 0)),
    )


def test_an_added_path_has_the_tree_of_its_files(store: Store, source: Path) -> None:
    tree = store.add_path(source)
    listed = {entry.path: (entry.kind, entry.size, entry.target) for entry in tree.entries}
    assert listed == {
        "": (EntryKind.DIRECTORY, 0, None),
        "bin": (EntryKind.DIRECTORY, 0, None),
        "bin/alias": (EntryKind.SYMLINK, 0, "../größe"),
        "bin/tool": (EntryKind.EXECUTABLE, 10, None),
        "bin/tool.txt": (EntryKind.FILE, 10, None),
        "empty": (EntryKind.DIRECTORY, 0, None),
        "größe": (EntryKind.FILE, 300_000, None),
    }
    assert store.has_tree(tree.id)
    assert store.read_tree(tree.id) == tree
    assert store.valid_trees([tree.id, NOWHERE]) == {tree.id}


def test_both_digests_of_a_file_are_found_by_either(store: Store, tmp_path: Path) -> None:
    known = set()
    for content in (b"one", b"two"):
        (tmp_path / "file").write_bytes(content)
        for executable in (False, True):
            store.add_file(tmp_path / "file", executable=executable)
        sha256 = Sha256(hashlib.sha256(content).hexdigest())
        known.add(FileDigests(BlobDigest(blake3_hex(content)), sha256, len(content)))
    for file in known:
        assert store.file_digests([file.blake3]) == store.file_digests([file.sha256]) == [file]
    every = store.file_digests([digest for file in known for digest in (file.blake3, file.sha256)])
    assert (set(every), len(every)) == (known, 2)
    assert store.file_digests([BlobDigest("0" * 64)]) == store.file_digests([]) == []


def test_the_same_files_give_the_same_tree_wherever_they_lie(store: Store, source: Path, tmp_path: Path) -> None:
    first = store.add_path(source)
    source.rename(tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere" / "größe", (5, 5))
    (tmp_path / "elsewhere" / "größe").chmod(0o600)
    assert store.add_path(tmp_path / "elsewhere").id == first.id


def test_the_executable_bit_and_nothing_else_of_the_mode_counts(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    plain = store.add_path(tmp_path / "file")
    (tmp_path / "file").chmod(0o700)
    executable = store.add_path(tmp_path / "file")
    assert plain == Tree.of_file(BlobDigest(blake3_hex(b"content")), 7)
    assert executable == Tree.of_file(BlobDigest(blake3_hex(b"content")), 7, executable=True)
    assert os.access(store.checkout(executable.id, "file"), os.X_OK)
    assert store.checkout(plain.id, "file").stat().st_mode & 0o111 == 0


def test_names_that_are_ignored_are_left_out(store: Store, source: Path) -> None:
    (source / "bin" / "__pycache__").mkdir()
    (source / "bin" / "__pycache__" / "x.pyc").write_bytes(b"")
    kept = store.add_path(source, ignored=frozenset({"__pycache__"}))
    assert not any("__pycache__" in entry.path for entry in kept.entries)


def test_moved_files_are_those_that_were_there(store: Store, source: Path) -> None:
    tree = store.add_path(source)
    assert store.add_path(source, move=True).id == tree.id
    assert (store.checkout(tree.id, "moved") / "größe").read_bytes() == b"x" * 300_000


def test_an_object_has_the_content_and_is_read_only(store: Store, source: Path) -> None:
    tree = store.add_path(source)
    path = store.checkout(tree.id, "thing-1.0")
    assert path == store.object_path(tree.id, "thing-1.0")
    assert (path / "bin" / "tool").read_bytes() == b"#!/bin/sh\n"
    assert (path / "bin" / "alias").read_bytes() == b"x" * 300_000
    assert os.listdir(path / "empty") == []
    assert (path / "bin" / "tool").stat().st_mode & 0o777 == 0o555
    assert (path / "bin" / "tool.txt").stat().st_mode & 0o777 == 0o444
    assert store.checkout(tree.id, "thing-1.0") == path


def test_one_tree_may_be_checked_out_under_several_names(store: Store, source: Path) -> None:
    tree = store.add_path(source)
    assert store.checkout(tree.id, "a") != store.checkout(tree.id, "b")


def test_a_tree_that_is_not_there_is_refused(store: Store) -> None:
    assert not store.has_tree(NOWHERE)
    assert refusal(lambda: store.read_tree(NOWHERE)) == "tree-missing"
    assert refusal(lambda: store.checkout(NOWHERE, "x")) == "tree-missing"
    assert refusal(lambda: store.open_blob(BlobDigest("0" * 64))) == "blob-missing"


@pytest.mark.parametrize("name", ["a" * 191])
def test_an_object_needs_a_name_that_fits(store: Store, source: Path, name: str) -> None:
    tree = store.add_path(source)
    assert refusal(lambda: store.checkout(tree.id, name)) == "object-bad-name"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x"])
def test_an_object_name_is_one_file_name(store: Store, source: Path, name: str) -> None:
    tree = store.add_path(source)
    assert refusal(lambda: store.checkout(tree.id, name)) == "tree-bad-name"


def _device(place: Path) -> None:
    try:
        os.mknod(place, 0o020644, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def _socket(place: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(place.name)
    finally:
        os.chdir(here)


def _with_mode(mode: int) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        place.write_bytes(b"content")
        place.chmod(mode)

    return make


def _directory_with_mode(mode: int) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        place.mkdir()
        place.chmod(mode)

    return make


def _name_that_is_no_text(place: Path) -> None:
    Path(os.fsdecode(os.fsencode(place.parent) + b"/\xff\xfe")).write_bytes(b"")


def _deep(place: Path) -> None:
    Path(place, *["d"] * 200).mkdir(parents=True)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a device": (_device, "output-device"),
    "a socket": (_socket, "output-socket"),
    "a fifo": (os.mkfifo, "output-fifo"),
    "a setuid file": (_with_mode(0o4755), "output-setuid"),
    "a setgid file": (_with_mode(0o2755), "output-setgid"),
    "a sticky file": (_with_mode(0o1644), "output-sticky"),
    "a sticky directory": (_directory_with_mode(0o1777), "output-sticky"),
    "a setgid directory": (_directory_with_mode(0o2755), "output-setgid"),
    "an absolute symlink": (lambda place: place.symlink_to("/etc/passwd"), "symlink-absolute"),
    "an escaping symlink": (lambda place: place.symlink_to("../../../etc/passwd"), "symlink-escapes"),
    "a symlink that is no text": (lambda place: os.symlink(b"\xff", os.fsencode(place)), "symlink-bad-target"),
    "a name that is no text": (_name_that_is_no_text, "tree-bad-name"),
    "a deep tree": (_deep, "tree-bad-name"),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_an_output_that_must_not_be_an_object_is_refused(store: Store, source: Path, what: str) -> None:
    make, reason = HOSTILE[what]
    make(source / "bin" / "odd")
    assert refusal(lambda: store.add_path(source)) == reason
    if isinstance(store, LocalStore):
        report = store.verify()
        assert (report.blobs, report.trees, report.findings) == (0, 0, ())


@pytest.mark.parametrize("what", ["a device", "a socket", "a fifo", "a setuid file"])
def test_an_output_that_is_itself_odd_is_refused(store: Store, tmp_path: Path, what: str) -> None:
    make, reason = HOSTILE[what]
    make(tmp_path / "odd")
    assert refusal(lambda: store.add_path(tmp_path / "odd")) == reason


def test_a_symlink_is_never_followed_to_an_output(store: Store, source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    assert refusal(lambda: store.add_path(tmp_path / "link")) == "output-symlink"
    (tmp_path / "file-link").symlink_to(source / "größe")
    assert refusal(lambda: store.add_path(tmp_path / "file-link")) == "output-symlink"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_refused(store: Store, source: Path) -> None:
    (source / "größe").chmod(0)
    assert refusal(lambda: store.add_path(source)) == "output-unreadable"


def test_a_path_that_is_not_there_is_refused(store: Store, tmp_path: Path) -> None:
    assert refusal(lambda: store.add_path(tmp_path / "nothing")) == "path-missing"
    assert refusal(lambda: store.add_file(tmp_path / "nothing")) == "path-missing"
    assert refusal(lambda: store.add_path(tmp_path / "no" / "thing")) == "path-missing"


def test_an_output_may_have_too_many_files(store: Store, source: Path) -> None:
    assert refusal(lambda: store.add_path(source, limits=Limits(output_files=3))) == "output-too-many-files"


def test_an_output_may_be_too_large(store: Store, source: Path) -> None:
    assert refusal(lambda: store.add_path(source, limits=Limits(output_bytes=300_000))) == "output-too-large"


def test_a_file_is_taken_from_a_path_or_a_stream(store: Store, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    digest = BlobDigest(blake3_hex(data))
    assert store.add_file(io.BytesIO(data), digest=digest, size=len(data)) == Tree.of_file(digest, len(data))
    (tmp_path / "download").write_bytes(data)
    tree = store.add_file(tmp_path / "download", digest=digest, executable=True, move=True)
    assert tree == Tree.of_file(digest, len(data), executable=True)
    assert not (tmp_path / "download").exists()
    with store.open_blob(digest, executable=True) as file:
        assert file.read() == data


def test_a_file_that_is_not_what_was_expected_stays_out(store: Store, tmp_path: Path) -> None:
    (tmp_path / "download").write_bytes(b"evil")
    expected = BlobDigest(blake3_hex(b"good"))
    assert refusal(lambda: store.add_file(tmp_path / "download", digest=expected, move=True)) == "blob-mismatch"
    assert refusal(lambda: store.add_file(io.BytesIO(b"evils"), size=4)) == "blob-mismatch"
    assert refusal(lambda: store.add_file(io.BytesIO(b"evi"), size=4)) == "blob-mismatch"
    assert (tmp_path / "download").read_bytes() == b"evil"
    assert not store.has_tree(Tree.of_file(BlobDigest(blake3_hex(b"evil")), 4).id)


@contextmanager
def _opened(data: bytes) -> Iterator[BinaryIO]:
    yield io.BytesIO(data)


def test_a_tree_comes_in_from_another_store(store: Store, source: Path, tmp_path: Path) -> None:
    other = LocalStore.open(tmp_path / "other")
    tree = other.add_path(source)

    def from_other(entry: TreeEntry) -> BinaryIO:
        assert entry.digest is not None
        return other.open_blob(entry.digest, executable=entry.kind is EntryKind.EXECUTABLE)

    store.add_tree(tree, from_other)
    assert store.has_tree(tree.id)
    assert (store.checkout(tree.id, "x") / "bin" / "tool").read_bytes() == b"#!/bin/sh\n"
    other.close()


@pytest.mark.parametrize("lie", [b"", b"liar!", b"lying, and at length"])
def test_a_tree_whose_content_is_a_lie_stays_out(store: Store, lie: bytes) -> None:
    truth = b"truth"
    tree = Tree.of([TreeEntry("a", EntryKind.FILE, BlobDigest(blake3_hex(truth)), len(truth))])
    assert refusal(lambda: store.add_tree(tree, lambda entry: _opened(lie))) == "blob-mismatch"
    assert not store.has_tree(tree.id)
    store.add_tree(tree, lambda entry: _opened(truth))
    assert store.has_tree(tree.id)


def test_a_trace_is_found_by_its_key(store: Store) -> None:
    trace = trace_of(b"{}", NOWHERE, seconds=2.0)
    assert store.lookup([trace.key]) == {}
    assert store.record(trace) is Recorded.NEW
    assert store.record(trace) is Recorded.SAME
    assert store.lookup([trace.key, action_key(b"other")]) == {trace.key: trace}


def test_a_trace_is_never_overwritten_by_another_claim(store: Store) -> None:
    first = trace_of(b"{}", NOWHERE)
    second = trace_of(b"{}", TreeId("1" * 64))
    store.record(first)
    assert store.record(second) is Recorded.CONFLICT
    assert store.record(second) is Recorded.CONFLICT
    assert store.lookup([first.key]) == {first.key: first}
    assert store.conflicts(first.key) == [second]


def test_many_keys_are_one_question(store: Store) -> None:
    traces = [trace_of(str(number).encode(), NOWHERE) for number in range(50)]
    for trace in traces:
        store.record(trace)
    keys = [action_key(str(number).encode()) for number in range(50_000)]
    assert len(store.lookup(keys)) == 50


def test_what_derivations_were_realised_to_is_remembered(store: Store) -> None:
    one, two = DerivationId("a" * 64), DerivationId("b" * 64)
    store.record_resolved({one: {"out": NOWHERE, "dev": TreeId("1" * 64)}})
    store.record_resolved({one: {"out": TreeId("2" * 64)}})
    assert store.lookup_resolved([one, two]) == {one: {"out": TreeId("2" * 64), "dev": TreeId("1" * 64)}}


def test_the_history_of_a_name_is_the_median_of_its_last_builds(store: Store) -> None:
    for seconds in (900, 1, 2, 3, 4, 100):
        store.record(trace_of(str(seconds).encode(), NOWHERE, seconds=seconds, memory=seconds))
    observed = store.history(["tool-1.0", "unheard-of"])
    assert {name: (one.seconds, one.peak_memory_bytes) for name, one in observed.items()} == {"tool-1.0": (3, 3)}


def test_one_key_is_held_by_one_thread(store: Store) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with store.lock("key"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_whoever_waits_for_a_lock_is_told_and_may_give_up(store: Store) -> None:
    class GaveUpError(Exception):
        pass

    def give_up(waited: float) -> None:
        if waited > 0.01:
            raise GaveUpError

    with store.lock("key"):
        with store.lock("another key"):
            pass
        with pytest.raises(GaveUpError), store.lock("key", on_wait=give_up):
            pass
    with store.lock("key", on_wait=give_up):
        pass


def test_scratch_space_is_gone_when_the_store_is_closed(store: Store) -> None:
    with store.scratch("build") as path:
        assert os.listdir(path) == []
        (path / "closed").mkdir()
        (path / "closed" / "file").write_bytes(b"")
        (path / "closed").chmod(0o500)
    store.close()
    assert not path.exists()


def test_a_log_is_read_as_far_as_it_goes(store: Store) -> None:
    assert refusal(lambda: store.open_log("f" * 64).__enter__()) == "log-missing"
    compressor = zstandard.ZstdCompressor().compressobj()
    part = compressor.compress(b"first line\n") + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    store.log_path("f" * 64).write_bytes(part)
    with store.open_log("f" * 64) as file:
        assert file.read() == b"first line\n"


def test_a_root_links_to_the_object_and_can_be_moved_on(store: Store, source: Path, tmp_path: Path) -> None:
    first = store.add_path(source)
    (source / "größe").write_bytes(b"other")
    second = store.add_path(source)
    link = tmp_path / "out" / "thing"
    assert store.add_root(link, first.id, "thing") == store.object_path(first.id, "thing")
    assert link.resolve() == store.object_path(first.id, "thing").resolve()
    store.add_root(link, second.id, "thing")
    store.add_root(link, second.id, "thing")
    assert (link / "größe").read_bytes() == b"other"
    assert list(store.roots()) == [GcRoot(link, store.object_path(second.id, "thing"), second.id)]


def test_a_root_that_was_removed_keeps_nothing_alive(store: Store, source: Path, tmp_path: Path) -> None:
    tree = store.add_path(source)
    link = tmp_path / "thing"
    store.add_root(link, tree.id, "thing")
    link.unlink()
    assert list(store.roots()) == [GcRoot(link, None, None)]
    link.symlink_to("/etc")
    assert list(store.roots()) == [GcRoot(link, None, None)]


def test_a_root_never_replaces_a_file(store: Store, source: Path, tmp_path: Path) -> None:
    tree = store.add_path(source)
    (tmp_path / "file").write_bytes(b"mine")
    assert refusal(lambda: store.add_root(tmp_path / "file", tree.id, "thing")) == "root-not-a-link"
    assert (tmp_path / "file").read_bytes() == b"mine"
