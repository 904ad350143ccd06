"""Realising with caches: what others built is fetched, what they cannot be trusted with is built here."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.read.transfer import Options
from mmojo_forge.cache.transport.fakes import MemoryTransport
from mmojo_forge.cache.transport.protocol import Body, Span, Transport
from mmojo_forge.engine.cache.background_push import BackgroundPublisher
from mmojo_forge.engine.cache.push import pack, push
from mmojo_forge.engine.cache.status import cache_status
from mmojo_forge.engine.cache.substituter import Caches, NamedCache
from mmojo_forge.engine.errors import BuildsFailed
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import Action, input_trees, make_plan
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.errors import ForgeError
from mmojo_forge.executor.request import BuildRequest
from mmojo_forge.model.derivation import ALL, Component, Derivation, Download, Label, Node, action_key, downloading
from mmojo_forge.model.digest import Sha256
from mmojo_forge.model.signature import PrivateKey, PublicKey
from mmojo_forge.model.trace import Trace
from mmojo_forge.recipe.evaluate import Instance
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.protocol import Store
from tests.support.caches import ALICE, BOB
from tests.support.engines import FUNCTIONS, Bench, DictFetcher, FunctionExecutor, node, source

PATIENT = Options(connections=2, attempts=1, sleep=lambda _: None)


@dataclass
class Warnings(Reporter):
    """Keeps what the user is told."""

    said: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def warning(self, message: str) -> None:
        self.said.append(message)

    def missed(self, node: Node) -> None:
        self.missing.append(node.name)


def caches(
    store: Store,
    *places: Transport,
    trusted: tuple[PublicKey, ...] = (ALICE.public, BOB.public),
    agree: int = 1,
    warn: Callable[[str], None] = lambda _: None,
) -> Caches:
    named = [
        NamedCache(f"cache{number}", lambda place=place: CacheReader(place, trusted, PATIENT))  # type: ignore[misc]
        for number, place in enumerate(places, 1)
    ]
    return Caches(named, store, agree=agree, warn=warn, clock=lambda: 0.0)


@pytest.fixture
def open_bench(tmp_path: Path) -> Iterator[Callable[[str, PrivateKey], Bench]]:
    """Makes benches with an empty store each, whose builds are signed."""
    stores = []

    def make(name: str, signer: PrivateKey) -> Bench:
        store = LocalStore.open(tmp_path / name / "store")
        stores.append(store)
        return Bench(tmp_path / name, store, reporter=Warnings(), signer=signer)

    yield make
    for store in stores:
        store.close()


Open = Callable[[str, PrivateKey], Bench]


def publish(
    bench: Bench,
    transport: Transport,
    *roots: Node,
    closure: bool = False,
    host_specific: bool = False,
    not_redistributable: bool = False,
) -> tuple[str, ...]:
    plan = make_plan(Graph.of(roots), bench.store)
    assert bench.signer is not None
    push_plan = pack(
        plan,
        bench.store,
        bench.signer,
        closure=closure,
        host_specific=host_specific,
        not_redistributable=not_redistributable,
    )
    push(push_plan, transport, bench.store, bench.signer)
    return push_plan.skipped


def warnings(bench: Bench) -> Warnings:
    assert isinstance(bench.reporter, Warnings)
    return bench.reporter


def graph() -> Derivation:
    tool = node("tool", "args", "big tool")
    return node("top", middle=node("middle", tool=tool), tool=tool)


def built_and_pushed(bench: Bench, *, closure: bool = False) -> MemoryTransport:
    transport = MemoryTransport()
    bench.realise(graph())
    bench.ran()
    publish(bench, transport, graph(), closure=closure)
    return transport


def test_a_teammate_gets_the_result_and_nothing_it_was_built_from(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport)
    plan = make_plan(Graph.of([graph()]), b.store, b.substituter)
    assert [(step.node.name, step.action) for step in plan.steps] == [("top", Action.SUBSTITUTE)]
    assert plan.bytes_of(Action.SUBSTITUTE) == len(b"big tool+big tool")
    assert b.realise(graph()) == {"top": b"big tool+big tool"}
    assert b.ran() == []
    plan = make_plan(Graph.of([graph()]), b.store)
    (tool,) = (node for node in plan.graph.derivations() if node.name == "tool")
    assert not b.store.has_tree(plan.resolved[tool.id]["out"])
    b.substituter = None
    assert make_plan(Graph.of([graph()]), b.store).steps == ()


def test_what_came_from_a_cache_can_be_passed_on_with_its_signatures(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    b, c = open_bench("b", BOB), open_bench("c", BOB)
    b.substituter = caches(b.store, transport)
    b.realise(graph())
    second = MemoryTransport()
    publish(b, second, graph())
    c.substituter = caches(c.store, second, trusted=(ALICE.public, BOB.public))
    assert c.realise(graph(), substitute_only=True) == {"top": b"big tool+big tool"}


def test_nothing_is_believed_of_a_builder_who_is_not_trusted(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport, trusted=(BOB.public,))
    b.realise(graph())
    assert b.ran() == ["tool", "middle", "top"]


def test_what_a_revoked_key_alone_vouches_for_is_forgotten(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport)
    own = node("own", "args", "mine")
    b.realise(graph(), own)
    b.ran()
    assert b.store.forget_signed_only_by([ALICE.public.text]) == 3
    b.substituter = caches(b.store, transport, trusted=(BOB.public,))
    assert b.realise(graph(), own)["top"] == b"big tool+big tool"
    assert b.ran() == ["tool", "middle", "top"]
    assert b.store.forget_signed_only_by([ALICE.public.text]) == 0


@pytest.mark.parametrize("part", ["trees/", "maps/", "packs/"])
def test_a_cache_that_was_half_emptied_is_a_miss_and_the_rest_is_built(open_bench: Open, part: str) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    for path in [path for path in transport.objects if path.startswith(part)]:
        transport.delete(path)
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport)
    assert b.realise(graph()) == {"top": b"big tool+big tool"}
    assert b.ran() == ["tool", "middle", "top"]
    assert warnings(b).missing == ["top"]


def test_a_cache_that_lost_its_indexes_still_has_every_entry(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    for path in [path for path in transport.objects if path.startswith("index/")]:
        transport.delete(path)
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport)
    assert b.realise(graph()) == {"top": b"big tool+big tool"}
    assert b.ran() == []


def test_content_that_is_a_lie_is_told_of_and_built_instead(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    for path in [path for path in transport.objects if path.startswith("packs/")]:
        content = bytearray(transport.objects[path])
        content[len(content) // 2] ^= 1
        transport.put(path, bytes(content), if_absent=False)
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport, warn=b.reporter.warning)
    assert b.realise(graph()) == {"top": b"big tool+big tool"}
    assert b.ran() == ["tool", "middle", "top"]
    assert len(warnings(b).said) == 1
    assert warnings(b).said[0].startswith("cache cache1: ")


def test_the_next_cache_is_asked_when_one_fails(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, Dead(), transport, warn=b.reporter.warning)
    assert b.realise(graph()) == {"top": b"big tool+big tool"}
    assert b.ran() == []
    assert len(warnings(b).said) == 1


class Dead(MemoryTransport):
    """A cache that cannot be reached."""

    asked = 0

    @contextmanager
    def open(self, path: str, span: Span | None = None) -> Iterator[Body]:
        raise self._failed()
        yield  # a generator, like what it stands for

    def size(self, path: str) -> int | None:
        raise self._failed()

    def _failed(self) -> CacheError:
        self.asked += 1
        return CacheError("no answer", reason="cache-unreachable", fault=CacheFault.FAILING)


def writing(text: str) -> FunctionExecutor:
    """Builds like the usual one, but copies come out as this text."""

    def write(request: BuildRequest) -> None:
        (request.out / "out").write_text(text)

    return FunctionExecutor({**FUNCTIONS, "copy": write})


def test_a_dead_cache_is_left_alone_after_a_few_failures_and_told_of_once(open_bench: Open) -> None:
    b, dead = open_bench("b", BOB), Dead()
    b.substituter = caches(b.store, dead, warn=b.reporter.warning)
    chain: Node = node("n0", "args", "x")
    for number in range(1, 20):
        chain = node(f"n{number}", below=chain)
    b.realise(chain)
    assert len(b.ran()) == 20
    assert len(warnings(b).said) == 1
    assert dead.asked <= 12


def test_builders_who_disagree_are_told_of_and_neither_is_believed(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    other = open_bench("o", BOB)
    other.executor = writing("evil")
    other.realise(graph())
    publish(other, transport, graph())
    b = open_bench("b", PrivateKey("carol", b"c" * 32))
    b.substituter = caches(b.store, transport, warn=b.reporter.warning)
    assert b.realise(graph()) == {"top": b"big tool+big tool"}
    # What is made of the right middle, only one of them says.
    assert b.ran() == ["tool", "middle"]
    told = "\n".join(warnings(b).said)
    assert "alice: out " in told
    assert "bob: out " in told


def test_a_policy_may_ask_that_several_builders_agree(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport, agree=2)
    assert b.realise(graph()) == {"top": b"big tool+big tool"}
    assert b.ran() == ["tool", "middle", "top"]
    publish(b, transport, graph())
    c = open_bench("c", PrivateKey("carol", b"c" * 32))
    c.substituter = caches(c.store, transport, agree=2)
    assert c.realise(graph(), substitute_only=True) == {"top": b"big tool+big tool"}


def test_one_builder_under_two_names_is_one_builder(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    again = open_bench("again", PrivateKey("alias", b"a" * 32))
    again.realise(graph())
    publish(again, transport, graph())
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport, agree=2)
    assert make_plan(Graph.of([graph()]), b.store, b.substituter).count(Action.BUILD) == 3


def test_an_input_that_is_rebuilt_to_the_same_bytes_leaves_the_rest_to_the_cache(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    tool = node("tool", "args", "big tool", comment="reworded")
    changed = node("top", middle=node("middle", tool=tool), tool=tool)
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport)
    assert b.realise(changed) == {"top": b"big tool+big tool"}
    assert b.ran() == ["tool"]


def test_what_comes_out_otherwise_than_a_builder_said_is_told(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    for path in [path for path in transport.objects if path.startswith("maps/")]:
        transport.delete(path)
    b = open_bench("b", BOB)
    b.executor = writing("other")
    b.substituter = caches(b.store, transport)
    assert b.realise(graph()) == {"top": b"other"}
    assert any("top: the result here differs from what a trusted builder signed" in said for said in warnings(b).said)


def test_a_source_that_left_its_mirror_comes_from_the_cache(open_bench: Open) -> None:
    a, b = open_bench("a", ALICE), open_bench("b", BOB)
    text = source(b"tarball")
    a.fetcher = DictFetcher({"url:tarball": b"tarball"})
    unpacked, transport = node("unpacked", source=text), MemoryTransport()
    a.realise(unpacked)
    publish(a, transport, unpacked, closure=True)
    changed = node("unpacked", source=text, comment="another way")
    b.substituter = caches(b.store, transport)
    b.fetcher = DictFetcher({})
    assert b.realise(changed) == {"unpacked": b"tarball"}
    assert (b.ran(), b.fetcher.fetched) == (["unpacked"], [])


def test_only_substituting_builds_nothing(open_bench: Open) -> None:
    transport = built_and_pushed(open_bench("a", ALICE))
    for path in [path for path in transport.objects if path.startswith("packs/")]:
        transport.delete(path)
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport)
    with pytest.raises(BuildsFailed) as caught:
        b.realise(graph(), substitute_only=True)
    assert caught.value.reason == "not-substituted"
    assert b.ran() == []


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ForgeError) as caught:
        act()
    return caught.value.reason


def test_what_is_not_built_or_fits_one_machine_only_is_not_pushed(open_bench: Open) -> None:
    a, transport = open_bench("a", ALICE), MemoryTransport()
    assert refusal(lambda: publish(a, transport, graph())) == "not-built"
    tuned = replace(node("tuned", "args", "x"), label=Label((("cpu", "znver5"),)))
    a.realise(tuned)
    assert refusal(lambda: publish(a, transport, tuned)) == "host-specific"
    assert not transport.objects
    publish(a, transport, tuned, host_specific=True)
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport)
    assert b.realise(tuned, substitute_only=True) == {"tuned": b"x"}
    other = replace(tuned, label=Label((("cpu", "znver4"),)))
    assert make_plan(Graph.of([other]), b.store, b.substituter).count(Action.BUILD) == 1


def with_a_compiler() -> tuple[Derivation, Derivation]:
    """A compiler that may not be passed on though its runtime may, and what is made with it, runtime inside."""
    parts = (
        Component("wheel", licence="LicenseRef-vendor", redistributable=False),
        Component("runtime", "1", "LicenseRef-vendor", of="wheel", redistributable=True),
    )
    compiler = replace(node("compiler", "args", "compiles", wheel=source(b"wheel")), components=parts)
    return compiler, replace(node("program", "args", "code", compiler=compiler), contents={"compiler": ("runtime",)})


def names_in(transport: MemoryTransport, bench: Bench, *nodes: Node) -> set[str]:
    """Those of the nodes whose content somebody with nothing could have from the cache."""
    reader = CacheReader(transport, (ALICE.public, BOB.public), PATIENT)
    plan = make_plan(Graph.of(nodes), bench.store)
    trees = {node.name: plan.resolved[node.id]["out"] if isinstance(node, Derivation) else node.tree for node in nodes}
    return {name for name, tree in trees.items() if tree in reader.has_trees(trees.values())}


def test_what_may_not_be_passed_on_stays_here_with_the_source_that_it_came_in(open_bench: Open) -> None:
    compiler, program = with_a_compiler()
    wheel = compiler.inputs["wheel"].node
    a, transport = open_bench("a", ALICE), MemoryTransport()
    a.fetcher = DictFetcher({"url:wheel": b"wheel"})
    a.realise(program)
    assert publish(a, transport, program, closure=True) == ("compiler", "wheel")
    assert names_in(transport, a, program, compiler, wheel) == {"program"}
    assert refusal(lambda: publish(a, transport, compiler)) == "not-redistributable"
    assert publish(a, transport, program, closure=True, not_redistributable=True) == ()
    assert names_in(transport, a, program, compiler, wheel) == {"program", "compiler", "wheel"}


def test_a_program_that_has_it_in_it_is_not_pushed_either(open_bench: Open) -> None:
    _, program = with_a_compiler()
    a, transport = open_bench("a", ALICE), MemoryTransport()
    a.fetcher = DictFetcher({"url:wheel": b"wheel"})
    careless = replace(program, contents={"compiler": ALL})
    a.realise(careless)
    assert refusal(lambda: publish(a, transport, careless)) == "not-redistributable"
    assert not transport.objects


def downloaded(name: str) -> Derivation:
    """A source of which its publisher's SHA-256 alone is known."""
    content = name.encode()
    return downloading(Download(name, f"url:{name}", Sha256(hashlib.sha256(content).hexdigest()), len(content)))


