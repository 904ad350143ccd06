"""Expected outputs: who writes them, what is kept, and what is never replaced silently."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.lock.lock import Locker, check_lock
from mmojo_forge.engine.lock.outputs import OutputsUpdate, update_outputs
from mmojo_forge.engine.realise.run import UnexpectedOutput
from mmojo_forge.engine.workspace import Workspace, as_package
from mmojo_forge.fetch.fake import FakeFetcher
from mmojo_forge.model.derivation import Derivation
from mmojo_forge.model.digest import BlobDigest, DerivationId, Sha256, TreeId
from mmojo_forge.model.lockfile import ExpectedOutput, Lock, LockError, Pin, dump_outputs
from mmojo_forge.recipe.errors import RecipeError
from mmojo_forge.store.memory import MemoryStore

RECIPE = """
from mmojo_forge.recipe import Spec, recipe

@recipe("{name}")
def f({parameters}):
    return Spec("{name}", "/bin/sh", ("{argument}",), {{}})
"""
HERE, ELSEWHERE = TreeId("1" * 64), TreeId("2" * 64)
OTHER = DerivationId("9" * 64)


class Desk:
    """A workspace of small recipes, and a store that says what they were built to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = MemoryStore(root / "store")
        (root / "forge.lock").touch()
        self.workspace = Workspace.find(root)

    def recipe(self, name: str, argument: str = "", parameters: str = "") -> None:
        folder = self.root / "recipes" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.py").write_text(RECIPE.format(name=name, argument=argument, parameters=parameters))

    def node(self, name: str) -> Derivation:
        return self.workspace.evaluator(Lock()).instantiate(as_package(name)).node

    def build(self, name: str, tree: TreeId = HERE) -> ExpectedOutput:
        """The store has built it to the tree."""
        self.store.record_resolved({self.node(name).id: {"out": tree}})
        return self.output(name, tree)

    def output(self, name: str, tree: TreeId = HERE) -> ExpectedOutput:
        return ExpectedOutput(name, self.node(name).id, tree)

    def expect(self, *outputs: ExpectedOutput) -> None:
        self.workspace.write_outputs({output.target: output for output in outputs})

    def expected(self) -> dict[str, ExpectedOutput]:
        return self.workspace.read_outputs(self.workspace.read_lock())

    def update(self, *targets: str, accept: bool = False) -> OutputsUpdate:
        update = update_outputs(self.workspace, self.store, targets, accept=accept)
        assert update.outputs == self.expected()
        return update

    def old_lock(self, *outputs: ExpectedOutput, lock: Lock | None = None) -> str:
        """A forge.lock from before forge.outputs; its text."""
        tables = dump_outputs({output.target: output for output in outputs}).partition("schema = 1\n")[2]
        text = (lock or Lock()).dump() + tables
        self.workspace.lock_path.write_text(text)
        return text


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    for name in ("a", "b", "c"):
        desk.recipe(name)
    return desk


# forge lock --outputs


def test_everything_that_was_built_here_is_expected(desk: Desk) -> None:
    a, b = desk.build("a"), desk.build("b")
    update = desk.update()
    assert (update.new, update.written, desk.expected()) == (("a", "b"), True, {"a": a, "b": b})
    assert desk.update() == replace(update, new=(), written=False)


def test_where_nothing_is_built_no_file_is_made(desk: Desk) -> None:
    assert not desk.update().written
    assert not desk.workspace.outputs_path.exists()


def test_what_is_not_built_here_keeps_its_expectation_and_is_named_if_that_is_stale(desk: Desk) -> None:
    stale, current = ExpectedOutput("b", OTHER, HERE), desk.output("c", ELSEWHERE)
    desk.expect(stale, current)
    a = desk.build("a")
    update = desk.update()
    assert (update.new, update.changed, update.stale) == (("a",), (), ("b",))
    assert desk.expected() == {"a": a, "b": stale, "c": current}


def test_a_stale_expectation_is_replaced_once_the_target_is_built(desk: Desk) -> None:
    desk.expect(ExpectedOutput("a", OTHER, ELSEWHERE))
    a = desk.build("a")
    update = desk.update()
    assert (update.changed, update.accepted, update.stale) == (("a",), (), ())
    assert desk.expected() == {"a": a}


