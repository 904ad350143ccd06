"""Reads traces and trees from a cache, and passes nothing on before it is verified.

`CacheReader` fetches indexes, traces, manifests and maps, and starts the transfer of a tree's content. A `Seed`
supplies chunks from trees that are already local: another version of a tree usually has most of its chunks. The other
version's map, which also comes from the cache, says how its files were cut. Chunks from a seed are verified like those
that arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mmojo_forge.cache.failure import CacheError, CacheFault, lying
from mmojo_forge.cache.format import index, layout, treemap
from mmojo_forge.cache.format.chunks import Codec, layout_of
from mmojo_forge.cache.format.index import TraceChecker
from mmojo_forge.cache.format.info import CacheInfo, read_info
from mmojo_forge.cache.format.treemap import TreeMap
from mmojo_forge.cache.read.transfer import Known, OnProgress, Options, Transfer
from mmojo_forge.cache.transport.protocol import Transport, read_whole
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId, blake3_hex
from mmojo_forge.model.signature import PublicKey
from mmojo_forge.model.trace import Trace
from mmojo_forge.model.tree import Tree, TreeEntry, TreeError
from mmojo_forge.store.protocol import Sink

ReadAt = Callable[[TreeEntry, int, int], bytes]
"""Reads bytes of a local file: entry, offset, count. The bytes need not be verified."""


class Seed:
    """The chunks of local trees, by their BLAKE3. As thread-safe as `read_at`."""

    def __init__(self, maps: Iterable[TreeMap], read_at: ReadAt) -> None:
        self._read_at = read_at
        self._places: dict[str, list[tuple[TreeEntry, int, int]]] = {}
        for tree_map in maps:
            for group in tree_map.groups:
                self._places.setdefault(group.chunk.digest, [(file, 0, file.size) for file in group.files])
            for large in tree_map.files:
                offset = 0
                for chunk in large.chunks:
                    self._places.setdefault(chunk.digest, [(large.file, offset, chunk.size)])
                    offset += chunk.size

    def content(self, digest: str) -> bytes | None:
        """The unverified content at the chunk's place, or None if no local tree has the chunk."""
        places = self._places.get(digest)
        return None if places is None else b"".join(self._read_at(*place) for place in places)


_Asked = TypeVar("_Asked")
_Given = TypeVar("_Given")


@dataclass(frozen=True, slots=True)
class TraceAnswer:
    """Traces with valid signatures by trusted keys, by action key.

    Several traces of one key may claim different outputs; the engine's policy decides which one counts. `errors`
    describes the rejected entries. `trees` are those that the cache claims to have, which nothing verifies.
    """

    traces: dict[ActionKey, tuple[Trace, ...]]
    errors: tuple[CacheError, ...] = ()
    trees: frozenset[TreeId] = frozenset()


