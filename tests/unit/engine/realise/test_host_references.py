"""What a build tells of the machine is found: where it is, whatever is around it, and nothing that only looks so."""

from __future__ import annotations

import os
import pwd
import socket
import tempfile
import time
import tracemalloc
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmojo_forge.engine.errors import BuildsFailed
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import make_plan
from mmojo_forge.engine.protocols import SourceFetcher
from mmojo_forge.engine.realise import host_references
from mmojo_forge.engine.realise.host_references import (
    FoundReference,
    HostReference,
    find_references,
    references_of_this_machine,
)
from mmojo_forge.engine.realise.realise import Realisation
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.engine.services import Directories, Services, Settings
from mmojo_forge.executor.fake import FakeExecutor
from mmojo_forge.executor.request import BuildRequest
from mmojo_forge.model.derivation import Derivation, Label
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.scratch import remove_tree

MIB = 1 << 20
WORD = HostReference("host name", b"obelisk", whole=True)
PART = HostReference("store path", b"/srv/forge/store")
HOME = HostReference("home", b"/home/joe", whole=True)


def leaks_in(path: Path, *secrets: HostReference) -> list[tuple[str, int | None]]:
    """Where secrets turn up, by the path in the output and the offset; none where the path itself tells."""
    return [(leak.path, leak.offset) for leak in find_references(path, secrets or (WORD, PART, HOME))]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("before", [0, 1, MIB - 17, MIB - 16, MIB - 8, MIB - 1, MIB, MIB + 1, 2 * MIB - 8, 3 * MIB - 1])
@pytest.mark.parametrize("after", [0, 1, 30, MIB])
@pytest.mark.parametrize("secret", [WORD, PART], ids=["whole", "part"])
def test_a_secret_is_found_wherever_a_chunk_ends(
    tmp_path: Path, before: int, after: int, secret: HostReference
) -> None:
    file = written(tmp_path / "file", b"\0" * before + secret.text + b"\0" * after)
    assert leaks_in(file) == [("", before)]


@pytest.mark.parametrize("at", [0, 1, MIB - 8, MIB - 7, MIB - 1, MIB, MIB + 1])
@pytest.mark.parametrize(("before", "after"), [(b"x", b"."), (b".", b"_"), (b"9", b"Z")])
def test_a_word_that_goes_on_is_another_word_wherever_a_chunk_ends(
    tmp_path: Path, at: int, before: bytes, after: bytes
) -> None:
    file = written(tmp_path / "file", b"\0" * at + before + WORD.text + after)
    assert leaks_in(file) == []
    file.write_bytes(file.read_bytes() + b"\0" + WORD.text)
    assert leaks_in(file) == [("", at + len(WORD.text) + 3)]


@pytest.mark.parametrize("content", [b"obelisk", b"-obelisk", b"obelisk.", b"x obelisk", b"obelisk\n"])
def test_a_word_may_begin_or_end_the_file(tmp_path: Path, content: bytes) -> None:
    assert leaks_in(written(tmp_path / "file", content)) == [("", content.find(b"o"))]


@pytest.mark.parametrize("content", [b"obelisks", b"xobelisk", b"", b"obelis"])
def test_what_only_resembles_a_word_is_none(tmp_path: Path, content: bytes) -> None:
    assert leaks_in(written(tmp_path / "file", content)) == []


def test_a_path_need_not_begin_a_word(tmp_path: Path) -> None:
    """As compilers are told it: no letter before a slash makes it another path; one after it does."""
    assert leaks_in(written(tmp_path / "file", b"-I/home/joe/include")) == [("", 2)]
    assert leaks_in(written(tmp_path / "file", b"-I/home/joey/include")) == []


def goes_on(edge: str, beside: str) -> bool:
    if edge.isdigit():
        return beside.isdigit()
    return (edge.isalpha() or edge == "_") and (beside.isalnum() or beside == "_")


def reference(content: str, secret: str, whole: bool) -> int:
    """The first offset, by str.find and nothing else."""
    at = content.find(secret)
    while at >= 0 and whole:
        before, after = content[:at][-1:], content[at + len(secret) :][:1]
        if not goes_on(secret[0], before) and not goes_on(secret[-1], after):
            break
        at = content.find(secret, at + 1)
    return at


TEXTS = st.text("ab/1", min_size=1, max_size=6).map(str.encode)


