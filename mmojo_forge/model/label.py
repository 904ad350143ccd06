"""Labels: whether an output may be expected bit for bit on any machine, or why not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from mmojo_forge.model import canonical


@dataclass(frozen=True, slots=True)
class Label:
    """`reproducible` when there are no facts; else `host-specific`, with the host facts that were used.

    It spreads upwards: whatever has a host-specific input is host-specific with the same facts.
    """

    facts: tuple[tuple[str, str], ...] = ()
    canonical_text: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Made once: one label stands in the preimages of very many derivations.
        object.__setattr__(self, "canonical_text", canonical.text(self.to_json()))

    @property
    def reproducible(self) -> bool:
        """Whether every machine gets the same bytes."""
        return not self.facts

    def joined(self, others: Iterable[Label]) -> Label:
        """This label with the facts of `others` added."""
        added = [other.facts for other in others if other.facts]
        if not added:
            return self
        return Label(tuple(sorted(dict(chain(self.facts, *added)).items())))

    def __str__(self) -> str:
        if self.reproducible:
            return "reproducible"
        return "host-specific: " + ", ".join(f"{name}={value}" for name, value in self.facts)

    def to_json(self) -> canonical.Json:
        """The label as it stands in preimages, and as commands show it."""
        return {"facts": dict(self.facts), "reproducible": self.reproducible}


REPRODUCIBLE = Label()
