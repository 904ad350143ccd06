"""What the engine needs from other layers, as small protocols.

Stores implement `Metadata`; `fetch` implements `SourceFetcher`; `engine/cache` implements `Substituter` and
`Publisher`. The engine depends on these, so tests can pass fakes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmojo_forge.engine.graph import Graph
from mmojo_forge.model.derivation import Derivation, Download, Source
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from mmojo_forge.model.trace import Trace

Clock = Callable[[], float]
"""Seconds since the epoch."""

OnProgress = Callable[[int, int], None]
"""Called with bytes so far and bytes in all."""


class Metadata(Protocol):
    """The part of a store that planning uses. It reads metadata only and changes nothing."""

    def lookup(self, keys: Sequence[ActionKey]) -> dict[ActionKey, Trace]:
        """The trace of each key that the store knows; unknown keys are absent."""

    def lookup_resolved(self, derivations: Sequence[DerivationId]) -> dict[DerivationId, dict[str, TreeId]]:
        """The output trees of each derivation that was realised before, by output name."""

    def valid_trees(self, trees: Iterable[TreeId]) -> set[TreeId]:
        """The subset of `trees` that the store has with all their content."""

    def history(self, names: Iterable[str]) -> Mapping[str, PastBuild]:
        """The time and memory that past builds of each name used."""


class PastBuild(Protocol):
    """The time and memory that past builds of one name used."""

    @property
    def seconds(self) -> float:
        """Wall-clock time."""

    @property
    def peak_memory_bytes(self) -> int:
        """Highest resident memory."""


class SourceFetcher(Protocol):
    """Gets the bytes of a source."""

    def fetch(self, source: Source | Download, destination: Path, on_progress: OnProgress | None = None) -> None:
        """Leave the verified content at `destination`; raises FetchError."""

    def cancel(self) -> None:
        """Wake up and fail every waiting download."""


@dataclass(frozen=True, slots=True)
class WantedTree:
    """A tree to fetch from another store.

    `name` and `output` find older versions of it here, to save transfer. `size` is the signed size in bytes.
    """

    tree: TreeId
    name: str
    output: str = "out"
    size: int | None = None


class Substituter(Protocol):
    """All other stores that forge asks before it builds, combined. A store that fails counts as empty."""

    def expect(self, roots: Sequence[DerivationId]) -> None:
        """Announce the roots of the next plan, so that one request can cover their whole closure."""

    def lookup(self, keys: Sequence[ActionKey]) -> Mapping[ActionKey, Trace]:
        """The accepted trace of each key, as trusted builders signed it."""

    def offers(self, trees: Collection[TreeId], *, ask: bool) -> set[TreeId]:
        """The subset of `trees` that some store claims to have. Without `ask`, no request is sent."""

    def fetch(self, wanted: WantedTree, on_progress: OnProgress) -> bool:
        """Fetch the tree into the local store; true if it is valid there afterwards."""

    def cancel(self) -> None:
        """Wake up and fail every request that is waiting for a store."""


class Publisher(Protocol):
    """Pushes local build results to caches while the run goes on."""

    def begin(self, graph: Graph) -> None:
        """Start publishing nodes of `graph`. Nodes of other graphs are not published."""

    def built(self, node: Derivation, trace: Trace) -> None:
        """Queue a valid result and its signed trace, unless it is not redistributable. Returns at once."""

    def finish(self, graph: Graph | None) -> None:
        """Wait until the queue is pushed. With `graph` (everything was built), push the indexes of its roots too."""

    def abandon(self) -> None:
        """Drop the queue without waiting for it."""


class Signer(Protocol):
    """Signs the traces of local builds."""

    @property
    def name(self) -> str:
        """The name that traces record as their builder."""

    @property
    def public(self) -> object:
        """The public key. Its string form is NAME:BASE64."""

    def sign(self, payload: bytes) -> bytes:
        """The signature over the payload."""
