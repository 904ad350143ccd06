"""Derivations with several outputs: those that nobody wants need not be there, and are neither fetched nor built."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.transport.fakes import MemoryTransport
from mmojo_forge.engine.cache.push import pack, push
from mmojo_forge.engine.cache.status import cache_status
from mmojo_forge.engine.cache.substituter import NamedCache
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import Action, Plan, make_plan
from mmojo_forge.engine.realise.realise import Realisation
from mmojo_forge.engine.services import Settings
from mmojo_forge.executor.request import BuildRequest
from mmojo_forge.model.derivation import Derivation, Input
from mmojo_forge.model.digest import TreeId
from mmojo_forge.recipe.evaluate import Instance
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.maintain.gc import GcPolicy
from tests.support.caches import ALICE, BOB
from tests.support.engines import FUNCTIONS, Bench, FunctionExecutor
from tests.unit.engine.cache.test_substituter import PATIENT, caches

SMALL, LARGE = b"small", b"large" * 1000
KIT = Derivation("kit", "kit", (), {}, {}, outputs=("large", "small"))
TOP = Derivation("top", "copy", (), {}, {"kit": Input(KIT, "small", "/forge/kit")})


def make_kit(request: BuildRequest) -> None:
    (request.out / "large").write_bytes(LARGE)
    (request.out / "small").write_bytes(SMALL)


@pytest.fixture
def benches(tmp_path: Path) -> Iterator[tuple[Bench, Bench]]:
    """Two machines, whose builders sign."""
    stores = [LocalStore.open(tmp_path / name / "store") for name in ("a", "b")]
    executors = [FunctionExecutor({**FUNCTIONS, "kit": make_kit}) for _ in stores]
    yield (
        Bench(tmp_path / "a", stores[0], executors[0], signer=ALICE),
        Bench(tmp_path / "b", stores[1], executors[1], signer=BOB),
    )
    for store in stores:
        store.close()


def plan_of(bench: Bench, *wanted: tuple[Derivation, str]) -> Plan:
    return make_plan(Graph.of_outputs(wanted), bench.store, bench.substituter)


def steps_of(plan: Plan) -> list[tuple[str, Action, int]]:
    return [(step.node.name, step.action, step.size) for step in plan.steps]


def realise(bench: Bench, *wanted: tuple[Derivation, str]) -> dict[str, TreeId]:
    """The trees of the kit, all of them, of which those wanted are valid."""
    resolved = Realisation(plan_of(bench, *wanted), bench.services(), Settings(2, 1 << 30)).run()
    return dict(resolved[KIT.id])


def pushed(bench: Bench, *wanted: tuple[Derivation, str]) -> MemoryTransport:
    transport = MemoryTransport()
    plan = plan_of(bench, *wanted)
    push(pack(plan, bench.store, ALICE, closure=False), transport, bench.store, ALICE)
    return transport


def test_a_graph_knows_which_outputs_are_wanted() -> None:
    assert Graph.of([TOP]).outputs == {KIT.id: {"small"}}
    assert Graph.of([TOP, KIT]).outputs == {KIT.id: {"small", "large"}}
    assert Graph.of_outputs([(TOP, "out"), (KIT, "large")]).outputs == {KIT.id: {"small", "large"}}


def test_only_the_output_that_is_wanted_is_fetched(benches: tuple[Bench, Bench]) -> None:
    a, b = benches
    trees = realise(a, (KIT, "small"))
    assert a.store.valid_trees(trees.values()) == set(trees.values())  # what is built is there as a whole
    transport = pushed(a, (KIT, "small"))
    b.substituter = caches(b.store, transport)
    assert steps_of(plan_of(b, (KIT, "small"))) == [("kit", Action.SUBSTITUTE, len(SMALL))]
    assert realise(b, (KIT, "small")) == trees
    assert b.store.valid_trees(trees.values()) == {trees["small"]}
    assert steps_of(plan_of(b, (KIT, "small"))) == []
    assert [step[:2] for step in steps_of(plan_of(b, (KIT, "large")))] == [("kit", Action.SUBSTITUTE)]
    realise(b, (KIT, "large"))
    assert b.store.valid_trees(trees.values()) == set(trees.values())
    assert b.ran() == []


def with_the_small_one_only(benches: tuple[Bench, Bench]) -> tuple[Bench, dict[str, TreeId]]:
    a, b = benches
    trees = realise(a, (KIT, "small"))
    b.substituter = caches(b.store, pushed(a, (KIT, "small")))
    realise(b, (KIT, "small"))
    b.substituter = None
    return b, trees


def test_what_is_built_from_one_output_needs_no_other(benches: tuple[Bench, Bench]) -> None:
    b, _ = with_the_small_one_only(benches)
    assert [step[:2] for step in steps_of(plan_of(b, (TOP, "out")))] == [("top", Action.BUILD)]
    realise(b, (TOP, "out"))
    assert b.ran() == ["top"]


def test_an_output_that_nobody_else_has_is_built_with_the_others(benches: tuple[Bench, Bench]) -> None:
    b, trees = with_the_small_one_only(benches)
    assert [step[:2] for step in steps_of(plan_of(b, (TOP, "out"), (KIT, "large")))] == [
        ("kit", Action.BUILD),
        ("top", Action.BUILD),
    ]
    realise(b, (TOP, "out"), (KIT, "large"))
    assert sorted(b.ran()) == ["kit", "top"]
    assert b.store.valid_trees(trees.values()) == set(trees.values())


def test_what_is_there_in_part_can_be_passed_on_and_status_says_so(benches: tuple[Bench, Bench]) -> None:
    b, trees = with_the_small_one_only(benches)
    transport = pushed(b, (KIT, "small"))
    cache = NamedCache("team", lambda: CacheReader(transport, (ALICE.public,), PATIENT))
    instances = {output: Instance(KIT, output) for output in KIT.outputs}
    status = cache_status(cache, instances, b.store, agree=1, clock=lambda: 0.0)
    assert {row.target: (row.complete, row.size) for row in status.targets} == {
        "large": (False, len(LARGE)),
        "small": (True, len(SMALL)),
    }
    assert CacheReader(transport, (ALICE.public,), PATIENT).has_trees(trees.values()) == {trees["small"]}


def test_what_is_known_of_a_build_is_known_of_all_its_outputs_or_not_at_all(benches: tuple[Bench, Bench]) -> None:
    b, trees = with_the_small_one_only(benches)
    b.store.add_root(b.folder / "link", trees["small"], "kit")
    b.store.maintenance.collect(GcPolicy(0, forget=True), time.time() + 1e6)
    assert b.store.valid_trees(trees.values()) == {trees["small"]}
    assert b.store.lookup_resolved([KIT.id]) == {KIT.id: trees}
    assert steps_of(plan_of(b, (KIT, "small"))) == []
    user = Derivation("user", "copy", (), {}, {"kit": Input(KIT, "large", "/forge/kit")})
    assert [step.node.name for step in plan_of(b, (user, "out")).steps] == ["kit", "user"]


def test_a_store_that_knows_of_one_output_only_knows_nothing(benches: tuple[Bench, Bench]) -> None:
    a, _ = benches
    a.store.record_resolved({KIT.id: {"small": TreeId("1" * 64)}})
    user = Derivation("user", "copy", (), {}, {"kit": Input(KIT, "large", "/forge/kit")})
    assert [step.node.name for step in plan_of(a, (user, "out")).steps] == ["kit", "user"]
