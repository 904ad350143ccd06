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
    """Facts by name (`cpu.features`, `gpu` …: engine/host_facts.py). Every one that is read is noted for the label."""

    facts: Mapping[str, str]
    used: dict[str, str] = field(default_factory=dict)

    def fact(self, name: str) -> str:
        """The fact's value; raises HostFactError for one that this machine does not give.

        `no-such-fact`: there is none of this name here. `unknown-cpu`: nothing is known of this machine's CPU.
        """
        try:
            value = self.facts[name]
        except KeyError:
            known = ", ".join(sorted(self.facts))
            raise HostFactError(
                f"read host fact {name}: not known here", detail=f"Known: {known}.", reason="no-such-fact"
            ) from None
        self.used[name] = value
        return value

    def label(self) -> Label:
        """Host-specific by the facts used; by the machine's kind alone if none was read."""
        used = self.used or {"host": self.facts.get("os", "unknown")}
        return Label(tuple(sorted(used.items())))
