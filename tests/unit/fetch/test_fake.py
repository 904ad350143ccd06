"""The fake behaves as the real fetcher does, as far as tests rely on it."""

from __future__ import annotations

from pathlib import Path

from mmojo_forge.fetch.fake import FakeFetcher
from mmojo_forge.model.lockfile import Userland
from tests.support.http_server import CONTENT, OTHER
from tests.unit.fetch.test_download import failure_of, source_of

LOCATOR = "url:https://mirror.example/file"


def test_the_fake_gives_what_it_was_given(tmp_path: Path) -> None:
    fetcher = FakeFetcher({LOCATOR: CONTENT})
    pin = fetcher.resolve("thing", LOCATOR, (), tmp_path / "a")
    source = source_of(LOCATOR)
    assert (pin.sha256, pin.blake3, pin.size) == (source.sha256, source.digest, source.size)
    fetcher.fetch(source, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert fetcher.fetched == [LOCATOR, LOCATOR]


def test_the_fake_refuses_what_the_fetcher_refuses(tmp_path: Path) -> None:
    fetcher = FakeFetcher({LOCATOR: OTHER})
    error = failure_of(lambda: fetcher.fetch(source_of(LOCATOR), tmp_path / "a"))
    assert error.reason == "hash-mismatch" and error.mismatch is not None and error.mismatch.kept is not None
    assert error.mismatch.kept.read_bytes() == OTHER and not (tmp_path / "a").exists()
    assert failure_of(lambda: fetcher.fetch(source_of("url:https://x/y"), tmp_path / "a")).reason == "not-found"


def test_the_fake_knows_userlands_by_name() -> None:
    userland = Userland("base", "bookworm", "amd64", ("bash",), {})
    fetcher = FakeFetcher(userlands={"base": userland})
    assert fetcher.resolve_userland("base", "bookworm", "amd64", ("bash",)) is userland
    error = failure_of(lambda: fetcher.resolve_userland("other", "bookworm", "amd64", ()))
    assert error.reason == "debian-package-unknown"
