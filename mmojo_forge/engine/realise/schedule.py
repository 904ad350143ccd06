"""Decides which ready node starts next, and with how many cores. Uses no threads and no clock.

- Order: the node with the longest remaining path first, in seconds that past builds took.
- Cores are tokens that all nodes share. A parallel build may run as many jobs as its share of the machine, even while
  short builds still hold some of these cores. With only the free cores, it would be slow for its whole run.
- Memory is reserved according to the last build of the same name.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmojo_forge.engine.graph import Graph
from mmojo_forge.model.derivation import Derivation, Node, fetched_file

# Estimates for nodes without history. They only affect the order of builds.
DEFAULT_BUILD_SECONDS = 10.0
DEFAULT_FETCH_BYTES_PER_SECOND = 20e6
MAX_FETCHES = 4
LEAST_SHARE = 4
"""The least jobs of a parallel build. With fewer cores each, two builds in sequence beat two side by side."""


def remaining_paths(graph: Graph, expected_seconds: Mapping[str, float]) -> dict[str, float]:
    """For each node id, the expected seconds from the node's start to the end of the last root that needs it."""
    remaining: dict[str, float] = {}
    for identifier in reversed(tuple(graph.nodes)):
        above = max((remaining[user] for user in graph.users[identifier]), default=0.0)
        remaining[identifier] = above + _seconds(graph.nodes[identifier], expected_seconds)
    return remaining


def _seconds(node: Node, expected: Mapping[str, float]) -> float:
    if file := fetched_file(node):
        return file.size / DEFAULT_FETCH_BYTES_PER_SECOND
    return expected.get(node.name, DEFAULT_BUILD_SECONDS) if isinstance(node, Derivation) else 0.0


@dataclass(slots=True)
class ResourceBudget:
    """What concurrent nodes share: `cores`, `memory_bytes`, and download slots (`fetches`)."""

    cores: int
    memory_bytes: int
    fetches: int = MAX_FETCHES


@dataclass(frozen=True, slots=True)
class Grant:
    """What one running node holds until it gives it back. `jobs` is the number of processes it may run."""

    cores: int = 0
    jobs: int = 1
    memory_bytes: int = 0
    fetches: int = 0


@dataclass(slots=True)
class Schedule:
    """The queue of ready nodes, by priority, and the remaining budget."""

    budget: ResourceBudget
    priority: Mapping[str, float]
    memory_by_name: Mapping[str, int]
    _builds: list[tuple[float, str, Node]] = field(default_factory=list)
    _fetches: list[tuple[float, str, Node]] = field(default_factory=list)
    _running: int = 0
    total_cores: int = field(init=False)

    def __post_init__(self) -> None:
        self.total_cores = self.budget.cores

    def add(self, node: Node, *, fetched: bool = False) -> None:
        """Queue a ready node. `fetched` means that its outputs come from another store."""
        identifier = node.id
        queue = self._fetches if fetched or fetched_file(node) else self._builds
        heapq.heappush(queue, (-self.priority.get(identifier, 0.0), identifier, node))

    def take(self) -> tuple[Node, Grant] | None:
        """The next node that the budget allows, with its grant; None if nothing fits now."""
        if self._fetches and self.budget.fetches > 0:
            return self._start(heapq.heappop(self._fetches)[2], Grant(fetches=1))
        if not self._builds or self.budget.cores < 1:
            return None
        node = self._builds[0][2]
        memory = self.memory_by_name.get(node.name, 0)
        # A node that needs more than the whole budget runs alone, rather than never.
        if memory > self.budget.memory_bytes and self._running:
            return None
        heapq.heappop(self._builds)
        jobs = self._jobs(node)
        return self._start(node, Grant(min(jobs, self.budget.cores), jobs, memory))

    def give_back(self, grant: Grant) -> None:
        """Return a node's grant to the budget."""
        self.budget.cores += grant.cores
        self.budget.memory_bytes += grant.memory_bytes
        self.budget.fetches += grant.fetches
        self._running -= 1

    def _start(self, node: Node, grant: Grant) -> tuple[Node, Grant]:
        self.budget.cores -= grant.cores
        self.budget.memory_bytes -= grant.memory_bytes
        self.budget.fetches -= grant.fetches
        self._running += 1
        return node, grant

    def _jobs(self, node: Node) -> int:
        if not (isinstance(node, Derivation) and node.parallel):
            return 1
        # Share the machine with the parallel builds that are ready too.
        rivals = sum(isinstance(other, Derivation) and other.parallel for _, _, other in self._builds)
        return min(self.total_cores, max(LEAST_SHARE, self.total_cores // (rivals + 1)))
