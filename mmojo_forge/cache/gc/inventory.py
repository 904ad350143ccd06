"""Lists the objects of a cache, and reads which objects they refer to.

    index ──▶ keys ──▶ traces ──▶ trees ──▶ names, manifests, maps ──▶ packs
      └──────────────────────────────▲

It does not check signatures, so a stranger's index keeps what it names. An unreadable object names nothing, because
readers cannot read it either. An object of another schema is an error, so that a collection leaves the cache alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from mmojo_forge.cache.failure import CacheError, CacheFault, lying
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.format.chunks import Codec
from mmojo_forge.cache.transport.protocol import Transport, check_path, read_whole
from mmojo_forge.model.digest import is_hex_digest

_Given = TypeVar("_Given")
_Done = TypeVar("_Done")
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class CacheFileKind(StrEnum):
    """The kinds of objects, by their folders, in the order in which a collection removes them."""

    INDEX = layout.INDEX
    TRACE = layout.TRACES
    NAME = layout.NAMES
    MAP = layout.MAPS
    MANIFEST = layout.TREES
    PACK = layout.PACKS


_NAMED_LIKE: Mapping[CacheFileKind, re.Pattern[str]] = MappingProxyType(
    {
        CacheFileKind.INDEX: re.compile(r"([0-9a-f]{64})\.([0-9a-f]{16})\.zst"),
        CacheFileKind.TRACE: re.compile(r"([0-9a-f]{64})\.([0-9a-f]{16})\.json"),
        CacheFileKind.NAME: re.compile(r"([0-9a-f]{64})()"),
        CacheFileKind.MAP: re.compile(r"([0-9a-f]{64})()\.zst"),
        CacheFileKind.MANIFEST: re.compile(r"([0-9a-f]{64})()\.zst"),
        CacheFileKind.PACK: re.compile(r"([0-9a-f]{64})()"),
    }
)


@dataclass(frozen=True, slots=True)
class CacheFile:
    """One object as its folder lists it.

    `id` is its derivation, key, tree or pack. `modified` is in seconds since the epoch, or 0 if unknown.
    """

    kind: CacheFileKind
    path: str
    id: str
    signer: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Named:
    """What an object refers to: an index to keys and trees, a trace to trees, a map to packs.

    `flaw` describes an unreadable part of the object. The readable rest counts.
    """

    keys: frozenset[str] = frozenset()
    trees: frozenset[str] = frozenset()
    packs: frozenset[str] = frozenset()
    flaw: str = ""


Known = Mapping[str, tuple[CacheFile, Named]]
"""The objects read earlier, by path. Unchanged ones are not read again."""


class Inventory:
    """The objects of a cache as of the last `see` or `look`.

    Raises CacheError if the cache fails, cannot list (`cache-no-listing`), or has another schema (`cache-schema`).
    """

    def __init__(self, transport: Transport, known: Known = MappingProxyType({}), *, connections: int = 8) -> None:
        self._transport = transport
        self._connections = connections
        self._codec = Codec()
        self._known = dict(known)
        self._found: dict[CacheFileKind, dict[str, CacheFile]] = {}
        self.problems: dict[str, CacheError] = {}
        """Errors of single objects, by path."""
        self.unreadable: set[str] = set()
        """Paths of objects that cannot be read at all. A collection keeps them, and foreign files too."""

    @property
    def known(self) -> Known:
        """The objects read so far, for another inventory of the same cache."""
        return self._known

    def of(self, kind: CacheFileKind) -> Mapping[str, CacheFile]:
        """The objects of a kind, by path."""
        return self._found.get(kind, {})

    def named(self, found: CacheFile) -> Named:
        """What an object refers to; nothing if it could not be read."""
        known = self._known.get(found.path)
        return known[1] if known is not None and known[0] == found else Named()

    def see(self, *kinds: CacheFileKind) -> None:
        """List these kinds again."""
        for kind in kinds:
            self._found[kind] = {found.path: found for found in self._listed(kind)}

    def look(self, *kinds: CacheFileKind) -> None:
        """List these kinds again, and read the new objects that can refer to others."""
        self.see(*kinds)
        for kind in kinds:
            if kind in {CacheFileKind.INDEX, CacheFileKind.TRACE, CacheFileKind.MAP}:
                self._read_new(kind)

    def each(self, work: Callable[[_Given], _Done], given: Iterable[_Given]) -> list[_Done]:
        """The results of `work` over several connections; raises the first error."""
        with ThreadPoolExecutor(self._connections, "forge-collect") as pool:
            try:
                return list(pool.map(work, given))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _listed(self, kind: CacheFileKind) -> Iterator[CacheFile]:
        entries = self._transport.entries(kind)
        folders = [entry.name for entry in entries if entry.is_folder and _is_part(entry.name)]
        listings = self.each(self._transport.entries, [f"{kind}/{folder}" for folder in folders])
        for folder, listed in zip(folders, listings, strict=True):
            for entry in listed:
                path = f"{kind}/{folder}/{entry.name}"
                match = _NAMED_LIKE[kind].fullmatch(entry.name)
                if entry.is_folder or match is None or (kind is not CacheFileKind.NAME and match[1][:2] != folder):
                    self.problems[path] = lying(self._transport.place, path, "forge does not write this", "cache-path")
                else:
                    yield CacheFile(kind, path, match[1], match[2], entry.size, entry.modified)

    def _read_new(self, kind: CacheFileKind) -> None:
        # Traces are read too, although indexes repeat them: an index may differ from its signer's trace by now.
        known = self._known
        new = [file for file in self.of(kind).values() if file.path not in known or known[file.path][0] != file]
        for found, named in zip(new, self.each(self._read, new), strict=True):
            if named is None:
                del self._found[kind][found.path]
            else:
                self._known[found.path] = (found, named)

    def _read(self, found: CacheFile) -> Named | None:
        """What an object refers to; None if it was removed since."""
        for last in (False, True):
            try:
                return self._parse(found)
            except CacheError as error:
                if error.fault is CacheFault.MISSING:
                    return None
                if error.fault is not CacheFault.LYING or error.reason == "cache-schema":
                    raise
                # Read once more: an answer garbled in transit must not make other objects look unneeded.
                if last:
                    self.problems[found.path] = error
                    self.unreadable.add(found.path)
        return Named()

    def _parse(self, found: CacheFile) -> Named:
        place, path = self._transport.place, found.path
        if found.kind is CacheFileKind.TRACE:
            encoded = read_whole(self._transport, path, layout.MAX_TRACE)
        else:
            frame = read_whole(self._transport, path, layout.MAX_COMPRESSED)
            encoded = self._codec.unpack_at_most(frame, layout.MAX_INDEX, place, path)
        try:
            document = json.loads(encoded)
            if document["schema"] != layout.SCHEMA:
                raise lying(place, path, f"schema {document['schema']!r} is not {layout.SCHEMA}", "cache-schema")
            named = _PARSERS[found.kind](document)
        except _MALFORMED as error:
            raise lying(place, path, f"malformed: {error!r}"[:300], "cache-malformed") from error
        if named.flaw:
            self.problems[path] = lying(place, path, f"a part is malformed: {named.flaw}", "cache-malformed")
        return named


def _named_by_index(document: Any) -> Named:
    keys: set[str] = set()
    trees: set[str] = set()
    flaw = ""
    for row in document["traces"]:
        try:
            key, outputs = _row(row)
        except _MALFORMED as error:
            flaw = f"{error!r}"[:200]
            continue
        keys.add(key)
        trees |= outputs
    return Named(frozenset(keys), frozenset(trees), flaw=flaw)


def _named_by_trace(document: Any) -> Named:
    return Named(trees=frozenset(_row(document)[1]))


def _named_by_map(document: Any) -> Named:
    return Named(packs=frozenset(_digest(pack) for pack in document["packs"]))


_PARSERS: Mapping[CacheFileKind, Callable[[Any], Named]] = MappingProxyType(
    {CacheFileKind.INDEX: _named_by_index, CacheFileKind.TRACE: _named_by_trace, CacheFileKind.MAP: _named_by_map}
)


def _row(row: Any) -> tuple[str, set[str]]:
    return _digest(row["key"]), {_digest(output["tree"]) for output in row["outputs"].values()}


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not is_hex_digest(value):
        raise ValueError(f"{value!r} is not a digest"[:200])
    return value


def _is_part(name: str) -> bool:
    try:
        return check_path(name) == name
    except CacheError:
        return False
