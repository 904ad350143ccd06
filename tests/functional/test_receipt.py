"""Signed receipts: written by `forge check`, compared by another builder with `--against`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import Forge

TOY = """
@recipe("toy")
def toy(*, word: str = "hello") -> Spec:
    return sh("toy", f"echo {word} > /forge/out/out")
"""


@pytest.fixture
def receipt(forge: Forge) -> Path:
    forge.recipe("toy", TOY)
    forge.run("check", "toy")
    return forge.root / "out" / "toy.intoto.jsonl"


def statement(receipt: Path) -> dict[str, Any]:
    envelope = json.loads(receipt.read_text().splitlines()[0])
    document: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return document


def test_a_receipt_is_an_in_toto_statement_with_slsa_provenance(forge: Forge, receipt: Path) -> None:
    document = statement(receipt)
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    [subject] = document["subject"]
    tree = json.loads(forge.run("info", "toy", "--json").stdout)["tree"]
    assert subject["digest"]["forgeTreeV1"] == tree
    build = document["predicate"]["buildDefinition"]
    assert [one["name"] for one in build["resolvedDependencies"]] == ["busybox"]
    [check] = document["predicate"]["runDetails"]["byproducts"]
    assert check["annotations"]["identical"] is True
    assert check["annotations"]["rebuilt"] == {"out": tree}
    assert len(check["annotations"]["varied"]) >= 12


def test_the_own_receipt_agrees(forge: Forge, receipt: Path) -> None:
    document = json.loads(forge.run("check", "--against", str(receipt), "toy", "--json").stdout)
    assert document["agrees"] is True
    assert [row["name"] for row in document["nodes"]] == ["toy"]


def test_a_strangers_receipt_is_refused_until_the_key_is_trusted(forge: Forge, receipt: Path) -> None:
    key = json.loads(forge.run("cache", "key", "show", "--json").stdout)["own"]
    forge.environment["XDG_CONFIG_HOME"] = str(forge.root / "another-user")
    assert forge.error("check", "--against", str(receipt), "toy")["reason"] == "unknown-signer"
    forge.run("cache", "key", "trust", key)
    forge.run("check", "--against", str(receipt), "toy")
    forge.run("cache", "key", "revoke", key.partition(":")[0], "--reason", "test")
    assert forge.error("check", "--against", str(receipt), "toy")["reason"] == "unknown-signer"


def test_an_altered_receipt_is_refused(forge: Forge, receipt: Path) -> None:
    envelope = json.loads(receipt.read_text())
    document = statement(receipt)
    document["subject"][0]["digest"]["forgeTreeV1"] = "0" * 64
    envelope["payload"] = base64.b64encode(json.dumps(document).encode()).decode()
    receipt.write_text(json.dumps(envelope))
    assert forge.error("check", "--against", str(receipt), "toy")["reason"] == "bad-signature"


def test_a_receipt_for_another_key_is_told(forge: Forge, receipt: Path) -> None:
    error = forge.error("check", "--against", str(receipt), "--set", "word=goodbye", "toy")
    assert error["reason"] == "receipt-other-key"


@pytest.mark.parametrize(("text", "reason"), [("", "receipt-malformed"), ("hello\n", "envelope-malformed")])
def test_a_file_that_is_no_receipt_is_told(forge: Forge, receipt: Path, text: str, reason: str) -> None:
    receipt.write_text(text)
    assert forge.error("check", "--against", str(receipt), "toy")["reason"] == reason


def test_another_builders_different_output_is_a_disagreement(forge: Forge) -> None:
    """What a build makes of the time of day it cannot hide from a comparison."""
    forge.recipe("toy", '@recipe("toy")\ndef toy() -> Spec:\n    return sh("toy", "date +%s%N > /forge/out/out")\n')
    forge.run("check", "toy", expect=1)
    theirs = forge.root / "theirs.jsonl"
    (forge.root / "out" / "toy.intoto.jsonl").rename(theirs)
    forge.environment["FORGE_STORE"] = str(forge.root / "another-store")
    done = forge.run("check", "--against", str(theirs), "toy", "--json", expect=1)
    document = json.loads(done.stdout)
    assert document["agrees"] is False
    assert document["nodes"][0]["ours"] != document["nodes"][0]["theirs"]


def test_what_is_built_is_signed(forge: Forge) -> None:
    forge.recipe("toy", TOY)
    forge.realize("toy")
    own = json.loads(forge.run("cache", "key", "show", "--json").stdout)["own"]
    info = json.loads(forge.run("info", "toy", "--json").stdout)
    assert info["signed by"] == own
    assert info["built by"] == own.partition(":")[0]


def test_without_a_home_to_keep_a_key_in_builds_go_on_unsigned(forge: Forge) -> None:
    forge.recipe("toy", TOY)
    blocked = forge.root / "blocked"
    blocked.write_text("a file, not a folder")
    forge.environment["XDG_CONFIG_HOME"] = str(blocked)
    done = forge.run("realize", "toy")
    assert "not signed" in done.stderr
