"""Reads bundles. A bundle may come from anybody, so the reader verifies all of it before it registers anything.

    1. contents    within limits, with our schema, no id twice, enough room on the disk
    2. metadata    each manifest matches its id and keeps every rule of trees; each trace matches its key;
                   the listed blobs are exactly those that the trees need, with the same sizes
    3. content     each blob is hashed while it streams into tmp/, and matches its digest
    4. the end     nothing follows, and the checksum of the compressed whole holds
    5. publish     all trees in one transaction, then the traces

The reader only compares a member's name with the expected one, and never uses it as a path. It takes sizes from the
contents, so it unpacks no more than they announce.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.digest import blake3_hex
from mmojo_forge.model.trace import Trace
from mmojo_forge.model.tree import Tree
from mmojo_forge.store.add.add import open_source
from mmojo_forge.store.add.batch import CHUNK, Batch, Blob, blobs_of
from mmojo_forge.store.bundle import records
from mmojo_forge.store.bundle.records import BundleContents, BundleError, malformed
from mmojo_forge.store.failure import disk_full

# One piece unpacks to at most 4096 × 32,768 bytes = 128 MiB.
_PIECE = 4096

OnProgress = Callable[[int, int], None]
"""Called with the bytes of content that are read so far, and the bytes in all."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A verified bundle whose content is staged in a batch."""

    contents: BundleContents
    trees: tuple[Tree, ...]
    traces: tuple[Trace, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import. `conflicts` counts the traces whose keys have other outputs in this store."""

    contents: BundleContents
    new_traces: int
    conflicts: int


def read_bundle(path: Path, batch: Batch, store: Path, on_progress: OnProgress | None = None) -> Arrived:
    """The verified content of the file, staged in the batch; raises BundleError on any fault."""
    with open_source(path) as file:
        stream = _Stream(file)
        try:
            arrived = _Reader(stream).read(batch, store, on_progress)
            stream.finish()
        except zstandard.ZstdError as error:
            raise malformed(f"zstd cannot decompress it: {error}") from error
    return arrived


class _Stream:
    """The decompressed content of a file. It reads small pieces, because each may unpack to 32,768 times its size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << records.WINDOW_LOG_MOST).decompressobj()
        self._pending = memoryview(b"")

    def read(self, count: int) -> bytes:
        """At least one byte and at most `count`; raises BundleError (`bundle-truncated`) at the end of the file."""
        while not self._pending:
            piece = b"" if self._decompressor.eof else self._file.read(_PIECE)
            if not piece:
                raise _truncated()
            self._pending = memoryview(self._decompressor.decompress(piece))
        data = bytes(self._pending[:count])
        self._pending = self._pending[count:]
        return data

    def finish(self) -> None:
        """Raise BundleError unless the file ends here and its checksum holds."""
        while not self._decompressor.eof and not self._pending:
            piece = self._file.read(_PIECE)
            if not piece:
                raise _truncated()
            self._pending = memoryview(self._decompressor.decompress(piece))
        if self._pending or self._decompressor.unused_data or self._file.read(1):
            raise malformed("it has data after its end")


class _Reader:
    """Reads the members of a tar in order, and refuses any member but the expected one."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def read(self, batch: Batch, store: Path, on_progress: OnProgress | None) -> Arrived:
        name, size = records.parse_header(self._exactly(records.BLOCK))
        if name != records.CONTENTS or size > records.MOST_CONTENTS:
            raise malformed(f"it does not begin with {records.CONTENTS}")
        contents = BundleContents.parse(self._data(size))
        _check_sizes(contents, store)
        trees = tuple(self._tree(identifier, size) for identifier, size in contents.trees.items())
        _check_blobs(contents, trees)
        traces = []
        for key, size in contents.traces.items():
            traces.append(records.parse(self._member(f"traces/{key}", size), key))
        self._blobs(contents, batch, on_progress)
        if any(self._exactly(2 * records.BLOCK)):
            raise malformed("it has more members than its contents list")
        return Arrived(contents, trees, tuple(traces))

    def _tree(self, identifier: str, size: int) -> Tree:
        manifest = self._member(f"trees/{identifier}", size)
        if blake3_hex(manifest) != identifier:
            raise _lie(f"tree {identifier}", "bundle-wrong-tree")
        try:
            return Tree.parse(manifest)
        except ForgeError as error:
            raise malformed(f"tree {identifier}: {error.message}") from error

    def _blobs(self, contents: BundleContents, batch: Batch, on_progress: OnProgress | None) -> None:
        done, total = 0, contents.size
        for blob, size in contents.blobs.items():
            self._begin(records.blob_member(blob), size)
            left = size

            def read(count: int) -> bytes:
                nonlocal left
                data = self._stream.read(min(count, left)) if left else b""
                left -= len(data)
                return data

            got, _ = batch.stage_stream(read, blob.executable, size, once=True)
            if got.digest != blob.digest:
                raise _lie(f"blob {blob.digest}", "bundle-wrong-blob")
            self._end(size)
            done += size
            if on_progress is not None:
                on_progress(done, total)

    def _member(self, name: str, size: int) -> bytes:
        self._begin(name, size)
        return self._data(size)

    def _begin(self, name: str, size: int) -> None:
        if self._exactly(records.BLOCK) != records.tar_header(name, size):
            raise malformed(f"{name} is missing or not at its place")

    def _data(self, size: int) -> bytes:
        data = self._exactly(size)
        self._end(size)
        return data

    def _end(self, size: int) -> None:
        if any(self._exactly(records.padding(size))):
            raise malformed("a member is longer than its header says")

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            parts.append(self._stream.read(min(count, CHUNK)))
            count -= len(parts[-1])
        return b"".join(parts)


def _check_sizes(contents: BundleContents, store: Path) -> None:
    for what, sizes in (("manifests", contents.trees.values()), ("traces", contents.traces.values())):
        if sum(sizes) > records.MOST_METADATA:
            raise BundleError(
                f"import bundle: more than {records.MOST_METADATA >> 20} MiB of {what}", reason="bundle-too-large"
            )
    status = os.statvfs(store)
    if contents.size > status.f_bavail * status.f_frsize:
        raise disk_full("import bundle", str(store), contents.size)


def _check_blobs(contents: BundleContents, trees: tuple[Tree, ...]) -> None:
    """Raise BundleError unless the listed blobs are exactly those that the trees need."""
    needed: dict[Blob, int] = {}
    for tree in trees:
        for blob, size in blobs_of(tree).items():
            if needed.setdefault(blob, size) != size:
                raise _lie(f"blob {blob.digest}", "bundle-wrong-size")
    for blob, size in contents.blobs.items():
        if needed.get(blob) != size:
            raise _lie(f"blob {blob.digest}", "bundle-wrong-size" if blob in needed else "bundle-unexpected")
    if len(needed) != len(contents.blobs):
        raise _lie("the list of blobs", "bundle-incomplete")
    unknown = [target.target for target in contents.targets if target.tree not in contents.trees]
    if unknown:
        raise _lie(f"target {unknown[0]}", "bundle-incomplete")


def _truncated() -> BundleError:
    return BundleError(
        "import bundle: the file is truncated",
        detail="Copy the file again. Forge imported nothing.",
        reason="bundle-truncated",
    )


def _lie(what: str, reason: str) -> BundleError:
    return BundleError(
        f"import bundle: {what} does not match the bundle's contents",
        detail="The file is damaged, or somebody changed it. Forge imported nothing.",
        reason=reason,
    )
