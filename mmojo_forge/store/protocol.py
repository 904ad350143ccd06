"""The protocols of stores, split by ability: read, write, check out, record builds.

`Store` is all of them together; it is what the engine works on. `ReadableStore` is the part that a substituter (another
store, asked before building) needs. `Sink` takes the content of a tree while it is fetched; a batch of the store
implements it, and so does a plain folder.
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
    """Takes verified content, from several threads. Content that occurs several times in a tree comes once.

    The content comes with the first entry that has it; other entries with the same content may be of another kind.
    The caller checks that the tree is complete after the fetch returns.
    """

    def lacking(self, files: Sequence[TreeEntry]) -> set[BlobDigest]:
        """The digests of the files whose content the sink still needs."""

    def take_small(self, files: Sequence[tuple[TreeEntry, bytes]]) -> None:
        """Take some files with their whole, verified content."""

    def take_file(self, file: TreeEntry, path: Path) -> None:
        """Take the large, verified file at `path`; the sink may move it away."""


class StoreError(ForgeError):
    """The store cannot do what the caller asked: content is missing, corrupt or not what was expected."""


class StoreUnusableError(StoreError):
    """This machine cannot provide the store: disk full, no permission, foreign schema, failing disk."""

    exit_code = ExitCode.ENVIRONMENT_ERROR


class UnstorableOutput(StoreError):
    """A file tree must not become a store object: it has a device, a socket or a setuid bit, or is too large."""


class Recorded(StrEnum):
    """The result of recording a trace. `CONFLICT`: the store knows another output for the key, and keeps that one."""

    NEW = "new"
    SAME = "same"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Observation:
    """The time and memory that past builds of one name took: medians of the last few."""

    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class GcRoot:
    """A link outside the store that keeps an object alive. `target` is None when it no longer points to one."""

    link: Path
    target: Path | None
    tree: TreeId | None


OpenBlob = Callable[[TreeEntry], AbstractContextManager[BinaryIO]]
"""Opens the content of a tree's entry in another store."""

Fetch = Callable[[Sink, Path], None]
"""Puts everything that a sink lacks of a tree into it, verified. The folder belongs to this tree and holds the pieces
that arrived so far. It stays when the fetch fails, so that the next fetch resumes there."""

OnWait = Callable[[float], None]
"""Called from time to time while forge waits for a lock, with the seconds so far. It may raise to give up."""


class TreeReader(Protocol):
    """Trees and their content, by id."""

    def has_tree(self, tree: TreeId) -> bool:
        """Whether the tree is valid in this store: registered, with all its content."""

    def valid_trees(self, trees: Iterable[TreeId]) -> set[TreeId]:
        """The trees that are valid in this store, in one query. A local store does not collect them while this process
        has it open."""

    def read_tree(self, tree: TreeId) -> Tree:
        """The manifest; raises StoreError (`tree-missing`, `tree-corrupt`)."""

    def open_blob(self, digest: BlobDigest, *, executable: bool = False) -> AbstractContextManager[BinaryIO]:
        """The content, verified as it is read; raises StoreError (`blob-missing`, `blob-corrupt`)."""

    def read_part(self, entry: TreeEntry, offset: int, count: int) -> bytes:
        """Up to `count` bytes of a file's content, unverified; fewer at its end, none if the file is missing."""


class TraceReader(Protocol):
    """Build traces, by action key."""

    def lookup(self, keys: Sequence[ActionKey]) -> dict[ActionKey, Trace]:
        """The traces that this store knows for the keys, in one query."""


class ReadableStore(TreeReader, TraceReader, Protocol):
    """A store that forge asks before it builds."""

    name: str