def test_a_source_is_kept_back_for_a_part_of_it_and_in_whatever_it_is_unpacked_by(open_bench: Open) -> None:
    archive = downloaded("archive")
    part = Component("compiler", "1", "LicenseRef-vendor", of="archive", redistributable=False)
    told = replace(node("told", "args", "a", source=archive), components=(part,))
    untold = node("untold", "args", "b", source=archive)
    free = replace(node("free", "args", "c", source=archive), contents={})
    roots = replace(node("top", "args", "d", told=told, untold=untold, free=free), contents={})
    a, transport = open_bench("a", ALICE), MemoryTransport()
    a.fetcher = DictFetcher({"url:archive": b"archive"})
    a.realise(roots)
    assert publish(a, transport, roots, closure=True) == ("archive", "told", "untold")
    assert names_in(transport, a, roots, told, untold, free, archive) == {"top", "free"}


def test_what_came_out_as_something_that_may_not_be_passed_on_is_that(open_bench: Open) -> None:
    compiler, program = with_a_compiler()
    twin = replace(node("twin", "args", "compiles"), contents={})
    top = replace(node("top", "args", "top", program=program, twin=twin), contents={})
    a, transport = open_bench("a", ALICE), MemoryTransport()
    a.fetcher = DictFetcher({"url:wheel": b"wheel"})
    a.realise(top)
    publish(a, transport, top, closure=True)
    assert names_in(transport, a, top, program, twin, compiler) == {"top", "program"}