def test_expectations_of_targets_that_are_gone_or_host_specific_now_are_dropped(desk: Desk) -> None:
    desk.expect(*(ExpectedOutput(name, OTHER, HERE) for name in ("a", "gone", "native")))
    desk.recipe("native", parameters="host")
    desk.build("native")
    update = desk.update()
    assert (update.dropped, update.stale) == (("gone", "native"), ("a",))
    assert list(desk.expected()) == ["a"]


def test_a_target_that_cannot_be_evaluated_here_keeps_its_expectation(desk: Desk) -> None:
    desk.expect(ExpectedOutput("a", OTHER, HERE))
    desk.recipe("a", '", 1 / 0, "')
    b = desk.build("b")
    update = desk.update()
    assert (update.new, update.stale, update.dropped) == (("b",), ("a",), ())
    assert desk.expected() == {"a": ExpectedOutput("a", OTHER, HERE), "b": b}


def test_named_targets_change_alone(desk: Desk) -> None:
    gone = ExpectedOutput("gone", OTHER, HERE)
    desk.expect(gone)
    desk.build("a")
    b = desk.build("b")
    update = desk.update("b")
    assert (update.new, update.stale, update.dropped) == (("b",), (), ())
    assert desk.expected() == {"b": b, "gone": gone}


@pytest.mark.parametrize(
    ("target", "error", "reason"),
    [
        ("b", EngineError, "not-built"),
        ("native", EngineError, "host-specific"),
        ("gone", RecipeError, "unknown-target"),
        ("a^out", RecipeError, "unknown-target"),
    ],
)
def test_a_target_of_which_nothing_can_be_expected_is_refused(
    desk: Desk, target: str, error: type[EngineError], reason: str
) -> None:
    desk.build("a")
    desk.recipe("native", parameters="host")
    with pytest.raises(error) as caught:
        desk.update("a", target)
    assert caught.value.reason == reason
    assert not desk.workspace.outputs_path.exists()


def test_another_tree_of_the_same_derivation_is_refused_and_nothing_is_written(desk: Desk) -> None:
    old = desk.output("a", ELSEWHERE)
    desk.expect(old)
    desk.build("a")
    desk.build("b")
    for targets in ((), ("a", "b")):
        with pytest.raises(UnexpectedOutput) as caught:
            desk.update(*targets)
        assert caught.value.reason == "unexpected-output"
        assert desk.expected() == {"a": old}
    assert desk.update("b").new == ("b",)


def test_another_tree_is_written_where_it_is_accepted(desk: Desk) -> None:
    desk.expect(desk.output("a", ELSEWHERE), ExpectedOutput("b", OTHER, ELSEWHERE))
    a, b = desk.build("a"), desk.build("b")
    update = desk.update("a", "b", accept=True)
    assert (update.accepted, update.changed, update.new) == (("a",), ("b",), ())
    assert desk.expected() == {"a": a, "b": b}


# forge lock, forge lock --check


def locked(desk: Desk) -> Lock:
    lock = Locker(desk.workspace, desk.store, FakeFetcher({}), lambda _line: None).update().lock
    desk.workspace.write_lock(lock)
    return desk.workspace.read_lock()


def test_forge_lock_leaves_expectations_alone(desk: Desk) -> None:
    desk.expect(ExpectedOutput("a", OTHER, HERE), ExpectedOutput("gone", OTHER, HERE))
    desk.build("b")
    before = desk.workspace.outputs_path.stat().st_mtime_ns
    locked(desk)
    assert desk.workspace.outputs_path.stat().st_mtime_ns == before


def test_stale_and_unused_expectations_are_told_and_do_no_harm(desk: Desk) -> None:
    desk.expect(ExpectedOutput("a", OTHER, HERE), desk.output("b"), ExpectedOutput("gone", OTHER, HERE))
    report = check_lock(desk.workspace, desk.store)
    assert report.clean
    assert (report.outputs.stale, report.outputs.unused, report.wrong) == (("a",), ("gone",), ())


def test_an_expectation_that_this_store_contradicts_is_wrong(desk: Desk) -> None:
    desk.expect(desk.output("a", ELSEWHERE), desk.output("b"))
    desk.build("a")
    desk.build("b")
    report = check_lock(desk.workspace, desk.store)
    assert (report.clean, report.wrong) == (False, ("output a",))


