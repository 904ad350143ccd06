"""What `verify` finds, and that it finds nothing where nothing is wrong."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmojo_forge.model.derivation import action_key
from mmojo_forge.model.digest import TreeId, blake3_hex
from mmojo_forge.model.trace import Trace, TraceOutput
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.maintain.verify import VerifyFinding
from mmojo_forge.store.protocol import StoreError

LARGE = b"0123456789abcdef" * 200_000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def tree(place: Path, tmp_path: Path) -> TreeId:
    """The tree in the store at `place`, checked out as `thing`."""
    top = tmp_path / "source"
    (top / "bin").mkdir(parents=True)
    (top / "bin" / "run").write_bytes(b"#!/bin/sh\n")
    (top / "bin" / "run").chmod(0o755)
    (top / "small").write_bytes(b"small")
    (top / "large").write_bytes(LARGE)
    (top / "link").symlink_to("small")
    with LocalStore.open(place) as store:
        added = store.add_path(top)
        store.checkout(added.id, "thing")
        store.record(Trace(action_key(b"{}"), "thing", b"{}", {"out": TraceOutput(added.id, added.size)}))
    return added.id


@pytest.fixture
def findings(place: Path) -> Iterator[Callable[[], set[tuple[str, str]]]]:
    """Verifies the store and says what was found."""

    def verify() -> set[tuple[str, str]]:
        with LocalStore.open(place) as store:
            return {(finding.reason, finding.path) for finding in store.verify().findings}

    yield verify


Findings = Callable[[], set[tuple[str, str]]]


def blob(data: bytes, suffix: str = "") -> str:
    digest = blake3_hex(data)
    return f"blobs/{digest[:2]}/{digest[2:]}{suffix}"


def rewrite(path: Path, data: bytes) -> None:
    mode = path.stat().st_mode & 0o777
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)


def execute(place: Path, statement: str) -> None:
    with sqlite3.connect(place / "db.sqlite") as connection:
        connection.execute(statement)
    connection.close()


def test_a_whole_store_is_clean(place: Path, tree: TreeId) -> None:
    steps: list[tuple[int, int]] = []
    with LocalStore.open(place) as store:
        report = store.verify(on_progress=lambda done, total: steps.append((done, total)))
    assert report.clean
    assert (report.blobs, report.trees, report.objects) == (3, 1, 1)
    assert steps[-1] == (report.size, report.size) == (len(LARGE) + 15, len(LARGE) + 15)


@pytest.mark.parametrize("position", [0, 1 << 20, len(LARGE) - 1])
def test_one_flipped_bit_is_found(place: Path, tree: TreeId, findings: Findings, position: int) -> None:
    data = bytearray(LARGE)
    data[position] ^= 1
    rewrite(place / blob(LARGE), bytes(data))
    expected = {("blob-corrupt", blob(LARGE)), ("object-altered", f"objects/{tree}-thing/large")}
    assert findings() == expected
    with LocalStore.open(place) as store:
        assert store.verify(check_content=False).clean


@pytest.mark.parametrize("change", [b"", b"smal", b"smalls", b"SMALL"])
def test_other_content_of_a_small_blob_is_found(place: Path, tree: TreeId, findings: Findings, change: bytes) -> None:
    rewrite(place / blob(b"small"), change)
    assert findings() == {("blob-corrupt", blob(b"small")), ("object-altered", f"objects/{tree}-thing/small")}


def test_a_missing_blob_is_found_and_an_object_that_still_has_it_is_whole(
    place: Path, tree: TreeId, findings: Findings
) -> None:
    (place / blob(b"small")).unlink()
    assert findings() == {("blob-missing", blob(b"small"))}


def test_a_blob_without_a_row_is_found(place: Path, tree: TreeId, findings: Findings) -> None:
    (place / "blobs" / "aa").mkdir(exist_ok=True)
    (place / "blobs" / "aa" / "stray").write_bytes(b"")
    (place / "blobs" / "stray").write_bytes(b"")
    assert findings() == {("blob-stray", "blobs/aa/stray"), ("blob-stray", "blobs/stray")}


def test_a_blob_that_can_be_written_is_found(place: Path, tree: TreeId, findings: Findings) -> None:
    (place / blob(b"small")).chmod(0o644)
    assert ("blob-mode", blob(b"small")) in findings()


def test_a_blob_that_is_a_symlink_is_found(place: Path, tree: TreeId, findings: Findings) -> None:
    (place / blob(b"small")).unlink()
    (place / blob(b"small")).symlink_to("/etc/passwd")
    assert ("blob-unreadable", blob(b"small")) in findings()


def test_a_damaged_manifest_is_found(place: Path, tree: TreeId, findings: Findings) -> None:
    rewrite(place / "trees" / tree, b"{}")
    assert findings() == {("tree-corrupt", f"trees/{tree}")}


def test_a_manifest_that_is_gone_is_found(place: Path, tree: TreeId, findings: Findings) -> None:
    (place / "trees" / tree).unlink()
    assert findings() == {("tree-missing", f"trees/{tree}")}


def test_a_manifest_without_a_row_and_its_object_are_found(place: Path, tree: TreeId, findings: Findings) -> None:
    execute(place, "DELETE FROM trees")
    assert findings() == {("tree-stray", f"trees/{tree}"), ("object-stray", f"objects/{tree}-thing")}


def test_a_tree_whose_blob_has_no_row_is_found(place: Path, tree: TreeId, findings: Findings) -> None:
    execute(place, "DELETE FROM blobs WHERE size = 5")
    assert findings() == {("blob-stray", blob(b"small")), ("tree-incomplete", f"trees/{tree}")}


def test_a_trace_that_was_tampered_with_is_found(place: Path, tree: TreeId, findings: Findings) -> None:
    execute(place, "UPDATE traces SET preimage = x'00'")
    assert {reason for reason, _ in findings()} == {"trace-corrupt"}


def _add_file(top: Path) -> str:
    (top / "bin").chmod(0o755)
    (top / "bin" / "more").write_bytes(b"")
    return "bin/more"


def _remove_file(top: Path) -> str:
    top.chmod(0o755)
    (top / "small").unlink()
    return "small"


def _replace_by_symlink(top: Path) -> str:
    _remove_file(top)
    (top / "small").symlink_to("large")
    return "small"


def _redirect(top: Path) -> str:
    top.chmod(0o755)
    (top / "link").unlink()
    (top / "link").symlink_to("large")
    return "link"


def _replace_by_another_file(top: Path) -> str:
    _remove_file(top)
    (top / "small").write_bytes(b"SMALL")
    (top / "small").chmod(0o444)
    return "small"


def _make_executable(top: Path) -> str:
    _remove_file(top)
    (top / "small").write_bytes(b"small")
    (top / "small").chmod(0o555)
    return "small"


@pytest.mark.parametrize(
    "alter", [_add_file, _remove_file, _replace_by_symlink, _redirect, _replace_by_another_file, _make_executable]
)
def test_an_altered_object_is_found(
    place: Path, tree: TreeId, findings: Findings, alter: Callable[[Path], str]
) -> None:
    altered = alter(place / "objects" / f"{tree}-thing")
    assert findings() == {("object-altered", f"objects/{tree}-thing/{altered}")}


def test_an_object_of_no_tree_is_found(place: Path, tree: TreeId, findings: Findings) -> None:
    (place / "objects" / "something").mkdir()
    assert findings() == {("object-stray", "objects/something")}


def test_a_damaged_database_page_is_found_or_refused(place: Path, tree: TreeId) -> None:
    with (place / "db.sqlite").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096))
    try:
        with LocalStore.open(place) as store:
            assert VerifyFinding("database-corrupt", "db.sqlite") in store.verify().findings
    except StoreError as error:
        assert error.reason == "store-corrupt"
