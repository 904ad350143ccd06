"""Planning and realising with a real store and builders that are Python functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmojo_forge.engine.errors import BuildsFailed, Interrupted
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import Action, make_plan
from mmojo_forge.engine.realise import failed_builds
from mmojo_forge.engine.realise.schedule import ResourceBudget, Schedule, remaining_paths
from mmojo_forge.engine.realise.state import TRANSITIONS, BuildState
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.executor.request import BuildRequest
from mmojo_forge.model.derivation import Derivation, Input, Node
from mmojo_forge.store.local import LocalStore
from tests.support.engines import (
    Bench,
    DictFetcher,
    FunctionExecutor,
    node,
    source,
)

REPOSITORY = Path(__file__).resolve().parents[4]
EDGES = re.compile(rf"\b(?:{'|'.join(BuildState.__members__)})\b")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with LocalStore.open(tmp_path / "store") as store:
        yield Bench(tmp_path, store)


def test_a_graph_is_built_inputs_first_and_each_node_once(bench: Bench) -> None:
    base = node("base", "args", "x")
    left, right = node("left", base=base), node("right", base=base)
    top = node("top", left=left, right=right)
    assert bench.realise(top) == {"top": b"x+x"}
    ran = bench.ran()
    assert sorted(ran) == ["base", "left", "right", "top"]
    assert (ran[0], ran[-1]) == ("base", "top")


def test_what_was_realised_before_is_not_built_again(bench: Bench) -> None:
    top = node("top", base=node("base", "args", "x"))
    bench.realise(top)
    bench.ran()
    assert make_plan(Graph.of([top]), bench.store).steps == ()
    bench.realise(top)
    assert bench.ran() == []


def test_a_toolchain_rebuilt_to_the_same_bytes_rebuilds_nothing_above_it(bench: Bench) -> None:
    """Early cutoff, with two nodes above that must not run."""

    def graph(comment: str) -> Derivation:
        tool = node("tool", "args", "same", comment=comment)
        return node("app", middle=node("middle", tool=tool))

    bench.realise(graph(""))
    bench.ran()
    plan = make_plan(Graph.of([graph("changed")]), bench.store)
    assert [(step.node.name, step.certain) for step in plan.steps] == [
        ("tool", True),
        ("middle", False),
        ("app", False),
    ]
    assert bench.realise(graph("changed")) == {"app": b"same"}
    assert bench.ran() == ["tool"]


def test_a_toolchain_rebuilt_to_other_bytes_rebuilds_what_uses_it(bench: Bench) -> None:
    bench.realise(node("app", tool=node("tool", "args", "one")))
    bench.ran()
    assert bench.realise(node("app", tool=node("tool", "args", "two"))) == {"app": b"two"}
    assert bench.ran() == ["tool", "app"]


def test_sources_are_fetched_once_and_only_when_needed(bench: Bench) -> None:
    bench.fetcher = DictFetcher({"url:a": b"a", "url:b": b"b"})
    tool = node("tool", "args", "same", a=source(b"a"))
    bench.realise(node("app", tool=tool, b=source(b"b")))
    assert sorted(bench.fetcher.fetched) == ["a", "b"]
    bench.realise(node("app", tool=tool, b=source(b"b"), more=node("more", "args", "z")))
    assert len(bench.fetcher.fetched) == 2


def test_a_failure_names_the_reason_the_last_lines_and_what_it_blocks(bench: Bench) -> None:
    bad = node("bad", "fail")
    top = node("top", bad=bad)
    with pytest.raises(BuildsFailed) as caught:
        bench.realise(top)
    error = caught.value
    assert error.reason == "build-failed"
    assert error.blocked == ("top",)
    assert error.failures[0].last_lines == ("first line", "last line")
    kept = error.failures[0].kept
    assert kept is not None
    assert failed_builds.request_of(kept).work == kept / "build"
    assert (kept / "build").is_dir()


def test_keep_going_builds_what_does_not_need_the_failed_node(bench: Bench) -> None:
    bad, good = node("bad", "fail"), node("good", "args", "fine")
    above = node("above", good=good)
    with pytest.raises(BuildsFailed) as caught:
        bench.realise(node("top", bad=bad), above, keep_going=True)
    assert caught.value.blocked == ("top",)
    assert {"bad", "good", "above"} == set(bench.ran())
    assert make_plan(Graph.of([above]), bench.store).steps == ()


def test_a_failed_build_is_tried_again_next_time(bench: Bench) -> None:
    bad = node("bad", "fail")
    for _ in range(2):
        with pytest.raises(BuildsFailed):
            bench.realise(bad)
    assert bench.ran() == ["bad", "bad"]


def test_an_output_that_is_missing_is_an_error(bench: Bench) -> None:
    with pytest.raises(BuildsFailed) as caught:
        bench.realise(node("empty", "nothing"))
    assert caught.value.reason == "output-missing"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to("/etc/passwd"), "symlink-absolute"),
        (lambda path: path.symlink_to("../../x"), "symlink-escapes"),
        (lambda path: (path.write_text(""), path.chmod(0o4755)), "output-setuid"),
        (lambda path: __import__("os").mkfifo(path), "output-fifo"),
    ],
)
def test_an_output_that_cannot_be_stored_is_an_error(bench: Bench, make: Callable[[Path], object], reason: str) -> None:
    def leave(request: BuildRequest) -> None:
        (request.out / "out").mkdir()
        make(request.out / "out" / "thing")

    bench.executor = FunctionExecutor({"leave": leave})
    with pytest.raises(BuildsFailed) as caught:
        bench.realise(node("bad", "leave"))
    assert caught.value.reason == reason


def test_a_chain_may_be_deeper_than_pythons_stack(bench: Bench) -> None:
    """Everything but the last node is known, so that the test stays quick; the walk is as deep as the graph."""
    last: Derivation = node("n0", "args", "x")
    for index in range(1, 3000):
        last = node(f"n{index}", before=last)
    plan = make_plan(Graph.of([last]), bench.store)
    assert plan.count(Action.BUILD) == 3000
    assert len(remaining_paths(plan.graph, {})) == 3000


def test_two_runs_at_once_build_each_node_once(bench: Bench) -> None:
    top = node("top", base=node("base", "args", "x"))
    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(bench.realise, top) for _ in range(4)]]
    assert results == [{"top": b"x"}] * 4
    assert sorted(bench.ran()) == ["base", "top"]


def test_an_interrupt_stops_what_runs_and_leaves_the_store_clean(bench: Bench) -> None:
    class Interrupting(Reporter):
        def failed(self, node: Node, reason: str, message: str) -> None:
            raise KeyboardInterrupt

    bench.reporter = Interrupting()
    with pytest.raises(Interrupted) as caught:
        bench.realise(node("bad", "fail"))
    assert caught.value.reason == "interrupted"
    assert bench.store.verify().findings == ()


def test_inputs_are_mounted_at_their_fixed_names_and_no_store_path_is_told(bench: Bench) -> None:
    bench.realise(node("top", base=node("base", "args", "x")))
    request = bench.executor.requests[-1]
    assert [mount.at for mount in request.mounts] == ["/forge/base"]
    assert not any(str(bench.folder) in text for text in (*request.argv, *request.env.values()))
    assert request.env["SOURCE_DATE_EPOCH"] == "1"


def test_the_picture_of_states_has_every_transition_and_no_other() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    drawn = {
        BuildState[line.split()[0]]: frozenset(BuildState[name] for name in EDGES.findall(line.partition("─▶")[2]))
        for line in text.splitlines()
        if line.startswith("    ") and " ─▶ " in line and line.split()[0] in BuildState.__members__
    }
    final = {state: frozenset[BuildState]() for state in BuildState if state not in drawn}
    assert {**drawn, **final} == dict(TRANSITIONS)


@given(st.integers(1, 8), st.lists(st.booleans(), min_size=1, max_size=20))
def test_the_schedule_never_grants_more_cores_than_there_are(cores: int, parallel: list[bool]) -> None:
    nodes = [Derivation(f"n{index}", "x", (), {}, {}, parallel=many) for index, many in enumerate(parallel)]
    graph = Graph.of(nodes)
    schedule = Schedule(ResourceBudget(cores, 1 << 40), remaining_paths(graph, {}), {})
    for each in nodes:
        schedule.add(each)
    started = 0
    while started < len(nodes):
        grants = []
        while taken := schedule.take():
            grants.append(taken[1])
            started += 1
        assert grants, "something always fits"
        assert sum(grant.cores for grant in grants) <= cores
        for grant in grants:
            schedule.give_back(grant)


def test_the_node_with_the_longest_path_above_it_starts_first() -> None:
    long = node("long", "args", "1")
    top = node("top", middle=node("middle", long=long), short=node("short", "args", "2"))
    graph = Graph.of([top])
    schedule = Schedule(ResourceBudget(1, 1 << 40), remaining_paths(graph, {"middle": 100.0}), {})
    for each in graph.nodes.values():
        if each.name in {"short", "long"}:
            schedule.add(each)
    taken = schedule.take()
    assert taken is not None
    assert taken[0].id == long.id


def test_a_graph_has_every_node_once_inputs_first_and_names_each_user_once() -> None:
    low = Derivation("low", "x", (), {}, {}, outputs=("out", "dev"))
    both = {output: Input(low, output, f"/forge/{output}") for output in low.outputs}
    middle = Derivation("middle", "x", (), {}, both)
    top = node("top", low=low, middle=middle)
    graph = Graph.of([top, middle, top])
    assert [each.name for each in graph.nodes.values()] == ["low", "middle", "top"]
    assert graph.roots == (top.id, middle.id)
    assert {
        graph.nodes[each].name: sorted(graph.nodes[user].name for user in users) for each, users in graph.users.items()
    } == {
        "low": ["middle", "top"],
        "middle": ["top"],
        "top": [],
    }
