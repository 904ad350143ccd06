"""What lies in a cache, and what names what; listed and read without believing anybody.

    index ──▶ keys ──▶ traces ──▶ trees ──▶ names, manifests, maps ──▶ packs
      └──────────────────────────────▲

Signatures are not looked at: what a stranger's index names is kept like all else. What cannot be read names nothing,
for readers cannot read it either; but for another schema, which is a reason to leave the whole cache alone.
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
    """What an object is; the folder it lies in. In the order in which they are removed."""

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
    """One object as its folder lists it. `id` is the derivation, key, tree or pack that it is about; `modified` is 0
    where the cache does not tell."""

    kind: CacheFileKind
    path: str
    id: str
    signer: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Named:
    """What an object needs: an index its keys and trees, a trace its trees, a map its packs. `flaw` is what is wrong
    with a part of it that nobody can read, while the rest counts."""

    keys: frozenset[str] = frozenset()
    trees: frozenset[str] = frozenset()
    packs: frozenset[str] = frozenset()
    flaw: str = ""


Known = Mapping[str, tuple[CacheFile, Named]]
"""What was read before, by path: what has not changed since is not read again."""


class Inventory:
    """A cache as it was when it was looked at last. Raises CacheError where the cache fails, does not list
    (`cache-no-listing`), or has another schema (`cache-schema`)."""

    def __init__(self, transport: Transport, known: Known = MappingProxyType({}), *, connections: int = 8) -> None:
        self._transport = transport
        self._connections = connections
        self._codec = Codec()
        self._known = dict(known)
        self._found: dict[CacheFileKind, dict[str, CacheFile]] = {}
        self.problems: dict[str, CacheError] = {}
        """What is wrong with what there is, by path."""
        self.unreadable: set[str] = set()
        """Paths of what cannot be read at all; it is left alone, as is what is not ours."""

    @property
    def known(self) -> Known:
        """What was read, for another one."""
        return self._known

    def of(self, kind: CacheFileKind) -> Mapping[str, CacheFile]:
        """The objects of a kind, by path."""
        return self._found.get(kind, {})

    def named(self, found: CacheFile) -> Named:
        """What an object names; nothing where it could not be read."""
        known = self._known.get(found.path)
        return known[1] if known is not None and known[0] == found else Named()

    def see(self, *kinds: CacheFileKind) -> None:
        """See anew what there is of these kinds."""
        for kind in kinds:
            self._found[kind] = {found.path: found for found in self._listed(kind)}

    def look(self, *kinds: CacheFileKind) -> None:
        """The same, and read those of them that name others, as far as they are new."""
        self.see(*kinds)
        for kind in kinds:
            if kind in {CacheFileKind.INDEX, CacheFileKind.TRACE, CacheFileKind.MAP}:
                self._read_new(kind)

    def each(self, work: Callable[[_Given], _Done], given: Iterable[_Given]) -> list[_Done]:
        """What `work` gives for each, over several connections; the first error ends it."""
        with ThreadPoolExecutor(self._connections, "forge-collect") as pool:
            try:
                return list(pool.map(work, given))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _listed(self, kind: CacheFileKind) -> Iterator[CacheFile]:
        folders = [one.name for one in self._transport.entries(kind) if one.is_folder and _is_part(one.name)]
        several = self.each(self._transport.entries, [f"{kind}/{folder}" for folder in folders])
        for folder, listed in zip(folders, several, strict=True):
            for one in listed:
                path = f"{kind}/{folder}/{one.name}"
                match = _NAMED_LIKE[kind].fullmatch(one.name)
                if one.is_folder or match is None or (kind is not CacheFileKind.NAME and match[1][:2] != folder):
                    self.problems[path] = lying(self._transport.place, path, "nothing that forge writes", "cache-path")
                else:
                    yield CacheFile(kind, path, match[1], match[2], one.size, one.modified)

    def _read_new(self, kind: CacheFileKind) -> None:
        # Every trace, too: what one says may differ from what its signer's index says by now.
        known = self._known
        new = [one for one in self.of(kind).values() if one.path not in known or known[one.path][0] != one]
        for found, named in zip(new, self.each(self._read, new), strict=True):
            if named is None:
                del self._found[kind][found.path]
            else:
                self._known[found.path] = (found, named)

    def _read(self, found: CacheFile) -> Named | None:
        """What it names; None where it is gone by now."""
        for last in (False, True):
            try:
                return self._parse(found)
            except CacheError as error:
                if error.fault is CacheFault.MISSING:
                    return None
                if error.fault is not CacheFault.LYING or error.reason == "cache-schema":
                    raise
                # Read once more: for an answer that was garbled on its way nothing must be taken for unneeded.
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
    return _digest(row["key"]), {_digest(one["tree"]) for one in row["outputs"].values()}


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not is_hex_digest(value):
        raise ValueError(f"{value!r} is no digest"[:200])
    return value


def _is_part(name: str) -> bool:
    try:
        return check_path(name) == name
    except CacheError:
        return False
