"""`forge ape args`: shows, edits and replaces the arguments in a packaged file (docs/args.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.ape.arguments import head
from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.packaging.gather import look_through, read_old_arguments
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.packaging.outputs import Format
from mmojo_forge.ape.packaging.package import OnTotalProgress
from mmojo_forge.ape.read.program import read_program
from mmojo_forge.engine.package import packaging
from mmojo_forge.engine.package.inspect import ArgumentFile, report_on

__all__ = ["ApeError", "ArgumentFile", "Edit", "clear", "replace", "show"]


def show(file: Path) -> tuple[ArgumentFile, ...]:
    """The argument files in a program; raises ApeError."""
    return tuple(report_on(file, read_program(file).assets, 0).arguments)


@dataclass(frozen=True, slots=True)
class Edit:
    """An editing session: the arguments of a program in a temporary file, which the user edits."""

    program: Path
    path: Path
    before: bytes

    @classmethod
    def begin(cls, program: Path, folder: Path) -> Edit:
        """Write the program's own arguments to a file in `folder`; raises ApeError if it has both text and YAML."""
        old = read_old_arguments(read_program(program))
        if old.yaml is not None and old.given is not None:
            raise ApeError(
                f"edit arguments of {program}: it has both {head.NAME} and {head.YAML_NAME}",
                detail="Extract them with `forge ape extract`, and give one file with --set.",
                reason=ApeReason.ARGUMENTS,
            )
        path = folder / (head.YAML_NAME if old.yaml is not None else head.NAME)
        # A program without arguments starts with an empty file.
        before = old.yaml or old.given or b""
        path.write_bytes(before)
        return cls(program, path, before)

    @property
    def changed(self) -> bool:
        """Whether the user changed the file."""
        return self.path.read_bytes() != self.before

    def check(self) -> None:
        """Raise ApeError if the edited file is invalid."""
        look_through(self._order)

    def apply(self, out: Path | None, report: OnTotalProgress) -> None:
        """Write the edited arguments to the program, or to a copy at `out`; raises ApeError."""
        _write(self.program, out, self._order, report)

    @property
    def _order(self) -> PackageOrder:
        return PackageOrder(self.program, args=NamedFile(self.path.name, self.path))


def replace(program: Path, out: Path | None, given: Path, report: OnTotalProgress) -> None:
    """Write the arguments in the file `given` to the program, or to a copy at `out`; raises ApeError."""
    _write(program, out, PackageOrder(program, args=NamedFile(given.name, given)), report)


def clear(program: Path, out: Path | None, report: OnTotalProgress) -> None:
    """Remove the program's own arguments, and keep those that packaging added; raises ApeError."""
    _write(program, out, PackageOrder(program, clear=True), report)


def _write(program: Path, out: Path | None, order: PackageOrder, report: Callable[[int, int], None]) -> None:
    if out is None and program.is_symlink():
        raise ApeError(
            f"change arguments of {program}: it is a link to {program.resolve()}",
            detail="Files in a store must not change. Write a copy with -o FILE.",
            reason=ApeReason.OUTPUT,
        )
    packaging.write(packaging.plan(order, out or program, [Format.APE]), report)
