"""What a store mends by itself, what it forgets, and that nothing damaged is ever taken for whole."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mmojo_forge.model.digest import TreeId
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.maintain.repair import RepairOutcome, RepairResult
from tests.support.killed import in_child_killed_at
from tests.unit.store.maintain.test_verify import LARGE, blob, execute, place, rewrite, tree
from tests.unit.store.test_crash import make_tree

__all__ = ["place", "tree"]


def repair(place: Path) -> RepairResult:
    """What became of the damage; afterwards the store is whole, whatever it has lost."""
    with LocalStore.open(place) as store:
        mended = store.repair()
        assert store.verify().findings == ()
    return mended


def outcomes(mended: RepairResult) -> set[tuple[str, str]]:
    return {(finding.reason, outcome.value) for finding, outcome in mended.outcomes.items()}


def is_whole(place: Path, tree: TreeId) -> bool:
    """Whether the tree is there, and its object has what it should."""
    with LocalStore.open(place) as store:
        if not store.has_tree(tree):
            return False
        path = store.checkout(tree, "thing")
    assert (path / "small").read_bytes() == b"small"
    assert (path / "large").read_bytes() == LARGE
    assert (path / "bin" / "run").stat().st_mode & 0o777 == 0o555
    return True


def test_a_whole_store_is_left_alone(place: Path, tree: TreeId) -> None:
    assert repair(place) == RepairResult()
    assert is_whole(place, tree)


def test_content_of_which_there_is_no_intact_copy_is_set_aside_and_forgotten(place: Path, tree: TreeId) -> None:
    rewrite(place / blob(b"small"), b"SMALL")
    mended = repair(place)
    assert outcomes(mended) == {("blob-corrupt", "invalidated"), ("object-altered", "invalidated")}
    assert [(lost.tree, lost.name, lost.objects) for lost in mended.lost] == [(tree, "thing", ("thing",))]
    assert [(place / path).read_bytes() for path in mended.set_aside] == [b"SMALL"]
    assert not is_whole(place, tree)
    assert os.listdir(place / "objects") == []


def test_content_comes_from_its_twin_with_the_other_mode(place: Path, tree: TreeId, tmp_path: Path) -> None:
    (tmp_path / "twin").write_bytes(b"small")
    (tmp_path / "twin").chmod(0o755)
    with LocalStore.open(place) as store:
        store.add_path(tmp_path / "twin")
    rewrite(place / blob(b"small"), b"SMALL")
    assert outcomes(repair(place)) == {("blob-corrupt", "restored"), ("object-altered", "restored")}
    assert is_whole(place, tree)


@pytest.mark.parametrize("data", [b"small", LARGE])
def test_content_that_has_vanished_comes_from_an_object_that_has_it(place: Path, tree: TreeId, data: bytes) -> None:
    (place / blob(data)).unlink()
    assert outcomes(repair(place)) == {("blob-missing", "restored")}
    assert is_whole(place, tree)


def test_content_that_has_vanished_from_the_objects_too_is_forgotten(place: Path, tree: TreeId) -> None:
    (place / blob(b"small")).unlink()
    top = place / "objects" / f"{tree}-thing"
    top.chmod(0o755)
    (top / "small").unlink()
    (top / "small").symlink_to(place / blob(LARGE))
    assert ("blob-missing", "invalidated") in outcomes(repair(place))
    assert not is_whole(place, tree)


def test_a_wrong_mode_is_put_right(place: Path, tree: TreeId) -> None:
    (place / blob(b"small")).chmod(0o644)
    assert ("blob-mode", "restored") in outcomes(repair(place))
    assert is_whole(place, tree)


@pytest.mark.parametrize("kind", ["symlink", "folder"])
def test_what_is_no_file_gives_way_to_one(place: Path, tree: TreeId, kind: str) -> None:
    path = place / blob(b"small")
    path.unlink()
    if kind == "symlink":
        path.symlink_to("/etc/passwd")
    else:
        path.mkdir()
    repair(place)
    assert is_whole(place, tree)


def _no_manifest(place: Path, tree: TreeId) -> None:
    (place / "trees" / tree).unlink()


def _bad_manifest(place: Path, tree: TreeId) -> None:
    rewrite(place / "trees" / tree, b"{}")


@pytest.mark.parametrize("spoil", [_no_manifest, _bad_manifest])
def test_a_manifest_comes_from_a_whole_object(place: Path, tree: TreeId, spoil: Callable[[Path, TreeId], None]) -> None:
    spoil(place, tree)
    assert {outcome for _, outcome in outcomes(repair(place))} == {"restored"}
    assert is_whole(place, tree)


@pytest.mark.parametrize("spoil", [_no_manifest, _bad_manifest])
def test_a_tree_without_manifest_and_object_is_forgotten(
    place: Path, tree: TreeId, spoil: Callable[[Path, TreeId], None]
) -> None:
    spoil(place, tree)
    top = place / "objects" / f"{tree}-thing"
    top.chmod(0o755)
    top.rename(place.parent / "away")
    mended = repair(place)
    assert [lost.tree for lost in mended.lost] == [tree]
    assert not is_whole(place, tree)


def test_a_blob_that_lost_its_row_gets_it_back(place: Path, tree: TreeId) -> None:
    execute(place, "DELETE FROM blobs WHERE size = 5")
    assert {outcome for _, outcome in outcomes(repair(place))} == {"restored"}
    assert is_whole(place, tree)


def test_an_altered_object_is_made_anew(place: Path, tree: TreeId) -> None:
    top = place / "objects" / f"{tree}-thing"
    top.chmod(0o755)
    (top / "small").unlink()
    (top / "more").write_bytes(b"")
    assert outcomes(repair(place)) == {("object-altered", "restored")}
    assert is_whole(place, tree)
    assert not (top / "more").exists()


def test_what_has_no_row_goes(place: Path, tree: TreeId) -> None:
    (place / "blobs" / "aa").mkdir(exist_ok=True)
    (place / "blobs" / "aa" / "stray").write_bytes(b"")
    (place / "blobs" / "stray").write_bytes(b"")
    (place / "trees" / "stray").write_bytes(b"")
    (place / "objects" / "stray").mkdir()
    assert {outcome for _, outcome in outcomes(repair(place))} == {RepairOutcome.REMOVED.value}
    assert is_whole(place, tree)


def test_a_trace_that_is_not_what_its_key_says_goes(place: Path, tree: TreeId) -> None:
    execute(place, "UPDATE traces SET preimage = x'00'")
    assert outcomes(repair(place)) == {("trace-corrupt", "removed")}


def test_a_repair_that_is_killed_at_any_call_can_be_done_again(place: Path, tree: TreeId, tmp_path: Path) -> None:
    (tmp_path / "twin").write_bytes(b"small")
    (tmp_path / "twin").chmod(0o755)
    killed, call = True, 0
    while killed:
        with LocalStore.open(place) as store:
            store.add_path(tmp_path / "twin")
            again = store.add_path(tmp_path / "source")
            store.checkout(again.id, "thing")
            store._added = False
        rewrite(place / blob(b"small"), b"SMALL")
        rewrite(place / blob(LARGE), LARGE[:-1])

        def act() -> None:
            with LocalStore.open(place) as store:
                store.repair()

        killed = in_child_killed_at(call, act)
        repair(place)
        with LocalStore.open(place) as store:
            assert not store.has_tree(tree)
        call += 3
    assert call > 15


def _damage(path: Path, chance: random.Random) -> None:
    path.parent.chmod(0o755)
    how = chance.choice(["gone", "flipped", "cut", "writable", "a link", "a folder"])
    if how == "writable":
        path.chmod(0o600)
        return
    data = bytearray(path.read_bytes())
    path.chmod(0o600)
    if how in {"flipped", "cut"} and data:
        data[chance.randrange(len(data))] ^= 1
        rewrite(path, bytes(data) if how == "flipped" else bytes(data[1:]))
        return
    path.unlink()
    if how == "a link":
        path.symlink_to("/etc/passwd")
    elif how == "a folder":
        path.mkdir()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_damaged_what_is_served_afterwards_is_whole(place: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with LocalStore.open(place) as store:
        trees = [store.add_path(make_tree(tmp_path / f"{number}", f"{number % 3}")) for number in range(4)]
        for number, one in enumerate(trees):
            store.checkout(one.id, f"thing-{number}")
        store._added = False
    files = [path for part in ("blobs", "trees", "objects") for path in sorted((place / part).rglob("*"))]
    for path in chance.sample([path for path in files if path.is_file() and not path.is_symlink()], 4):
        if path.is_file():
            _damage(path, chance)
    lost = {one.tree for one in repair(place).lost}
    with LocalStore.open(place) as store:
        assert store.valid_trees(one.id for one in trees) == {one.id for one in trees} - lost
        for one in trees:
            if one.id not in lost:
                assert store.add_path(store.checkout(one.id, "checked")).id == one.id
