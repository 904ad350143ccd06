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


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "receipt-malformed"), (b"hello\n", "envelope-malformed"), (b"\xff\xfe", "receipt-malformed")],
)
def test_a_file_that_is_no_receipt_is_told(forge: Forge, receipt: Path, content: bytes, reason: str) -> None:
    receipt.write_bytes(content)
    assert forge.error("check", "--against", str(receipt), "toy")["reason"] == reason
    receipt.unlink()
    assert forge.error("check", "--against", str(receipt), "toy")["reason"] == "receipt-unreadable"


def test_another_builders_different_output_is_a_disagreement(forge: Forge) -> None:
    """What a build makes of chance it cannot hide from a comparison."""
    script = "cat /proc/sys/kernel/random/uuid > /forge/out/out"
    forge.recipe("toy", f'@recipe("toy")\ndef toy() -> Spec:\n    return sh("toy", "{script}")\n')
    forge.run("check", "toy", expect=1)
    theirs = forge.root / "theirs.jsonl"
    (forge.root / "out" / "toy.intoto.jsonl").rename(theirs)
    forge.environment["FORGE_STORE"] = str(forge.root / "another-store")
    done = forge.run("check", "--against", str(theirs), "toy", "--json", expect=1)
    document = json.loads(done.stdout)
    assert document["agrees"] is False
    assert document["nodes"][0]["ours"] != document["nodes"][0]["theirs"]


def test_a_receipt_says_of_each_node_what_was_varied_and_of_none_more(forge: Forge) -> None:
    """What forge itself unpacks knows of no host environment."""
    forge.recipe("toy", TOY)
    forge.run("check", "--closure", "toy")
    varied = {}
    for line in (forge.root / "out/toy.intoto.jsonl").read_text().splitlines():
        predicate = json.loads(base64.b64decode(json.loads(line)["payload"]))["predicate"]
        [check] = predicate["runDetails"]["byproducts"]
        varied[predicate["buildDefinition"]["externalParameters"]["name"]] = set(check["annotations"]["varied"])
    assert "umask" in varied["toy"] - varied["busybox"]
    assert {"real-time", "build-path", "store-path"} <= varied["busybox"] < varied["toy"]
    assert "parallelism" not in varied["toy"]


def test_a_failed_rebuild_is_in_the_receipt_and_confirms_nothing(forge: Forge) -> None:
    script = "nproc > /forge/out/out; [ $(nproc) -gt 1 ]"
    forge.recipe("toy", f'@recipe("toy")\ndef toy():\n    return sh("toy", "{script}")\n')
    forge.realize("toy")
    done = forge.start("check", "--json", "toy")
    report = json.loads(done.communicate(timeout=300)[0])
    if report["identical"]:
        pytest.skip("there is only one CPU here")
    receipt = forge.root / "out/toy.intoto.jsonl"
    [check] = statement(receipt)["predicate"]["runDetails"]["byproducts"]
    assert check["annotations"]["identical"] is False
    assert check["annotations"]["failure"] == "build-failed"
    document = json.loads(forge.run("check", "--against", str(receipt), "toy", "--json").stdout)
    assert [(row["agrees"], row["confirmed"]) for row in document["nodes"]] == [(True, False)]


def test_a_receipt_that_says_nothing_of_one_of_the_targets_is_told(forge: Forge, receipt: Path) -> None:
    forge.recipe("other", '@recipe("other")\ndef other():\n    return sh("other", "echo > /forge/out/out")\n')
    assert forge.error("check", "--against", str(receipt), "toy", "other")["reason"] == "receipt-other-key"


CHAIN = """
@recipe("toy")
def toy(*, word: str = "base"):
    return sh("base", f"echo {word} > /forge/out/out")

@recipe("toy.middle")
def middle(toy: Package):
    return sh("middle", "cat /forge/toy > /forge/out/out", inputs={"toy": toy})

@recipe("toy.top")
def top():
    return sh("top", "cat /forge/middle; echo top > /forge/out/out", inputs={"middle": Package("toy.middle")})
"""


def test_what_was_forgotten_below_does_not_stand_in_the_way(forge: Forge) -> None:
    forge.recipe("toy", CHAIN)
    forge.run("check", "--closure", "--receipt", "all.jsonl", "toy.top")
    forge.realize("toy.top", "toy.middle", "busybox")
    forge.run("store", "gc", "--older-than", "0", "--forget")
    document = json.loads(forge.run("check", "--against", "all.jsonl", "toy.top", "--json").stdout)
    assert document["agrees"]
    assert "top" in [row["name"] for row in document["nodes"]]


def test_what_is_built_is_signed(forge: Forge) -> None:
    forge.recipe("toy", TOY)
    forge.realize("toy")
    own = json.loads(forge.run("cache", "key", "show", "--json").stdout)["own"]
    info = json.loads(forge.run("info", "toy", "--json").stdout)
    assert info["signed_by"] == own
    assert info["built_by"] == own.partition(":")[0]


def test_without_a_home_to_keep_a_key_in_builds_go_on_unsigned(forge: Forge) -> None:
    forge.recipe("toy", TOY)
    blocked = forge.root / "blocked"
    blocked.write_text("a file, not a folder")
    forge.environment["XDG_CONFIG_HOME"] = str(blocked)
    done = forge.run("realize", "toy")
    assert "not signed" in done.stderr
