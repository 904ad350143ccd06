"""An answer that is too slow for too long is noticed, and only that."""

from __future__ import annotations

from mmojo_forge.net.settings import HttpSettings, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def arrivals(*parts: tuple[float, int], idle: float = 0.0) -> list[bool]:
    """Whether each part, of which the reader waits so long for so many bytes, is too slow; `idle` is between them."""
    clock = Clock()
    pace = Pace(HttpSettings(grace_seconds=10.0, least_rate=100.0), clock)
    found = []
    for seconds, count in parts:
        clock.now += idle
        pace.start()
        clock.now += seconds
        found.append(pace.stop(count) != "")
    return found


def test_what_is_slow_is_given_a_grace() -> None:
    assert arrivals((9.0, 1), (0.9, 1), (0.1, 1)) == [False, False, True]


def test_what_is_fast_enough_may_take_for_ever() -> None:
    assert arrivals(*[(5.0, 500)] * 1000) == [False] * 1000


def test_a_fast_beginning_earns_no_drip() -> None:
    assert arrivals((10.0, 1 << 30), (9.0, 1), (9.0, 1)) == [False, False, True]


def test_time_that_the_reader_takes_is_not_the_servers() -> None:
    assert arrivals(*[(0.1, 50)] * 500, idle=60.0) == [False] * 500


def test_the_end_is_never_too_slow() -> None:
    assert arrivals((9.0, 1), (9.0, 0)) == [False, False]
