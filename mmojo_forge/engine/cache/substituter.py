"""Combines the configured caches into one substituter, which forge asks before it builds.

    expect ──▶ the index of each root, once ──▶ lookup: the entries of keys that no index has ──▶ a policy ──▶ traces
    fetch  ──▶ the caches that claim the tree first ──▶ manifest ──▶ content straight into the store

A cache that is unreachable, slow, incomplete or wrong counts as empty: forge warns once and asks the next cache.
`cache/read` has already verified signatures, sizes and digests before an answer arrives here.

A circuit breaker (Nygard, "Release It!") pauses a cache that failed several times in a row.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.read.reader import CacheReader, TraceAnswer
from mmojo_forge.engine.protocols import Clock, OnProgress, WantedTree
from mmojo_forge.engine.trust.policy import describe, judge
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from mmojo_forge.model.trace import Trace
from mmojo_forge.model.tree import Tree
from mmojo_forge.store.protocol import Store, StoreError


@dataclass(frozen=True, slots=True)
class Breaker:
    """The circuit breaker of one cache, as an immutable value: each outcome returns the next state.

    After `limit` failures in a row, the breaker is open for `pause` seconds. Then it allows one attempt. If that fails
    too, the pause doubles, up to `longest`. Times are in seconds of any clock that does not go backwards.
    """

    limit: int = 3
    pause: float = 30.0
    longest: float = 600.0
    failures: int = 0
    until: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether the cache may be asked."""
        return now >= self.until

    def failed(self, now: float) -> Breaker:
        """The breaker after one more failure."""
        # A request that started before the breaker opened does not lengthen the pause.
        if not self.allows(now):
            return self
        failures = self.failures + 1
        if failures < self.limit:
            return replace(self, failures=failures)
        # Bounded, because 2.0 ** 1024 overflows.
        doublings = min(failures - self.limit, 60)
        return replace(self, failures=failures, until=now + min(self.pause * 2.0**doublings, self.longest))

    def succeeded(self) -> Breaker:
        """The breaker after an answer."""
        return replace(self, failures=0, until=0.0)


# The number of older versions of a tree in which a fetch looks for chunks.
MOST_SEEDS = 2
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class NamedCache:
    """A cache under its configured name. It is opened on the first request.

    `seeding` means that transfer costs more than local reads, so chunks of older versions are reused.
    """

    name: str
    open: Callable[[], CacheReader]
    seeding: bool = True
    cancel: Callable[[], None] = lambda: None


@dataclass(slots=True)
class _Member:
    """One cache and its state in this run. `refused` means that it is not asked again."""

    cache: NamedCache
    breaker: Breaker = Breaker()
    claimed: set[TreeId] = field(default_factory=set)
    told: set[CacheFault] = field(default_factory=set)
    refused: bool = False
    reader: CacheReader | None = None


