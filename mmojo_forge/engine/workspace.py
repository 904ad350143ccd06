"""The workspace: a folder with `forge.lock`, recipes and toolchains, and where its store and results lie.

Beside the lock lies `forge.outputs`, once there are outputs that are expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mmojo_forge.engine import host_facts
from mmojo_forge.engine.locations import find_workspace
from mmojo_forge.errors import ForgeError
from mmojo_forge.files import write_atomically
from mmojo_forge.model.lockfile import (
    LOCK_NAME,
    OUTPUTS_NAME,
    ExpectedOutput,
    Lock,
    LockError,
    dump_outputs,
    parse_outputs,
)
from mmojo_forge.recipe.api import Package
from mmojo_forge.recipe.evaluate import Evaluator
from mmojo_forge.recipe.loader import Loader

FORGE_ROOT = Path(__file__).resolve().parent.parent


class WorkspaceError(ForgeError):
    """No workspace here, or none that can be written to."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where everything of one project lies."""

    root: Path
    store: Path
    configuration: tuple[Path, ...] = ()
    """The files that say which caches and keys count; some of them may not be there."""

    @classmethod
    def find(cls, start: Path, store: Path | None = None) -> Workspace:
        """The workspace that `start` lies in, found upwards by forge.lock; raises WorkspaceError."""
        root = find_workspace(str(start))
        if root is not None:
            return cls(Path(root), store or Path(root) / "store")
        raise WorkspaceError(
            f"find workspace: no {LOCK_NAME} in {start} or above",
            detail=f"Go into a workspace, or start one here with `touch {LOCK_NAME}` and `forge lock`.",
            reason="no-workspace",
        )

    @property
    def lock_path(self) -> Path:
        """The lock file."""
        return self.root / LOCK_NAME

    @property
    def results(self) -> Path:
        """Where `forge realize` leaves its links."""
        return self.root / "out"

    @property
    def outputs_path(self) -> Path:
        """The file of expected outputs, which need not be there."""
        return self.root / OUTPUTS_NAME

    def read_lock(self) -> Lock:
        """The parsed lock; an empty file is an empty lock. Raises LockError."""
        text = _read(self.lock_path)
        return Lock.parse(text, origin=str(self.lock_path)) if text.strip() else Lock()

    def read_outputs(self, lock: Lock) -> dict[str, ExpectedOutput]:
        """The expected outputs by target: those of forge.outputs, and others that an older `lock` still has. Raises
        LockError."""
        text = _read(self.outputs_path) if self.outputs_path.exists() else ""
        own = parse_outputs(text, origin=str(self.outputs_path)) if text.strip() else {}
        return {**lock.outputs, **own}

    def write_lock(self, lock: Lock) -> bool:
        """Replace the lock file if its text changes; true if it did. The old file stays until the new is complete.

        Outputs that an older lock expects move to forge.outputs first. A kill between the two leaves them in both
        files, which reads the same.
        """
        if lock.outputs:
            self.write_outputs(self.read_outputs(lock))
        return _write(self.lock_path, lock.dump())

    def write_outputs(self, outputs: Mapping[str, ExpectedOutput]) -> bool:
        """Replace forge.outputs if its text changes; true if it did. As long as nothing is expected, none is made."""
        if not outputs and not self.outputs_path.exists():
            return False
        return _write(self.outputs_path, dump_outputs(outputs))

    def evaluator(
        self, lock: Lock, *, overrides: Mapping[str, Mapping[str, str]] | None = None, locking: bool = False
    ) -> Evaluator:
        """An evaluator of this workspace's recipes against `lock`."""
        return Evaluator(
            Loader(self.root),
            lock,
            forge_root=FORGE_ROOT,
            host_facts=host_facts.read,
            overrides=overrides,
            locking=locking,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """Targets as the user names them, with the options set for each package. Of a request that is not `whole` some of
    the options are for the rest."""

    targets: tuple[str, ...]
    overrides: Mapping[str, Mapping[str, str]]
    whole: bool = True

    @classmethod
    def parse(cls, targets: Iterable[str], settings: Iterable[str] = ()) -> Request:
        """The request of `TARGET…` and `--set [TARGET:]NAME=VALUE…`; a bare NAME is set for every target named. Raises
        WorkspaceError (`bad-setting`)."""
        names = tuple(dict.fromkeys(targets))
        overrides: dict[str, dict[str, str]] = {}
        for setting in settings:
            left, equals, value = setting.partition("=")
            package, colon, option = left.rpartition(":")
            if not equals or not option:
                raise WorkspaceError(f"set {setting!r}: not NAME=VALUE or TARGET:NAME=VALUE", reason="bad-setting")
            if not colon and not names:
                raise WorkspaceError(
                    f"set {setting!r}: no target is named that it could be set of",
                    detail="Say of which: TARGET:NAME=VALUE",
                    reason="bad-setting",
                )
            for name in (package,) if colon else (target_name(target) for target in names):
                overrides.setdefault(name, {})[option.replace("-", "_")] = value
        return cls(names, overrides)

    def part(self, *targets: str) -> Request:
        """The request of some of the targets, or of what they turn out to need, with the same options."""
        return replace(self, targets=targets, whole=False)

    def words(self) -> list[str]:
        """What is typed for it after `forge realize`."""
        every = ((name, option, value) for name, given in self.overrides.items() for option, value in given.items())
        return [
            *self.targets,
            *(word for name, option, value in every for word in ("--set", f"{name}:{option}={value}")),
        ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LockError(
            f"read {path}: not UTF-8", detail="Restore the file from version control.", reason="lock-malformed"
        ) from error


def _write(path: Path, text: str) -> bool:
    if path.exists() and _read(path) == text:
        return False
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise LockError(f"write {path}: {error.strerror}", reason="lock-unwritable") from error
    return True


def target_name(target: str) -> str:
    """The recipe that a target as typed means: what stands before `^output`."""
    return target.partition("^")[0]


def as_package(target: str) -> Package:
    """`package`, `package.variant` or `package.variant^output`."""
    name, _, output = target.partition("^")
    return Package(name, wanted=output or None)