def test_what_may_not_be_passed_on_is_not_pushed_after_a_build(open_bench: Open) -> None:
    compiler, program = with_a_compiler()
    a, transport = open_bench("a", ALICE), MemoryTransport()
    a.fetcher = DictFetcher({"url:wheel": b"wheel"})
    a.realise(program)
    publisher = BackgroundPublisher({"team": lambda: transport}, a.store, ALICE, a.reporter)
    publisher.begin(Graph.of([program]))
    for result in built_here(a, program):
        publisher.built(*result)
    publisher.finish(Graph.of([program, compiler]))
    assert names_in(transport, a, program, compiler) == {"program"}
    assert warnings(a).said == []


def test_what_no_run_began_with_is_not_pushed(open_bench: Open) -> None:
    a, transport = open_bench("a", ALICE), MemoryTransport()
    a.realise(graph())
    publisher = BackgroundPublisher({"team": lambda: transport}, a.store, ALICE, a.reporter)
    for result in built_here(a, graph()):
        publisher.built(*result)
    publisher.finish(Graph.of([graph()]))
    assert not transport.objects


def test_nothing_is_pushed_after_a_build_whose_recipes_do_not_say_what_is_in_it(open_bench: Open) -> None:
    _, program = with_a_compiler()
    a, transport = open_bench("a", ALICE), MemoryTransport()
    a.fetcher = DictFetcher({"url:wheel": b"wheel"})
    unclear = replace(program, contents={"compiler": ("runtine",)})
    a.realise(unclear)
    publisher = BackgroundPublisher({"team": lambda: transport}, a.store, ALICE, a.reporter)
    publisher.begin(Graph.of([unclear]))
    for result in built_here(a, program):
        publisher.built(*result)
    publisher.finish(None)
    assert not transport.objects
    assert [said.partition(":")[0] for said in warnings(a).said] == ["push is off for this run"]


