"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mmojo_forge.ape.error import ApeError, ApeReason


@contextmanager
def replace_file(out: Path, *, mode: int, what: str) -> Iterator[BinaryIO]:
    """A stream whose bytes become `out` when the block ends well; else `out` is as it was and nothing is left."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b") as stream:
            yield stream
        temporary.chmod(mode)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ApeError(f"{what} {out}: {error.strerror or error}", reason=ApeReason.INPUT) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