@settings(max_examples=300, deadline=None)
@given(
    content=st.text("ab/1_ ", max_size=60).map(str.encode),
    secrets=st.lists(
        st.builds(HostReference, st.just("kind"), TEXTS, st.booleans()), min_size=1, max_size=4, unique=True
    ),
    chunk=st.integers(1, 20),
)
@example(content=b"aab aa", secrets=[HostReference("kind", b"aa", whole=True)], chunk=2)
@example(content=b"aaaaa", secrets=[HostReference("kind", b"aa", whole=True)], chunk=3)
def test_offsets_are_those_of_bytes_find_whatever_the_chunk_size(
    content: bytes, secrets: list[HostReference], chunk: int
) -> None:
    expected = {secret: reference(content.decode(), secret.text.decode(), secret.whole) for secret in secrets}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_references, "_CHUNK", chunk)
        file = written(Path(folder, "file"), content)
        for secret in secrets:
            assert [leak.offset for leak in find_references(file, [secret])] == [
                at for at in (expected[secret],) if at >= 0
            ]
        together = sorted(leak.offset or 0 for leak in find_references(file, secrets))
    assert together == sorted(at for at in expected.values() if at >= 0)


def test_each_secret_is_told_once_per_file_and_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "out/sub").mkdir(parents=True)
    written(tmp_path / "out/one", b"obelisk obelisk /srv/forge/store")
    written(tmp_path / "out/sub/two", b"in obelisk")
    written(tmp_path / "out/sub/clean", b"nothing")
    assert sorted(leaks_in(tmp_path / "out")) == [("one", 0), ("one", 16), ("sub/two", 3)]
    assert list(find_references(tmp_path / "out/sub", [WORD])) == [FoundReference("host name", "obelisk", "two", 3)]


def test_what_symlinks_point_to_is_searched_and_not_followed(tmp_path: Path) -> None:
    secret = written(tmp_path / "elsewhere", WORD.text)
    out = tmp_path / "out"
    (out / "obelisk").mkdir(parents=True)
    (out / "dangling").symlink_to("../lib/obelisk.so")
    (out / "directory").symlink_to("obelisk")
    (out / "follow").symlink_to(secret)
    (out / "up").symlink_to("..")
    assert leaks_in(out) == [("dangling", 7), ("directory", 0), ("obelisk", None)]
    assert leaks_in(out / "dangling") == [("", 7)]


def test_names_of_files_folders_and_symlinks_are_searched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for folder in ("a/obelisk/b", "sub"):
        (out / folder).mkdir(parents=True)
    for name in ("libobelisk.so", "obelisk.so.1", "sub/a-obelisk", "sub/obelisks"):
        written(out / name, b"")
    (out / "sub/obelisk").symlink_to("a-obelisk")
    os.mkfifo(out / "sub/obelisk.pipe")
    assert leaks_in(out) == [
        ("a/obelisk", None),
        ("obelisk.so.1", None),
        ("sub/a-obelisk", None),
        ("sub/obelisk", None),
        ("sub/obelisk", 2),
        ("sub/obelisk.pipe", None),
    ]


def test_what_a_folder_is_called_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "out/obelisk/sub/obelisk").mkdir(parents=True)
    for number in range(10):
        written(tmp_path / f"out/obelisk/sub/file{number}", b"")
    assert leaks_in(tmp_path / "out") == [("obelisk", None)]


def test_a_secret_path_may_be_made_up_of_folders(tmp_path: Path) -> None:
    """As `make install DESTDIR=…` leaves them; the output's own place is none of them."""
    out = tmp_path / "srv/forge"
    (out / "srv/forge/store/tmp").mkdir(parents=True)
    (out / "home/joey").mkdir(parents=True)
    (out / "lib/home/joe/x").mkdir(parents=True)
    assert leaks_in(out) == [("lib/home/joe", None), ("srv/forge/store", None)]
    assert leaks_in(out, HostReference("home", os.fsencode(tmp_path), whole=True)) == []


def test_a_name_that_is_no_text_is_searched_too(tmp_path: Path) -> None:
    written(tmp_path / os.fsdecode(b"\xff.obelisk"), b"")
    ((path, offset),) = leaks_in(tmp_path)
    assert (os.fsencode(path), offset) == (b"\xff.obelisk", None)


