"""What can be wrong with a file of arguments."""

from __future__ import annotations

from enum import StrEnum

from mmojo_forge.ape.error import ApeError, ApeReason


class Fault(StrEnum):
    """The kinds of faults, as `tests/args_cases.json` names them."""

    SIZE = "size"
    ENCODING = "encoding"
    NUL = "nul"
    QUOTE = "quote"
    ESCAPE = "escape"
    VARIABLE = "variable"
    MARKER = "marker"
    KEY = "key"
    VALUE = "value"
    INDENT = "indent"
    DUPLICATE = "duplicate"
    DOCUMENT = "document"
    TAB = "tab"
    CONTROL = "control"


class ArgumentsError(ApeError):
    """A line that no server would take: which, and what is wrong with it."""

    def __init__(self, file: str, line: int, fault: Fault, cause: str) -> None:
        super().__init__(f"{file}:{line}: {cause}", detail="docs/args.md has the grammar.", reason=ApeReason.ARGUMENTS)
        self.file = file
        self.line = line
        self.fault = fault
