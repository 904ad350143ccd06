"""git repositories: fetches one commit with the git client and writes its files as one deterministic tar.

GitArchiver runs git in a temporary repository. git ignores the user's configuration, which could set filters, hooks or
other URLs. It asks for no password and uses only https. The commit id is a hash of the content, and git verifies it on
receipt. Submodules become empty directories, and LFS pointers stay pointers.

TarWriter writes the archive, so that the bytes do not depend on the installed git or Python (`git archive` promises no
stable bytes). Entries are sorted by the bytes of their names, without a prefix. Files have mode 0644 or
0755, owner 0 and time 1; only submodules have directory entries. Headers are ustar. Values that do not fit (long names,
long targets, sizes of 8 GiB and more) are in a pax header before it. Two zero blocks end the archive.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from mmojo_forge.fetch.download import ByteSink
from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.locator import GitLocator
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.net.cancellation import HttpCancellation
from mmojo_forge.net.failure import FailureKind, UrlFailure
from mmojo_forge.net.stream import CHUNK
from mmojo_forge.net.url import redacted_text, scheme_of

BLOCK = 512
_TIME = 1
# Limits of the ustar fields: 100 bytes for names and targets, eleven octal digits for sizes.
_LONGEST_NAME = 100
_LARGEST_SIZE = 0o77777777777


class TarWriter:
    """Writes tar entries in the order of the calls; the caller sorts them."""

    def __init__(self, sink: ByteSink) -> None:
        self._sink = sink

    def add_file(self, name: bytes, size: int, content: Iterable[bytes], *, executable: bool) -> None:
        """Write a regular file; `content` must have exactly `size` bytes."""
        self._header(name, 0o755 if executable else 0o644, b"0", size, b"")
        for chunk in content:
            self._sink.write(chunk)
        self._sink.write(b"\0" * (-size % BLOCK))

    def add_symlink(self, name: bytes, target: bytes) -> None:
        """Write a symbolic link."""
        self._header(name, 0o777, b"2", 0, target)

    def add_directory(self, name: bytes) -> None:
        """Write an empty directory."""
        self._header(name + b"/", 0o755, b"5", 0, b"")

    def close(self) -> None:
        """Write the two zero blocks that end the archive."""
        self._sink.write(b"\0" * (2 * BLOCK))

    def _header(self, name: bytes, mode: int, kind: bytes, size: int, target: bytes) -> None:
        records = b""
        if len(name) > _LONGEST_NAME:
            records += _record(b"path", name)
        if len(target) > _LONGEST_NAME:
            records += _record(b"linkpath", target)
        if size > _LARGEST_SIZE:
            records += _record(b"size", str(size).encode())
        if records:
            self._sink.write(_block(b"pax", 0o644, b"x", len(records), b""))
            self._sink.write(records + b"\0" * (-len(records) % BLOCK))
        self._sink.write(_block(name, mode, kind, 0 if size > _LARGEST_SIZE else size, target))


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record. It begins with its own length in decimal, which counts these digits too."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def _block(name: bytes, mode: int, kind: bytes, size: int, target: bytes) -> bytes:
    fields = (
        name[:_LONGEST_NAME].ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % 0,
        b"%07o\0" % 0,
        b"%011o\0" % size,
        b"%011o\0" % _TIME,
        b" " * 8,  # the checksum; computed as if it were spaces
        kind,
        target[:_LONGEST_NAME].ljust(100, b"\0"),
        b"ustar\0" + b"00",
        b"\0" * 64,
        b"%07o\0" % 0,
        b"%07o\0" % 0,
    )
    header = b"".join(fields).ljust(BLOCK, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


_LONGEST_TARGET = 4096
_POLL_SECONDS = 0.2
# No hooks or credential helpers, no redirect after the first request, no background jobs. A stalled server is an error.
_CONFIGURATION = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "credential.helper=",
    "http.followRedirects=initial",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "maintenance.auto=false",
)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
_KEPT_VARIABLES = ("PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE", *_PROXIES)


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: bytes
    object: bytes
    path: bytes


class GitArchiver:
    """Writes the files of commits as tar archives."""

    def __init__(self, settings: FetchSettings, cancellation: HttpCancellation) -> None:
        self._settings = settings
        self._cancellation = cancellation

    def write(self, locator: GitLocator, sink: ByteSink) -> None:
        """Write the commit's files as one tar into `sink`.

        Raises FetchError (`scheme-refused`, `git-missing`, `git-malformed`) and UrlFailure.
        """
        schemes = {"https", *self._settings.plain_schemes}
        if scheme_of(locator.url) not in schemes:
            raise FetchError(
                f"fetch {locator}: {scheme_of(locator.url)} is not allowed",
                detail=f"Allowed schemes: {', '.join(sorted(schemes))}.",
                reason="scheme-refused",
            )
        with self._repository(schemes) as repository:
            repository.fetch(locator)
            repository.archive(locator, sink)

    @contextmanager
    def _repository(self, schemes: set[str]) -> Iterator[_Repository]:
        git = shutil.which("git", path=self._settings.environment.get("PATH"))
        if git is None:
            raise FetchError(
                "fetch from git: git is not installed",
                detail="Install it: apt-get install git",
                reason="git-missing",
            )
        with tempfile.TemporaryDirectory(dir=self._settings.state_folder("git"), prefix="repository-") as folder:
            environment = _environment(self._settings, folder, schemes)
            yield _Repository(git, environment, self._cancellation)


class _Repository:
    """A bare repository that exists only for one fetch."""

    def __init__(self, git: str, environment: dict[str, str], cancellation: HttpCancellation) -> None:
        self._git = git
        self._environment = environment
        self._cancellation = cancellation

    def fetch(self, locator: GitLocator) -> None:
        """Fetch the commit. If the server refuses to send a single commit, fetch all its refs."""
        self._run(locator, "init", "--bare", "--quiet")
        quiet = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        try:
            # Some servers refuse to send a commit that is not the tip of a ref.
            self._run(locator, *quiet, "--depth=1", "--", locator.url, locator.commit)
        except UrlFailure:
            self._cancellation.check(locator.url)
            self._run(locator, *quiet, "--", locator.url, "+refs/*:refs/forge/*")
        try:
            self._run(locator, "cat-file", "-e", f"{locator.commit}^{{commit}}")
        except UrlFailure as failure:
            self._cancellation.check(locator.url)
            raise UrlFailure(locator.url, FailureKind.GONE, f"no commit {locator.commit}") from failure

    def archive(self, locator: GitLocator, sink: ByteSink) -> None:
        """Write the commit's files."""
        writer = TarWriter(sink)
        entries = sorted(self._entries(locator), key=lambda entry: entry.path)
        with self._objects() as read:
            for entry in entries:
                self._cancellation.check()
                if entry.mode == b"160000":  # a submodule
                    writer.add_directory(entry.path)
                    continue
                size, content = read(entry.object)
                if entry.mode == b"120000":  # a symlink
                    if size > _LONGEST_TARGET:
                        raise FetchError(f"fetch {locator}: a symlink target of {size} bytes", reason="git-malformed")
                    writer.add_symlink(entry.path, b"".join(content))
                else:
                    writer.add_file(entry.path, size, content, executable=entry.mode == b"100755")
        writer.close()

    def _entries(self, locator: GitLocator) -> Iterator[_Entry]:
        listing = self._run(locator, "ls-tree", "-r", "-z", "--full-tree", locator.commit)
        for row in listing.split(b"\0"):
            if row:
                about, _, path = row.partition(b"\t")
                mode, _, name = about.split(b" ")
                yield _Entry(mode, name, path)

    @contextmanager
    def _objects(self) -> Iterator[_Reader]:
        with subprocess.Popen(
            [self._git, "cat-file", "--batch"],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            try:
                yield _Reader(process.stdin, process.stdout)
            finally:
                process.kill()

    def _run(self, locator: GitLocator, *arguments: str) -> bytes:
        options = [part for setting in _CONFIGURATION for part in ("-c", setting)]
        command = [self._git, *options, *arguments]
        with (
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
            ) as process,
        ):
            try:
                self._wait(process)
            except BaseException:
                process.kill()
                raise
            errors.seek(0)
            if process.returncode:
                complaint = redacted_text(errors.read(4096).decode("utf-8", "replace")).strip()
                raise UrlFailure(locator.url, FailureKind.UNREACHABLE, f"git {arguments[0]}: {complaint}")
            output.seek(0)
            return output.read()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                process.wait(_POLL_SECONDS)
                return
            except subprocess.TimeoutExpired:
                self._cancellation.check()


