"""The local store beyond the protocol: sharing, damage met on the way, full disks, power cuts, foreign databases."""

from __future__ import annotations

import errno
import io
import os
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.errors import ExitCode, ForgeError
from mmojo_forge.model.derivation import action_key
from mmojo_forge.model.digest import BlobDigest, DerivationId, blake3_hex
from mmojo_forge.model.trace import Trace, TraceOutput
from mmojo_forge.model.tree import Tree
from mmojo_forge.store import layout, noop_lookup
from mmojo_forge.store.add import batch
from mmojo_forge.store.add.batch import Batch
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.noop_lookup import APPLICATION_ID, SCHEMA
from mmojo_forge.store.protocol import StoreError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(place: Path) -> Iterator[LocalStore]:
    with LocalStore.open(place) as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "source")


def make_tree(top: Path, salt: bytes = b"") -> Path:
    """A tree with duplicates, a symlink, an empty file and something large."""
    (top / "lib" / "deep").mkdir(parents=True)
    for name in ("a", "lib/a", "lib/deep/a"):
        (top / name).write_bytes(b"same" + salt)
    (top / "lib" / "empty").write_bytes(b"")
    (top / "lib" / "large").write_bytes(b"large" * 100_000 + salt)
    (top / "run").write_bytes(b"same" + salt)
    (top / "run").chmod(0o755)
    (top / "lib" / "link").symlink_to("../a")
    return top


def blob_file(place: Path, data: bytes, suffix: str = "") -> Path:
    digest = blake3_hex(data)
    return place / "blobs" / digest[:2] / (digest[2:] + suffix)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ForgeError) as caught:
        act()
    return caught.value.reason


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a read-only file in place, as a failing disk does."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(change(path.read_bytes()))
    path.chmod(stat.S_IMODE(mode))


def stale_files(place: Path) -> list[str]:
    """What lies in tmp/ below the directories of processes."""
    bookkeeping = ("intent", "using")
    return [
        str(path.relative_to(place)) for path in (place / "tmp").glob("*/*") if not path.name.startswith(bookkeeping)
    ]


def test_content_is_kept_once_however_many_trees_and_objects_have_it(store: LocalStore, source: Path) -> None:
    tree = store.add_path(source)
    one = store.checkout(tree.id, "one")
    two = store.checkout(tree.id, "two")
    inodes = {(top / name).stat().st_ino for top in (one, two) for name in ("a", "lib/a", "lib/deep/a")}
    assert inodes == {blob_file(store.path, b"same").stat().st_ino}
    assert (one / "run").stat().st_ino == blob_file(store.path, b"same", ".x").stat().st_ino
    assert store.verify().blobs == 4


def test_objects_have_one_time_and_no_write_permission(store: LocalStore, source: Path) -> None:
    top = store.checkout(store.add_path(source).id, "thing")
    for path in [top, *top.rglob("*")]:
        status = path.lstat()
        assert status.st_mtime == layout.EPOCH
        if stat.S_ISDIR(status.st_mode):
            assert stat.S_IMODE(status.st_mode) == 0o555


def test_an_object_is_a_copy_where_links_run_out(
    store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise OSError(errno.EMLINK, "too many links")

    tree = store.add_path(source)
    monkeypatch.setattr(os, "link", no_link)
    top = store.checkout(tree.id, "thing")
    assert (top / "lib" / "large").read_bytes() == b"large" * 100_000
    assert os.access(top / "run", os.X_OK)
    assert store.verify().clean


def test_a_thousand_files_go_in_and_out(store: LocalStore, tmp_path: Path) -> None:
    top = tmp_path / "many"
    for number in range(1000):
        path = top / str(number % 10) / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % (number % 700))
    (top / "big").write_bytes(os.urandom(5 << 20))
    tree = store.add_path(top)
    path = store.checkout(tree.id, "many")
    assert (path / "3" / "993").read_bytes() == b"293"
    assert store.add_path(path).id == tree.id
    assert store.add_path(top, move=True).id == tree.id
    report = store.verify()
    assert (report.blobs, report.clean) == (701, True)


def test_one_bad_file_among_a_thousand_keeps_all_out(store: LocalStore, tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "many" / str(number)).parent.mkdir(exist_ok=True)
        (tmp_path / "many" / str(number)).write_bytes(b"%d" % number)
    (tmp_path / "many" / "odd").write_bytes(b"")
    (tmp_path / "many" / "odd").chmod(0o4755)
    assert refusal(lambda: store.add_path(tmp_path / "many")) == "output-setuid"
    assert store.verify().blobs == 0
    assert stale_files(store.path) == []