@pytest.mark.parametrize("text", ["schema = 1\n[output.a]\n", "<<<<<<< ours\n", "\udcff"])
def test_outputs_that_cannot_be_read_stop_every_command_that_needs_them(desk: Desk, text: str) -> None:
    desk.workspace.outputs_path.write_bytes(text.encode("utf-8", "surrogateescape"))
    tries: tuple[Callable[[], object], ...] = (lambda: check_lock(desk.workspace, desk.store), desk.update)
    for attempt in tries:
        with pytest.raises(LockError) as caught:
            attempt()
        assert caught.value.reason in {"lock-malformed", "lock-conflict"}


CONTENT = b"the file"
PINNED = """
from mmojo_forge.recipe import File, recipe, unpack

@recipe("a")
def f():
    return unpack("a", File("file"))
"""


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, ()),
        ({"sha256": Sha256("0" * 64)}, ("sha256 of file",)),
        ({"blake3": BlobDigest("0" * 64)}, ("blake3 of file",)),
        ({"blake3": BlobDigest("")}, ()),
        ({"size": 1}, ("size of file",)),
        ({"blake3": BlobDigest("0" * 64), "sha256": Sha256("0" * 64)}, ()),
    ],
)
def test_a_pin_that_contradicts_a_file_in_the_store_is_wrong(
    desk: Desk, change: dict[str, object], wrong: tuple[str, ...]
) -> None:
    (desk.root / "recipes/a/recipe.py").write_text(PINNED)
    (desk.root / "file").write_bytes(CONTENT)
    desk.store.add_file(desk.root / "file", executable=True)
    entry = desk.store.add_file(desk.root / "file").entries[0]
    [known] = desk.store.file_digests([BlobDigest(entry.digest or "")])
    pin = Pin("file", "file:file", known.sha256, known.blake3, known.size)
    desk.workspace.write_lock(Lock({"file": replace(pin, **change)}))  # type: ignore[arg-type]
    report = check_lock(desk.workspace, desk.store)
    assert (report.wrong, report.clean) == (wrong, not wrong)


# Locks from before forge.outputs


def test_an_old_lock_is_read_as_it_is(desk: Desk) -> None:
    a = desk.output("a")
    text = desk.old_lock(a)
    desk.build("a", ELSEWHERE)
    report = check_lock(desk.workspace, desk.store)
    assert report.wrong == ("output a",)
    assert desk.expected() == {"a": a}
    assert desk.workspace.lock_path.read_text() == text


def test_forge_lock_moves_expected_outputs_out_of_an_old_lock(desk: Desk) -> None:
    a, mine, theirs = desk.output("a"), desk.output("b"), desk.output("b", ELSEWHERE)
    desk.old_lock(a, mine)
    desk.expect(theirs)
    assert locked(desk) == Lock()
    assert desk.workspace.lock_path.read_text() == Lock().dump()
    assert desk.expected() == {"a": a, "b": theirs}, "forge.outputs wins"


def test_writing_outputs_takes_them_out_of_an_old_lock_and_leaves_its_pins(desk: Desk) -> None:
    pin = Pin("x", "file:x", Sha256("3" * 64), BlobDigest("4" * 64), 1)
    desk.old_lock(desk.output("a"), ExpectedOutput("gone", OTHER, HERE), lock=Lock({"x": pin}))
    update = desk.update()
    assert (update.dropped, update.written) == (("gone",), True)
    assert desk.workspace.read_lock() == Lock({"x": pin})


@pytest.mark.parametrize("syncs", [0, 1, 2])
def test_a_move_that_stops_halfway_reads_the_same_and_is_finished_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, syncs: int
) -> None:
    """Whatever stops it: here a disk that is full, or becomes so when the first of the two files is written, and then
    its folder."""
    a = desk.output("a")
    old = desk.old_lock(a)
    with monkeypatch.context() as patched:
        left = iter(range(syncs))

        def full(_fd: int) -> None:
            if next(left, None) is None:
                raise OSError(28, "No space left on device")

        patched.setattr(os, "fsync", full)
        with pytest.raises(LockError) as caught:
            locked(desk)
        assert caught.value.reason == "lock-unwritable"
    assert desk.workspace.lock_path.read_text() == old
    assert desk.workspace.outputs_path.exists() == (syncs > 0)
    assert desk.expected() == {"a": a}
    assert sorted(path.name for path in desk.root.iterdir() if path.name.startswith(".")) == []
    locked(desk)
    assert desk.workspace.lock_path.read_text() == Lock().dump()
    assert desk.expected() == {"a": a}
