"""Quantities on the command line, and the line that tells how far long work is."""

from __future__ import annotations

import io

import click
import pytest

from mmojo_forge.cli.console import Meter
from mmojo_forge.cli.options import Duration, Size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 30 * 86400), ("2", 2 * 86400), ("0", 0), ("12h", 43200), ("90min", 5400), ("1.5 h", 5400), ("1w", 604800)],
)
def test_a_time_span_has_a_unit_or_is_in_days(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("20G", 20 * 10**9), ("500MB", 5 * 10**8), ("2GiB", 2 << 30), ("7", 7), ("1.5k", 1500)]
)
def test_a_size_is_decimal_unless_it_says_otherwise(text: str, count: int) -> None:
    assert Size().convert(text, None, None) == count


@pytest.mark.parametrize("text", ["", "d", "-1d", "1 month", "1e9", "nan", "1dd"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    for kind in (Duration(), Size()):
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_over_on_a_terminal_and_rare_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for stream, lines in ((_Terminal(), 0), (io.StringIO(), 2)):
        with Meter("verifying", stream) as meter:
            for step in range(21):
                meter(step, 20)
                now[0] += 1
        assert stream.getvalue().count("\n") == lines
        assert "verifying: 20 B of 20 B 100 %" in stream.getvalue()


def test_work_that_is_soon_over_says_nothing() -> None:
    stream = _Terminal()
    with Meter("verifying", stream) as meter:
        meter(1, 1)
        meter.wait(0.5)
    assert stream.getvalue() == ""
