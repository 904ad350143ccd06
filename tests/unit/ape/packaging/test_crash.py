"""A full disk, a kill at any moment, files that change meanwhile, and files larger than 4 GiB."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.packaging import package as packaging
from mmojo_forge.ape.packaging.order import NamedFile
from mmojo_forge.ape.packaging.outputs import WINDOWS_LIMIT
from mmojo_forge.ape.read.container import read_container
from mmojo_forge.ape.read.program import read_program
from tests.support.ape_samples.gguf import write_sparse
from tests.support.ape_samples.packages import (
    files_below,
    files_in,
    make_folder,
    make_model,
    make_server,
    named,
    package,
    plan,
    write,
)
from tests.support.killed import in_child_killed_at, of_os

CALLS = of_os(
    *("open", "copy_file_range", "pwrite", "fsync", "fchmod", "replace", "mkdir", "link", "unlink", "rmdir"),
)
WRITES = ("open", "copy_file_range", "fsync", "fchmod", "replace", "mkdir")
FORMATS = ("ape", "exe", "folder", "zip")


def silent(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return make_server(tmp_path / "given" / "server")


@pytest.fixture
def order(tmp_path: Path) -> dict[str, Any]:
    given = tmp_path / "given"
    return {
        "models": (named(make_model(given / "m.gguf")),),
        "args": named(write(given / "args", "--port 1\n")),
        "ui": make_folder(given / "page", "index.html"),
    }


@contextlib.contextmanager
def failing_at(call: int, code: int, names: tuple[str, ...] = WRITES) -> Iterator[list[int]]:
    """The n-th of the calls that write fails; what is left to count tells whether it came to that."""
    left = [call]

    def guard(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(code, os.strerror(code))
            return original(*arguments, **more)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, guard(getattr(os, name)))
        yield left


def without(found: dict[str, bytes], part: str) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if part not in name}


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, "ape-disk-full"), (errno.EDQUOT, "ape-disk-full"), (errno.EIO, "ape-output")]
)
def test_a_disk_that_fails_at_any_write_leaves_what_was_there(
    server: Path, order: dict[str, Any], tmp_path: Path, code: int, reason: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(out / "x.ape", "old file")
    write(out / "x" / "mmojo-server-support" / "old", "old folder")
    before = files_below(out)
    plans = plan(server, out / "x.ape", FORMATS, **order)
    call, left = 0, [-1]
    while left[0] < 0:
        with failing_at(call, code) as left:
            try:
                packaging.write_package(plans, silent)
            except ApeError as error:
                assert error.reason in {reason, "ape-input"}, error
                now = files_below(out)
                if all(now.get(name) == data for name, data in before.items()):
                    assert now == before, call
                else:
                    # It failed while things appeared one after the other: what is there is whole.
                    assert read_container(out / "x.ape", verify=True).verified
                assert not [name for name in os.listdir(out) if name.endswith(".tmp")]
        call += 1
    assert call > 20
    assert read_container(out / "x.ape", verify=True).verified


def test_a_file_that_may_grow_no_further_leaves_the_old(server: Path, order: dict[str, Any], tmp_path: Path) -> None:
    """A limit of the process, as the kernel enforces it in the middle of a write."""
    out = write(tmp_path / "x.ape", "old file")
    plans = plan(server, out, **order)
    code = f"""