class TreeWriter(Protocol):
    """Takes trees in. Each method leaves the tree valid, or raises and leaves nothing."""

    def add_path(
        self, path: Path, *, move: bool = False, limits: Limits | None = None, ignored: frozenset[str] = frozenset()
    ) -> Tree:
        """The tree of the files at `path`, which no process may be changing.

        With `move` the store may take the files away; the caller removes what remains. The tree leaves out `ignored`
        names. Raises UnstorableOutput or TreeError if the files cannot become a tree.
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
        """The tree of one file; raises StoreError (`blob-mismatch`) unless it has the given digest and size."""

    def add_tree(self, tree: Tree, open_blob: OpenBlob) -> None:
        """Add a tree and read its content from another store; raises StoreError (`blob-mismatch`) on wrong content."""

    def receive(self, tree: Tree, fetch: Fetch) -> None:
        """Add a tree that `fetch` brings in pieces. Nobody else may be receiving the same tree.

        Raises what `fetch` raises, and StoreError (`blob-missing`) if `fetch` leaves content out.
        """


@dataclass(frozen=True, slots=True)
class FileDigests:
    """Both digests that the store recorded of a file's content. `size` in bytes."""

    blake3: BlobDigest
    sha256: Sha256
    size: int


class ObjectStore(Protocol):
    """Checks trees out."""

    def checkout(self, tree: TreeId, name: str) -> Path:
        """The path of the read-only object, made if missing. Raises StoreError (`tree-missing`, `blob-corrupt`)."""

    def object_path(self, tree: TreeId, name: str) -> Path:
        """The path of the object, whether or not it exists."""


class BuildTrace(TraceReader, Protocol):
    """The build trace: outputs by action key, outputs by derivation, and the time and memory that builds took."""

    def record(self, trace: Trace) -> Recorded:
        """Record the trace, unless the key has one already; the time and memory of the build are recorded anyway."""

    def signed(self, trace: Trace) -> Trace:
        """The trace with every signature that the store has for the same claim."""

    def forget_signed_only_by(self, keys: Sequence[str]) -> int:
        """Delete the traces that only these public keys (base64) signed; the number of traces deleted."""

    def conflicts(self, key: ActionKey) -> list[Trace]:
        """The traces that came after the first one for the key and claim other outputs."""

    def lookup_resolved(self, derivations: Sequence[DerivationId]) -> dict[DerivationId, dict[str, TreeId]]:
        """The trees, by output, that forge realised the derivations to before."""

    def record_resolved(self, resolved: Mapping[DerivationId, Mapping[str, TreeId]]) -> None:
        """Record the trees that derivations were realised to."""

    def history(self, names: Iterable[str]) -> dict[str, Observation]:
        """The time and memory of past builds, for those of the names that were built before."""

    def earlier(self, name: str, output: str) -> list[TreeId]:
        """The last few trees of one output, for builds of this name in any version, newest first.

        The trees need not be valid any more.
        """


class Store(TreeReader, TreeWriter, ObjectStore, BuildTrace, Protocol):
    """The store that the engine works on. Safe to use from several threads."""

    @property
    def path(self) -> Path:
        """The directory of the store."""

    def file_digests(self, digests: Iterable[BlobDigest | Sha256]) -> list[FileDigests]:
        """Both digests of each stored file whose BLAKE3 or SHA-256 is among `digests`."""

    def lock(self, key: str, *, on_wait: OnWait | None = None) -> AbstractContextManager[None]:
        """Holds the key's lock, against threads and processes."""

    def scratch(self, prefix: str) -> AbstractContextManager[Path]:
        """An empty directory on the store's file system. The store removes it afterwards with all its content.

        The removal may go on in the background until `close` returns.
        """

    def log_path(self, key: str) -> Path:
        """The path for the zstd-compressed log of a build."""

    def open_log(self, key: str) -> AbstractContextManager[BinaryIO]:
        """The text of a log, even of a truncated one; raises StoreError (`log-missing`)."""

    def add_root(self, link: Path, tree: TreeId, name: str) -> Path:
        """The checked-out object, with the symlink `link` pointing to it. The link keeps the object alive."""

    def roots(self) -> Iterator[GcRoot]:
        """All registered links: those that keep objects alive, and those that are gone."""

    def close(self) -> None:
        """Make everything durable that was added, and close the store."""