def test_what_was_built_before_there_was_a_key_is_signed_when_it_is_pushed(open_bench: Open) -> None:
    a, transport = open_bench("a", ALICE), MemoryTransport()
    a.signer = None
    a.realise(graph())
    a.signer = ALICE
    publish(a, transport, graph())
    b = open_bench("b", BOB)
    b.substituter = caches(b.store, transport, trusted=(ALICE.public,))
    assert b.realise(graph(), substitute_only=True) == {"top": b"big tool+big tool"}


def test_what_nobody_signed_and_others_built_is_not_pushed(open_bench: Open) -> None:
    a = open_bench("a", ALICE)
    a.signer = None
    a.realise(graph())
    plan = make_plan(Graph.of([graph()]), a.store)
    keys = [action_key(one.preimage(input_trees(one, plan.resolved) or {})) for one in plan.graph.derivations()]
    with LocalStore.open(a.folder / "elsewhere") as store:
        for tree in plan.valid:
            store.add_path(a.store.checkout(tree, "result"))
        for trace in a.store.lookup(keys).values():
            store.record(replace(trace, builder="imported:somebody"))
        there = make_plan(Graph.of([graph()]), store)
        assert refusal(lambda: pack(there, store, ALICE, closure=False, host_specific=False)) == "unsigned-trace"


