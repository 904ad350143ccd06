"""Host facts: what a recipe that takes a `host` parameter may learn of this machine, and is labelled with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.label import Label


class HostFactError(ForgeError):
    """A fact that is not known of this machine."""


@dataclass(slots=True)
class Host:
    """Facts by name (`cpu.model`, `cpu.flags`, `os`, `libc`). Every fact that is read is noted for the label."""

    facts: Mapping[str, str]
    used: dict[str, str] = field(default_factory=dict)

    def fact(self, name: str) -> str:
        """The fact's value; raises HostFactError for one that this machine does not give."""
        if name not in self.facts:
            known = ", ".join(sorted(self.facts))
            raise HostFactError(
                f"read host fact {name}: not known here", detail=f"Known: {known}.", reason="no-such-fact"
            )
        self.used[name] = self.facts[name]
        return self.facts[name]

    def label(self) -> Label:
        """Host-specific by the facts used; by the machine's kind alone if none was read."""
        used = self.used or {"host": self.facts.get("os", "unknown")}
        return Label(tuple(sorted(used.items())))
