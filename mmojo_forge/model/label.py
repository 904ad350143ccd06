"""Labels: whether an output may be expected bit for bit on any machine, or why not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mmojo_forge.model.canonical import Json


@dataclass(frozen=True, slots=True)
class Label:
    """`reproducible` when there are no facts; else `host-specific`, with the host facts that were used.

    It spreads upwards: whatever has a host-specific input is host-specific with the same facts.
    """

    facts: tuple[tuple[str, str], ...] = ()

    @property
    def reproducible(self) -> bool:
        """Whether every machine gets the same bytes."""
        return not self.facts

    def joined(self, others: Iterable[Label]) -> Label:
        """This label with the facts of `others` added."""
        facts = dict(self.facts)
        for other in others:
            facts.update(other.facts)
        return Label(tuple(sorted(facts.items()))) if facts else REPRODUCIBLE

    def __str__(self) -> str:
        if self.reproducible:
            return "reproducible"
        return "host-specific: " + ", ".join(f"{name}={value}" for name, value in self.facts)

    def to_json(self) -> Json:
        """The label as it stands in preimages and traces."""
        return {"facts": dict(self.facts), "reproducible": self.reproducible}


REPRODUCIBLE = Label()
