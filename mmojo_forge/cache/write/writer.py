"""Writes to a cache in an order that keeps it consistent: every object follows the objects that it refers to.

content ──▶ groups and chunks ──▶ frames ──▶ packs ──▶ manifest ──▶ map ──▶ name ──▶ trace entries ──▶ indexes

So an interrupted push leaves no dangling reference. Some threads read, hash and compress; others upload. The order of
chunks is fixed, so that the same push makes the same packs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.format import index, layout
from mmojo_forge.cache.format.chunks import Codec
from mmojo_forge.cache.format.info import PACK_BYTES, CacheInfo
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.cache.write.chunk_writer import ChunkWriter, Packer, Pending, PushItem
from mmojo_forge.cache.write.reuse import Reuse
from mmojo_forge.model import trace_entry
from mmojo_forge.model.digest import DerivationId, TreeId
from mmojo_forge.model.signature import PublicKey
from mmojo_forge.model.trace import Trace

_Given = TypeVar("_Given")
_Done = TypeVar("_Done")


OnSent = Callable[[int], None]
"""Called with the bytes sent so far, from several threads."""


class PushMode(StrEnum):
    """How a push decides whether the cache has a tree."""

    TRUSTING = "trusting"
    """The cache has a tree if it has the tree's map."""
    THOROUGH = "thorough"
    """The cache has a tree if it has the manifest, the map and all packs, and the packs are long enough."""
    OVERWRITE = "overwrite"
    """The push writes everything again, and replaces existing objects. This repairs a damaged or poisoned cache."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """The result of a push.

    `content_bytes` is the size of the new trees, and `reused_bytes` the part of it that the cache already had.
    `sent_bytes` counts the uploaded bytes: compressed packs and metadata.
    """

    trees: int = 0
    trees_known: int = 0
    traces: int = 0
    content_bytes: int = 0
    reused_bytes: int = 0
    sent_bytes: int = 0


class CacheWriter:
    """Writes to one cache. Any number of writers may use the same cache at the same time."""

    def __init__(
        self,
        transport: Transport,
        *,
        connections: int = 4,
        threads: int = 2,
        pack_bytes: int = PACK_BYTES,
        on_sent: OnSent = lambda _: None,
    ) -> None:
        self._transport = transport
        self._connections = connections
        self._threads = threads
        self._pack_bytes = pack_bytes
        self._on_sent = on_sent
        self._codec = Codec()
        self._sent = 0
        self._lock = threading.Lock()

    def ensure_info(self, info: CacheInfo) -> CacheInfo:
        """Write `info` unless the cache has a description, and return the one it has; raises CacheError."""
        self._put(layout.INFO, info.encode())
        return CacheReader(self._transport, ()).info()

    def push(
        self,
        items: Sequence[PushItem],
        traces: Sequence[Trace] = (),
        indexes: Mapping[DerivationId, Sequence[Trace]] | None = None,
        *,
        signer: PublicKey | None = None,
        mode: PushMode = PushMode.TRUSTING,
    ) -> Pushed:
        """Write trees, then traces, then the indexes of these roots in the name of `signer`.

        Raises CacheError. Everything written by then is consistent.
        """
        self._sent = 0
        done = self._push_trees(items, mode)
        entries = [(trace, signature.key) for trace in traces for signature in trace.signatures]
        new = sum(self._each(self._push_entry, entries))
        if indexes and signer is None:
            raise CacheError("push an index: no signer was given", reason="push-unsigned", fault=CacheFault.OURS)
        for root, listed in (indexes or {}).items():
            assert signer is not None
            self._push_index(root, listed, {item.tree.id for item in items}, signer)
        return replace(done, traces=new, sent_bytes=self._sent)

    def _push_trees(self, items: Sequence[PushItem], mode: PushMode) -> Pushed:
        distinct = list({item.tree.id: item for item in items}.values())
        there = self._each(lambda item: self._is_there(item, mode), distinct)
        missing = [item for item, known in zip(distinct, there, strict=True) if not known]
        if not missing:
            return Pushed(trees_known=len(distinct))
        reuse = Reuse(self._transport, CacheReader(self._transport, ()))
        with (
            ThreadPoolExecutor(self._threads, "forge-pack") as workers,
            ThreadPoolExecutor(self._connections, "forge-push") as uploads,
        ):
            try:
                anew = mode is PushMode.OVERWRITE
                if not anew:
                    reuse.learn([item.name for item in missing], uploads)
                packer = Packer(
                    self._transport, uploads, self._connections, self._pack_bytes, self._count, replace_all=anew
                )
                chunk_writer = ChunkWriter(reuse, packer, self._codec, workers, self._threads)
                pending: list[Pending] = []
                finished: list[Future[None]] = []
                for item in missing:
                    pending.append(chunk_writer.cut(item))
                    finished += [uploads.submit(self._finish, tree, mode) for tree in pending if tree.ready]
                    pending = [tree for tree in pending if not tree.ready]
                packer.flush()
                for tree in pending:
                    # Wait in this thread: `_finish` in the pool of uploads would deadlock if it waited for uploads.
                    tree.wait()
                    finished.append(uploads.submit(self._finish, tree, mode))
                for future in finished:
                    future.result()
            except BaseException:
                workers.shutdown(cancel_futures=True)
                uploads.shutdown(cancel_futures=True)
                raise
        return Pushed(
            trees=len(missing),
            trees_known=len(distinct) - len(missing),
            content_bytes=chunk_writer.content_bytes,
            reused_bytes=chunk_writer.reused_bytes,
        )

    def _is_there(self, item: PushItem, mode: PushMode) -> bool:
        if mode is PushMode.OVERWRITE or self._transport.size(layout.map_path(item.tree.id)) is None:
            return False
        if mode is PushMode.TRUSTING:
            return True
        reader = CacheReader(self._transport, ())
        try:
            found = reader.read_map(reader.read_manifest(item.tree.id))
        except CacheError as error:
            if error.fault is CacheFault.FAILING:
                raise
            return False
        sizes = {pack: self._transport.size(layout.pack_path(pack)) or 0 for pack in found.packs()}
        return all(chunk.offset + chunk.length <= sizes[chunk.pack] for chunk in found.chunks())

    def _finish(self, pending: Pending, mode: PushMode) -> None:
        tree, new = pending.item.tree, mode is PushMode.TRUSTING
        self._put(layout.tree_path(tree.id), self._codec.compress(tree.encode()), if_absent=new)
        self._put(layout.map_path(tree.id), self._codec.compress(pending.encode()), if_absent=new)
        self._put(layout.name_path(pending.item.name, tree.id), tree.id.encode())

    def _push_entry(self, signed: tuple[Trace, str]) -> bool:
        trace, key = signed
        alone = replace(trace, signatures=tuple(signature for signature in trace.signatures if signature.key == key))
        path = layout.trace_path(trace.key, layout.signer_id(PublicKey.parse(key)))
        return self._put(path, trace_entry.encode(alone))

    def _push_index(self, root: DerivationId, traces: Sequence[Trace], trees: set[TreeId], signer: PublicKey) -> None:
        """Write the signer's index of a root. Entries of the old index for other keys and trees are kept."""
        merged = {trace.key: trace for trace in traces}
        trusted = {PublicKey.parse(signature.key) for trace in traces for signature in trace.signatures} | {signer}
        with suppress(CacheError):
            before = CacheReader(self._transport, list(trusted)).read_index(root, layout.signer_id(signer))
            merged = {**{key: known[0] for key, known in before.traces.items()}, **merged}
            trees |= before.trees
        named = {output.tree for trace in merged.values() for output in trace.outputs.values()}
        content = self._codec.compress(index.encode(root, merged.values(), trees & named))
        self._put(layout.index_path(root, layout.signer_id(signer)), content, if_absent=False)

    def _put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        new = self._transport.put(path, content, if_absent=if_absent)
        self._count(len(content), new)
        return new

    def _count(self, size: int, new: bool) -> None:
        with self._lock:
            self._sent += size if new else 0
            sent = self._sent
        self._on_sent(sent)

    def _each(self, work: Callable[[_Given], _Done], given: Iterable[_Given]) -> list[_Done]:
        listed = list(given)
        if len(listed) <= 1:
            return [work(item) for item in listed]
        with ThreadPoolExecutor(min(self._connections, len(listed)), "forge-push") as pool:
            try:
                return list(pool.map(work, listed))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
