"""Packs: frames of chunks, one after the other, up to a few MiB; named by the BLAKE3 of the whole.

The same chunks in the same order make the same pack, so what a push that was cut short has uploaded already is found by
its name when it is done again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import BoundedSemaphore

from mmojo_forge.model.digest import blake3_hex
from mmojo_forge.store.remote import layout
from mmojo_forge.store.remote.transport import Transport
from mmojo_forge.store.remote.treemap import Chunk


class OpenPack:
    """A pack that is being filled. `uploaded`, once it is set, gives its name when it is in the cache."""

    def __init__(self) -> None:
        self.uploaded: Future[str] | None = None
        self._frames: list[bytes] = []
        self.size = 0

    def add(self, frame: bytes) -> int:
        """Where in the pack the frame is."""
        offset = self.size
        self._frames.append(frame)
        self.size += len(frame)
        return offset

    def take(self) -> bytes:
        """The whole pack, which is empty afterwards."""
        content = b"".join(self._frames)
        self._frames.clear()
        return content


class Slot:
    """A chunk in a pack that may not be in the cache yet, or one that is there from before."""

    __slots__ = ("_chunk", "_pack")

    def __init__(self, chunk: Chunk, pack: OpenPack | None = None) -> None:
        self._chunk = chunk
        self._pack = pack

    @property
    def ready(self) -> bool:
        """Whether the chunk is in the cache, or will never be."""
        return self._pack is None or (self._pack.uploaded is not None and self._pack.uploaded.done())

    def chunk(self) -> Chunk:
        """The chunk, when its pack is in the cache; raises what the upload raised. Packs have to be flushed before."""
        if self._pack is not None:
            assert self._pack.uploaded is not None
            self._chunk, self._pack = replace(self._chunk, pack=self._pack.uploaded.result()), None
        return self._chunk


class Packer:
    """Fills packs, and uploads them over several connections; only so many are held in memory."""

    def __init__(
        self,
        transport: Transport,
        pool: ThreadPoolExecutor,
        connections: int,
        pack_bytes: int,
        on_sent: Callable[[int, bool], None],
        *,
        replace_all: bool = False,
    ) -> None:
        self._transport = transport
        self._pool = pool
        self._pack_bytes = pack_bytes
        self._free = BoundedSemaphore(connections + 1)
        self._pack = OpenPack()
        self._uploads: list[Future[str]] = []
        self._on_sent = on_sent
        self._replace_all = replace_all

    def add(self, digest: str, size: int, frame: bytes) -> Slot:
        """Where the chunk will be. Raises what an upload raised meanwhile."""
        if self._pack.size and self._pack.size + len(frame) > self._pack_bytes:
            self.flush()
        pack = self._pack
        return Slot(Chunk(digest, "", pack.add(frame), len(frame), size), pack)

    def flush(self) -> None:
        """Upload what is there."""
        for upload in [one for one in self._uploads if one.done()]:
            upload.result()
            self._uploads.remove(upload)
        if self._pack.size:
            self._free.acquire()
            upload = self._pool.submit(self._upload, self._pack.take())
            upload.add_done_callback(lambda _: self._free.release())
            self._uploads.append(upload)
            self._pack.uploaded = upload
            self._pack = OpenPack()

    def _upload(self, content: bytes) -> str:
        name = blake3_hex(content)
        path = layout.pack_path(name)
        size = -1 if self._replace_all else self._transport.size(path)
        # One of another size was cut short by a server that does not write all or nothing.
        new = size != len(content) and self._transport.put(path, content, if_absent=size is None)
        self._on_sent(len(content), new)
        return name
