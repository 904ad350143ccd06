"""What can be wrong with an APE or with the order to make one."""

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
