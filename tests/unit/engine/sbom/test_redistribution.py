"""What may not be passed on is told in bills, and never in a result without a word."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mmojo_forge.engine.sbom import cyclonedx, spdx
from mmojo_forge.engine.sbom.bom import Bill
from mmojo_forge.engine.sbom.documents import SbomError, check_complete
from mmojo_forge.model.derivation import ALL, Component
from tests.unit.engine.sbom.test_bom import SDIST, USERLAND, WHEEL, bill, made, unpack

PROPERTY = "mmojo-forge:redistributable"
RUNTIME = Component("runtime", "13.0", "MIT", of="zig", redistributable=True)
COMPILER = Component("zig", licence="MIT", redistributable=False)


def result(contents: tuple[str, ...], *components: Component) -> Bill:
    toolkit = unpack("toolkit", WHEEL, components=components)
    source = unpack("source", SDIST, components=(Component("server", "2.0", "MIT"),))
    inputs = {"toolkit": toolkit, "source": source, "userland": USERLAND}
    return bill(made("program", inputs, {"source": ALL, "toolkit": contents}))


def told(document: bytes) -> dict[str, str]:
    """What a CycloneDX document says of each component that it says something of."""
    parsed = json.loads(document)
    rows = [*parsed["components"], *parsed["formulation"][0]["components"]]
    properties = {row["name"]: {one["name"]: one["value"] for one in row.get("properties", ())} for row in rows}
    return {name: values[PROPERTY] for name, values in properties.items() if PROPERTY in values}


def test_the_runtime_of_a_compiler_may_be_in_a_result_though_the_compiler_may_not() -> None:
    made_of = result(("runtime",), COMPILER, RUNTIME)
    check_complete(made_of)
    assert told(cyclonedx.encode(made_of)) == {"runtime": "yes", "zig": "no"}
    comments = {row["name"]: row.get("comment", "") for row in json.loads(spdx.encode(made_of))["packages"]}
    assert (comments["runtime"], comments["zig"]) == (f"{PROPERTY}=yes", f"{PROPERTY}=no")


def test_what_may_not_be_passed_on_fails_the_strict_check_by_name() -> None:
    with pytest.raises(SbomError) as caught:
        check_complete(result(ALL, COMPILER, RUNTIME))
    assert caught.value.reason == "not-redistributable"
    assert "zig" in caught.value.message
    assert "runtime" not in caught.value.message


def test_most_recipes_say_nothing_of_it_and_that_is_no_gap() -> None:
    made_of = result(ALL, replace(COMPILER, redistributable=None))
    check_complete(made_of)
    assert told(cyclonedx.encode(made_of)) == {}
    assert PROPERTY not in spdx.encode(made_of).decode()


def test_it_is_no_part_of_any_identity() -> None:
    roots = [result(ALL, replace(COMPILER, redistributable=said)).root for said in (None, True, False)]
    assert len({root.ref for root in roots}) == 1
