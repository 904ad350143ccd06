"""Cuts trees into chunks and packs, and uploads the packs. It neither reads nor sends content that the cache has.

A pack is a sequence of chunk frames of up to a few MiB, named by the BLAKE3 of the whole. The same chunks in the same
order make the same pack. So when an interrupted push is repeated, it finds the packs that it already uploaded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import BoundedSemaphore

from blake3 import blake3

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.format.chunks import SMALL, Codec, chunks, groups, layout_of
from mmojo_forge.cache.format.treemap import Chunk, Group, Large, TreeMap
from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.cache.write.reuse import Reuse
from mmojo_forge.model.digest import blake3_hex
from mmojo_forge.model.tree import Tree, TreeEntry
from mmojo_forge.store.protocol import OpenBlob


class OpenPack:
    """A pack that is being filled. `flush` sets `uploaded`, which gives the pack's name once it is in the cache."""

    def __init__(self) -> None:
        self.uploaded: Future[str] | None = None
        self._frames: list[bytes] = []
        self.size = 0

    def add(self, frame: bytes) -> int:
        """Append a frame, and return its offset in the pack."""
        offset = self.size
        self._frames.append(frame)
        self.size += len(frame)
        return offset

    def take(self) -> bytes:
        """The whole pack. The frames are dropped, to free the memory."""
        content = b"".join(self._frames)
        self._frames.clear()
        return content


class Slot:
    """A chunk whose pack may still be uploading, or which the cache already had."""

    __slots__ = ("_chunk", "_pack")

    def __init__(self, chunk: Chunk, pack: OpenPack | None = None) -> None:
        self._chunk = chunk
        self._pack = pack

    @property
    def ready(self) -> bool:
        """Whether the chunk is in the cache, or its upload failed."""
        return self._pack is None or (self._pack.uploaded is not None and self._pack.uploaded.done())

    def chunk(self) -> Chunk:
        """Wait for the pack's upload, and return the chunk; raises what the upload raised. Call `flush` first."""
        if self._pack is not None:
            assert self._pack.uploaded is not None
            self._chunk, self._pack = replace(self._chunk, pack=self._pack.uploaded.result()), None
        return self._chunk


class Packer:
    """Fills packs, and uploads them over several connections. At most `connections` + 1 packs are in memory."""

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
        """Append a chunk, and return its slot. Raises what an earlier upload raised."""
        if self._pack.size and self._pack.size + len(frame) > self._pack_bytes:
            self.flush()
        pack = self._pack
        return Slot(Chunk(digest, "", pack.add(frame), len(frame), size), pack)

    def flush(self) -> None:
        """Start to upload the current pack, once few enough uploads are running. Raises what an upload raised."""
        for upload in [upload for upload in self._uploads if upload.done()]:
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
        # A pack with another size is truncated: some servers do not write atomically.
        new = size != len(content) and self._transport.put(path, content, if_absent=size is None)
        self._on_sent(len(content), new)
        return name


# Chunks that each thread may be ahead of the packer.
_AHEAD = 8


@dataclass(frozen=True, slots=True)
class PushItem:
    """A tree to push. `name` finds other versions of it in the cache; `open_blob` opens its files."""

    tree: Tree
    name: str
    open_blob: OpenBlob


@dataclass(frozen=True, slots=True)
class _Made:
    """A new chunk: its BLAKE3, its size, and its frame unless the cache has the chunk."""

    digest: str
    size: int
    frame: bytes | None


@dataclass(slots=True, eq=False)
class Pending:
    """A tree that is cut into packs, whose uploads may still be running."""

    item: PushItem
    groups: list[tuple[tuple[TreeEntry, ...], list[Slot]]] = field(default_factory=list)
    files: list[tuple[TreeEntry, list[Slot]]] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether `encode` returns without waiting."""
        return all(slot.ready for slot in self._slots())

    def wait(self) -> None:
        """Wait until the packs are in the cache; raises what an upload raised."""
        for slot in self._slots():
            slot.chunk()

    def encode(self) -> bytes:
        """The tree's map as uncompressed JSON."""
        tree = self.item.tree
        grouped = tuple(Group(files, slot.chunk()) for files, (slot,) in self.groups)
        large = tuple(Large(file, tuple(slot.chunk() for slot in slots)) for file, slots in self.files)
        return TreeMap(tree.id, (), grouped, large).encode(SMALL)

    def _slots(self) -> Iterator[Slot]:
        for _, slots in (*self.groups, *self.files):
            yield from slots