class CacheReader:
    """Reads one cache. `trusted` are the keys whose signatures count, without revoked ones.

    Methods raise CacheError if the cache fails as a whole. An answer simply omits what the cache does not have.
    """

    def __init__(self, transport: Transport, trusted: Sequence[PublicKey], options: Options | None = None) -> None:
        self._transport = transport
        self._checker = TraceChecker(tuple(trusted), transport.place)
        self._signers = list(dict.fromkeys(layout.signer_id(key) for key in trusted))
        self._options = options or Options()
        self._codec = Codec()

    def info(self) -> CacheInfo:
        """The cache's description of itself; raises CacheError (`cache-missing`, `cache-schema`, …)."""
        return read_info(self._transport)

    def fetch_index(self, roots: Sequence[DerivationId]) -> TraceAnswer:
        """The traces for the closures of these derivations: one request for each root and trusted signer."""
        return self._asked(
            lambda asked: self.read_index(*asked), [(root, signer) for root in roots for signer in self._signers]
        )

    def read_index(self, root: DerivationId, signer: str) -> TraceAnswer:
        """The content of one writer's index; raises CacheError (`cache-missing`, `cache-malformed`)."""
        path = layout.index_path(root, signer)
        found = index.parse(self._metadata(path, layout.MAX_INDEX), root, self._checker, path)
        return TraceAnswer(
            {key: tuple(traces) for key, traces in found.traces.items()}, tuple(found.errors), found.trees
        )

    def fetch_traces(self, keys: Sequence[ActionKey]) -> TraceAnswer:
        """The traces for keys that no index has: one request for each key and trusted signer."""
        return self._asked(self._trace, [(key, signer) for key in keys for signer in self._signers])

    def has_trees(self, trees: Iterable[TreeId]) -> set[TreeId]:
        """The subset of the trees that the cache claims to have: one small request for each."""
        asked = list(trees)
        sizes = self._each(lambda tree: self._transport.size(layout.map_path(tree)), asked)
        return {tree for tree, size in zip(asked, sizes, strict=True) if size is not None}

    def read_manifest(self, tree: TreeId, size: int | None = None) -> Tree:
        """The tree's manifest, whose BLAKE3 is the tree id.

        Raises CacheError: `manifest-mismatch` for another tree, `manifest-invalid` for one that breaks the rules of
        trees, `manifest-size` if its content does not have `size` bytes.
        """
        path = layout.tree_path(tree)
        manifest = self._metadata(path, layout.MAX_MANIFEST)
        if blake3_hex(manifest) != tree:
            raise lying(self._transport.place, path, "it is the manifest of another tree", "manifest-mismatch")
        try:
            parsed = Tree.parse(manifest)
            layout_of(parsed)
        except TreeError as error:
            # The hash is right, so the signer of the trace named a tree that must not be checked out.
            raise lying(self._transport.place, path, error.message, "manifest-invalid") from error
        if any(entry.path.startswith("/") for entry in parsed.entries):
            raise lying(self._transport.place, path, "a path is absolute", "manifest-invalid")
        if size is not None and parsed.size != size:
            cause = f"it has {parsed.size:,} bytes of content, not {size:,}"
            raise lying(self._transport.place, path, cause, "manifest-size")
        return parsed

    def read_map(self, tree: Tree) -> TreeMap:
        """The tree's map; raises CacheError (`map-mismatch`, `map-invalid`)."""
        path = layout.map_path(tree.id)
        return treemap.parse(self._metadata(path, treemap.longest(tree)), tree, self._transport.place)

    def seed_of(self, trees: Iterable[Tree], read_at: ReadAt) -> Seed:
        """A seed from those local trees whose maps the cache has; raises CacheError if the cache fails."""

        def read_map(tree: Tree) -> TreeMap | None:
            try:
                return self.read_map(tree)
            except CacheError as error:
                if error.fault is CacheFault.FAILING:
                    raise
                return None

        return Seed((found for found in self._each(read_map, list(trees)) if found is not None), read_at)

    def fetch_tree(
        self, tree: TreeId, sink: Sink, partial: Path, *, size: int | None = None, known: Known | None = None
    ) -> Tree:
        """Fetch a tree's content into the sink, and return its manifest.

        No other fetch may use the folder `partial` at the same time. It keeps what arrived if the fetch fails, so that
        the next attempt resumes. Raises CacheError, and what the sink raises.
        """
        manifest = self.read_manifest(tree, size)
        self.fetch_content(manifest, sink, partial, known=known)
        return manifest

    def fetch_content(
        self,
        tree: Tree,
        sink: Sink,
        partial: Path,
        *,
        known: Known | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Fetch the content of a tree whose manifest is known, as `fetch_tree` does."""
        wanted = self.read_map(tree)
        Transfer(self._transport, self._codec, wanted, sink, partial, self._options, known, on_progress).run()

    def _metadata(self, path: str, most: int) -> bytes:
        frame = read_whole(self._transport, path, min(layout.MAX_COMPRESSED, most))
        return self._codec.unpack_at_most(frame, most, self._transport.place, path)

    def _trace(self, asked: tuple[ActionKey, str]) -> TraceAnswer:
        key, signer = asked
        path = layout.trace_path(key, signer)
        trace = self._checker.parse(read_whole(self._transport, path, layout.MAX_TRACE), path, key, signer)
        return TraceAnswer({key: (trace,)})

    def _asked(self, work: Callable[[_Asked], TraceAnswer], asked: Sequence[_Asked]) -> TraceAnswer:
        """All answers merged. A failing cache raises at once; false data only adds to `errors`."""

        def answer_to(question: _Asked) -> TraceAnswer:
            try:
                return work(question)
            except CacheError as error:
                if error.fault is CacheFault.MISSING:
                    return TraceAnswer({})
                if error.fault is CacheFault.LYING:
                    return TraceAnswer({}, (error,))
                raise

        answers = self._each(answer_to, asked)
        traces: dict[ActionKey, dict[tuple[bytes, str], Trace]] = {}
        for answer in answers:
            for key, found in answer.traces.items():
                for trace in found:
                    # Indexes of several roots repeat the same traces.
                    signed = (trace.fingerprint(), " ".join(sorted(signature.key for signature in trace.signatures)))
                    traces.setdefault(key, {}).setdefault(signed, trace)
        errors = tuple(error for answer in answers for error in answer.errors)
        trees = frozenset(tree for answer in answers for tree in answer.trees)
        return TraceAnswer({key: tuple(distinct.values()) for key, distinct in traces.items()}, errors, trees)

    def _each(self, work: Callable[[_Asked], _Given], asked: Sequence[_Asked]) -> list[_Given]:
        if len(asked) <= 1:
            return [work(question) for question in asked]
        with ThreadPoolExecutor(min(self._options.connections, len(asked)), "forge-cache") as pool:
            try:
                return list(pool.map(work, asked))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
