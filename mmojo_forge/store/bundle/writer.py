"""Writes bundles. Content streams through in constant memory, and the file appears only when it is complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from mmojo_forge.model.digest import TreeId
from mmojo_forge.model.trace import Trace
from mmojo_forge.store.add.batch import CHUNK, Blob, blobs_of
from mmojo_forge.store.bundle import records
from mmojo_forge.store.bundle.records import BundleContents, BundledTarget
from mmojo_forge.store.failure import reported
from mmojo_forge.store.protocol import TreeReader

LEVEL = 3
_ZEROS = bytes(2 * records.BLOCK)

OnProgress = Callable[[int, int], None]
"""Called with the bytes of content that are written so far, and the bytes in all."""


class Writable(Protocol):
    """A stream that takes bytes."""

    def write(self, data: bytes, /) -> object:
        """Write all of `data`."""


def write_bundle(
    store: TreeReader,
    path: Path,
    targets: Sequence[BundledTarget],
    trees: Iterable[TreeId],
    traces: Iterable[Trace],
    on_progress: OnProgress | None = None,
) -> BundleContents:
    """The contents of the bundle that this writes to `path`. Raises StoreError."""
    manifests: dict[TreeId, bytes] = {}
    blobs: dict[Blob, int] = {}
    for identifier in sorted(set(trees)):
        tree = store.read_tree(identifier)
        manifests[identifier] = tree.encode()
        for blob, size in blobs_of(tree).items():
            blobs.setdefault(blob, size)
    entries = {trace.key: records.encode(trace) for trace in sorted(traces, key=lambda trace: trace.key)}
    contents = BundleContents(
        tuple(sorted(targets, key=lambda target: target.target)),
        {tree: len(manifest) for tree, manifest in manifests.items()},
        {key: len(entry) for key, entry in entries.items()},
        blobs,
    )
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    with reported(f"write {path}", str(path.parent), needed=contents.size):
        try:
            with temporary.open("xb") as file:
                _write(file, contents, [*manifests.values(), *entries.values()], store, on_progress)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return contents


def _write(
    file: BinaryIO, contents: BundleContents, metadata: list[bytes], store: TreeReader, on_progress: OnProgress | None
) -> None:
    # zstd gives the same bytes for any number of worker threads, but other bytes without any (threads=0).
    threads = max(1, len(os.sched_getaffinity(0)))
    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=threads, write_checksum=True)
    with compressor.stream_writer(file, closefd=False) as out:
        head = contents.encode()
        _write_member(out, records.CONTENTS, head)
        for (name, _), data in zip(records.members(contents), metadata, strict=False):
            _write_member(out, name, data)
        _write_blobs(out, contents.blobs, store, on_progress)
        out.write(_ZEROS)


def _write_member(out: Writable, name: str, data: bytes) -> None:
    out.write(records.tar_header(name, len(data)))
    out.write(data)
    out.write(_ZEROS[: records.padding(len(data))])


def _write_blobs(out: Writable, blobs: Mapping[Blob, int], store: TreeReader, on_progress: OnProgress | None) -> None:
    done, total = 0, sum(blobs.values())
    for blob, size in blobs.items():
        out.write(records.tar_header(records.blob_member(blob), size))
        with store.open_blob(blob.digest, executable=blob.executable) as content:
            while chunk := content.read(CHUNK):
                out.write(chunk)
        out.write(_ZEROS[: records.padding(size)])
        done += size
        if on_progress is not None:
            on_progress(done, total)
