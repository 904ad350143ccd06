"""What a run tells whoever watches it. The base class is the silent watcher, so the engine never tests for None."""

from __future__ import annotations

from mmojo_forge.engine.plan import Plan, Step
from mmojo_forge.model.derivation import Node


class Reporter:
    """Called from several threads; implementations do their own locking. Every method may be left as it is."""

    def planned(self, plan: Plan) -> None:
        """Called before anything starts; again if another plan follows, after `ended`."""

    def started(self, step: Step) -> None:
        """Called when a node begins to be fetched, imported or built."""

    def output(self, node: Node, chunk: bytes) -> None:
        """Called with the output of a running build as it comes."""

    def progress(self, node: Node, done: int, total: int) -> None:
        """Called with the bytes of a running download."""

    def waiting(self, node: Node) -> None:
        """Called when another forge process holds the node's lock."""

    def finished(self, node: Node, seconds: float, *, unchanged: bool = False) -> None:
        """Called when a node is valid; `unchanged` if the trace had it once its inputs were known."""

    def missed(self, node: Node) -> None:
        """Called when a node that was to come from another store could not be had there; it is built after all."""

    def failed(self, node: Node, reason: str, message: str) -> None:
        """Called when a node could not be realised."""

    def warning(self, message: str) -> None:
        """Called for what the user should know though the run goes on."""

    def note(self, message: str) -> None:
        """Called for what explains why the run is not over yet."""

    def ended(self) -> None:
        """Called last for each plan, however the run ended."""
