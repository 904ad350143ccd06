"""Reading a cache: what is known about keys, and trees. Nothing that it gives is handed on before it is verified.

Chunks out of trees that are here already: another version of what is fetched has most of it.

The other version's map, which the cache has too, says which chunks it was cut into; they are read from its files here,
and verified like those that arrive.
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
"""Some bytes of a file that is here: from which offset on, and how many. Nobody has to have verified them."""


class Seed:
    """The chunks of some trees that are here, by their BLAKE3; safe in several threads as far as `read_at` is."""

    def __init__(self, maps: Iterable[TreeMap], read_at: ReadAt) -> None:
        self._read_at = read_at
        self._places: dict[str, list[tuple[TreeEntry, int, int]]] = {}
        for one in maps:
            for group in one.groups:
                self._places.setdefault(group.chunk.digest, [(file, 0, file.size) for file in group.files])
            for large in one.files:
                offset = 0
                for chunk in large.chunks:
                    self._places.setdefault(chunk.digest, [(large.file, offset, chunk.size)])
                    offset += chunk.size

    def content(self, digest: str) -> bytes | None:
        """The chunk's content, or what lies where it should be; None for one that is not here."""
        places = self._places.get(digest)
        return None if places is None else b"".join(self._read_at(*place) for place in places)


_Asked = TypeVar("_Asked")
_Given = TypeVar("_Given")


@dataclass(frozen=True, slots=True)
class TraceAnswer:
    """What a cache says about keys: traces with valid signatures by trusted keys. Several for one key may claim
    different outputs: what to make of that is a policy. `errors` are the entries that were not accepted, `trees` what
    is said to be there, which may not be so."""

    traces: dict[ActionKey, tuple[Trace, ...]]
    errors: tuple[CacheError, ...] = ()
    trees: frozenset[TreeId] = frozenset()


class CacheReader:
    """A cache that is read. `trusted` are the keys that count, revoked ones not among them.

    Methods raise CacheError where the cache fails as a whole; what it does not have is simply not in an answer.
    """

    def __init__(self, transport: Transport, trusted: Sequence[PublicKey], options: Options | None = None) -> None:
        self._transport = transport
        self._checker = TraceChecker(tuple(trusted), transport.place)
        self._signers = list(dict.fromkeys(layout.signer_id(key) for key in trusted))
        self._options = options or Options()
        self._codec = Codec()

    def info(self) -> CacheInfo:
        """What the cache says about itself; raises CacheError (`cache-missing`, `cache-schema`, …)."""
        return read_info(self._transport)

    def fetch_index(self, roots: Sequence[DerivationId]) -> TraceAnswer:
        """What the builders who are trusted wrote about the closures of these derivations: one request for each."""
        return self._asked(
            lambda asked: self.read_index(*asked), [(root, signer) for root in roots for signer in self._signers]
        )

    def read_index(self, root: DerivationId, signer: str) -> TraceAnswer:
        """One builder's index; raises CacheError (`cache-missing`, `cache-malformed`)."""
        path = layout.index_path(root, signer)
        found = index.parse(self._metadata(path, layout.MAX_INDEX), root, self._checker, path)
        return TraceAnswer(
            {key: tuple(several) for key, several in found.traces.items()}, tuple(found.errors), found.trees
        )

    def fetch_traces(self, keys: Sequence[ActionKey]) -> TraceAnswer:
        """The entries for these keys: a request for each key and trusted signer. For what no index has."""
        return self._asked(self._trace, [(key, signer) for key in keys for signer in self._signers])

    def has_trees(self, trees: Iterable[TreeId]) -> set[TreeId]:
        """Those of the trees that the cache says it has: a small request for each."""
        asked = list(trees)
        sizes = self._each(lambda tree: self._transport.size(layout.map_path(tree)), asked)
        return {tree for tree, size in zip(asked, sizes, strict=True) if size is not None}

    def read_manifest(self, tree: TreeId, size: int | None = None) -> Tree:
        """The tree; raises CacheError (`manifest-mismatch`, `manifest-invalid`; `manifest-size` unless its content
        has `size` bytes, where that is given)."""
        path = layout.tree_path(tree)
        manifest = self._metadata(path, layout.MAX_MANIFEST)
        if blake3_hex(manifest) != tree:
            raise lying(self._transport.place, path, "it is another tree", "manifest-mismatch")
        try:
            parsed = Tree.parse(manifest)
            layout_of(parsed)
        except TreeError as error:
            # Its id is right: whoever made the trace named a tree that must not be checked out.
            raise lying(self._transport.place, path, error.message, "manifest-invalid") from error
        if any(one.path.startswith("/") for one in parsed.entries):
            raise lying(self._transport.place, path, "a path is absolute", "manifest-invalid")
        if size is not None and parsed.size != size:
            cause = f"it has {parsed.size:,} bytes of content, not {size:,}"
            raise lying(self._transport.place, path, cause, "manifest-size")
        return parsed

    def read_map(self, tree: Tree) -> TreeMap:
        """Where the tree's content is; raises CacheError (`map-mismatch`, `map-invalid`)."""
        path = layout.map_path(tree.id)
        return treemap.parse(self._metadata(path, treemap.longest(tree)), tree, self._transport.place)

    def seed_of(self, trees: Iterable[Tree], read_at: ReadAt) -> Seed:
        """The chunks of trees that are here, as far as the cache has them too; raises CacheError where it fails."""

        def one(tree: Tree) -> TreeMap | None:
            try:
                return self.read_map(tree)
            except CacheError as error:
                if error.fault is CacheFault.FAILING:
                    raise
                return None

        return Seed((found for found in self._each(one, list(trees)) if found is not None), read_at)

    def fetch_tree(
        self, tree: TreeId, sink: Sink, partial: Path, *, size: int | None = None, known: Known | None = None
    ) -> Tree:
        """The tree, all of whose content the sink now has. `partial` is a folder that is this fetch's alone, kept
        where it fails so that the next attempt goes on from there. Raises CacheError, and what the sink raises."""
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
        """The same for a tree whose manifest is known; `on_progress` is told of bytes as they travel."""
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
        """All answers in one. A cache that fails fails at once; one that lies is only not believed."""

        def one(question: _Asked) -> TraceAnswer:
            try:
                return work(question)
            except CacheError as error:
                if error.fault is CacheFault.MISSING:
                    return TraceAnswer({})
                if error.fault is CacheFault.LYING:
                    return TraceAnswer({}, (error,))
                raise

        answers = self._each(one, asked)
        traces: dict[ActionKey, dict[tuple[bytes, str], Trace]] = {}
        for answer in answers:
            for key, several in answer.traces.items():
                for trace in several:
                    signed = (trace.fingerprint(), " ".join(sorted(one.key for one in trace.signatures)))
                    traces.setdefault(key, {}).setdefault(signed, trace)
        errors = tuple(error for answer in answers for error in answer.errors)
        trees = frozenset(tree for answer in answers for tree in answer.trees)
        return TraceAnswer({key: tuple(several.values()) for key, several in traces.items()}, errors, trees)

    def _each(self, work: Callable[[_Asked], _Given], asked: Sequence[_Asked]) -> list[_Given]:
        if len(asked) <= 1:
            return [work(one) for one in asked]
        with ThreadPoolExecutor(min(self._options.connections, len(asked)), "forge-cache") as pool:
            try:
                return list(pool.map(work, asked))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