def test_status_says_what_somebody_with_nothing_would_get(open_bench: Open) -> None:
    a = open_bench("a", ALICE)
    transport = built_and_pushed(a)
    instances = {"top": Instance(graph(), "out"), "else": Instance(node("else", "args", "y"), "out")}
    cache = NamedCache("team", lambda: CacheReader(transport, (ALICE.public,), PATIENT))
    status = cache_status(cache, instances, a.store, agree=1, clock=lambda: 0.0)
    rows = {row.target: row for row in status.targets}
    assert (rows["top"].complete, rows["top"].builder, rows["top"].known, rows["top"].nodes) == (True, "alice", 3, 3)
    assert (rows["else"].complete, rows["else"].known) == (False, 0)
    assert (status.complete, status.size) == (1, len(b"big tool+big tool"))
    for path in [path for path in transport.objects if path.startswith("maps/")]:
        transport.delete(path)
    assert cache_status(cache, instances, a.store, agree=1, clock=lambda: 0.0).complete == 0
    dead = cache_status(NamedCache("dead", lambda: CacheReader(Dead(), ())), {}, a.store, agree=1, clock=lambda: 0.0)
    assert dead.error is not None
    assert dead.error.reason == "cache-unreachable"


class Slow(MemoryTransport):
    """A cache that takes what it is given only when it is let, or is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.closed = False

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        self.free.wait(60)
        if self.closed:
            raise CacheError("closed", reason="cache-unreachable", fault=CacheFault.FAILING)
        return super().put(path, content, if_absent=if_absent)

    def close(self) -> None:
        self.closed = True
        self.free.set()


def built_here(bench: Bench, root: Derivation) -> list[tuple[Derivation, Trace]]:
    """What a builder tells a publisher of the graph below `root`, which is built."""
    plan = make_plan(Graph.of([root]), bench.store)
    traces = {trace.name: trace for trace in pack(plan, bench.store, ALICE, closure=False).traces}
    return [(node, traces[node.name]) for node in plan.graph.derivations()]


def test_results_that_come_at_once_are_pushed_by_one_thread(open_bench: Open) -> None:
    a, transport = open_bench("a", ALICE), MemoryTransport()
    a.realise(graph())
    results = built_here(a, graph())
    for _ in range(20):
        publisher = BackgroundPublisher({"team": lambda: transport}, a.store, ALICE, a.reporter)
        publisher.begin(Graph.of([graph()]))
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(publisher.built, *zip(*results, strict=True)))
        publisher.finish(None)
        assert not [one for one in threading.enumerate() if one.name == "forge-publish"]


def test_a_push_is_given_up_with_the_run(open_bench: Open) -> None:
    a, transport = open_bench("a", ALICE), Slow()
    a.realise(graph())
    results = built_here(a, graph())
    publisher = BackgroundPublisher({"team": lambda: transport}, a.store, ALICE, a.reporter)
    publisher.begin(Graph.of([graph()]))
    for result in results:
        publisher.built(*result)
    while not publisher._open:
        time.sleep(0.001)
    publisher.abandon()
    publisher.finish(None)
    assert not [one for one in threading.enumerate() if one.name == "forge-publish"]
    assert warnings(a).said == []
