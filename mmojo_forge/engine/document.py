"""Documents that commands leave beside results: whole, or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.errors import ExitCode


class DocumentError(EngineError):
    """A document that cannot be written where it was asked for."""

    exit_code = ExitCode.ENVIRONMENT_ERROR


def write_document(path: Path, data: bytes) -> None:
    """Make `data` the file at `path`; on a full disk or a kill the old file stays. Raises DocumentError
    (`document-unwritable`)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise DocumentError(f"write {path}: {error.strerror or error}", reason="document-unwritable") from error
