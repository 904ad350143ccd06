"""What takes a fetched tree in: a small protocol, which a store's batch or a folder fulfils."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mmojo_forge.model.digest import BlobDigest
from mmojo_forge.model.tree import Entry


class Sink(Protocol):
    """Takes verified content, each once, however often the tree has it; called from several threads.

    The entry that comes with content is the first that has it; others may be of another kind. Whether the tree as a
    whole became valid is for the caller to see to, when the fetch returned.
    """

    def lacking(self, files: Sequence[Entry]) -> set[BlobDigest]:
        """The digests whose content is needed."""

    def take_small(self, files: Sequence[tuple[Entry, bytes]]) -> None:
        """Take some files, whole and verified."""

    def take_file(self, file: Entry, path: Path) -> None:
        """Take one large file, verified, which lies at `path` and may be moved away."""
