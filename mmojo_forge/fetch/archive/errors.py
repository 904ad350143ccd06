"""The only exception of this package, and the stable names of the reasons."""

from __future__ import annotations

from enum import StrEnum

from mmojo_forge.errors import ForgeError


class Reason(StrEnum):
    """Why an archive was refused. Tests and `--json` output rely on these values."""

    ABSOLUTE_NAME = "archive-absolute-name"
    BAD_NAME = "archive-bad-name"
    CANNOT_WRITE = "archive-cannot-write"
    CORRUPT = "archive-corrupt"
    DEVICE = "archive-device"
    DOTDOT = "archive-dotdot"
    DUPLICATE = "archive-duplicate"
    ENCRYPTED = "archive-encrypted"
    HARD_LINK = "archive-hardlink"
    NAME_TOO_LONG = "archive-name-too-long"
    NO_SPACE = "archive-no-space"
    NOTHING_SELECTED = "archive-nothing-selected"
    RATIO = "archive-ratio"
    SYMLINK_ABSOLUTE = "archive-symlink-absolute"
    SYMLINK_BAD_TARGET = "archive-symlink-bad-target"
    SYMLINK_ESCAPES = "archive-symlink-escapes"
    THROUGH_SYMLINK = "archive-through-symlink"
    TOO_BIG = "archive-too-big"
    TOO_DEEP = "archive-too-deep"
    TOO_MANY = "archive-too-many"
    TRUNCATED = "archive-truncated"
    UNKNOWN_FORMAT = "archive-unknown-format"
    UNREADABLE = "archive-unreadable"
    UNSUPPORTED = "archive-unsupported"


class ArchiveError(ForgeError):
    """An archive that must not, or cannot, be unpacked."""