class Caches:
    """Implements Substituter for several caches. Thread-safe."""

    def __init__(
        self,
        caches: Iterable[NamedCache],
        store: Store,
        *,
        agree: int,
        warn: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._members = [_Member(cache) for cache in caches]
        self._store = store
        self._agree = agree
        self._warn = warn
        self._clock = clock
        self._claims: dict[ActionKey, dict[tuple[bytes, str], Trace]] = {}
        self._expected: list[DerivationId] = []
        self._indexed: set[DerivationId] = set()
        self._asked: set[ActionKey] = set()
        self._disputed: set[ActionKey] = set()
        self._state = threading.Lock()
        self._looking_up = threading.Lock()

    def expect(self, roots: Sequence[DerivationId]) -> None:
        """Announce the roots. The next lookup reads their indexes, each once."""
        with self._looking_up:
            self._expected += [root for root in dict.fromkeys(roots) if root not in self._indexed]
            self._indexed.update(roots)

    def lookup(self, keys: Sequence[ActionKey]) -> Mapping[ActionKey, Trace]:
        """The traces that the policy accepts. Warns once for each key on which trusted builders disagree."""
        with self._looking_up:
            self._read_indexes()
            unknown = [key for key in keys if key not in self._asked and len(self._claims.get(key, ())) < self._agree]
            self._asked.update(unknown)
            if unknown:
                self._learn(lambda reader: reader.fetch_traces(unknown))
            found = ((key, self._judged(key)) for key in keys)
            return {key: trace for key, trace in found if trace is not None}

    def claims(self, key: ActionKey) -> dict[str, tuple[Trace, ...]]:
        """The traces of a key in each cache, by the cache's name. Applies no policy."""
        answers = self._ask_all(lambda reader: reader.fetch_traces([key]))
        return {member.cache.name: answer.traces.get(key, ()) for member, answer in answers}

    def read_manifest(self, tree: TreeId) -> Tree | None:
        """The tree's manifest from the first cache that has it; None if none has."""
        answers = (self._ask(member, lambda reader: reader.read_manifest(tree)) for member in self._members)
        return next((answer for answer in answers if answer is not None), None)

    def offers(self, trees: Collection[TreeId], *, ask: bool) -> set[TreeId]:
        """The trees that some cache claims to have, in the indexes read so far or, with `ask`, on request."""
        offered = {tree for member in self._members for tree in member.claimed}.intersection(trees)
        rest = [tree for tree in trees if tree not in offered]
        if ask and rest:
            for member, found in self._ask_all(lambda reader: reader.has_trees(rest)):
                member.claimed |= found
                offered |= found
        return offered

    def fetch(self, wanted: WantedTree, on_progress: OnProgress) -> bool:
        """Fetch the tree into the store, from the caches that claim it first; true if one delivered it."""
        nearest = sorted(self._members, key=lambda member: wanted.tree not in member.claimed)
        return any(
            self._ask(member, functools.partial(self._receive, member, wanted, on_progress)) for member in nearest
        )

    def _receive(self, member: _Member, wanted: WantedTree, on_progress: OnProgress, reader: CacheReader) -> bool:
        tree = reader.read_manifest(wanted.tree, wanted.size)
        seed = reader.seed_of(self._other_versions(wanted), self._store.read_part) if member.cache.seeding else None
        fetch = functools.partial(
            reader.fetch_content, tree, known=seed.content if seed else None, on_progress=on_progress
        )
        self._store.receive(tree, fetch)
        return True

    def cancel(self) -> None:
        """Fail every request that is waiting for a cache, and send no more."""
        for member in self._members:
            member.refused = True
            member.cache.cancel()

    def _other_versions(self, wanted: WantedTree) -> Iterator[Tree]:
        earlier = self._store.earlier(wanted.name, wanted.output)
        valid = self._store.valid_trees(earlier)
        here = [tree for tree in earlier if tree in valid and tree != wanted.tree]
        for tree in here[:MOST_SEEDS]:
            # A damaged older version only saves nothing.
            with contextlib.suppress(StoreError):
                yield self._store.read_tree(tree)

    def _read_indexes(self) -> None:
        roots, self._expected = self._expected, []
        if roots:
            self._learn(lambda reader: reader.fetch_index(roots))

    def _learn(self, question: Callable[[CacheReader], TraceAnswer]) -> None:
        for member, answer in self._ask_all(question):
            for key, traces in answer.traces.items():
                known = self._claims.setdefault(key, {})
                for trace in traces:
                    known.setdefault((trace.fingerprint(), trace.signatures[0].key), trace)
            member.claimed |= answer.trees
            for error in answer.errors:
                self._note(member, error)

    def _judged(self, key: ActionKey) -> Trace | None:
        verdict = judge(list(self._claims.get(key, {}).values()), agree=self._agree)
        if verdict.disputed and key not in self._disputed:
            self._disputed.add(key)
            self._warn(
                f"builders disagree about {verdict.disputed[0].name} (key {key}), which must be the same on every "
                "machine; one of them is broken or compromised:\n"
                + "\n".join(f"  {describe(trace)}" for trace in verdict.disputed)
            )
        return verdict.accepted

    def _ask_all(self, question: Callable[[CacheReader], _T]) -> list[tuple[_Member, _T]]:
        """The answers of all caches that answered. Asks them in parallel."""
        asked = [member for member in self._members if self._may_ask(member)]
        if not asked:
            return []
        with ThreadPoolExecutor(len(asked), "forge-caches") as pool:
            try:
                answers = list(pool.map(lambda member: self._ask(member, question), asked))
            except BaseException:
                # On Ctrl-C, leaving the pool waits for its threads, so end what they wait for.
                self.cancel()
                raise
        return [(member, answer) for member, answer in zip(asked, answers, strict=True) if answer is not None]

    def _may_ask(self, member: _Member) -> bool:
        return not member.refused and member.breaker.allows(self._clock())

    def _ask(self, member: _Member, question: Callable[[CacheReader], _T]) -> _T | None:
        """The cache's answer; None if it fails or its breaker is open."""
        if not self._may_ask(member):
            return None
        try:
            answer = question(self._reader(member))
        except CacheError as error:
            self._note(member, error)
            return None
        with self._state:
            member.breaker = member.breaker.succeeded()
        return answer

    def _reader(self, member: _Member) -> CacheReader:
        with self._state:
            if member.reader is None:
                member.reader = member.cache.open()
            return member.reader

    def _note(self, member: _Member, error: CacheError) -> None:
        """Update the cache's breaker after an error, and warn once for each kind of fault."""
        with self._state:
            # Missing content is no fault of the cache: it did answer.
            if error.fault is CacheFault.MISSING:
                member.breaker = member.breaker.succeeded()
                return
            member.breaker = member.breaker.failed(self._clock())
            silent = member.refused or error.fault in member.told
            member.refused |= error.fault is CacheFault.REFUSING
            member.told.add(error.fault)
        if not silent:
            self._warn(f"cache {member.cache.name}: {error.message}; continuing without it")
