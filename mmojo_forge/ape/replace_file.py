"""One file that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mmojo_forge.ape.staging import Staging


@contextmanager
def replace_file(out: Path, *, mode: int, what: str) -> Iterator[BinaryIO]:
    """A stream whose bytes become `out` when the block ends well; else `out` is as it was and nothing is left.

    Raises ApeError (`ape-disk-full`, `ape-output`).
    """
    with Staging(what) as staging:
        with staging.file(out, mode=mode) as stream:
            yield stream
        staging.commit()
