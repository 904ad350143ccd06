"""The real registries, as this machine's clients are configured to reach them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmojo_forge.fetch.fetcher import Fetcher
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.model.derivation import Source

WHEEL = "pypi:iniconfig==2.0.0/iniconfig-2.0.0-py3-none-any.whl"
WHEEL_SHA256 = "b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374"


@pytest.fixture(name="fetcher")
def fetcher_fixture(tmp_path: Path) -> Fetcher:
    return Fetcher(FetchSettings(os.environ, tmp_path / "state"))


@pytest.mark.filterwarnings("default::pypi_simple.UnexpectedRepoVersionWarning")
def test_a_wheel_of_the_real_index_is_resolved_and_fetched(fetcher: Fetcher, tmp_path: Path) -> None:
    pin = fetcher.resolve("iniconfig", WHEEL, (), tmp_path / "resolved")
    assert pin.sha256 == WHEEL_SHA256
    fetcher.fetch(Source(pin.name, pin.locator, pin.blake3, pin.size, pin.sha256), tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == (tmp_path / "resolved").read_bytes()


def test_the_closure_of_a_real_package_comes_from_debian(fetcher: Fetcher, tmp_path: Path) -> None:
    userland = fetcher.resolve_userland("busybox", "bookworm", "amd64", ("busybox-static",))
    assert list(userland.closure) == ["busybox-static"]
    pin = userland.closure["busybox-static"]
    fetcher.fetch(Source(pin.name, pin.locator, pin.blake3, pin.size, pin.sha256), tmp_path / "fetched")
    assert (tmp_path / "fetched").stat().st_size == pin.size