def test_what_may_not_be_read_is_left_to_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root may read everything, nobody may here."""
    (tmp_path / "closed").mkdir()
    for name in ("closed/file", "file", "obelisk", "open"):
        written(tmp_path / name, WORD.text)
    real = os.open

    def refuse(name: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if name in ("closed", "file", "obelisk"):
            raise PermissionError
        return real(name, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    assert leaks_in(tmp_path) == [("obelisk", None), ("open", 0)]


def test_folders_may_be_deep_and_paths_long(tmp_path: Path) -> None:
    """Longer from the root of the file system than a system call takes; what is deeper than a tree may be is left."""
    out = tmp_path / "out"
    out.mkdir()
    here = os.open(out, os.O_RDONLY)
    for depth in range(2000):
        os.mkdir("d" * 100 if depth < 60 else "d", dir_fd=here)
        below = os.open("d" * 100 if depth < 60 else "d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        if depth in (58, 1500):
            os.close(os.open("obelisk", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    try:
        ((path, offset),) = leaks_in(out)
        assert (path, offset) == ("/".join(["d" * 100] * 59) + "/obelisk", None)
    finally:
        remove_tree(str(tmp_path), "out")


def test_a_search_that_is_given_up_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "out/sub/obelisk/sub").mkdir(parents=True)
    before = os.listdir("/proc/self/fd")
    search = find_references(tmp_path / "out", [WORD])
    next(search)
    assert isinstance(search, Generator)
    search.close()
    assert os.listdir("/proc/self/fd") == before


def test_pipes_sockets_and_devices_are_not_opened(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for without end; the store refuses all of them."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        written(tmp_path / "file", WORD.text)
        assert leaks_in(tmp_path) == [("file", 0)]
    assert leaks_in(tmp_path / "pipe") == []
    assert leaks_in(Path("/dev/zero")) == []


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(0, os.SEEK_END)
        file.write(WORD.text)
    tracemalloc.start()
    try:
        assert leaks_in(tmp_path / "sparse") == [("", 64 * MIB)]
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


class Machine:
    """This machine, as if it had another name, user and CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.user, self.home, self.cpu = "obelisk", "joseph", "/home/joseph", "Test CPU @ 3 GHz"
        kernel = SimpleNamespace(nodename="", release="6.1.0-test-amd64")
        monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(**{**vars(kernel), "nodename": self.name}))
        monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name=self.user, pw_dir=self.home))
        monkeypatch.setattr(host_references, "_cpu_model", lambda: self.cpu)

    def secrets(self, now: float = 0.0) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for secret in references_of_this_machine(Path("/srv/forge/store"), now):
            found.setdefault(secret.kind, []).append(secret.text.decode())
        return found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_the_secrets_are_what_a_sandbox_cannot_hide_and_what_it_must(machine: Machine) -> None:
    found = machine.secrets()
    assert found.pop("date of today")
    assert found == {
        "store path": ["/srv/forge/store"],
        "home": ["/home/joseph"],
        "host name": ["obelisk"],
        "user name": ["joseph"],
        "kernel version": ["6.1.0-test-amd64"],
        "CPU model": ["Test CPU @ 3 GHz"],
    }


@pytest.mark.parametrize("name", ["root", "localhost", "runner", "bob", "x", ""])
def test_names_that_are_common_or_short_are_no_secrets(machine: Machine, name: str) -> None:
    machine.name = machine.user = name
    assert not {"host name", "user name"} & machine.secrets().keys()


def test_a_home_that_is_everybodys_is_no_secret(machine: Machine) -> None:
    machine.home = "/root"
    assert "home" not in machine.secrets()


def test_a_cpu_that_is_not_named_is_no_secret(machine: Machine) -> None:
    machine.cpu = "CPU"
    assert "CPU model" not in machine.secrets()


