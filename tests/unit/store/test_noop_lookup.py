"""The no-op path: what it knows, and what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmojo_forge.model.digest import DerivationId, TreeId
from mmojo_forge.store import noop_lookup
from mmojo_forge.store.local import LocalStore

ONE, TWO = DerivationId("a" * 64), DerivationId("b" * 64)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "100% of #1?"


def test_what_is_valid_is_known(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with LocalStore.open(place) as store:
        tree = store.add_path(tmp_path / "file")
        store.record_resolved({ONE: {"out": tree.id}, TWO: {"out": TreeId("0" * 64)}})
        assert noop_lookup.lookup_resolved(str(place), [ONE, TWO]) == {ONE: {"out": tree.id}}
        assert noop_lookup.object_path(str(place), tree.id, "thing") is None
        path = store.checkout(tree.id, "thing")
        assert noop_lookup.object_path(str(place), tree.id, "thing") == str(path)
    assert noop_lookup.lookup_resolved(str(place), [ONE, TWO]) == {ONE: {"out": tree.id}}


def test_a_root_is_known_once_it_is_linked_and_registered(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    link = tmp_path / "out" / "thing"
    with LocalStore.open(place) as store:
        tree = store.add_path(tmp_path / "file")
        path = str(store.checkout(tree.id, "thing"))
        assert not noop_lookup.has_root(str(place), str(link), path)
        store.add_root(link, tree.id, "thing")
    assert noop_lookup.has_root(str(place), str(link), path)
    link.unlink()
    assert not noop_lookup.has_root(str(place), str(link), path)


def test_nothing_is_known_of_a_store_that_is_not_there_or_foreign(place: Path) -> None:
    assert noop_lookup.lookup_resolved(str(place), [ONE]) == {}
    assert not place.exists()
    place.mkdir()
    (place / "db.sqlite").write_bytes(b"something else" * 1000)
    assert noop_lookup.lookup_resolved(str(place), [ONE]) == {}


def test_nothing_heavy_is_imported() -> None:
    text = "import sys, mmojo_forge.store.noop_lookup; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(noop_lookup.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True)
    heavy = {"blake3", "zstandard", "dataclasses", "pathlib", "hashlib", "json", "ctypes", "typing", "pydantic"}
    # What the interpreter itself brings in at its start-up is not ours.
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert heavy & (set(done.stdout.split()) - set(bare.stdout.split())) == set()
