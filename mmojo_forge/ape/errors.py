"""What goes wrong in this layer: with an APE, a file of arguments, a container image. Tests rely on the reasons."""

from __future__ import annotations

from enum import StrEnum

from mmojo_forge.errors import ForgeError


class ApeReason(StrEnum):
    """The machine-readable names of this package's failures."""

    SPEC = "ape-spec"
    INPUT = "ape-input"
    FEATURE = "ape-feature"
    SLICE = "ape-slice"
    LAUNCHER = "ape-launcher"
    QUOTE = "ape-pe-quote"
    SCRIPT = "ape-script"
    NOT_AN_APE = "ape-not-an-ape"
    NOT_A_PROGRAM = "ape-not-a-program"
    FOREIGN = "ape-foreign"
    TRUNCATED = "ape-truncated"
    ALTERED = "ape-altered"
    NO_ENTRY = "ape-no-entry"
    NO_HEADER = "ape-no-header"
    ARGUMENTS = "ape-arguments"
    MODEL = "ape-model"
    MODULE = "ape-module"
    NAME = "ape-name"
    FOLDER = "ape-folder"
    UNMAPPED = "ape-unmapped"
    CERTIFICATE = "ape-certificate"
    SIGNED = "ape-signed"
    DISK_FULL = "ape-disk-full"
    OUTPUT = "ape-output"


class ApeError(ForgeError):
    """A file that cannot be linked, read or taken apart."""

    def __init__(self, message: str, *, detail: str = "", reason: ApeReason) -> None:
        super().__init__(message, detail=detail, reason=str(reason))


class ArgumentFault(StrEnum):
    """The kinds of faults, as `tests/support/args_cases.json` names them."""

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

    def __init__(self, file: str, line: int, fault: ArgumentFault, cause: str) -> None:
        super().__init__(f"{file}:{line}: {cause}", detail="docs/args.md has the grammar.", reason=ApeReason.ARGUMENTS)
        self.file = file
        self.line = line
        self.fault = fault


class OciReason(StrEnum):
    """The machine-readable names of this package's failures."""

    NO_PLATFORM = "oci-no-platform"
    NAME = "oci-name"
    TAG = "oci-tag"
    LAYERS = "oci-too-many-layers"
    MODEL_INSIDE = "oci-model-inside"
    CHANGED = "oci-changed"
    IN_THE_WAY = "oci-in-the-way"


class OciError(ForgeError):
    """An image that cannot be made or written."""

    def __init__(self, message: str, *, detail: str = "", reason: OciReason) -> None:
        super().__init__(message, detail=detail, reason=str(reason))
