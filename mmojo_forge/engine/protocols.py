"""What the engine needs of the outside: small protocols, which the store and the fetcher fulfil."""

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
    """What planning asks a store: no content, no effects."""

    def lookup(self, keys: Sequence[ActionKey]) -> dict[ActionKey, Trace]:
        """The traces that are known."""

    def lookup_resolved(self, derivations: Sequence[DerivationId]) -> dict[DerivationId, dict[str, TreeId]]:
        """The trees, by output, of derivations that were realised before."""

    def valid_trees(self, trees: Iterable[TreeId]) -> set[TreeId]:
        """Which of these trees are present with all their content."""

    def history(self, names: Iterable[str]) -> Mapping[str, PastBuild]:
        """What past builds of the same name took."""


class PastBuild(Protocol):
    """What past builds of one name took."""

    @property
    def seconds(self) -> float:
        """Wall time."""

    @property
    def peak_memory_bytes(self) -> int:
        """Highest resident memory."""


class SourceFetcher(Protocol):
    """Gets the bytes of a source."""

    def fetch(self, source: Source | Download, destination: Path, on_progress: OnProgress | None = None) -> None:
        """Leave the verified content at `destination`; raises FetchError."""

    def cancel(self) -> None:
        """Wake up every download that waits, and let it fail."""


@dataclass(frozen=True, slots=True)
class WantedTree:
    """A tree that is to be fetched. Whose output it is finds other versions of it; `size` is what was signed."""

    tree: TreeId
    name: str
    output: str = "out"
    size: int | None = None


class Substituter(Protocol):
    """Other stores that are asked before building, as one. A store that fails is one that has nothing."""

    def expect(self, roots: Sequence[DerivationId]) -> None:
        """Note what is about to be planned, so that its whole closure can be asked for at once."""

    def lookup(self, keys: Sequence[ActionKey]) -> Mapping[ActionKey, Trace]:
        """What builders who are trusted say that the keys were built to."""

    def offers(self, trees: Collection[TreeId], *, ask: bool) -> set[TreeId]:
        """Those of the trees that some store says it has; without `ask`, as far as is known already."""

    def fetch(self, wanted: WantedTree, on_progress: OnProgress) -> bool:
        """Whether the tree is valid here now."""

    def cancel(self) -> None:
        """Wake up everything that waits for a store, and let it fail."""


class Publisher(Protocol):
    """Shares with others what is built here."""

    def begin(self, graph: Graph) -> None:
        """Nodes of `graph` are built from now on; no others are shared."""

    def built(self, node: Derivation, trace: Trace) -> None:
        """Note a result that is valid, and its signed trace, unless it is not redistributable. Does not wait."""

    def finish(self, graph: Graph | None) -> None:
        """Return when all that was noted is shared; then also what leads to the roots of `graph`, if all was built."""

    def abandon(self) -> None:
        """Share nothing more, and do not wait."""


class Signer(Protocol):
    """Vouches for what was built here."""

    @property
    def name(self) -> str:
        """The signer's name, by which traces say who built."""

    @property
    def public(self) -> object:
        """The public key; as text, NAME:BASE64."""

    def sign(self, payload: bytes) -> bytes:
        """The signature over the payload."""
