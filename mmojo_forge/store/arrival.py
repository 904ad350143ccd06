"""A tree that arrives from somewhere else piece by piece: what a cache hands over goes into a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmojo_forge.model.digest import BlobDigest
from mmojo_forge.model.tree import Entry, Tree
from mmojo_forge.store.batch import Batch, Blob, blobs_of
from mmojo_forge.store.protocol import StoreError


class Arrival:
    """A Sink (remote/sink.py) that stages what it takes; safe in several threads.

    It trusts whoever fills it to have verified each file by its digest. A file that the tree has both executable and
    not is two blobs, because the bit belongs to the file in `blobs/`.
    """

    def __init__(self, batch: Batch, tree: Tree) -> None:
        self._batch = batch
        self._missing: dict[BlobDigest, list[Blob]] = {}
        for blob in batch.claim(blobs_of(tree)):
            self._missing.setdefault(blob.digest, []).append(blob)

    def lacking(self, files: Sequence[Entry]) -> set[BlobDigest]:
        """The digests whose content is not in the store in every form that the tree needs."""
        return {file.digest for file in files if file.digest is not None and file.digest in self._missing}

    def take_small(self, files: Sequence[tuple[Entry, bytes]]) -> None:
        """Stage some files."""
        for file, content in files:
            for blob in self._taken(file):
                self._batch.stage_bytes(blob, content)

    def take_file(self, file: Entry, path: Path) -> None:
        """Stage a file by moving it, copied first where the tree needs it in both forms."""
        *copied, moved = self._taken(file)
        for blob in copied:
            self._batch.stage_copy(blob, path)
        self._batch.stage_file(moved, path)

    def check_complete(self) -> None:
        """Raise StoreError (`blob-missing`) unless everything that was lacking has come."""
        if self._missing:
            raise StoreError(f"receive tree: blob {next(iter(self._missing))} did not come", reason="blob-missing")

    def _taken(self, file: Entry) -> list[Blob]:
        assert file.digest is not None
        return self._missing.pop(file.digest)