import resource, signal, pickle, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({plans[0].size // 2}, {plans[0].size // 2}))
from mmojo_forge.ape.packaging.package import write_package
from mmojo_forge.ape.errors import ApeError
try:
    write_package(pickle.load(sys.stdin.buffer), lambda a, b: None)
except ApeError as error:
    print(error.reason)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(plans), capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout == b"ape-output\n"
    assert out.read_text() == "old file"
    assert sorted(os.listdir(tmp_path)) == ["given", "x.ape"]


def test_a_kill_at_any_call_leaves_the_old_or_the_new(server: Path, order: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    old = package(server, out / "x.ape", ("ape", "folder"), models=order["models"])
    before = {one.path: files_below(one.path) if one.path.is_dir() else one.path.read_bytes() for one in old}
    plans = plan(server, out / "x.ape", ("ape", "folder"), **order)
    call, killed, seen = 0, True, set()
    while killed:
        killed = in_child_killed_at(call, lambda: packaging.write_package(plans, silent), CALLS)
        for path, content in before.items():
            now = files_below(path) if path.is_dir() else path.read_bytes()
            seen.add(now == content)
            if now != content:
                program = path / "x" if path.is_dir() else path
                assert read_container(program, verify=True).verified
        call += 1
    assert call > 15
    assert seen == {True, False}
    # The last one went through, and took away what those before it left.
    assert sorted(os.listdir(out)) == ["x", "x.ape"]


def test_two_at_once_do_not_take_each_others_files_away(server: Path, order: dict[str, Any], tmp_path: Path) -> None:
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                package(server, tmp_path / "x.ape", **order)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert read_container(tmp_path / "x.ape", verify=True).verified
    assert sorted(os.listdir(tmp_path)) == ["given", "x.ape"]


@pytest.mark.parametrize("change", ["longer", "shorter", "rewritten", "gone", "another"])
def test_a_file_that_changes_meanwhile_is_noticed(
    server: Path, order: dict[str, Any], tmp_path: Path, change: str
) -> None:
    plans = plan(server, tmp_path / "x.ape", **order)
    model: Path = order["models"][0].path
    data = model.read_bytes()
    if change == "gone":
        model.unlink()
    elif change == "another":
        model.rename(model.with_suffix(".old"))
        model.write_bytes(data)
    else:
        model.write_bytes({"longer": data + b"x", "shorter": data[:-1], "rewritten": data[::-1]}[change])
        os.utime(model, (1, 1))
    with pytest.raises(ApeError) as caught:
        packaging.write_package(plans, silent)
    assert caught.value.reason == "ape-input"
    assert sorted(os.listdir(tmp_path)) == ["given"]


def test_a_program_that_changes_while_it_is_copied_is_noticed(
    server: Path, order: dict[str, Any], tmp_path: Path
) -> None:
    plans = plan(server, tmp_path / "x.ape", **order)

    def touch(_done: int, _total: int) -> None:
        os.utime(server, (time.time(), 1))

    with pytest.raises(ApeError) as caught:
        packaging.write_package(plans, touch)
    assert caught.value.reason == "ape-input"
    assert not (tmp_path / "x.ape").exists()


def test_what_stops_it_leaves_nothing(server: Path, order: dict[str, Any], tmp_path: Path) -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packaging.write_package(plan(server, tmp_path / "x.ape", **order), stop)
    assert sorted(os.listdir(tmp_path)) == ["given"]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model of more than 4 GiB that takes no space; skips where a file system has no holes."""
    path = write_sparse(tmp_path / "given" / "large.gguf", 5 << 30)
    if path.stat().st_blocks * 512 > 1 << 24:
        path.unlink()
        pytest.skip("this file system has no sparse files")
    return path


def is_sparse(path: Path) -> bool:
    return path.stat().st_blocks * 512 < path.stat().st_size // 4


def test_a_model_above_4_gibibytes_is_packed_read_and_packed_again(server: Path, large: Path, tmp_path: Path) -> None:
    after = NamedFile("zzz", write(tmp_path / "given" / "z", "behind the model"))
    made = package(server, tmp_path / "x.ape", models=(named(large),), files=(after,))[0]
    assert made.size > WINDOWS_LIMIT
    assert made.path.stat().st_size == made.size
    assert is_sparse(made.path)
    found = {entry.name: entry for entry in read_program(made.path).assets}
    model, last = found["large.gguf"], found["zzz"]
    assert model.mappable
    assert model.size == large.stat().st_size
    assert last.head > 1 << 32
    with made.path.open("rb") as stream, large.open("rb") as original:
        assert stream.seek(model.offset) and stream.read(4096) == original.read(4096)
        stream.seek(model.offset + model.size - 4)
        assert stream.read(4) == b"end."
        stream.seek(last.offset)
        assert stream.read(16) == b"behind the model"
    args = named(write(tmp_path / "given" / "args", "--port 1\n"))
    again = package(made.path, tmp_path / "again.ape", args=args)[0]
    direct = package(server, tmp_path / "direct.ape", models=(named(large),), files=(after,), args=args)[0]
    assert read_program(again.path).assets == read_program(direct.path).assets
    assert is_sparse(again.path)


def test_zip_tools_agree_with_what_is_said_of_a_large_model(server: Path, large: Path, tmp_path: Path) -> None:
    made = package(server, tmp_path / "x.ape", models=(named(large),))[0]
    with zipfile.ZipFile(made.path) as archive:
        info = archive.getinfo("large.gguf")
        assert info.file_size == large.stat().st_size
        with archive.open(info) as stream:
            assert stream.read(4) == b"GGUF"


def test_for_windows_a_large_model_lies_beside_the_program(server: Path, large: Path, tmp_path: Path) -> None:
    args = named(write(tmp_path / "given" / "args", "--port 1\n"))
    plans = plan(server, tmp_path / "x.ape", ("ape", "exe"), models=(named(large),), args=args)
    warned = packaging.warnings_of(plans)
    assert len(warned) == 2
    assert "4 GiB" in warned[0] and "--format exe" not in warned[0]
    assert "mmojo-server-support" in warned[1]
    whole, small = packaging.write_package(plans, silent, durable=False)
    assert whole.size > WINDOWS_LIMIT > small.size
    assert small.files == (("mmojo-server-support/large.gguf", large.stat().st_size),)
    beside = tmp_path / "mmojo-server-support" / "large.gguf"
    assert beside.stat().st_size == large.stat().st_size
    assert is_sparse(beside)
    assert b"--model /support/large.gguf\n" in files_in(small.path)["mmojo-server-args"]
    assert b"--model /zip/large.gguf\n" in read_arguments(whole.path)
    # The small one can be given other arguments, and still knows where its model is.
    again = package(small.path, small.path, args=args, name="x")[0]
    assert b"--model /support/large.gguf\n" in files_in(again.path)["mmojo-server-args"]


def read_arguments(program: Path) -> bytes:
    entry = next(entry for entry in read_program(program).assets if entry.name == "mmojo-server-args")
    with program.open("rb") as stream:
        stream.seek(entry.offset)
        return stream.read(entry.size)


def test_just_below_the_limit_nothing_is_said(server: Path, tmp_path: Path) -> None:
    base = plan(server, tmp_path / "x.ape")[0].size
    model = write_sparse(tmp_path / "given" / "m.gguf", WINDOWS_LIMIT - base - (1 << 20))
    plans = plan(server, tmp_path / "x.ape", ("ape", "exe"), models=(named(model),))
    assert packaging.warnings_of(plans) == []
    assert plans[0].size < WINDOWS_LIMIT
    assert plans[1].layout == plans[0].layout


def test_memory_does_not_grow_with_the_model(server: Path, tmp_path: Path) -> None:
    """100 MB that are no hole, in a process that has little more than an interpreter needs."""
    model = make_model(tmp_path / "given" / "m.gguf", tensors=[("a", (1 << 20, 26), 0)])
    plans = plan(server, tmp_path / "x.ape", ("ape", "folder", "zip"), models=(named(model),))
    code = """
import pathlib, pickle, sys
from mmojo_forge.ape.packaging.package import write_package
write_package(pickle.load(sys.stdin.buffer), lambda a, b: None, durable=False)
print(next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(plans), capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert int(done.stdout) < 120_000, "KiB at most at once"