def test_a_file_that_grows_while_it_is_read_is_refused(
    store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, count: read(fd, count) + b"more")
    assert refusal(lambda: store.add_path(source)) == "output-changed"


def test_a_shared_work_folder_does_not_make_every_output_setgid(store: LocalStore, source: Path) -> None:
    for path in (source, source / "lib", source / "lib" / "deep"):
        path.chmod(0o2755)
    assert store.has_tree(store.add_path(source).id)


def test_corrupt_content_is_never_served_silently(store: LocalStore, source: Path) -> None:
    store.add_path(source)
    damage(blob_file(store.path, b"same"), lambda data: b"SAME")
    with store.open_blob(BlobDigest(blake3_hex(b"same"))) as file:
        assert refusal(file.read) == "blob-corrupt"


def test_truncated_content_is_seen_on_checkout(store: LocalStore, source: Path) -> None:
    tree = store.add_path(source)
    damage(blob_file(store.path, b"same"), lambda data: data[:-1])
    assert refusal(lambda: store.checkout(tree.id, "thing")) == "blob-corrupt"
    assert stale_files(store.path) == []


def test_content_that_was_deleted_is_seen_on_checkout(store: LocalStore, source: Path) -> None:
    tree = store.add_path(source)
    blob_file(store.path, b"same").unlink()
    assert refusal(lambda: store.checkout(tree.id, "thing")) == "blob-missing"


def test_adding_again_replaces_content_that_is_gone_or_cut_off(store: LocalStore, source: Path) -> None:
    tree = store.add_path(source)
    blob_file(store.path, b"same").unlink()
    damage(blob_file(store.path, b"same", ".x"), lambda data: data[:-1])
    store.add_path(source)
    assert store.verify().clean
    assert (store.checkout(tree.id, "thing") / "a").read_bytes() == b"same"


def test_a_changed_manifest_is_never_served(store: LocalStore, source: Path) -> None:
    tree = store.add_path(source)
    damage(store.path / "trees" / tree.id, lambda data: data.replace(b'"run","x"', b'"run","f"'))
    assert refusal(lambda: store.read_tree(tree.id)) == "tree-corrupt"
    assert refusal(lambda: store.checkout(tree.id, "thing")) == "tree-corrupt"


