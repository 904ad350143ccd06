"""Paths of objects in a cache, and their maximum sizes in bytes. README.md describes the objects."""

from __future__ import annotations

from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId, blake3_hex
from mmojo_forge.model.signature import PublicKey
from mmojo_forge.model.trace import stem

SCHEMA = 1
INFO = "cache-info.json"
TRACES, TREES, MAPS, PACKS, INDEX, NAMES = "traces", "trees", "maps", "packs", "index", "names"

MAX_INFO = 64 << 10
MAX_TRACE = 8 << 20
MAX_MANIFEST = 128 << 20
MAX_INDEX = 128 << 20
MAX_COMPRESSED = 64 << 20
"""The limit for a compressed manifest, map or index."""
MAX_PACK = 64 << 20


def trace_path(key: ActionKey, signer: str) -> str:
    """The path of a trace entry by the signer with the id `signer`."""
    return f"{TRACES}/{key[:2]}/{key}.{signer}.json"


def tree_path(tree: TreeId) -> str:
    """The path of a tree's manifest."""
    return f"{TREES}/{tree[:2]}/{tree}.zst"


def map_path(tree: TreeId) -> str:
    """The path of a tree's map, which locates its content in packs."""
    return f"{MAPS}/{tree[:2]}/{tree}.zst"


def pack_path(pack: str) -> str:
    """The path of a pack, which holds chunks."""
    return f"{PACKS}/{pack[:2]}/{pack}"


def index_path(root: DerivationId, signer: str) -> str:
    """The path of one writer's index for a derivation."""
    return f"{INDEX}/{root[:2]}/{root}.{signer}.zst"


def names_folder(name: str) -> str:
    """The folder that lists the trees of one name, in all versions."""
    return f"{NAMES}/{stem(name)}"


def name_path(name: str, tree: TreeId) -> str:
    """The path of the object that records that the cache has a tree of this name."""
    return f"{names_folder(name)}/{tree}"


def signer_id(key: PublicKey) -> str:
    """The id of a signer in paths: the first 16 digits of the BLAKE3 of the public key. The key's name is no part."""
    return blake3_hex(key.key)[:16]
