"""Parses paths of a cache. A path names an object of `layout.py`, or a result or blob of Bazel's protocol.

    cache-info.json   and the marks of collections (gc_marker.py)
    trees/<xx>/<tree>.zst   maps/<xx>/<tree>.zst   packs/<xx>/<pack>   names/<stem>/<tree>
    traces/<xx>/<key>.<signer>.json   index/<xx>/<derivation>.<signer>.zst
    ac/<sha256>   cas/<sha256>, stored in folders named by the first two digits

Any other path does not exist. Paths are not percent-decoded. The parser builds the path again from its parts, and
accepts only an exact match, so each object has one path only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType

from mmojo_forge.cache.format import layout
from mmojo_forge.cache.gc import gc_marker
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId

MAX_NAME = 64
MAX_RESULT = 8 << 20
MAX_BLOB = 4 << 30
MAX_MARK = 64 << 10
MAX_UNNAMED = 256 << 20

_EMPTY = sha256().hexdigest()

_FILE = re.compile(r"([0-9a-f]{64})(?:\.([0-9a-f]{16}))?(?:\.(?:zst|json))?", re.ASCII)
_XX = re.compile(r"[0-9a-f]{2}", re.ASCII)


class ObjectKind(StrEnum):
    """The top folder of an object, or the path of an object that exists once."""

    INFO = layout.INFO
    MARK = gc_marker.MARK
    UNNAMED = gc_marker.UNNAMED
    TRACES = layout.TRACES
    TREES = layout.TREES
    MAPS = layout.MAPS
    PACKS = layout.PACKS
    NAMES = layout.NAMES
    INDEX = layout.INDEX
    RESULTS = "ac"
    BLOBS = "cas"


_MOST: Mapping[ObjectKind, int] = MappingProxyType(
    {
        ObjectKind.INFO: layout.MAX_INFO,
        ObjectKind.MARK: MAX_MARK,
        ObjectKind.UNNAMED: MAX_UNNAMED,
        ObjectKind.TRACES: layout.MAX_TRACE,
        ObjectKind.TREES: layout.MAX_COMPRESSED,
        ObjectKind.MAPS: layout.MAX_COMPRESSED,
        ObjectKind.PACKS: layout.MAX_PACK,
        ObjectKind.NAMES: MAX_NAME,
        ObjectKind.INDEX: layout.MAX_COMPRESSED,
        ObjectKind.RESULTS: MAX_RESULT,
        ObjectKind.BLOBS: MAX_BLOB,
    }
)
_WRITTEN_ONCE = frozenset({ObjectKind.INFO, ObjectKind.NAMES, ObjectKind.TRACES})
_FOREIGN = frozenset({ObjectKind.RESULTS, ObjectKind.BLOBS})
_ALONE = frozenset({ObjectKind.INFO, ObjectKind.MARK, ObjectKind.UNNAMED})
_TOPS = frozenset(ObjectKind) - _ALONE


@dataclass(frozen=True, slots=True)
class CacheObject:
    """One object. `path` is its path in requests; `digest` is its id, or "" for an object that exists once."""

    kind: ObjectKind
    path: str
    digest: str = ""
    signer: str = ""

    @property
    def stored(self) -> str:
        """The object's path below the served folder."""
        if self.kind in _FOREIGN:
            return f"{self.kind}/{self.digest[:2]}/{self.digest}"
        return self.path

    @property
    def is_empty_blob(self) -> bool:
        """Whether it is the empty blob, which every Bazel cache has (Remote Execution API).

        Clients request it to find out whether the server is a cache.
        """
        return self.kind is ObjectKind.BLOBS and self.digest == _EMPTY

    @property
    def most(self) -> int:
        """The maximum size in bytes."""
        return _MOST[self.kind]

    @property
    def replaceable(self) -> bool:
        """Whether it may be rewritten: an index to add entries, content to repair it. A signed trace may not."""
        return self.kind not in _WRITTEN_ONCE


def object_at(path: str) -> CacheObject | None:
    """The object that the path names, or None."""
    if path in _ALONE:
        return CacheObject(ObjectKind(path), path)
    folders, _, file = path.rpartition("/")
    found = _FILE.fullmatch(file)
    top, _, inner = folders.partition("/")
    if found is None or top not in _TOPS:
        return None
    named = CacheObject(ObjectKind(top), path, found[1], found[2] or "")
    return named if path == _path_of(named, inner) else None


def folder_at(path: str) -> bool:
    """Whether the path names a folder of the layout, which holds objects or folders of objects."""
    top, slash, inner = path.partition("/")
    if top not in _TOPS - _FOREIGN:
        return False
    if not slash:
        return True
    if ObjectKind(top) is ObjectKind.NAMES:
        return layout.names_folder(inner) == path
    return _XX.fullmatch(inner) is not None


def _path_of(named: CacheObject, inner: str) -> str:
    """The path that the layout gives to the object; `inner` is its folder below the top one."""
    match named.kind:
        case ObjectKind.TRACES:
            return layout.trace_path(ActionKey(named.digest), named.signer)
        case ObjectKind.TREES:
            return layout.tree_path(TreeId(named.digest))
        case ObjectKind.MAPS:
            return layout.map_path(TreeId(named.digest))
        case ObjectKind.PACKS:
            return layout.pack_path(named.digest)
        case ObjectKind.NAMES:
            return layout.name_path(inner, TreeId(named.digest))
        case ObjectKind.INDEX:
            return layout.index_path(DerivationId(named.digest), named.signer)
        case ObjectKind.RESULTS | ObjectKind.BLOBS:
            return f"{named.kind}/{named.digest}"
        case _:
            return named.path
