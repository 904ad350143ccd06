"""Collecting from a cache: what goes and what stays, what pushes do meanwhile, deaths at any operation."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmojo_forge.cache.failure import CacheError
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.format.chunks import Codec
from mmojo_forge.cache.format.info import CacheInfo
from mmojo_forge.cache.gc.collect import CacheGcPlan, CacheGcResult, collect, plan_collection
from mmojo_forge.cache.gc.gc_marker import MARK, UNNAMED, Mark, push_beside, read_mark, write_mark
from mmojo_forge.cache.gc.inventory import CacheFileKind, Inventory
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.transport.fakes import FaultyTransport, MemoryTransport
from mmojo_forge.cache.transport.folder import FolderTransport
from mmojo_forge.cache.transport.protocol import Listed, Transport
from mmojo_forge.cache.transport.web import WebTransport
from mmojo_forge.cache.write.writer import CacheWriter, Pushed, PushMode
from mmojo_forge.cli.cache.gc import gc
from mmojo_forge.engine.session import Session, UserFolders
from mmojo_forge.model.digest import DerivationId, TreeId, blake3_hex
from mmojo_forge.model.signature import PrivateKey
from mmojo_forge.model.trace import Trace
from mmojo_forge.net.settings import HttpSettings
from tests.support.cache_serving import TOKEN, served
from tests.support.caches import ALICE, BOB, Files, reason, trace_of
from tests.unit.engine.cache.test_push import fetched

DAY = 86400.0
NOW = 1000 * DAY
TRUSTED = [ALICE.public, BOB.public]


class Aged(MemoryTransport):
    """A cache in memory with a clock of its own."""

    def __init__(self, now: float = NOW) -> None:
        super().__init__()
        self.now = now
        self._times: dict[str, float] = {}

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        new = super().put(path, content, if_absent=if_absent)
        if new:
            self._times[path] = self.now
        return new

    def entries(self, folder: str) -> list[Listed]:
        listed = super().entries(folder)
        return [one if one.is_folder else replace(one, modified=self._times[f"{folder}/{one.name}"]) for one in listed]


def thing(seed: int, name: str = "thing", shared: int = 0) -> Files:
    """A tree with a small and a large file of its own, and so many large ones that others of its name have, too."""
    content = {"small": f"{name} {seed}".encode(), "own": random.Random(f"{name}{seed}").randbytes(90_000)}
    for at in range(shared):
        content[f"shared{at}"] = random.Random(f"{name}shared{at}").randbytes(150_000)
    return Files(content, name=f"{name}-{seed}.0")


def traces_of(several: Sequence[Files], by: PrivateKey = ALICE) -> list[Trace]:
    return [trace_of(one.name, output=one.tree.id, size=one.tree.size, by=[by]) for one in several]


def root_of(name: str) -> DerivationId:
    return DerivationId(blake3_hex(name.encode()))


def push(
    transport: Transport,
    root: str,
    several: Sequence[Files],
    *,
    by: PrivateKey = ALICE,
    mode: PushMode = PushMode.TRUSTING,
) -> Pushed:
    """What a builder does for one root."""
    writer = CacheWriter(transport, connections=1, threads=1, pack_bytes=100_000)
    traces = traces_of(several, by)
    indexes = {root_of(root): traces} if root else {}
    return writer.push([one.item for one in several], traces, indexes, signer=by.public, mode=mode)


def age(transport: Transport, now: float, older_than: float = 30 * DAY, **more: Any) -> CacheGcPlan:
    return plan_collection(transport, now, older_than, connections=1, **more)


def swept(transport: Transport, now: float, older_than: float = 30 * DAY, **more: Any) -> CacheGcResult:
    return collect(transport, age(transport, now, older_than, **more), clock=lambda: now, connections=1)


def there(transport: MemoryTransport, kind: CacheFileKind) -> set[str]:
    return {path for path in transport.objects if path.startswith(f"{kind}/")}


def claimed(transport: Transport, roots: Sequence[str], several: Sequence[Files]) -> set[TreeId]:
    """The trees that readers are told of: by indexes of these roots, and by entries for these trees' keys."""
    reader = CacheReader(transport, TRUSTED)
    answers = [reader.fetch_index([root_of(root) for root in roots])]
    answers.append(reader.fetch_traces([trace.key for trace in traces_of(several)]))
    return {
        output.tree
        for answer in answers
        for found in answer.traces.values()
        for trace in found
        for output in trace.outputs.values()
    }


