"""Provenance statements: signed, complete, and the same each time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mmojo_forge.engine.sbom import provenance
from mmojo_forge.engine.sbom.documents import PackedFile, describe_package
from mmojo_forge.model.derivation import LocalSource
from mmojo_forge.model.digest import TreeId
from mmojo_forge.model.signature import PrivateKey, SignatureError, unseal
from tests.unit.engine.sbom.test_bom import LINKED, SDIST, bill, of, server

KEY = PrivateKey.parse(f"tester:{'A' * 43}=")
PARAMETERS = {"target": "server", "args": ["--port", "1"]}
PACKAGE = PackedFile("hello.ape", "c" * 64, 99)
ADDED = (PackedFile("tiny.gguf", "a" * 64, 12), PackedFile("mmojo-server-args", "b" * 64, 3))


def statement(line: str) -> dict[str, Any]:
    payload, signer = unseal(line, [KEY.public])
    assert signer == KEY.public
    document: dict[str, Any] = json.loads(payload)
    return document


@pytest.fixture
def document() -> dict[str, Any]:
    return statement(describe_package(bill(server(LINKED)), PACKAGE, ADDED, PARAMETERS, KEY).provenance)


def test_it_is_an_in_toto_statement_with_slsa_provenance(document: dict[str, Any]) -> None:
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    assert document["subject"] == [{"name": "hello.ape", "digest": {"sha256": "c" * 64}}]
    build = document["predicate"]["buildDefinition"]
    assert build["buildType"] == "urn:mmojo-forge:package:v1"
    assert build["externalParameters"] == PARAMETERS
    builder = document["predicate"]["runDetails"]["builder"]
    assert builder["id"] == f"urn:mmojo-forge:builder:{KEY.public}"


def test_what_was_put_together_and_every_source_are_dependencies(document: dict[str, Any]) -> None:
    rows = document["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [row["name"] for row in rows[:3]] == ["server", "mmojo-server-args", "tiny.gguf"]
    [sdist] = [row for row in rows if row["name"] == SDIST.name]
    assert sdist["uri"] == SDIST.locator
    assert sdist["digest"] == {"sha256": SDIST.sha256, "blake3": SDIST.blake3, "forgeTreeV1": of(SDIST).tree}
    assert [row["name"] for row in rows[3:]] == sorted(row["name"] for row in rows[3:])


def test_the_same_package_gives_the_same_line_whatever_the_order() -> None:
    first, second = (
        describe_package(bill(server(LINKED)), PACKAGE, added, PARAMETERS, KEY) for added in (ADDED, ADDED[::-1])
    )
    assert first == second


def test_another_key_is_not_believed() -> None:
    line = describe_package(bill(server(LINKED)), PACKAGE, ADDED, PARAMETERS, PrivateKey.generate()).provenance
    with pytest.raises(SignatureError) as caught:
        unseal(line, [KEY.public])
    assert caught.value.reason == "unknown-signer"


@pytest.mark.parametrize(
    ("locator", "uri"),
    [
        ("url:https://example.org/a.zip", "https://example.org/a.zip"),
        (f"git:https://example.org/r.git#{'c' * 40}", f"git+https://example.org/r.git#{'c' * 40}"),
        ("pypi:a==1/a-1.tar.gz", "pypi:a==1/a-1.tar.gz"),
    ],
)
def test_a_source_is_named_by_where_it_is_looked_for(locator: str, uri: str) -> None:
    assert provenance.source_reference(replace(of(SDIST), locator=locator))["uri"] == uri


def test_files_of_the_workspace_have_their_tree_only() -> None:
    local = LocalSource("source", "/home/one/source", TreeId("d" * 64))
    assert provenance.source_reference(local) == {"name": "source", "digest": {"forgeTreeV1": "d" * 64}}
