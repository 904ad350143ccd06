"""The events that a run reports. The base class ignores them all, so the engine never tests for None."""

from __future__ import annotations

from mmojo_forge.engine.plan import Plan, Step
from mmojo_forge.model.derivation import Node


class Reporter:
    """Receives the events of a run. Override only what you need.

    Worker threads call it too, so implementations do their own locking.
    """

    def planned(self, plan: Plan) -> None:
        """Called before anything starts. If another plan follows, called again after `ended`."""

    def started(self, step: Step) -> None:
        """Called when a node begins to be fetched, imported or built."""

    def output(self, node: Node, chunk: bytes) -> None:
        """Called with each chunk that a running build prints."""

    def progress(self, node: Node, done: int, total: int) -> None:
        """Called during a download, with the bytes received and the total."""

    def waiting(self, node: Node) -> None:
        """Called when the node waits for a lock that another forge process holds."""

    def finished(self, node: Node, seconds: float, *, unchanged: bool = False) -> None:
        """Called when a node is valid. `unchanged` means early cutoff: the trace knew its key, so nothing was built."""

    def missed(self, node: Node) -> None:
        """Called when no other store could deliver a planned substitution, so forge builds the node."""

    def failed(self, node: Node, reason: str, message: str) -> None:
        """Called when a node could not be realised."""

    def warning(self, message: str) -> None:
        """Called for a problem that does not stop the run."""

    def note(self, message: str) -> None:
        """Called to explain why the run has not finished yet."""

    def ended(self) -> None:
        """Called last for each plan, also after a failure."""
