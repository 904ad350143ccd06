"""The one way to write a small file: whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmojo_forge.files import write_atomically


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_has_the_content_and_the_usual_permissions(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new", b"content")
    assert (tmp_path / "new").read_bytes() == b"content"
    assert mode_of(tmp_path / "new") == 0o644
    assert names(tmp_path) == ["new"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o444, 0o666])
def test_a_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"before")
    path.chmod(mode)
    write_atomically(path, b"after")
    assert path.read_bytes() == b"after"
    assert mode_of(path) == mode


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_a_mode_that_is_given_holds_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    path.chmod(0o666)
    os.umask(umask)
    write_atomically(path, b"secret", mode=0o600)
    assert mode_of(path) == 0o600


def test_a_secret_is_at_no_time_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.umask(0)
    seen: list[int] = []
    real = os.open

    def watched(path: str, flags: int, mode: int = 0o777) -> int:
        descriptor = real(path, flags, mode)
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    write_atomically(tmp_path / "key", b"secret", mode=0o600)
    assert seen[0] == 0o600


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "target").write_bytes(b"before")
    (tmp_path / "middle").symlink_to("there/target")
    (tmp_path / "link").symlink_to("middle")
    write_atomically(tmp_path / "link", b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "middle").is_symlink()
    assert (tmp_path / "there" / "target").read_bytes() == b"after"
    assert names(tmp_path / "there") == ["target"]


def test_the_file_that_a_link_names_is_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"content"


def test_a_link_in_a_circle_and_one_into_no_folder_are_errors(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "lost").symlink_to("no/folder/file")
    for name, number in (("circle", errno.ELOOP), ("lost", errno.ENOENT)):
        with pytest.raises(OSError) as caught:
            write_atomically(tmp_path / name, b"")
        assert caught.value.errno == number
    assert names(tmp_path) == ["circle", "lost"]


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", b"")
    assert names(tmp_path) == ["folder"]


def test_a_pipe_or_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"content")
    reader.join()
    assert got == [b"content"]
    assert pipe.is_fifo()
    write_atomically(Path(os.devnull), b"content")
    assert Path(os.devnull).is_char_device()


def test_a_name_as_long_as_names_can_be_is_fine(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("ü" * 127), b"content")
    assert names(tmp_path) == ["ü" * 127]


@pytest.mark.parametrize("call", ["fsync", "rename", "fchmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_whatever_fails_the_old_file_stays_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"after")
    monkeypatch.undo()
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def renamed(source: str, target: str) -> None:
        order.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    write_atomically(tmp_path / "file", b"")
    assert order == ["file", "rename", "folder"]


@pytest.mark.parametrize(("number", "fatal"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced_is_no_error_unless_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fatal: bool
) -> None:
    sync = os.fsync

    def synced(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    if fatal:
        with pytest.raises(OSError):
            write_atomically(tmp_path / "file", b"content")
    else:
        write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert names(tmp_path) == ["file"]


def test_without_replace_only_the_first_of_many_writes(tmp_path: Path) -> None:
    def attempt(number: int) -> bool:
        try:
            write_atomically(tmp_path / "file", b"%d" % number, mode=0o600, replace=False)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(attempt, range(32)))
    assert sum(written) == 1
    assert (tmp_path / "file").read_bytes() == b"%d" % written.index(True)
    assert names(tmp_path) == ["file"]


def test_a_reader_meets_one_content_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = (b"a" * 100_000, b"b" * 100_000)
    path.write_bytes(contents[0])

    def write_in_turn() -> None:
        for content in contents * 20:
            write_atomically(path, content)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_in_turn)
        while not writing.done():
            assert path.read_bytes() in contents
        writing.result()
