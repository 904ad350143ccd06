"""A tree that arrives from a cache: whole or not at all, whatever happens to process, disk or cache on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.read.transfer import Options
from mmojo_forge.cache.transport.fakes import FaultyTransport, MemoryTransport
from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.cache.write.writer import CacheWriter
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.tree import Tree
from mmojo_forge.store.add import batch
from mmojo_forge.store.local import LocalStore
from tests.support.caches import Files
from tests.support.killed import in_child_killed_at

FILES = Files(
    {
        "bin/tool*": b"tool" * 50_000,
        "bin/same": b"tool" * 50_000,
        "lib/small": b"small",
        "lib/small-too*": b"small",
        "lib/empty": b"",
        "lib/large": bytes(range(256)) * 2000,
    }
)
WRITES = ("write", "pwrite", "writev", "rename", "fchmod", "mkdir", "open")


@pytest.fixture(scope="module")
def cache() -> MemoryTransport:
    transport = MemoryTransport()
    CacheWriter(transport, pack_bytes=300_000).push([FILES.item])
    return transport


def receive(store: LocalStore, cache: Transport, tree: Tree = FILES.tree) -> None:
    reader = CacheReader(cache, (), Options(connections=1, attempts=1))
    store.receive(tree, lambda sink, partial: reader.fetch_content(tree, sink, partial))


def check_received(store: LocalStore) -> None:
    path = store.checkout(FILES.tree.id, "files")
    for name, content in FILES.content.items():
        file = path / name.rstrip("*")
        assert file.read_bytes() == content
        assert file.stat().st_mode & 0o777 == (0o555 if name.endswith("*") else 0o444)
    assert store.verify().clean
    assert not list((store.path / "downloads").glob("*"))


def test_a_tree_comes_in_with_both_forms_of_a_file(tmp_path: Path, cache: MemoryTransport) -> None:
    with LocalStore.open(tmp_path / "store") as store:
        receive(store, cache)
        check_received(store)


def test_what_is_here_already_is_not_fetched(tmp_path: Path, cache: MemoryTransport) -> None:
    with LocalStore.open(tmp_path / "store") as store:
        (tmp_path / "large").write_bytes(FILES.content["lib/large"])
        (tmp_path / "tool").write_bytes(FILES.content["bin/same"])
        store.add_path(tmp_path / "large")
        store.add_path(tmp_path / "tool")
        receive(store, cache)
        check_received(store)


def test_a_sink_that_is_left_incomplete_registers_nothing(tmp_path: Path) -> None:
    with LocalStore.open(tmp_path / "store") as store:
        with pytest.raises(ForgeError) as caught:
            store.receive(FILES.tree, lambda sink, partial: None)
        assert caught.value.reason == "blob-missing"
        assert not store.has_tree(FILES.tree.id)
        assert store.verify().clean


def test_a_receiver_that_is_killed_at_any_call_leaves_a_clean_store(tmp_path: Path, cache: MemoryTransport) -> None:
    place = tmp_path / "store"
    call, killed = 0, True
    while killed:

        def act() -> None:
            with LocalStore.open(place) as store:
                receive(store, cache)

        killed = in_child_killed_at(call, act)
        with LocalStore.open(place) as store:
            assert store.verify().clean
        call += 1
    assert call > 20
    with LocalStore.open(place) as store:
        receive(store, cache)
        check_received(store)


@contextmanager
def failing_at(call: int, error: int) -> Iterator[list[int]]:
    """The n-th of the calls that write fails; how many calls are left, below 0 if it did."""
    left = [call]
    originals = {name: getattr(os, name) for name in WRITES}
    renaming = batch.rename_new

    def guard(original: Any) -> Any:
        def counted(*arguments: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(error, os.strerror(error))
            return original(*arguments, **more)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name, original in originals.items():
            patch.setattr(os, name, guard(original))
        patch.setattr(batch, "rename_new", guard(renaming))
        yield left


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "failing"])
def test_a_disk_that_fails_at_any_write_leaves_a_clean_store(
    tmp_path: Path, cache: MemoryTransport, error: int
) -> None:
    call, failed = 0, True
    while failed:
        with LocalStore.open(tmp_path / str(call)) as store:
            with failing_at(call, error) as left:
                try:
                    receive(store, cache)
                except ForgeError as caught:
                    # Whatever went wrong, it is one of ours, with a reason.
                    assert caught.reason, call
                else:
                    failed = left[0] < 0
            failed = left[0] < 0
            if not store.has_tree(FILES.tree.id):
                assert store.verify().clean, call
                receive(store, cache)
            check_received(store)
        call += 1
    assert call > 20


@pytest.mark.parametrize("operations", range(8))
def test_a_cache_that_dies_on_the_way_is_gone_on_with(tmp_path: Path, cache: MemoryTransport, operations: int) -> None:
    dying = FaultyTransport(cache, operations=operations)
    with LocalStore.open(tmp_path / "store") as store:
        try:
            receive(store, dying)
        except ForgeError:
            assert not store.has_tree(FILES.tree.id)
            assert store.verify().clean
        dying.revive()
        if not store.has_tree(FILES.tree.id):
            receive(store, dying)
        check_received(store)