def test_a_user_without_an_entry_has_no_name_to_hide(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    found = machine.secrets()
    assert not {"home", "user name"} & found.keys()
    assert found["host name"] == ["obelisk"]


NINTH = 1_709_942_400.0  # 2024-03-09T00:00:00Z, a Saturday


@pytest.mark.parametrize(
    "text",
    ["2024-03-09", "Mar  9 2024", "Sat Mar  9", "9 Mar 2024", "09 Mar 2024", "2024-03-09T01:02:03Z", "v2024-03-09_01"],
)
@pytest.mark.parametrize("second", [0.0, 86_399.9])
def test_today_is_found_as_programs_write_it(machine: Machine, tmp_path: Path, text: str, second: float) -> None:
    secrets = references_of_this_machine(tmp_path / "store", NINTH + second)
    file = written(tmp_path / "file", f"built on {text}\n".encode())
    assert {leak.kind for leak in find_references(file, secrets)} == {"date of today"}


@pytest.mark.parametrize(
    "text", ["2024-03-08", "12024-03-09", "2024-03-091", "Mar 19 2024", "19 Mar 2024", "2023-03-09"]
)
def test_another_day_is_not_today(machine: Machine, tmp_path: Path, text: str) -> None:
    file = written(tmp_path / "file", f"built on {text}\n".encode())
    assert leaks_in(file, *references_of_this_machine(tmp_path / "store", NINTH)) == []


@pytest.mark.parametrize(
    ("since", "now", "days"),
    [
        (NINTH, NINTH, ["09"]),
        (NINTH - 1, NINTH, ["08", "09"]),
        (NINTH - 2 * 86_400, NINTH + 86_399, ["07", "08", "09"]),
        (NINTH + 1, NINTH - 1, ["08", "09"]),
    ],
    ids=["a moment", "over midnight", "three days", "a clock that was set back"],
)
def test_each_day_of_a_build_is_today(
    machine: Machine, tmp_path: Path, since: float, now: float, days: list[str]
) -> None:
    found = references_of_this_machine(tmp_path / "store", now, since)
    kinds = {secret.text.decode(): secret.kind for secret in found}
    assert [text for text in sorted(kinds) if text.startswith("2024-")] == [f"2024-03-{day}" for day in days]
    assert {kinds[f"{int(day)} Mar 2024"] for day in days} == {"date of today"}


def test_a_clock_that_was_set_forward_by_years_does_not_make_a_thousand_dates(machine: Machine, tmp_path: Path) -> None:
    found = [secret.text.decode() for secret in references_of_this_machine(tmp_path / "store", NINTH, 0.0)]
    assert {"1970-01-01", "2024-02-20", "2024-03-09"} <= set(found)
    assert len(found) < 200


def test_today_is_that_of_the_sandbox_wherever_the_machine_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert "2024-03-09" in machine.secrets(NINTH + 86_000)["date of today"]
    finally:
        monkeypatch.undo()
        time.tzset()


def realise(folder: Path, node: Derivation, content: bytes, *, days: int = 0) -> None:
    """Realise a node whose build leaves `content`, begun on the ninth of March 2024 and over `days` later."""
    now = [NINTH]

    def build(request: BuildRequest) -> bytes:
        (request.out / "out").write_bytes(content)
        now[0] += days * 86_400
        return b""

    def no_fetcher() -> SourceFetcher:
        raise AssertionError

    with LocalStore.open(folder / "store") as store:
        executor, directories = FakeExecutor(build), Directories(folder / "downloads", folder / "failed")
        services = Services(store, lambda: executor, no_fetcher, Reporter(), lambda: now[0], directories)
        try:
            Realisation(make_plan(Graph.of([node]), store), services, Settings(1, 1 << 30)).run()
        finally:
            assert store.verify().clean


TODAY = b"built 2024-03-09\n"
PLAIN = Derivation("plain", "builder", (), {}, {})


def test_an_output_that_leaks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildsFailed) as raised:
        realise(tmp_path, PLAIN, TODAY)
    (failure,) = raised.value.failures
    assert failure.reason == "output-leaks"
    with pytest.raises(BuildsFailed):
        realise(tmp_path, PLAIN, os.fsencode(tmp_path / "store"))


@pytest.mark.parametrize(("day", "refused"), [("08", False), ("09", True), ("10", True), ("11", True), ("12", False)])
def test_each_day_that_a_build_lasts_is_searched_for(tmp_path: Path, day: str, refused: bool) -> None:
    content = b"built 2024-03-%s\n" % day.encode()
    if not refused:
        realise(tmp_path, PLAIN, content, days=2)
        return
    with pytest.raises(BuildsFailed) as raised:
        realise(tmp_path, PLAIN, content, days=2)
    assert raised.value.reason == "output-leaks"


def test_an_allowed_leak_is_none_and_allows_no_other(tmp_path: Path) -> None:
    allowed = replace(PLAIN, allowed_leaks={"date of today": "it is a calendar"})
    with pytest.raises(BuildsFailed) as raised:
        realise(tmp_path, allowed, TODAY + os.fsencode(tmp_path / "store"))
    assert [failure.reason for failure in raised.value.failures] == ["output-leaks"]
    realise(tmp_path, allowed, TODAY)
    assert allowed.id == PLAIN.id


def test_a_host_specific_output_may_tell_of_its_host(tmp_path: Path) -> None:
    realise(tmp_path, replace(PLAIN, label=Label((("gpu", "none"),))), TODAY)
