"""What a check leaves as it is because a recipe says so: not tried, not counted, and told with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from mmojo_forge.engine.check.bisect import Cause
from mmojo_forge.engine.check.checker import CheckReport
from mmojo_forge.model.derivation import INHERENT, Aspect, Derivation
from mmojo_forge.model.lockfile import Lock
from mmojo_forge.recipe.api import Package
from mmojo_forge.recipe.errors import RecipeError
from tests.unit.engine.check import test_checker as test_check
from tests.unit.engine.check.test_checker import EVERY, Place
from tests.unit.recipe.test_recipe import HEAD, evaluator, write

NOTICES = "echo expected > /forge/out/out; ! grep -q 'no such CPU' /proc/cpuinfo"
SPARED = {Aspect.CPU_MODEL: "it asks"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def derivation(workspace: Path, more: str) -> Derivation:
    body = f'@recipe("made")\ndef made() -> Spec:\n    return Spec("made", "/bin/sh", (), {{}}){more}\n'
    write(workspace, "made", HEAD + body)
    return evaluator(workspace, Lock()).instantiate(Package("made")).node


def test_a_recipe_says_what_is_left_as_it_is_and_changes_no_identity(tmp_path: Path) -> None:
    bare = derivation(tmp_path / "bare", "")
    said = '.checked_without(shifted_clock="it hangs\\n  there").checked_without(aslr="it maps low")'
    node = derivation(tmp_path / "said", said)
    assert bare.check_exemptions == {}
    assert node.check_exemptions == {Aspect.CLOCK: "it hangs there", Aspect.ASLR: "it maps low"}
    assert node.id == bare.id
    assert node.preimage({}) == bare.preimage({})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ('clock="it hangs"', "no-such-aspect"),
        ('Shifted_clock="it hangs"', "no-such-aspect"),
        *((f'{aspect.replace("-", "_")}="it cannot be"', "no-such-aspect") for aspect in sorted(INHERENT)),
        ('shifted_clock=""', "aspect-without-reason"),
        ('shifted_clock=" \\n"', "aspect-without-reason"),
        ("shifted_clock=True", "aspect-without-reason"),
        ("shifted_clock=None", "aspect-without-reason"),
    ],
)
def test_what_cannot_be_left_and_what_has_no_reason_are_refused(tmp_path: Path, given: str, reason: str) -> None:
    with pytest.raises(RecipeError) as raised:
        derivation(tmp_path, f".checked_without({given})")
    assert raised.value.reason == reason
    assert "declare made" in raised.value.message


def test_every_other_aspect_can_be_left(tmp_path: Path) -> None:
    for aspect in set(Aspect) - INHERENT:
        word = aspect.value.replace("-", "_")
        assert derivation(tmp_path, f'.checked_without({word}="so")').check_exemptions == {aspect: "so"}


def test_what_is_left_as_it_is_is_so_for_that_node_alone_and_is_not_claimed(place: Place) -> None:
    strict = place.node(NOTICES, "strict")
    spared = replace(place.node(NOTICES, "spared"), check_exemptions=SPARED)
    refused, verdict = place.check(strict, spared)
    assert refused.failure
    assert refused.varied == EVERY
    assert (verdict.identical, verdict.varied) == (True, EVERY - {Aspect.CPU_MODEL})
    report = CheckReport((), (refused, verdict), {})
    assert report.check_exemptions(Aspect.CPU_MODEL) == {"it asks": ("spared",)}
    assert report.check_exemptions(Aspect.UMASK) == {}


def test_files_are_made_in_the_usual_order_where_that_is_left_as_it_is(place: Place) -> None:
    node = place.node("echo expected > /forge/out/out")
    (verdict,) = place.check(replace(node, check_exemptions={Aspect.ORDER: "it lists"}))
    assert verdict.identical
    assert place.plain.has_tree(place.expected)
    assert not place.shuffled.has_tree(place.expected)


def test_the_search_for_a_cause_does_not_try_it_either(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_check, "EVERY", EVERY | {Aspect.PARALLELISM})
    node = place.node("[ $FORGE_JOBS -gt 1 ]; " + NOTICES)
    (verdict,) = place.check(replace(node, parallel=True, check_exemptions=SPARED), bisect=True)
    assert verdict.cause == Cause((Aspect.PARALLELISM,))
    tried = b"".join(line for line in place.reporter.said if line.startswith(b"forge check: "))
    assert b"with umask varied" in tried
    assert b"cpu-model" not in tried


def test_nodes_with_one_reason_are_told_together(place: Place) -> None:
    scripts = [place.node("echo expected > /forge/out/out", name) for name in ("a", "b", "c")]
    nodes = [replace(node, check_exemptions={Aspect.UMASK: "c" if node.name == "c" else "both"}) for node in scripts]
    report = CheckReport((), tuple(place.check(*nodes)), {})
    assert report.check_exemptions(Aspect.UMASK) == {"both": ("a", "b"), "c": ("c",)}