def test_a_blob_collected_meanwhile_is_taken_in_again(
    store: LocalStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A garbage collector may remove what a batch has found, up to the moment it publishes."""
    store.add_path(source)
    publish = Batch.publish
    collected: list[bool] = []

    def collect_then_publish(self: Batch, trees: Sequence[Tree], moved_fd: int | None = None) -> None:
        if not collected:
            collected.append(True)
            with sqlite3.connect(store.path / "db.sqlite") as connection:
                connection.execute("DELETE FROM blobs")
                connection.execute("DELETE FROM trees")
            connection.close()
            for path in [*store.path.glob("blobs/*/*"), *store.path.glob("trees/*")]:
                path.unlink()
        publish(self, trees, moved_fd)

    monkeypatch.setattr(batch.Batch, "publish", collect_then_publish)
    store.add_path(source)
    assert store.verify().clean
    assert store.verify().trees == 1
    collected.clear()
    store.add_file(io.BytesIO(b"same"))
    assert store.verify().clean
    assert store.verify().trees == 1


def test_threads_may_add_and_check_out_the_same_tree_at_once(store: LocalStore, source: Path) -> None:
    def work(_: int) -> Path:
        return store.checkout(store.add_path(source).id, "thing")

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(work, range(30)))) == 1
    assert store.verify().clean
    assert stale_files(store.path) == []


# A full disk


class FaultyDisk:
    """Lets the n-th call that could need space fail, and all that follow it until it is mended."""

    CALLS = ("write", "rename", "link", "mkdir", "symlink", "pwrite")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.left: int | None = None
        self._code = code
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))
        self._open = os.open
        monkeypatch.setattr(os, "open", self._open_or_fail)

    def _count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise OSError(self._code, os.strerror(self._code))

    def _wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **keywords: Any) -> Any:
            self._count()
            return call(*args, **keywords)

        return guarded

    def _open_or_fail(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        # Files that exist already are opened with O_CREAT too, where they are locks.
        if flags & os.O_EXCL:
            self._count()
        return self._open(path, flags, mode, dir_fd=dir_fd)


@pytest.mark.parametrize(("code", "reason"), [(errno.ENOSPC, "disk-full"), (errno.EIO, "store-io")])
@pytest.mark.parametrize("move", [False, True])
def test_a_disk_that_fails_at_any_call_leaves_nothing_half_registered(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str, move: bool
) -> None:
    with LocalStore.open(place) as store:
        before = store.add_path(make_tree(tmp_path / "first"))
        disk = FaultyDisk(monkeypatch, code)
        survived = False
        calls = 0
        while not survived:
            disk.left = None
            source = make_tree(tmp_path / f"tree-{calls}", salt=b"%d" % calls)
            disk.left = calls
            try:
                tree = store.add_path(source, move=move)
                store.checkout(tree.id, "thing")
                survived = True
            except StoreError as error:
                assert error.reason == reason
                assert error.exit_code is ExitCode.ENVIRONMENT_ERROR
            disk.left = None
            assert store.verify().findings == ()
            assert stale_files(place) == []
            calls += 1
        assert calls > 15
        assert store.has_tree(before.id)


def test_a_full_database_is_a_full_disk(store: LocalStore, source: Path) -> None:
    pages = store._database.query("PRAGMA page_count")[0][0]
    store._database.query(f"PRAGMA max_page_count = {pages}")
    reasons = set()
    for number in range(200):
        preimage = b"%d" % number + bytes(5000)
        trace = Trace(action_key(preimage), "big", preimage, {})
        try:
            store.record(trace)
        except StoreError as error:
            reasons.add(error.reason)
    assert reasons == {"disk-full"}
    store._database.query("PRAGMA max_page_count = 1000000")
    assert store.verify().clean


def test_a_small_file_system_that_is_full_says_so(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with LocalStore.open(mount / "store") as store:
            for number in range(12):
                (tmp_path / "tree").mkdir(exist_ok=True)
                (tmp_path / "tree" / f"file-{number}").write_bytes(os.urandom(400_000))
                try:
                    store.add_path(tmp_path / "tree")
                except StoreError as error:
                    assert error.reason == "disk-full"
                    assert str(store.path) in error.message
                    break
            else:
                pytest.fail("the disk never became full")
            assert store.verify().clean
            assert stale_files(store.path) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


# What was there before


def test_leftovers_of_dead_processes_are_cleaned_and_those_of_the_living_are_not(place: Path) -> None:
    with LocalStore.open(place) as living, living.scratch("work") as mine:
        dead = place / "tmp" / "4711-dead"
        (dead / "scratch" / "closed").mkdir(parents=True)
        (dead / "scratch" / "closed" / "file").write_bytes(b"")
        (dead / "scratch" / "closed").chmod(0)
        (place / "tmp" / "stray").write_bytes(b"")
        with LocalStore.open(place):
            assert not dead.exists()
            assert not (place / "tmp" / "stray").exists()
            assert mine.exists()


def test_a_very_deep_leftover_is_removed(place: Path) -> None:
    with LocalStore.open(place) as store, store.scratch("work") as top:
        fd = os.open(top, os.O_RDONLY)
        for _ in range(400):
            os.mkdir("d" * 10, dir_fd=fd)
            below = os.open("d" * 10, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
    assert stale_files(place) == []


def test_what_a_dead_process_published_without_a_row_is_undone(place: Path) -> None:
    digest = blake3_hex(b"half")
    with LocalStore.open(place) as store:
        kept = store.add_file(io.BytesIO(b"whole"))
    half = blob_file(place, b"half")
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b"half")
    (place / "tmp" / "4711-dead").mkdir()
    (place / "tmp" / "4711-dead" / "intent-1").write_text(
        f"blobs/{digest[:2]}/{digest[2:]}\nblobs/{blake3_hex(b'whole')[:2]}/{blake3_hex(b'whole')[2:]}\n"
        f"trees/{kept.id}\n../../etc/passwd\ntrees/../db.sqlite\n"
    )
    with LocalStore.open(place) as store:
        assert not half.exists()
        assert store.verify().clean
        assert store.has_tree(kept.id)


def _as_after_a_power_cut(place: Path) -> None:
    with sqlite3.connect(place / "db.sqlite") as connection:
        connection.execute("UPDATE epochs SET boot = 'an earlier one'")
    connection.close()


def test_what_did_not_reach_the_disk_before_a_power_cut_is_forgotten(place: Path, tmp_path: Path) -> None:
    store = LocalStore.open(place)
    durable = store.add_path(make_tree(tmp_path / "one"))
    store.sync()
    lost = store.add_path(make_tree(tmp_path / "two", salt=b"2"))
    kept = store.add_file(io.BytesIO(b"kept"))
    object_path = store.checkout(lost.id, "thing")
    derivation = DerivationId("d" * 64)
    store.record_resolved({derivation: {"out": kept.id}})
    store._added = False
    store.close()
    _as_after_a_power_cut(place)
    assert noop_lookup.lookup_resolved(str(place), [derivation]) == {}
    damage(blob_file(place, b"same2"), lambda data: b"")
    with LocalStore.open(place) as store:
        assert store.valid_trees([durable.id, lost.id, kept.id]) == {durable.id, kept.id}
        assert not object_path.exists()
        assert store.verify().findings == ()
        assert store.add_path(tmp_path / "two").id == lost.id
        assert noop_lookup.lookup_resolved(str(place), [derivation]) == {derivation: {"out": kept.id}}


def test_what_was_synced_is_not_checked_again(place: Path, source: Path) -> None:
    with LocalStore.open(place) as store:
        tree = store.add_path(source)
    _as_after_a_power_cut(place)
    blob_file(place, b"same").unlink()
    with LocalStore.open(place) as store:
        assert store.has_tree(tree.id)
        assert [finding.reason for finding in store.verify().findings].count("blob-missing") == 1


def _database(place: Path, *statements: str) -> None:
    place.mkdir()
    with sqlite3.connect(place / "db.sqlite") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statements",
    [
        (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA + 1}"),
        (f"PRAGMA user_version = {SCHEMA}", "CREATE TABLE blobs (id)"),
        ("PRAGMA application_id = 12345",),
    ],
)
def test_a_store_with_another_schema_is_refused_untouched(place: Path, statements: tuple[str, ...]) -> None:
    _database(place, *statements)
    before = (place / "db.sqlite").read_bytes()
    assert refusal(lambda: LocalStore.open(place)) == "store-schema"
    assert (place / "db.sqlite").read_bytes() == before


def test_a_database_that_is_none_is_refused(place: Path) -> None:
    place.mkdir()
    (place / "db.sqlite").write_bytes(b"no database at all" * 1000)
    assert refusal(lambda: LocalStore.open(place)) == "store-corrupt"


def test_a_place_that_cannot_hold_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert refusal(lambda: LocalStore.open(tmp_path / "file" / "store")) == "store-io"


def test_an_opened_store_may_be_opened_again_and_sees_what_is_added(place: Path, source: Path) -> None:
    with LocalStore.open(place) as one, LocalStore.open(place) as two:
        tree = one.add_path(source)
        assert two.has_tree(tree.id)
        assert two.checkout(tree.id, "thing") == one.checkout(tree.id, "thing")


def test_a_root_beside_the_store_is_relative_so_that_both_can_be_moved(tmp_path: Path, source: Path) -> None:
    workspace = tmp_path / "workspace"
    with LocalStore.open(workspace / "store") as store:
        tree = store.add_path(source)
        store.add_root(workspace / "out" / "thing", tree.id, "thing")
    workspace.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "out" / "thing" / "a").read_bytes() == b"same"


def test_a_root_far_away_is_absolute_and_its_name_may_be_long(store: LocalStore, tmp_path: Path, source: Path) -> None:
    tree = store.add_path(source)
    link = tmp_path / "links" / Path(*["long" * 20] * 5) / "thing"
    store.add_root(link, tree.id, "thing")
    assert [root.tree for root in store.roots()] == [tree.id]


def test_the_trace_keeps_what_the_outputs_were(place: Path, source: Path) -> None:
    with LocalStore.open(place) as store:
        tree = store.add_path(source)
        trace = Trace(action_key(b"{}"), "x", b"{}", {"out": TraceOutput(tree.id, tree.size)}, started=5.0)
        store.record(trace)
    with LocalStore.open(place) as store:
        assert store.lookup([trace.key]) == {trace.key: trace}


def test_a_dead_process_whose_sandbox_is_still_writing_keeps_nobody_out(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "tmp" / "4711-dead" / "out").mkdir(parents=True)
    rmdir = os.rmdir

    def refilled(path: str, **more: Any) -> None:
        if path == "out":
            raise OSError(errno.ENOTEMPTY, "not empty", path)
        rmdir(path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", refilled)
        LocalStore.open(place).close()
    assert (place / "tmp" / "4711-dead").exists()
    LocalStore.open(place).close()
    assert not (place / "tmp" / "4711-dead").exists()
