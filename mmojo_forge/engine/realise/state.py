"""The states of a node while its graph is realised, and all allowed transitions.

ARCHITECTURE.md shows the same table with the reasons; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class BuildState(StrEnum):
    """The state of one node in a run."""

    UNWANTED = "unwanted"
    """Nobody asked for it."""
    RESOLVING = "resolving"
    """Its action key is unknown until an input is resolved."""
    RESOLVED = "resolved"
    """Its trees are known from the build trace; nobody needs their content yet."""
    WAITING = "waiting"
    """It must be built, and an input is not valid yet."""
    READY = "ready"
    """All inputs are valid, or another store offers its outputs."""
    RUNNING = "running"
    """It is being fetched or built."""
    VALID = "valid"
    """Its outputs are in the store."""
    FAILED = "failed"
    """It could not be built."""
    BLOCKED = "blocked"
    """Something it needs failed."""
    CANCELLED = "cancelled"
    """The run was stopped."""


_S = BuildState
TRANSITIONS: Mapping[BuildState, frozenset[BuildState]] = MappingProxyType(
    {
        _S.UNWANTED: frozenset({_S.RESOLVING, _S.RESOLVED, _S.WAITING, _S.READY, _S.VALID, _S.BLOCKED}),
        _S.RESOLVING: frozenset({_S.RESOLVED, _S.WAITING, _S.READY, _S.VALID, _S.BLOCKED}),
        _S.RESOLVED: frozenset({_S.WAITING, _S.READY, _S.VALID, _S.BLOCKED}),
        _S.WAITING: frozenset({_S.READY, _S.BLOCKED}),
        _S.READY: frozenset({_S.RUNNING}),
        _S.RUNNING: frozenset({_S.VALID, _S.FAILED, _S.CANCELLED, _S.WAITING, _S.READY, _S.BLOCKED}),
        _S.VALID: frozenset(),
        _S.FAILED: frozenset(),
        _S.BLOCKED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)


def check_transition(before: BuildState, after: BuildState) -> None:
    """Assert that the transition is allowed. A failed assertion is a bug in forge."""
    assert after in TRANSITIONS[before], f"{before} → {after}"
