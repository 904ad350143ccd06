"""Where things lie in a cache, and how large each may be. README.md tells what they are."""

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
"""Of any manifest, map or index, as it travels."""
MAX_PACK = 64 << 20


def trace_path(key: ActionKey, signer: str) -> str:
    """A signed trace entry, by whom it is signed."""
    return f"{TRACES}/{key[:2]}/{key}.{signer}.json"


def tree_path(tree: TreeId) -> str:
    """A tree's manifest."""
    return f"{TREES}/{tree[:2]}/{tree}.zst"


def map_path(tree: TreeId) -> str:
    """Where a tree's content is."""
    return f"{MAPS}/{tree[:2]}/{tree}.zst"


def pack_path(pack: str) -> str:
    """Chunks, one after the other."""
    return f"{PACKS}/{pack[:2]}/{pack}"


def index_path(root: DerivationId, signer: str) -> str:
    """The traces of everything that one derivation needs, as one builder knows them."""
    return f"{INDEX}/{root[:2]}/{root}.{signer}.zst"


def names_folder(name: str) -> str:
    """The folder that lists the trees of one name, whatever its version."""
    return f"{NAMES}/{stem(name)}"


def name_path(name: str, tree: TreeId) -> str:
    """Says that the cache has a tree of this name."""
    return f"{names_folder(name)}/{tree}"


def signer_id(key: PublicKey) -> str:
    """What a signer is called in paths: the beginning of the BLAKE3 of the public key, whatever its name."""
    return blake3_hex(key.key)[:16]
