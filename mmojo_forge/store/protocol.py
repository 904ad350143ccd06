"""What stores can do, split by ability. A substituter is a store behind a store and only reads.

What takes a fetched tree in: a small protocol, which a store's batch or a folder fulfils.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Protocol

from mmojo_forge.errors import ExitCode, ForgeError
from mmojo_forge.model.derivation import Limits
from mmojo_forge.model.digest import ActionKey, BlobDigest, DerivationId, Sha256, TreeId
from mmojo_forge.model.trace import Trace
from mmojo_forge.model.tree import Tree, TreeEntry


class Sink(Protocol):
    """Takes verified content, each once, however often the tree has it; called from several threads.

    The entry that comes with content is the first that has it; others may be of another kind. Whether the tree as a
    whole became valid is for the caller to see to, when the fetch returned.
    """

    def lacking(self, files: Sequence[TreeEntry]) -> set[BlobDigest]:
        """The digests whose content is needed."""

    def take_small(self, files: Sequence[tuple[TreeEntry, bytes]]) -> None:
        """Take some files, whole and verified."""

    def take_file(self, file: TreeEntry, path: Path) -> None:
        """Take one large file, verified, which lies at `path` and may be moved away."""


class StoreError(ForgeError):
    """A store that cannot do what it was asked: content missing, corrupt or not what was expected."""


class StoreUnusableError(StoreError):
    """A store that this machine cannot provide: disk full, no permission, foreign schema, failing disk."""

    exit_code = ExitCode.ENVIRONMENT_ERROR


class UnstorableOutput(StoreError):
    """A file tree that must not become a store object: a device, a socket, a setuid bit, too large."""


class Recorded(StrEnum):
    """What became of a trace that was recorded. `CONFLICT`: another output is known for the key, and stays."""

    NEW = "new"
    SAME = "same"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Observation:
    """What past builds of one name took: the medians of the last few."""

    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class GcRoot:
    """A link outside the store that keeps an object alive. `target` is None when it no longer points to one."""

    link: Path
    target: Path | None
    tree: TreeId | None


OpenBlob = Callable[[TreeEntry], AbstractContextManager[BinaryIO]]
"""Opens the content of a tree's entry, somewhere else."""

Fetch = Callable[[Sink, Path], None]
"""Puts all that a sink lacks of a tree into it, verified. The folder is for what arrived so far: it is this tree's own,
and kept when the fetch fails, so that the next one goes on from there."""

OnWait = Callable[[float], None]
"""Called now and then while a lock is waited for, with the seconds so far. It may raise to give up."""


class TreeReader(Protocol):
    """Trees and their content, by id."""

    def has_tree(self, tree: TreeId) -> bool:
        """Whether the tree is valid here: registered, with all its content."""

    def valid_trees(self, trees: Iterable[TreeId]) -> set[TreeId]:
        """Which of the trees are valid here, in one question. A store that collects leaves them alone while it is open
        in this process."""

    def read_tree(self, tree: TreeId) -> Tree:
        """The manifest; raises StoreError (`tree-missing`, `tree-corrupt`)."""

    def open_blob(self, digest: BlobDigest, *, executable: bool = False) -> AbstractContextManager[BinaryIO]:
        """The content, verified as it is read; raises StoreError (`blob-missing`, `blob-corrupt`)."""

    def read_part(self, entry: TreeEntry, offset: int, count: int) -> bytes:
        """Some bytes of a file's content, which nobody verified; fewer where there are no more, or no such file."""


class TraceReader(Protocol):
    """Build traces, by action key."""

    def lookup(self, keys: Sequence[ActionKey]) -> dict[ActionKey, Trace]:
        """The traces that are known, in one question however many keys."""


class ReadableStore(TreeReader, TraceReader, Protocol):
    """A store that is asked before building."""

    name: str


