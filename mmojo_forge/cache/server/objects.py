"""What a path of a cache names: an object that `layout.py` can make a path of, or a result or blob of Bazel's protocol.

    cache-info.json   and what collections leave for each other (ledger.py)
    trees/<xx>/<tree>.zst   maps/<xx>/<tree>.zst   packs/<xx>/<pack>   names/<stem>/<tree>
    traces/<xx>/<key>.<signer>.json   index/<xx>/<derivation>.<signer>.zst
    ac/<sha256>   cas/<sha256>, which lie in folders by their first two digits

Whatever else is asked for does not exist: paths are not decoded, and their ids are made into a path again to compare.
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
    """The folder that an object is in, or the file itself where there is but one."""

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
    """One object: `path` is how it is asked for, `digest` what it is named by (nothing, where there is but one)."""

    kind: ObjectKind
    path: str
    digest: str = ""
    signer: str = ""

    @property
    def stored(self) -> str:
        """Where it lies below the folder."""
        if self.kind in _FOREIGN:
            return f"{self.kind}/{self.digest[:2]}/{self.digest}"
        return self.path

    @property
    def is_empty_blob(self) -> bool:
        """Whether it is the blob without a byte, which every cache has (Remote Execution API); clients ask for it to
        see whether they have found one."""
        return self.kind is ObjectKind.BLOBS and self.digest == _EMPTY

    @property
    def most(self) -> int:
        """How long it may be."""
        return _MOST[self.kind]

    @property
    def replaceable(self) -> bool:
        """Whether it may be written again: an index says more, other content is mended; who came first signs."""
        return self.kind not in _WRITTEN_ONCE


def object_at(path: str) -> CacheObject | None:
    """The object that the path names, if it can name one."""
    if path in _ALONE:
        return CacheObject(ObjectKind(path), path)
    folders, _, file = path.rpartition("/")
    found = _FILE.fullmatch(file)
    top, _, inner = folders.partition("/")
    if found is None or top not in _TOPS:
        return None
    one = CacheObject(ObjectKind(top), path, found[1], found[2] or "")
    return one if path == _made(one, inner) else None


def folder_at(path: str) -> bool:
    """Whether the path names a folder that has objects of this layout, or folders of them."""
    top, slash, inner = path.partition("/")
    if top not in _TOPS - _FOREIGN:
        return False
    if not slash:
        return True
    if ObjectKind(top) is ObjectKind.NAMES:
        return layout.names_folder(inner) == path
    return _XX.fullmatch(inner) is not None


def _made(one: CacheObject, inner: str) -> str:
    """The path that the layout has for such an object."""
    match one.kind:
        case ObjectKind.TRACES:
            return layout.trace_path(ActionKey(one.digest), one.signer)
        case ObjectKind.TREES:
            return layout.tree_path(TreeId(one.digest))
        case ObjectKind.MAPS:
            return layout.map_path(TreeId(one.digest))
        case ObjectKind.PACKS:
            return layout.pack_path(one.digest)
        case ObjectKind.NAMES:
            return layout.name_path(inner, TreeId(one.digest))
        case ObjectKind.INDEX:
            return layout.index_path(DerivationId(one.digest), one.signer)
        case ObjectKind.RESULTS | ObjectKind.BLOBS:
            return f"{one.kind}/{one.digest}"
        case _:
            return one.path