def check_whole(transport: Transport, roots: Sequence[str], several: Sequence[Files], partial: Path) -> set[TreeId]:
    """Whatever is claimed can be fetched; gives what is."""
    trees = claimed(transport, roots, several)
    for one in several:
        if one.tree.id in trees:
            fetched(transport, one, partial)
    return trees


class TestWhatGoes:
    def test_an_old_root_goes_with_all_that_only_it_names(self, tmp_path: Path) -> None:
        cache = Aged(NOW - 40 * DAY)
        old, both, new = thing(1), thing(2), thing(3)
        push(cache, "old", [old, both])
        cache.now = NOW - DAY
        push(cache, "new", [both, new])
        planned = age(cache, NOW)
        assert [one.derivation for one in planned.roots] == [root_of("old")]
        assert [one.derivation for one in planned.roots_kept] == [root_of("new")]
        done = collect(cache, planned, clock=lambda: NOW)
        assert {kind: len(several) for kind, several in done.removed.items()} == {
            CacheFileKind.INDEX: 1,
            CacheFileKind.TRACE: 1,
            CacheFileKind.NAME: 1,
            CacheFileKind.MAP: 1,
            CacheFileKind.MANIFEST: 0,
            CacheFileKind.PACK: 0,
        }
        assert done.freed == planned.freed
        assert not done.spared
        assert check_whole(cache, ["old", "new"], [old, both, new], tmp_path / "p") == {both.tree.id, new.tree.id}

    def test_what_was_pushed_again_is_young(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        cache.now = NOW - 2 * DAY
        push(cache, "root", [thing(1)])
        assert not any(age(cache, NOW).goes.values())

    def test_a_map_that_was_written_anew_keeps_its_root(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        cache.now = NOW - 2 * DAY
        push(cache, "", [thing(1)], mode=PushMode.OVERWRITE)
        assert not any(age(cache, NOW).goes.values())

    def test_traces_and_trees_that_no_root_names_age_by_themselves(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "", [thing(1)])
        CacheWriter(cache).push([thing(2).item])
        cache.now = NOW - 20 * DAY
        push(cache, "", [thing(3)])
        CacheWriter(cache).push([thing(4).item])
        done = swept(cache, NOW)
        assert {one.id for one in done.removed[CacheFileKind.MAP]} == {thing(1).tree.id, thing(2).tree.id}
        assert [one.id for one in done.removed[CacheFileKind.TRACE]] == [traces_of([thing(1)])[0].key]

    def test_another_builders_root_keeps_what_both_name(self, tmp_path: Path) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        cache.now = NOW - DAY
        push(cache, "root", [thing(1)], by=BOB)
        done = swept(cache, NOW)
        assert {kind for kind, several in done.removed.items() if several} == {CacheFileKind.INDEX}
        check_whole(cache, ["root"], [thing(1)], tmp_path / "p")

    def test_a_claim_that_differs_from_the_indexes_keeps_its_tree(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        one, other = thing(1), thing(2)
        push(cache, "", [other])
        (trace,) = traces_of([one])
        cache.now = NOW - DAY
        push(cache, "root", [one])
        differs = trace_of(one.name, output=other.tree.id, size=other.tree.size, by=[BOB])
        assert differs.key == trace.key
        CacheWriter(cache).push([], [differs])
        done = swept(cache, NOW)
        assert not done.removed[CacheFileKind.MAP]

    def test_packs_wait_until_no_push_can_need_them(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        CacheWriter(cache).ensure_info(CacheInfo())
        first = swept(cache, NOW)
        assert (first.removed[CacheFileKind.PACK], first.removed[CacheFileKind.MANIFEST]) == ((), ())
        assert not any(swept(cache, NOW + DAY - 1).removed.values())
        waiting = age(cache, NOW + DAY - 1).waits
        assert set(waiting) == there(cache, CacheFileKind.PACK) | there(cache, CacheFileKind.MANIFEST)
        second = swept(cache, NOW + DAY)
        assert len(second.removed[CacheFileKind.MANIFEST]) == 1
        assert set(cache.objects) == {layout.INFO, MARK, UNNAMED}
        assert not any(swept(cache, NOW + 2 * DAY).removed.values())

    def test_without_grace_everything_goes_at_once(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        planned = age(cache, NOW, grace=0.0)
        assert planned.total == planned.size_before
        collect(cache, planned, clock=lambda: NOW)
        assert set(cache.objects) == {MARK, UNNAMED}

    def test_what_a_dead_push_left_goes_but_not_what_a_running_one_has_just_written(self) -> None:
        cache = Aged(NOW - 3 * DAY)
        behind = FaultyTransport(cache, operations=4)
        assert reason(lambda: push(behind, "root", [thing(1)])) == "cache-unreachable"
        dead = there(cache, CacheFileKind.PACK)
        assert dead
        cache.now = NOW - DAY / 2
        behind = FaultyTransport(cache, operations=4)
        assert reason(lambda: push(behind, "root", [thing(2)])) == "cache-unreachable"
        running = there(cache, CacheFileKind.PACK) - dead
        assert running
        swept(cache, NOW)
        done = swept(cache, NOW + DAY)
        assert {one.path for one in done.removed[CacheFileKind.PACK]} == dead
        assert there(cache, CacheFileKind.PACK) == running

    def test_a_pack_that_was_named_again_begins_anew_to_wait(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        swept(cache, NOW)
        cache.now = NOW + DAY / 2
        push(cache, "root", [thing(1)])
        done = swept(cache, NOW + 2 * DAY)
        assert not any(done.removed.values())
        later = NOW + 60 * DAY
        assert set(age(cache, later).waits.values()) == {later}

    def test_a_size_is_met_oldest_first_and_no_more_goes_than_needed(self, tmp_path: Path) -> None:
        cache = Aged()
        several = [thing(seed) for seed in range(6)]
        for at, one in enumerate(several):
            cache.now = NOW - (20 - at) * DAY
            push(cache, f"root{at}", [one])
        size = age(cache, NOW).size_before
        planned = age(cache, NOW, 0.0, target_size=size * 11 // 20)
        assert [one.derivation for one in planned.roots] == [root_of(f"root{at}") for at in range(3)]
        collect(cache, planned, clock=lambda: NOW)
        swept(cache, NOW + DAY, 0.0, target_size=size * 11 // 20)
        assert sum(len(content) for content in cache.objects.values()) <= size * 11 // 20 + 1000
        kept = check_whole(cache, [f"root{at}" for at in range(6)], several, tmp_path / "p")
        assert kept == {one.tree.id for one in several[3:]}

    def test_a_size_that_is_met_takes_nothing(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        assert not any(age(cache, NOW, 0.0, target_size=10**9).goes.values())

    def test_a_size_takes_nothing_that_is_young(self) -> None:
        cache = Aged(NOW - DAY / 2)
        push(cache, "root", [thing(1)])
        assert not any(age(cache, NOW, 0.0, target_size=0).goes.values())

    def test_what_has_no_time_is_young(self) -> None:
        class Timeless(Aged):
            def entries(self, folder: str) -> list[Listed]:
                return [replace(one, modified=0.0) for one in super().entries(folder)]

        cache = Timeless(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        planned = age(cache, NOW)
        assert (any(planned.goes.values()), dict(planned.waits)) == (False, {})

    def test_a_plan_changes_nothing(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        before = dict(cache.objects)
        assert age(cache, NOW).total > 0
        assert cache.objects == before

    def test_no_push_is_told_where_nothing_goes(self) -> None:
        cache = Aged(NOW - 3 * DAY)
        cache.put("packs/ab/" + "ab" * 32, b"left by a push that died")
        assert swept(cache, NOW).total == 0
        assert UNNAMED in cache.objects
        assert MARK not in cache.objects

    def test_progress_is_told_in_bytes(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        told: list[tuple[int, int]] = []
        planned = age(cache, NOW, grace=0.0)
        collect(cache, planned, lambda done, total: told.append((done, total)), clock=lambda: NOW)
        assert told[-1] == (planned.total, planned.total)
        assert told == sorted(told)

    def test_a_folder_is_collected_by_the_times_of_its_files(self, tmp_path: Path) -> None:
        cache = FolderTransport(tmp_path / "cache")
        push(cache, "old", [thing(1, shared=1)])
        for path in (tmp_path / "cache").rglob("*"):
            os.utime(path, (NOW - 40 * DAY, NOW - 40 * DAY))
        push(cache, "new", [thing(2, shared=1)])
        for path in (tmp_path / "cache").rglob("*"):
            if path.stat().st_mtime > NOW:
                os.utime(path, (NOW - DAY, NOW - DAY))
        swept(cache, NOW)
        done = swept(cache, NOW + DAY)
        assert done.removed[CacheFileKind.PACK]
        check_whole(cache, ["old", "new"], [thing(1, shared=1), thing(2, shared=1)], tmp_path / "p")

    def test_what_our_own_server_has_is_collected(self, tmp_path: Path) -> None:
        with served(tmp_path / "cache") as server:
            cache = WebTransport(server.url, HttpSettings(token=TOKEN))
            push(cache, "old", [thing(1, shared=1)])
            for path in (tmp_path / "cache").rglob("*"):
                os.utime(path, (0x5000_0000, 0x5000_0000))
            push(cache, "new", [thing(2, shared=1)])
            now = time.time()
            swept(cache, now)
            done = swept(cache, now + DAY + 1)
            assert done.removed[CacheFileKind.PACK]
            assert not done.spared
            check_whole(cache, ["old", "new"], [thing(1, shared=1), thing(2, shared=1)], tmp_path / "p")
            cache.close()


class TestOddCaches:
    def test_what_cannot_be_read_is_kept_and_told(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        bad = layout.index_path(root_of("bad"), layout.signer_id(ALICE.public))
        cache.put(bad, b"no index")
        trace = layout.trace_path(traces_of([thing(9)])[0].key, layout.signer_id(ALICE.public))
        cache.put(trace, b'{"schema":1}')
        planned = age(cache, NOW)
        assert sorted(one.reason for one in planned.problems) == ["cache-frame", "cache-malformed"]
        collect(cache, planned, clock=lambda: NOW)
        assert there(cache, CacheFileKind.INDEX) == {bad}
        assert there(cache, CacheFileKind.TRACE) == {trace}

    def test_an_index_of_which_a_part_cannot_be_read_keeps_what_the_rest_names(self, tmp_path: Path) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1), thing(2)])
        (path,) = there(cache, CacheFileKind.INDEX)
        document = json.loads(zstandard.ZstdDecompressor().decompress(cache.objects[path]))
        document["traces"][0]["outputs"] = {"out": {"tree": "no tree"}}
        cache.now = NOW - DAY
        cache.put(path, Codec().compress(json.dumps(document).encode()), if_absent=False)
        planned = age(cache, NOW)
        assert [one.reason for one in planned.problems] == ["cache-malformed"]
        collect(cache, planned, clock=lambda: NOW)
        assert len(check_whole(cache, ["root"], [thing(1), thing(2)], tmp_path / "p")) == 1
        swept(cache, NOW + 40 * DAY)
        assert not there(cache, CacheFileKind.INDEX)

    def test_an_index_that_is_garbled_once_is_read_again(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        garbled: list[str] = []

        def once(path: str, body: Any) -> Any:
            if path.startswith("index/") and not garbled:
                garbled.append(path)
                body.read(10)
            return body

        inventory = Inventory(FaultyTransport(cache, alter=once))
        inventory.look(*CacheFileKind)
        assert garbled
        assert not inventory.problems
        assert all(inventory.named(one).trees for one in inventory.of(CacheFileKind.INDEX).values())

    @pytest.mark.parametrize("kind", [CacheFileKind.INDEX, CacheFileKind.TRACE, CacheFileKind.MAP])
    def test_another_schema_is_left_alone(self, kind: CacheFileKind) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        path = f"{kind}/{'ab'}/{'ab' * 32}" + {
            CacheFileKind.INDEX: ".0123456789abcdef.zst",
            CacheFileKind.MAP: ".zst",
        }.get(kind, ".0123456789abcdef.json")
        content = json.dumps({"schema": 2}).encode()
        cache.put(path, content if kind is CacheFileKind.TRACE else Codec().compress(content))
        assert reason(lambda: age(cache, NOW)) == "cache-schema"

    def test_what_forge_did_not_write_is_left_alone(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        foreign = {"packs/ab/readme.txt", "packs/aa/" + "bb" * 32, "index/ab/deeper/file", "trees/ab/" + "ab" * 32}
        for path in foreign:
            cache.put(path, b"mine")
        planned = age(cache, NOW)
        assert {one.reason for one in planned.problems} == {"cache-path"}
        assert len(planned.problems) == len(foreign)
        collect(cache, planned, clock=lambda: NOW)
        assert foreign <= set(cache.objects)

    def test_a_cache_that_is_dead_or_does_not_list_is_not_collected(self) -> None:
        class Silent(Aged):
            def entries(self, folder: str) -> list[Listed]:
                raise CacheError("no", reason="cache-no-listing", fault=None)  # type: ignore[arg-type]

        assert reason(lambda: age(Silent(), NOW)) == "cache-no-listing"
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        for operations in range(12):
            assert reason(lambda at=operations: age(FaultyTransport(cache, operations=at), NOW)) == "cache-unreachable"  # type: ignore[misc]

    def test_an_empty_cache_is_collected(self) -> None:
        cache = Aged()
        assert swept(cache, NOW).total == 0
        assert not cache.objects

    @pytest.mark.parametrize("kind", [CacheFileKind.PACK, CacheFileKind.MANIFEST])
    def test_a_tree_that_nobody_can_fetch_is_not_said_to_be_there(self, kind: CacheFileKind, tmp_path: Path) -> None:
        cache = Aged(NOW - 5 * DAY)
        push(cache, "root", [thing(1), thing(2)])
        victim = thing(1).tree.id
        (found,) = [path for path in there(cache, CacheFileKind.MAP) if victim in path]
        inventory = Inventory(cache)
        inventory.look(CacheFileKind.MAP)
        lost = layout.tree_path(victim)
        if kind is CacheFileKind.PACK:
            lost = layout.pack_path(sorted(inventory.named(inventory.of(CacheFileKind.MAP)[found]).packs)[-1])
        cache.delete(lost)
        planned = age(cache, NOW)
        assert found in planned.broken
        collect(cache, planned, clock=lambda: NOW)
        assert found not in cache.objects
        assert push(cache, "root", [thing(1), thing(2)]).trees >= 1
        check_whole(cache, ["root"], [thing(1), thing(2)], tmp_path / "p")

    def test_a_map_that_cannot_be_read_is_kept(self) -> None:
        cache = Aged(NOW - 5 * DAY)
        push(cache, "root", [thing(1)])
        (path,) = there(cache, CacheFileKind.MAP)
        cache.objects[path] = Codec().compress(b'{"schema":1,"packs":["x"]}')
        planned = age(cache, NOW)
        assert [one.reason for one in planned.problems] == ["cache-malformed"]
        assert path not in {one.path for one in planned.goes[CacheFileKind.MAP]}

    def test_one_collection_at_a_time(self) -> None:
        cache = Aged(NOW - 40 * DAY)
        push(cache, "root", [thing(1)])
        write_mark(cache, Mark(NOW - 60, NOW - 600))
        assert reason(lambda: swept(cache, NOW)) == "cache-refused"
        assert swept(cache, NOW + DAY).total > 0


class Interrupted(FaultyTransport):
    """Calls back once, before the operation of that number."""

    def __init__(self, behind: Transport, at: int, call: Callable[[], object]) -> None:
        super().__init__(behind)
        self._at = at
        self._call: Callable[[], object] | None = call
        self.called = False

    def _count(self, operation: str, path: str) -> None:
        super()._count(operation, path)
        call = self._call
        if len(self.asked) == self._at + 1 and call is not None:
            self._call = None
            self.called = True
            call()


def expired() -> Aged:
    """A root that is old enough to go."""
    cache = Aged(NOW - 40 * DAY)
    push(cache, "root", [thing(1, shared=2), thing(5, "other")])
    cache.now = NOW
    return cache


def waiting() -> Aged:
    """The same after a collection, when packs have waited long enough."""
    cache = expired()
    swept(cache, NOW - 2 * DAY)
    return cache


class Pusher:
    """Pushes in a thread of its own, beside a collection."""

    def __init__(self, cache: Transport, root: str, several: Sequence[Files]) -> None:
        self._push: Callable[[PushMode], object] = lambda mode: push(cache, root, several, mode=mode)
        self._cache = cache
        self._pushed = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._done: Future[object] | None = None

    def begin(self) -> None:
        """Return when the push has been done for the first time."""
        self._done = self._thread.submit(push_beside, self._cache, self._once, clock=lambda: NOW, sleep=self._sleep)
        assert self._pushed.wait(20)

    def end(self) -> None:
        assert self._done is not None
        self._done.result(20)
        self._thread.shutdown()

    def _once(self, mode: PushMode) -> object:
        try:
            return self._push(mode)
        finally:
            self._pushed.set()

    def _sleep(self, _: float) -> None:
        time.sleep(0.001)


def whole(cache: Transport, root: str, several: Sequence[Files], tmp_path: Path) -> bool:
    return check_whole(cache, [root], several, tmp_path / "p") >= {one.tree.id for one in several}


def in_turn(make: Callable[[], Aged]) -> Iterator[tuple[Aged, int]]:
    for at in range(400):
        yield make(), at


PUSHES = {
    "the same": ("root", [thing(1, shared=2), thing(5, "other")]),
    "the next version": ("root2", [thing(2, shared=2), thing(5, "other")]),
}


@pytest.mark.parametrize("make", [expired, waiting])
@pytest.mark.parametrize("pushed", PUSHES)
class TestBesidePushes:
    """A push and a collection, one of which happens whole at any operation of the other."""

    def test_a_push_in_the_midst_of_a_collection_is_whole(
        self, make: Callable[[], Aged], pushed: str, tmp_path: Path
    ) -> None:
        root, several = PUSHES[pushed]
        for cache, at in in_turn(make):
            # Planned before, as by a user who looks at the plan first.
            planned = age(cache, NOW)
            pusher = Pusher(cache, root, several)
            beside = Interrupted(cache, at, pusher.begin)
            collect(beside, planned, clock=lambda: NOW, connections=1)
            if not beside.called:
                break
            pusher.end()
            assert whole(cache, root, several, tmp_path)
        assert at > 5

    def test_a_collection_in_the_midst_of_a_push_leaves_it_whole(
        self, make: Callable[[], Aged], pushed: str, tmp_path: Path
    ) -> None:
        root, several = PUSHES[pushed]
        again = 0
        for cache, at in in_turn(make):
            planned = age(cache, NOW)
            beside = Interrupted(cache, at, lambda p=planned, c=cache: collect(c, p, clock=lambda: NOW, connections=1))  # type: ignore[misc]
            modes: list[PushMode] = []

            def one(mode: PushMode, to: Transport = beside, modes: list[PushMode] = modes) -> Pushed:
                modes.append(mode)
                return push(to, root, several, mode=mode)

            push_beside(beside, one, clock=lambda: NOW, sleep=lambda _: None)
            again += len(modes) > 1
            assert whole(cache, root, several, tmp_path)
            if not beside.called:
                assert modes == [PushMode.TRUSTING]
                break
        assert at > 5
        assert again


class TestPushBeside:
    def test_a_push_that_nothing_disturbs_is_done_once(self) -> None:
        modes: list[PushMode] = []
        cache = Aged()
        push_beside(cache, modes.append)
        write_mark(cache, Mark(5.0, 6.0))
        push_beside(cache, modes.append)
        assert modes == [PushMode.TRUSTING, PushMode.TRUSTING]

    def test_the_end_of_a_collection_is_waited_for(self) -> None:
        cache = Aged()
        write_mark(cache, Mark(NOW - 5, NOW - 100))
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                write_mark(cache, Mark(NOW - 5, NOW))

        modes: list[PushMode] = []
        push_beside(cache, modes.append, clock=lambda: NOW, sleep=sleep)
        assert (modes, len(slept)) == ([PushMode.TRUSTING, PushMode.THOROUGH], 3)

    def test_a_collection_that_does_not_end_is_not_waited_for_for_ever(self) -> None:
        cache = Aged()
        write_mark(cache, Mark(NOW - 5, NOW - 100))
        times = iter(range(10_000))
        modes: list[PushMode] = []
        push_beside(cache, modes.append, clock=lambda: NOW + next(times), sleep=lambda _: None, patience=50)
        assert modes == [PushMode.TRUSTING]

    def test_a_mark_that_cannot_be_read_is_none(self) -> None:
        cache = Aged()
        for content in (b"", b"[]", b'{"began":[]}', b"[" * 10_000):
            cache.put(MARK, content, if_absent=False)
            assert read_mark(cache) == Mark()


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.integers(0, 80))
def test_a_collection_that_dies_leaves_nothing_that_leads_nowhere(operations: int, tmp_path: Path) -> None:
    cache = Aged(NOW - 40 * DAY)
    several = [thing(seed, shared=1) for seed in range(3)]
    push(cache, "old", several[:2])
    cache.now = NOW - 2 * DAY
    push(cache, "new", several[1:])
    planned = age(cache, NOW, grace=0.0)
    dying = FaultyTransport(cache, operations=operations)
    try:
        collect(dying, planned, clock=lambda: NOW, connections=1)
    except CacheError as error:
        assert error.reason == "cache-unreachable"
    assert check_whole(cache, ["old", "new"], several, tmp_path / "p") >= {one.tree.id for one in several[1:]}
    swept(cache, NOW + DAY, grace=0.0)
    assert {one.partition("/")[2][3:67] for one in there(cache, CacheFileKind.MAP)} == {
        one.tree.id for one in several[1:]
    }
    assert age(cache, NOW + DAY, grace=0.0).total == 0


days = st.integers(0, 60)
pushes = st.tuples(
    st.sampled_from(["a", "b", "c", ""]), st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)
)
sweeps = st.tuples(
    st.sampled_from([0, 5, 30]), st.sampled_from([None, 0, 300_000, 600_000]), st.sampled_from([0.0, DAY])
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(days, st.one_of(pushes, sweeps)), min_size=2, max_size=12))
def test_whatever_is_pushed_and_collected_what_is_claimed_is_there(
    steps: list[tuple[int, tuple[Any, ...]]], tmp_path: Path
) -> None:
    several = [thing(seed, shared=seed % 3) for seed in range(6)]
    cache = Aged()
    pushed: dict[str, tuple[float, list[int]]] = {}
    for day, step in sorted(steps, key=lambda one: one[0]):
        cache.now = NOW + day * DAY
        if len(step) == 2:
            root, chosen = step
            push(cache, root, [several[at] for at in chosen])
            if root:
                pushed[root] = (cache.now, chosen)
        else:
            older_than, target_size, grace = step
            swept(cache, cache.now, older_than * DAY, target_size=target_size, grace=grace)
            claims = check_whole(cache, ["a", "b", "c"], several, tmp_path / "p")
            for when, chosen in pushed.values():
                if target_size is None and cache.now - when < max(older_than * DAY, grace):
                    assert claims >= {several[at].tree.id for at in chosen}
            pushed = {root: one for root, one in pushed.items() if layout_has(cache, root)}


def layout_has(cache: MemoryTransport, root: str) -> bool:
    return layout.index_path(root_of(root), layout.signer_id(ALICE.public)) in cache.objects


class TestCommand:
    def run(self, tmp_path: Path, *arguments: str) -> str:
        session = Session({}, tmp_path, lambda: UserFolders(tmp_path, tmp_path))
        result = CliRunner().invoke(gc, list(arguments), obj=session, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    def cache(self, tmp_path: Path) -> FolderTransport:
        cache = FolderTransport(tmp_path / "cache")
        push(cache, "root", [thing(1)])
        for path in (tmp_path / "cache").rglob("*"):
            os.utime(path, (0x5000_0000, 0x5000_0000))
        return cache

    def test_it_says_what_would_go_and_then_removes_it(self, tmp_path: Path) -> None:
        cache = self.cache(tmp_path)
        planned = json.loads(self.run(tmp_path, "./cache", "--dry-run", "--json"))
        assert (planned["dry_run"], len(planned["roots"])) == (True, 1)
        assert cache.size(layout.map_path(thing(1).tree.id)) is not None
        done = json.loads(self.run(tmp_path, "./cache", "--json"))
        assert done["bytes_by_kind"] == planned["bytes_by_kind"]
        assert done["waiting_bytes"] > done["bytes"] > 0
        assert cache.size(layout.map_path(thing(1).tree.id)) is None

    def test_people_get_tables(self, tmp_path: Path) -> None:
        self.cache(tmp_path)
        said = self.run(tmp_path, str(tmp_path / "cache"), "--grace", "0", "--target-size", "1kB")
        rows = [line.split("\t") for line in said.splitlines()]
        assert rows[0][1:3] == ["1", "1"]
        assert [(row[0], row[1], row[3]) for row in rows[2:]] == [
            ("index", "1", "0"),
            ("traces", "1", "0"),
            ("names", "1", "0"),
            ("maps", "1", "0"),
            ("trees", "1", "0"),
            ("packs", "1", "0"),
        ]
