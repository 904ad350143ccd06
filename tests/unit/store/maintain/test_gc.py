"""Collecting: what stays and what goes, what others do meanwhile, and kills at any call."""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import action_key
from mmojo_forge.model.digest import DerivationId, TreeId
from mmojo_forge.model.trace import Trace, TraceOutput
from mmojo_forge.model.tree import Tree
from mmojo_forge.store import noop_lookup
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.maintain import gc
from mmojo_forge.store.maintain.gc import GcPolicy, GcResult
from tests.support.killed import in_child_killed_at
from tests.unit.store.test_crash import make_tree

SOON = 10.0
"""Added to the clock, so that what was added a moment ago is old."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


def add(place: Path, data: bytes, name: str = "thing") -> TreeId:
    """A file in the store, checked out, by a process that has ended."""
    with LocalStore.open(place) as store:
        tree = store.add_file(io.BytesIO(data)).id
        store.checkout(tree, name)
    return tree


def link(place: Path, where: Path, tree: TreeId) -> None:
    with LocalStore.open(place) as store:
        store.add_root(where, tree, "thing")


def last_used(place: Path, tree: TreeId, seconds_ago: float) -> None:
    with LocalStore.open(place) as store, store._database.transaction() as connection:
        connection.execute("UPDATE trees SET used = ? WHERE id = ?", (time.time() - seconds_ago, tree))


def collect(place: Path, *, age: float = 0, dry: bool = False, ahead: float = SOON, **policy: Any) -> GcResult:
    pins: Callable[[], Iterator[TreeId]] | None = policy.pop("pins", None)
    with LocalStore.open(place) as store:
        more: dict[str, Any] = {"pins": pins} if pins else {}
        done = store.maintenance.collect(GcPolicy(age, **policy), time.time() + ahead, dry=dry, **more)
        assert store.verify().findings == ()
    return done


def there(place: Path, *trees: TreeId) -> list[bool]:
    with LocalStore.open(place) as store:
        return [store.has_tree(tree) for tree in trees]


def trace(text: bytes, tree: TreeId, *inputs: TreeId) -> Trace:
    edges = ",".join(f'"i{number}":{{"at":"/x","tree":"{one}"}}' for number, one in enumerate(inputs))
    preimage = b'{"inputs":{%s},"label":{},"name":"%s"}' % (edges.encode(), text)
    return Trace(action_key(preimage), text.decode(), preimage, {"out": TraceOutput(tree, 1)}, started=time.time())


def test_what_no_link_keeps_goes_with_its_object_and_what_a_link_keeps_stays(place: Path, tmp_path: Path) -> None:
    kept, gone = add(place, b"kept"), add(place, b"gone" * 100)
    link(place, tmp_path / "out" / "kept", kept)
    done = collect(place)
    assert there(place, kept, gone) == [True, False]
    assert [(victim.tree, victim.size, victim.name) for victim in done.victims] == [(gone, 400, "thing")]
    assert (done.blobs, done.freed["blobs"], done.alive) == (1, 400, 1)
    assert os.listdir(place / "objects") == [f"{kept}-thing"]
    assert (tmp_path / "out" / "kept").read_bytes() == b"kept"


def test_a_dry_run_says_the_same_and_changes_nothing(place: Path, tmp_path: Path) -> None:
    gone = add(place, b"gone")
    (place / "failed" / "old").mkdir(parents=True)
    said = collect(place, dry=True)
    assert there(place, gone) == [True]
    done = collect(place)
    assert (done.victims, done.freed, done.blobs) == (said.victims, said.freed, said.blobs)


def test_a_link_to_an_object_in_roots_itself_keeps_it(place: Path) -> None:
    kept = add(place, b"kept")
    (place / "roots" / "mine").symlink_to(f"../objects/{kept}-thing")
    collect(place)
    assert there(place, kept) == [True]


def test_a_removed_link_keeps_nothing_and_its_entry_goes(place: Path, tmp_path: Path) -> None:
    gone = add(place, b"gone")
    link(place, tmp_path / "out", gone)
    (tmp_path / "out").unlink()
    assert collect(place).roots == 1
    assert there(place, gone) == [False]
    assert os.listdir(place / "roots") == []


def test_the_entry_of_a_link_that_is_about_to_be_made_stays(place: Path, tmp_path: Path) -> None:
    with LocalStore.open(place):
        os.symlink(tmp_path / "not yet", place / "roots" / "not yet")
        assert collect(place).roots == 0


def test_a_link_that_cannot_be_looked_at_stops_the_collection(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = add(place, b"kept")
    link(place, tmp_path / "out", kept)
    readlink = os.readlink

    def forbidden(path: str, **more: Any) -> str:
        if path == str(tmp_path / "out"):
            raise PermissionError(errno.EACCES, "no", path)
        return readlink(path, **more)

    monkeypatch.setattr(os, "readlink", forbidden)
    with pytest.raises(ForgeError) as caught:
        collect(place)
    assert caught.value.reason == "store-permission"
    assert there(place, kept) == [True]


def test_what_was_used_a_short_while_ago_stays(place: Path) -> None:
    young, old = add(place, b"young"), add(place, b"old")
    last_used(place, old, 40 * 86400)
    done = collect(place, age=30 * 86400)
    assert there(place, young, old) == [True, False]
    assert done.young == 5


def test_no_more_goes_than_the_size_asks_for_and_the_oldest_first(place: Path) -> None:
    trees = [add(place, bytes([number]) * 100_000) for number in range(5)]
    for age, tree in enumerate(trees):
        last_used(place, tree, 100.0 - age)
    whole = collect(place, dry=True).size_before
    collect(place, target_size=whole - 150_000)
    assert there(place, *trees) == [False, False, True, True, True]


def test_content_that_another_tree_has_stays(place: Path, tmp_path: Path) -> None:
    with LocalStore.open(place) as store:
        kept = store.add_path(make_tree(tmp_path / "one", "1"))
        gone = store.add_path(make_tree(tmp_path / "two", "2"))
        store.add_root(tmp_path / "out", kept.id, "kept")
    done = collect(place)
    assert done.freed["blobs"] == 1 + 100_000
    assert there(place, kept.id, gone.id) == [True, False]
    assert (tmp_path / "out" / "same").read_bytes() == b"the same every time"


@pytest.mark.parametrize("use", ["ask", "check out", "read", "add"])
def test_what_a_running_process_uses_stays_until_it_ends(place: Path, use: str) -> None:
    tree = add(place, b"used")
    last_used(place, tree, 1e6)
    uses: dict[str, Callable[[LocalStore], object]] = {
        "ask": lambda store: store.valid_trees([tree]),
        "check out": lambda store: store.checkout(tree, "other"),
        "read": lambda store: store.read_tree(tree),
        "add": lambda store: store.add_file(io.BytesIO(b"used")),
    }
    with LocalStore.open(place) as store:
        uses[use](store)
        collect(place)
        assert there(place, tree) == [True]
        assert store.checkout(tree, "thing").read_bytes() == b"used"
    collect(place, ahead=1e5)
    assert there(place, tree) == [False]


def test_what_came_while_another_process_runs_stays_as_long_as_that(place: Path) -> None:
    with LocalStore.open(place):
        tree = add(place, b"of a process that has ended")
        collect(place)
        assert there(place, tree) == [True]
    collect(place)
    assert there(place, tree) == [False]


def test_a_server_that_takes_no_leases_holds_nothing_back(place: Path) -> None:
    with LocalStore.open(place, leasing=False) as server:
        tree = add(place, b"served")
        assert server.has_tree(tree)
        assert server.checkout(tree, "thing").read_bytes() == b"served"
        collect(place)
        assert not server.has_tree(tree)


def test_trees_added_while_it_is_collecting_keep_their_content(place: Path, tmp_path: Path) -> None:
    with LocalStore.open(place) as store:
        old = store.add_path(make_tree(tmp_path / "old", "old"))
    added: list[Tree] = []
    with LocalStore.open(place) as other:
        last_used(place, old.id, 1e6)
        done = collect_with_step(place, lambda: added.append(other.add_path(make_tree(tmp_path / "new", "new"))))
    assert done.victims
    assert there(place, old.id, added[0].id) == [False, True]


def collect_with_step(place: Path, act: Callable[[], object]) -> GcResult:
    """Collect; `act` happens between removing trees and removing blobs."""
    groups = gc._groups

    def watched(items: Any, size: int) -> Iterator[Any]:
        if size == gc.BLOBS_AT_ONCE:
            act()
        return groups(items, size)

    with mock.patch.object(gc, "_groups", watched):
        return collect(place)


def test_a_link_made_while_it_is_collecting_by_a_process_that_has_ended_counts(place: Path, tmp_path: Path) -> None:
    tree = add(place, b"linked meanwhile")
    last_used(place, tree, 1800)

    class LinksLate(gc.Collector):
        def _collect(self, *arguments: Any) -> None:
            link(place, tmp_path / "out", tree)
            super()._collect(*arguments)

    with LocalStore.open(place) as store:
        collector = LinksLate(str(place), store._database, store._scratch, GcPolicy(0), time.time() + SOON, tuple)
        done = collector.run(dry=False)
        assert done.victims == []
    assert there(place, tree) == [True]


def test_what_linked_results_were_built_from_stays_if_that_is_asked_for(place: Path, tmp_path: Path) -> None:
    source, tool, result, other = (add(place, data) for data in (b"source", b"tool", b"result", b"other"))
    with LocalStore.open(place) as store:
        store.record(trace(b"tool", tool, source))
        store.record(trace(b"result", result, tool))
        store.add_root(tmp_path / "out", result, "result")
    collect(place, keep_closure=True)
    assert there(place, source, tool, result, other) == [True, True, True, False]
    collect(place)
    assert there(place, source, tool, result, other) == [False, False, True, False]


def test_traces_stay_unless_they_are_to_be_forgotten(place: Path, tmp_path: Path) -> None:
    gone, kept = add(place, b"gone"), add(place, b"kept")
    traces = trace(b"gone", gone), trace(b"kept", kept)
    derivation = DerivationId("d" * 64)
    with LocalStore.open(place) as store:
        for one in traces:
            store.record(one)
        store.record_resolved({derivation: {"out": gone}})
        store.add_root(tmp_path / "out", kept, "kept")
    keys = [one.key for one in traces]
    assert collect(place).traces == 0
    with LocalStore.open(place) as store:
        assert len(store.lookup(keys)) == 2
    assert collect(place, forget=True).traces == 1
    with LocalStore.open(place) as store:
        assert list(store.lookup(keys)) == [keys[1]]
        assert store.lookup_resolved([derivation]) == {}


def test_leftovers_go_by_their_age(place: Path) -> None:
    kept = add(place, b"kept")
    tell = trace(b"kept", kept)
    with LocalStore.open(place) as store:
        store.record(tell)
        for key in (tell.key, "a" * 64, "b" * 64):
            store.log_path(key).write_bytes(b"log")
    paths = [
        f"{kind}/{age}" for kind in ("downloads", "failed", "checks", "cache/evaluation") for age in ("old", "new")
    ]
    for path in paths:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(b"12345")
        if path.endswith("old"):
            os.utime(place / path, (1, 1))
    for key in (tell.key, "a" * 64):
        os.utime(place / "logs" / key[:2] / f"{key[2:]}.zst", (1, 1))
    done = collect(place, age=86400)
    assert done.freed == {"blobs": 0, "downloads": 5, "failed": 5, "checks": 5, "cache": 5, "logs": 3}
    assert all((place / path).exists() == path.endswith("new") for path in paths)
    assert sorted(path.name[:3] for path in (place / "logs").rglob("*.zst")) == sorted([tell.key[2:5], "bbb"])


def test_partial_downloads_stay_while_anybody_may_take_them_up(place: Path) -> None:
    with LocalStore.open(place):
        (place / "downloads").mkdir()
        (place / "downloads" / "x.part").write_bytes(b"half")
        os.utime(place / "downloads" / "x.part", (1, 1))
        collect(place)
        assert (place / "downloads" / "x.part").exists()
    collect(place)
    assert not (place / "downloads" / "x.part").exists()


def test_blobs_that_no_tree_has_go_too(place: Path) -> None:
    tree = add(place, b"left by a power cut")
    with LocalStore.open(place) as store, store._database.transaction() as connection:
        connection.execute("DELETE FROM trees")
    (place / "trees" / tree).unlink()
    (place / "objects" / f"{tree}-thing").unlink()
    done = collect(place)
    assert (done.victims, done.blobs) == ([], 1)


def test_a_damaged_manifest_stops_the_collection(place: Path) -> None:
    tree = add(place, b"kept")
    manifest = place / "trees" / tree
    manifest.chmod(0o644)
    manifest.write_bytes(b"{}")
    with LocalStore.open(place) as store, pytest.raises(ForgeError) as caught:
        store.maintenance.collect(GcPolicy(0), time.time() + SOON)
    assert caught.value.reason == "tree-corrupt"


def test_a_no_op_counts_as_a_use_now_and_then(place: Path) -> None:
    tree = add(place, b"used")
    derivation = DerivationId("d" * 64)
    with LocalStore.open(place) as store:
        store.record_resolved({derivation: {"out": tree}})
    last_used(place, tree, 1e6)
    assert noop_lookup.lookup_resolved(str(place), [derivation]) == {derivation: {"out": tree}}
    assert collect(place, age=60).victims == []


def test_checking_out_counts_as_a_use(place: Path) -> None:
    tree = add(place, b"used")
    last_used(place, tree, 1e6)
    with LocalStore.open(place) as store:
        store.checkout(tree, "thing")
    assert collect(place, age=60).victims == []


def test_a_collection_that_is_killed_at_any_call_leaves_a_whole_store(place: Path, tmp_path: Path) -> None:
    with LocalStore.open(place) as store:
        kept = store.add_path(make_tree(tmp_path / "kept", "kept"))
        store.add_root(tmp_path / "out", kept.id, "kept")
    killed, call = True, 0
    while killed:
        for salt in ("one", "two"):
            with LocalStore.open(place) as store:
                store.checkout(store.add_path(make_tree(tmp_path / f"{salt}-{call}", salt)).id, "thing")
                store._added = False  # a kill needs no sync, and syncing hundreds of times takes long

        def act() -> None:
            with LocalStore.open(place) as store:
                store.maintenance.collect(GcPolicy(0), time.time() + SOON)

        killed = in_child_killed_at(call, act)
        with LocalStore.open(place) as store:
            assert store.verify().findings == ()
            assert store.has_tree(kept.id)
            assert len(os.listdir(place / "tmp")) == 3
        call += 1
    assert call > 15
    assert sorted(os.listdir(place / "trees")) == [kept.id]
    assert sorted(os.listdir(place / "objects")) == [f"{kept.id}-kept"]


def test_a_collection_that_fails_halfway_is_brought_to_its_end(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = add(place, b"gone")
    unlink = os.unlink

    def failing(path: Any, **more: Any) -> None:
        if str(path).endswith(f"trees/{tree}"):
            monkeypatch.setattr(os, "unlink", unlink)
            raise OSError(errno.EIO, "failing disk", path)
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", failing)
    with LocalStore.open(place) as store:
        with pytest.raises(ForgeError):
            store.maintenance.collect(GcPolicy(0), time.time() + SOON)
        assert store.verify().findings == ()
    assert there(place, tree) == [False]