class _Reader:
    """Reads objects by id through one `git cat-file --batch`. Callers read each to its end before the next."""

    def __init__(self, questions: IO[bytes], answers: IO[bytes]) -> None:
        self._questions = questions
        self._answers = answers

    def __call__(self, name: bytes) -> tuple[int, Iterator[bytes]]:
        """The object's size in bytes, and its content; raises FetchError (`git-malformed`)."""
        self._questions.write(name + b"\n")
        self._questions.flush()
        header = self._answers.readline().split()
        if len(header) != 3 or header[1] != b"blob":
            raise FetchError(f"read git object {name.decode()}: {header!r}", reason="git-malformed")
        size = int(header[2])
        return size, self._content(size)

    def _content(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            chunk = self._answers.read(min(left, CHUNK))
            if not chunk:
                raise FetchError("read git objects: git ended in the middle of an object", reason="git-malformed")
            left -= len(chunk)
            yield chunk
        self._answers.read(1)  # the line feed that `cat-file --batch` puts after each object


def _environment(settings: FetchSettings, folder: str, schemes: set[str]) -> dict[str, str]:
    given = settings.environment
    return {name: given[name] for name in _KEPT_VARIABLES if name in given} | {
        "GIT_ALLOW_PROTOCOL": ":".join(sorted(schemes)),
        "GIT_ASKPASS": "/bin/false",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_DIR": folder,
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_PROTOCOL_FROM_USER": "0",
        "GIT_TEMPLATE_DIR": "",
        "GIT_TERMINAL_PROMPT": "0",
        "HOME": folder,
        "LC_ALL": "C",
        "SSH_ASKPASS": "/bin/false",
    }
