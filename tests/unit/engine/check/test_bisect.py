"""Causes are found by rebuilding with fewer variations: each alone, or all that it takes; and chance is not blamed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmojo_forge.engine.check.bisect import Cause, find_cause
from mmojo_forge.model.derivation import INHERENT, Aspect

ALL = frozenset(Aspect)
CHOSEN = sorted(ALL - INHERENT)
Outcome = Callable[[frozenset[Aspect]], Hashable]


def cause_of(outcome: Outcome, varied: frozenset[Aspect] = ALL) -> Cause:
    return find_cause(outcome, outcome(varied), varied, lambda: None)


class Playing:
    """A build that comes to one thing after the other, whatever is varied."""

    def __init__(self, outcomes: Iterable[Hashable]) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[frozenset[Aspect]] = []

    def __call__(self, aspects: frozenset[Aspect]) -> Hashable:
        self.asked.append(aspects)
        return self.outcomes.pop(0)


@given(guilty=st.sets(st.sampled_from(CHOSEN), min_size=1))
def test_each_aspect_that_alone_makes_a_difference_is_a_cause(guilty: set[Aspect]) -> None:
    assert cause_of(lambda aspects: frozenset(aspects & guilty)) == Cause(tuple(sorted(guilty)))
    assert cause_of(lambda aspects: bool(aspects & guilty)) == Cause(tuple(sorted(guilty)))


@given(guilty=st.sets(st.sampled_from(CHOSEN), min_size=2))
def test_aspects_that_only_together_make_a_difference_are_found_and_no_others(guilty: set[Aspect]) -> None:
    assert cause_of(lambda aspects: guilty <= aspects) == Cause(tuple(sorted(guilty)), together=True)


def test_of_two_ways_to_the_same_failure_one_is_told() -> None:
    ways = [{Aspect.UMASK, Aspect.ASLR}, {Aspect.ORDER, Aspect.UID}]
    cause = cause_of(lambda aspects: any(way <= aspects for way in ways))
    assert cause.together
    assert set(cause.aspects) in ways


def test_a_difference_that_is_there_with_nothing_varied_comes_with_the_place() -> None:
    playing = Playing(["elsewhere"] * 2)
    assert find_cause(playing, "elsewhere", ALL, lambda: None) == Cause(tuple(sorted(INHERENT)))
    assert playing.asked == [frozenset()] * 2
    fewer = ALL - {Aspect.FILE_SYSTEM}
    assert find_cause(Playing(["elsewhere"] * 2), "elsewhere", fewer, lambda: None).aspects == tuple(
        sorted(INHERENT - {Aspect.FILE_SYSTEM})
    )


def test_a_build_that_differs_from_itself_is_unstable_and_not_looked_into() -> None:
    playing = Playing(["one", "two"])
    assert find_cause(playing, "three", ALL, lambda: None) == Cause(unstable=True)
    assert playing.asked == [frozenset()] * 2


@pytest.mark.parametrize("which", range(len(CHOSEN)))
def test_chance_is_not_blamed_on_the_aspect_that_happened_to_be_varied(which: int) -> None:
    alone = ["usual"] * len(CHOSEN)
    alone[which] = "chance"
    playing = Playing(["usual", "usual", *alone, "usual"])
    assert find_cause(playing, "chance", ALL, lambda: None) == Cause(unstable=True)
    assert playing.asked[-1] == {CHOSEN[which]}


def test_what_does_not_come_again_was_chance() -> None:
    playing = Playing(["usual", "usual", *(["usual"] * len(CHOSEN)), "usual"])
    assert find_cause(playing, "chance", ALL, lambda: None) == Cause(unstable=True)
    assert playing.asked[-1] == ALL


@pytest.mark.parametrize("varied", [INHERENT, INHERENT | {Aspect.UID}])
def test_what_is_hardly_varied_and_differs_is_unstable(varied: frozenset[Aspect]) -> None:
    assert find_cause(lambda _: "usual", "other", varied, lambda: None) == Cause(unstable=True)


def test_a_clock_of_seconds_goes_on_between_two_rebuilds_with_nothing_varied() -> None:
    now = 0

    def pause() -> None:
        nonlocal now
        now += 1

    assert find_cause(lambda _: now, -1, ALL, pause) == Cause(unstable=True)


def test_only_what_was_varied_is_tried() -> None:
    asked: list[frozenset[Aspect]] = []

    def outcome(aspects: frozenset[Aspect]) -> Hashable:
        asked.append(aspects)
        return Aspect.UID in aspects

    varied = INHERENT | {Aspect.UID, Aspect.ASLR}
    assert cause_of(outcome, varied) == Cause((Aspect.UID,))
    assert all(aspects <= varied for aspects in asked)
