"""A crowd of processes on one store, with a collector among them, and kills at random moments: small numbers of
what `python -m bench soak` runs for long."""

from __future__ import annotations

import os

import pytest

from bench.soak import Soak
from tests.functional.conftest import REPOSITORY, Forge

pytestmark = pytest.mark.soak


def soak_in(forge: Forge) -> Soak:
    passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    home = str(forge.root / "home")
    return Soak(forge.root, {"PATH": os.environ["PATH"], "HOME": home, "PYTHONPATH": str(REPOSITORY), **passed})


def test_eight_processes_build_everything_once_while_it_is_collected(forge: Forge) -> None:
    figures = soak_in(forge).crowd(rounds=2)
    assert figures.builds == 2 * (3 * 8 + 8)
    assert figures.collections > 10


def test_processes_that_are_killed_at_any_moment_leave_a_whole_store(forge: Forge) -> None:
    figures = soak_in(forge).kill(20)
    assert sum(figures.kills.values()) + sum(figures.too_late.values()) == 20
    assert figures.kills