class ChunkWriter:
    """Cuts trees into the packs of one push, one tree after the other. It keeps a few chunks per thread in memory."""

    def __init__(self, reuse: Reuse, packer: Packer, codec: Codec, workers: ThreadPoolExecutor, threads: int) -> None:
        self._reuse = reuse
        self._packer = packer
        self._codec = codec
        self._workers = workers
        self._ahead = threads * _AHEAD
        self._slots: dict[str, Slot] = {}
        self._waiting: deque[tuple[Future[_Made], list[Slot]]] = deque()
        self.content_bytes = 0
        self.reused_bytes = 0

    def cut(self, item: PushItem) -> Pending:
        """Cut the tree's content into packs. Raises CacheError (`push-mismatch`), and what `open_blob` raises."""
        pending = Pending(item)
        content = layout_of(item.tree)
        for files in groups(content.small):
            slots: list[Slot] = []
            pending.groups.append((files, slots))
            known = self._reuse.groups.get(tuple(str(file.digest) for file in files))
            if known is not None:
                slots.append(self._reused(known))
            else:
                self._submit(self._workers.submit(self._make_group, item, files), slots)
        for file in content.large:
            slots = []
            pending.files.append((file, slots))
            chunks_known = self._reuse.files.get(str(file.digest))
            if chunks_known is not None:
                slots.extend(self._reused(chunk) for chunk in chunks_known)
            else:
                self._cut_file(item, file, slots)
        while self._waiting:
            self._take_one()
        return pending

    def _cut_file(self, item: PushItem, file: TreeEntry, slots: list[Slot]) -> None:
        hasher = blake3()
        size = 0
        with item.open_blob(file) as stream:
            for content in chunks(stream):
                hasher.update(content)
                size += len(content)
                if size > file.size:
                    break
                self._submit(self._workers.submit(self._make, content), slots)
        if size != file.size or hasher.hexdigest() != file.digest:
            raise _mismatch(item, file)

    def _make_group(self, item: PushItem, files: tuple[TreeEntry, ...]) -> _Made:
        return self._make(b"".join(_content(item, file) for file in files))

    def _make(self, content: bytes) -> _Made:
        digest = blake3(content).hexdigest()
        known = digest in self._slots or digest in self._reuse.chunks
        return _Made(digest, len(content), None if known else self._codec.compress(content))

    def _submit(self, made: Future[_Made], slots: list[Slot]) -> None:
        """Queue a chunk. Slots are assigned in the order of submission, so that the same push makes the same packs."""
        self._waiting.append((made, slots))
        if len(self._waiting) > self._ahead:
            self._take_one()

    def _take_one(self) -> None:
        future, slots = self._waiting.popleft()
        made = future.result()
        slot = self._slots.get(made.digest)
        if slot is not None:
            self.content_bytes += made.size
            self.reused_bytes += made.size
        elif made.frame is None:
            slot = self._reused(self._reuse.chunks[made.digest])
        else:
            slot = self._slots[made.digest] = self._packer.add(made.digest, made.size, made.frame)
            self.content_bytes += made.size
        slots.append(slot)

    def _reused(self, chunk: Chunk) -> Slot:
        self.content_bytes += chunk.size
        self.reused_bytes += chunk.size
        slot = self._slots.get(chunk.digest)
        if slot is None:
            slot = self._slots[chunk.digest] = Slot(chunk)
        return slot


def _content(item: PushItem, file: TreeEntry) -> bytes:
    """The content of a small file; raises CacheError (`push-mismatch`)."""
    with item.open_blob(file) as stream:
        content = stream.read(file.size + 1)
        if len(content) == file.size and blake3(content).hexdigest() == file.digest:
            return content
    raise _mismatch(item, file)


def _mismatch(item: PushItem, file: TreeEntry) -> CacheError:
    message = f"push {item.name}: the content of {file.path or 'the file'} does not match its tree"
    detail = "Run `forge store verify` to find the damaged files."
    return CacheError(message, detail=detail, reason="push-mismatch", fault=CacheFault.OURS)
