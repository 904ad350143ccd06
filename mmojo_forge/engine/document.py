"""Atomic writing of the documents that commands leave beside results (bills, receipts, signatures)."""

from __future__ import annotations

from pathlib import Path

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.errors import ExitCode
from mmojo_forge.files import write_atomically


class DocumentError(EngineError):
    """A document cannot be written to the requested path."""

    exit_code = ExitCode.ENVIRONMENT_ERROR


def write_document(path: Path, data: bytes) -> None:
    """Replace the file at `path` atomically: after a full disk or a kill, the old file is still there.

    Raises DocumentError (`document-unwritable`).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise DocumentError(f"write {path}: {error.strerror or error}", reason="document-unwritable") from error