class TreeWriter(Protocol):
    """Takes trees in. Each of these leaves the tree valid, or raises and leaves nothing."""

    def add_path(
        self, path: Path, *, move: bool = False, limits: Limits | None = None, ignored: frozenset[str] = frozenset()
    ) -> Tree:
        """The tree of the files at `path`, which no process may be changing.

        `move` says that the files belong to the caller and may be taken (the rest stays to be removed); `ignored`
        names are left out. Raises OutputError or TreeError where it cannot be a tree.
        """

    def add_file(
        self,
        source: Path | BinaryIO,
        *,
        digest: BlobDigest | None = None,
        size: int | None = None,
        executable: bool = False,
        move: bool = False,
    ) -> Tree:
        """The tree of one file; raises StoreError (`blob-mismatch`) unless it is what is expected."""

    def add_tree(self, tree: Tree, open_blob: OpenBlob) -> None:
        """Take in a tree whose content is elsewhere, verified as it streams in (`blob-mismatch`)."""

    def receive(self, tree: Tree, fetch: Fetch) -> None:
        """Take in a tree that `fetch` brings in pieces; raises what that raises, and StoreError (`blob-missing`) if it
        leaves something out. Nobody else may be receiving the same tree."""


@dataclass(frozen=True, slots=True)
class FileDigests:
    """What the store recorded of a file's content. `size` in bytes."""

    blake3: BlobDigest
    sha256: Sha256
    size: int


class ObjectStore(Protocol):
    """Checks trees out."""

    def checkout(self, tree: TreeId, name: str) -> Path:
        """The object, read-only; made if need be. Raises StoreError (`tree-missing`, `blob-corrupt`)."""

    def object_path(self, tree: TreeId, name: str) -> Path:
        """Where the object lies, or would."""


class BuildTrace(TraceReader, Protocol):
    """What was built to what, and what it took."""

    def record(self, trace: Trace) -> Recorded:
        """Keep the trace, unless the key is known already; what it took is remembered in any case."""

    def signed(self, trace: Trace) -> Trace:
        """The trace with every signature that was recorded for what it claims."""

    def forget_signed_only_by(self, keys: Sequence[str]) -> int:
        """Forget the traces that these public keys, in base64, vouch for and no other; how many."""

    def conflicts(self, key: ActionKey) -> list[Trace]:
        """The traces that were recorded for the key after the first, and claim something else."""

    def lookup_resolved(self, derivations: Sequence[DerivationId]) -> dict[DerivationId, dict[str, TreeId]]:
        """The trees, by output, that derivations were realised to before."""

    def record_resolved(self, resolved: Mapping[DerivationId, Mapping[str, TreeId]]) -> None:
        """Remember what derivations were realised to."""

    def history(self, names: Iterable[str]) -> dict[str, Observation]:
        """What past builds took, for the names that were built before."""

    def earlier(self, name: str, output: str) -> list[TreeId]:
        """The last few trees of that output of what has this name, whatever its version, newest first; whether they
        are valid is another question."""


class Store(TreeReader, TreeWriter, ObjectStore, BuildTrace, Protocol):
    """The store that the engine works on. Safe to use from several threads."""

    @property
    def path(self) -> Path:
        """Where the store lies."""

    def file_digests(self, digests: Iterable[BlobDigest | Sha256]) -> list[FileDigests]:
        """Of each file here whose BLAKE3 or SHA-256 is among the digests, both."""

    def lock(self, key: str, *, on_wait: OnWait | None = None) -> AbstractContextManager[None]:
        """Hold the key's lock, against threads and processes."""

    def scratch(self, prefix: str) -> AbstractContextManager[Path]:
        """An empty directory on the store's file system. Afterwards it is removed, whatever was left in it; that may
        go on for a while in the background, until `close` at the latest."""

    def log_path(self, key: str) -> Path:
        """Where the zstd-compressed log of a build belongs."""

    def open_log(self, key: str) -> AbstractContextManager[BinaryIO]:
        """The text of a log, also of one that is cut off; raises StoreError (`log-missing`)."""

    def add_root(self, link: Path, tree: TreeId, name: str) -> Path:
        """Point the symlink `link` at the object, checked out, and keep it alive as long as it does."""

    def roots(self) -> Iterator[GcRoot]:
        """The links that keep objects alive, and those that are gone."""

    def close(self) -> None:
        """Make durable what was added."""
