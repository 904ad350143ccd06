"""git commits as archives: the same bytes whatever git is configured to, and only what the commit holds."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmojo_forge.fetch.git import TarWriter
from mmojo_forge.model.digest import blake3_hex
from tests.unit.fetch.test_download import destination_fixture, failure_of, fetcher_for, source_of

FIXTURES = (destination_fixture,)
LONG = "/".join(["a-folder-with-a-long-name"] * 6) + "/ä file.txt"
GOLDEN = "9457c2ced516970c253edadd57db2746ce7310a12a164c8b7c857d3d01dba85b"


def git(folder: Path, *arguments: str) -> str:
    identity = {"GIT_AUTHOR_DATE": "1700000000 +0000", "GIT_COMMITTER_DATE": "1700000000 +0000"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", **identity}
    options = ("-c", "user.name=forge", "-c", "user.email=forge@mirror.example", "-c", "protocol.file.allow=always")
    command = ["git", *options, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(name="repository")
def repository_fixture(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "run.sh").write_bytes(b"#!/bin/sh\necho $Id$\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "src").mkdir()
    (folder / "src" / "empty").write_bytes(b"")
    (folder / "src.txt").write_bytes(b"sorted between the folder and its files\n")
    (folder / "link").symlink_to("src/empty")
    (folder / LONG).parent.mkdir(parents=True)
    (folder / LONG).write_bytes(bytes(range(256)) * 5)
    # What `git archive` would leave out or rewrite stays as it is.
    (folder / ".gitattributes").write_text("run.sh ident eol=crlf export-subst\nsrc.txt export-ignore\n* filter=evil\n")
    git(folder, "add", "--all")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    git(folder, "commit", "--quiet", "-m", "one")
    return folder


def locator_of(repository: Path) -> str:
    return f"git:file://{repository}#{git(repository, 'rev-parse', 'HEAD')}"


def test_a_commit_becomes_one_archive(tmp_path: Path, repository: Path, destination: Path) -> None:
    pin = fetcher_for(tmp_path).resolve("thing", locator_of(repository), (), destination)
    content = destination.read_bytes()
    assert (pin.size, pin.blake3) == (len(content), blake3_hex(content))
    with tarfile.open(destination) as archive:
        members = {member.name: member for member in archive}
        names = [name.encode() for name in members]
        assert names == sorted(names)
        assert set(members) == {".gitattributes", LONG, "link", "module", "run.sh", "src.txt", "src/empty"}
        assert {member.mtime for member in members.values()} == {1}
        assert {(member.uid, member.gid, member.uname, member.gname) for member in members.values()} == {(0, 0, "", "")}
        assert [members[name].mode for name in ("run.sh", "src.txt")] == [0o755, 0o644]
        assert members["link"].linkname == "src/empty" and members["module"].isdir()
        script = archive.extractfile(members["run.sh"])
        assert script is not None and script.read() == b"#!/bin/sh\necho $Id$\n"


def test_the_bytes_are_the_same_for_ever(tmp_path: Path, repository: Path, destination: Path) -> None:
    """A changed digest here breaks every git pin there is."""
    fetcher_for(tmp_path).resolve("thing", locator_of(repository), (), destination)
    assert blake3_hex(destination.read_bytes()) == GOLDEN


def test_the_users_git_configuration_changes_nothing(
    tmp_path: Path, repository: Path, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = fetcher_for(tmp_path).resolve("thing", locator_of(repository), (), destination)
    ran = tmp_path / "ran"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch '{ran}'\n")
        (hooks / name).chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f"[core]\n autocrlf = true\n hooksPath = {hooks}\n"
        f"[filter \"evil\"]\n smudge = touch '{ran}'\n clean = touch '{ran}'\n required = true\n"
        '[url "https://other.example/"]\n insteadOf = file://\n[tar]\n umask = 0000\n'
    )
    environment = {"HOME": str(home), "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"), "GIT_DIR": "/nowhere"}
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    again = fetcher_for(tmp_path, environment).resolve("thing", locator_of(repository), (), tmp_path / "again")
    assert again == pin
    assert not ran.exists()


def test_a_pinned_commit_is_fetched_and_checked(tmp_path: Path, repository: Path, destination: Path) -> None:
    fetcher = fetcher_for(tmp_path)
    locator = locator_of(repository)
    fetcher.resolve("thing", locator, (), destination)
    content = destination.read_bytes()
    seen: list[tuple[int, int]] = []
    fetcher.fetch(source_of(locator, content), destination, lambda done, total: seen.append((done, total)))
    assert destination.read_bytes() == content and seen[-1] == (len(content), len(content))
    other = tmp_path / "other"
    assert failure_of(lambda: fetcher.fetch(source_of(locator, content[:-1]), other)).reason == "size-exceeded"
    flipped = content[:-1] + b"!"
    error = failure_of(lambda: fetcher.fetch(source_of(locator, flipped), other))
    assert error.reason == "hash-mismatch" and error.mismatch is not None and error.mismatch.kept is not None
    assert error.mismatch.kept.read_bytes() == content and not other.exists()
    assert list((tmp_path / "state" / "git").iterdir()) == []


def test_an_older_commit_is_found_too(tmp_path: Path, repository: Path, destination: Path) -> None:
    first = locator_of(repository)
    (repository / "new").write_text("new\n")
    git(repository, "add", "new")
    git(repository, "commit", "--quiet", "-m", "two")
    fetcher_for(tmp_path).resolve("thing", first, (), destination)
    with tarfile.open(destination) as archive:
        assert "new" not in archive.getnames()


def test_what_is_no_commit_there_is_not_found(tmp_path: Path, repository: Path, destination: Path) -> None:
    base = f"git:file://{repository}#"
    tree = git(repository, "rev-parse", "HEAD^{tree}")
    for name in ("0" * 40, tree):
        error = failure_of(lambda name=name: fetcher_for(tmp_path).resolve("x", base + name, (), destination))  # type: ignore[misc]
        assert error.reason == "not-found"


def test_a_repository_that_is_not_there_is_an_error(tmp_path: Path, destination: Path) -> None:
    locator = f"git:file://{tmp_path}/nothing#{'0' * 40}"
    error = failure_of(lambda: fetcher_for(tmp_path).resolve("x", locator, (), destination))
    assert error.reason == "network-unreachable"
    assert not destination.exists()


@pytest.mark.parametrize("scheme", ["file", "http", "ssh", "ext"])
def test_only_https_is_allowed_unless_told_otherwise(tmp_path: Path, destination: Path, scheme: str) -> None:
    fetcher = fetcher_for(tmp_path, plain_schemes=frozenset())
    locator = f"git:{scheme}://mirror.example/x.git#{'0' * 40}"
    assert failure_of(lambda: fetcher.resolve("x", locator, (), destination)).reason == "scheme-refused"


def test_without_git_the_error_says_so(tmp_path: Path, destination: Path) -> None:
    fetcher = fetcher_for(tmp_path, {"PATH": str(tmp_path)})
    locator = f"git:https://mirror.example/x.git#{'0' * 40}"
    assert failure_of(lambda: fetcher.resolve("x", locator, (), destination)).reason == "git-missing"


class Buffer:
    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, chunk: bytes) -> None:
        self.content += chunk


NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=120),
    min_size=1,
    max_size=4,
).filter(lambda parts: not {".", ".."} & set(parts))


@settings(deadline=None)
@given(NAMES, st.binary(max_size=2000), st.booleans())
def test_every_name_and_content_can_be_read_back(parts: list[str], content: bytes, executable: bool) -> None:
    name = "/".join(parts)
    buffer = Buffer()
    writer = TarWriter(buffer)
    writer.add_file(name.encode(), len(content), [content], executable=executable)
    writer.add_symlink(b"zz-link", name.encode())
    writer.close()
    assert len(buffer.content) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(buffer.content), encoding="utf-8", format=tarfile.PAX_FORMAT) as archive:
        first, second = archive.getmembers()
        file = archive.extractfile(first)
        assert (first.name, first.mode) == (name, 0o755 if executable else 0o644)
        assert file is not None and file.read() == content
        assert second.linkname == name
