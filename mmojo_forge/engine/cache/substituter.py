"""The caches that are asked before building, as one substituter: a store behind the store.

    expect ──▶ the index of each root, once ──▶ lookup: the entries of keys that no index has ──▶ a policy ──▶ traces
    fetch  ──▶ the caches that claim the tree first ──▶ manifest ──▶ content straight into the store

A cache that is dead, slow, lying or half-emptied is one that has nothing: there is one warning, its breaker counts, and
the next cache is asked. What a cache says is checked before it gets here (store/remote): signatures, sizes, digests.

Circuit breaker: a cache that failed several times in a row is left alone for a while (Nygard, "Release It!").
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
    """How a cache has done lately: a value, which each outcome turns into the next one. Times are in seconds, of any
    clock that does not go backwards.

    After `limit` failures in a row it is open for `pause` seconds. Then one attempt is let through; if that fails as
    well the pause doubles, up to `longest`.
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
        """The breaker after one more failure. One that was under way when the breaker opened does not lengthen it."""
        if not self.allows(now):
            return self
        failures = self.failures + 1
        if failures < self.limit:
            return replace(self, failures=failures)
        # Bounded, for 2.0 ** 1024 is no number.
        doublings = min(failures - self.limit, 60)
        return replace(self, failures=failures, until=now + min(self.pause * 2.0**doublings, self.longest))

    def succeeded(self) -> Breaker:
        """The breaker after an answer."""
        return replace(self, failures=0, until=0.0)


MOST_SEEDS = 2
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class NamedCache:
    """A cache as the user calls it. It is opened when it is first asked. `seeding`: transferring costs more than
    reading what is here, so that other versions of a tree are worth a look."""

    name: str
    open: Callable[[], CacheReader]
    seeding: bool = True
    cancel: Callable[[], None] = lambda: None


@dataclass(slots=True)
class _Member:
    """One cache, and how it has done so far."""

    cache: NamedCache
    breaker: Breaker = Breaker()
    claimed: set[TreeId] = field(default_factory=set)
    told: set[CacheFault] = field(default_factory=set)
    refused: bool = False
    reader: CacheReader | None = None


class Caches:
    """Fulfils Substituter. Safe in several threads."""

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
        """Note the roots; their indexes are read with the next question, each once."""
        with self._looking_up:
            self._expected += [root for root in dict.fromkeys(roots) if root not in self._indexed]
            self._indexed.update(roots)

    def lookup(self, keys: Sequence[ActionKey]) -> Mapping[ActionKey, Trace]:
        """What the policy accepts of what trusted builders say; disagreement about a key is told once."""
        with self._looking_up:
            self._read_indexes()
            unknown = [key for key in keys if key not in self._asked and len(self._claims.get(key, ())) < self._agree]
            self._asked.update(unknown)
            if unknown:
                self._learn(lambda reader: reader.fetch_traces(unknown))
            found = ((key, self._judged(key)) for key in keys)
            return {key: trace for key, trace in found if trace is not None}

    def claims(self, key: ActionKey) -> dict[str, tuple[Trace, ...]]:
        """What each cache says about a key, by the name of the cache; whom to believe is left open."""
        answers = self._ask_all(lambda reader: reader.fetch_traces([key]))
        return {member.cache.name: answer.traces.get(key, ()) for member, answer in answers}

    def read_manifest(self, tree: TreeId) -> Tree | None:
        """The tree's manifest, from whichever cache has it."""
        answers = (self._ask(member, lambda reader: reader.read_manifest(tree)) for member in self._members)
        return next((answer for answer in answers if answer is not None), None)

    def offers(self, trees: Collection[TreeId], *, ask: bool) -> set[TreeId]:
        """Those of the trees that some cache claims to have: in an index that was read, or when asked."""
        offered = {tree for member in self._members for tree in member.claimed}.intersection(trees)
        rest = [tree for tree in trees if tree not in offered]
        if ask and rest:
            for member, found in self._ask_all(lambda reader: reader.has_trees(rest)):
                member.claimed |= found
                offered |= found
        return offered

    def fetch(self, wanted: WantedTree, on_progress: OnProgress) -> bool:
        """Whether some cache had the tree and all of its content, which is in the store then."""
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
        """Let everything that waits for a cache fail."""
        for member in self._members:
            member.refused = True
            member.cache.cancel()

    def _other_versions(self, wanted: WantedTree) -> Iterator[Tree]:
        earlier = self._store.earlier(wanted.name, wanted.output)
        valid = self._store.valid_trees(earlier)
        here = [tree for tree in earlier if tree in valid and tree != wanted.tree]
        for tree in here[:MOST_SEEDS]:
            # One that is damaged only saves nothing.
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
                f"builders disagree about {verdict.disputed[0].name} (key {key}), which is to come out the same "
                "everywhere; one of them is broken or lies:\n"
                + "\n".join(f"  {describe(trace)}" for trace in verdict.disputed)
            )
        return verdict.accepted

    def _ask_all(self, question: Callable[[CacheReader], _T]) -> list[tuple[_Member, _T]]:
        """The answers of those caches that gave one; all are asked at the same time."""
        asked = [member for member in self._members if self._may_ask(member)]
        if not asked:
            return []
        with ThreadPoolExecutor(len(asked), "forge-caches") as pool:
            try:
                answers = list(pool.map(lambda member: self._ask(member, question), asked))
            except BaseException:
                # Ctrl-C: the threads are waited for, so what they wait for has to end.
                self.cancel()
                raise
        return [(member, answer) for member, answer in zip(asked, answers, strict=True) if answer is not None]

    def _may_ask(self, member: _Member) -> bool:
        return not member.refused and member.breaker.allows(self._clock())

    def _ask(self, member: _Member, question: Callable[[CacheReader], _T]) -> _T | None:
        """The answer, or None from a cache that fails or must be left alone for now."""
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
        """Judge the cache by its error: what is merely missing says nothing about it."""
        with self._state:
            if error.fault is CacheFault.MISSING:
                member.breaker = member.breaker.succeeded()
                return
            member.breaker = member.breaker.failed(self._clock())
            silent = member.refused or error.fault in member.told
            member.refused |= error.fault is CacheFault.REFUSING
            member.told.add(error.fault)
        if not silent:
            self._warn(f"cache {member.cache.name}: {error.message}; going on without that")
