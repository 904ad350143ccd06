"""What tests share: the repository's own workspace with a warm store, and toolchains built by forge itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def realize(*targets: str) -> list[Path]:
    """Where targets of the repository's workspace lie; built first if need be (FORGE_STORE keeps them warm)."""
    command = [sys.executable, "-m", "mmojo_forge", "-C", str(REPOSITORY), "realize", "--no-link", "--quiet", *targets]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--slow`, which `./check --slow` passes on."""
    parser.addoption(
        "--slow", action="store_true", help="also tests of large products, which fail where those are not built"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --slow no test that is marked so."""
    if config.getoption("--slow"):
        os.environ["FORGE_TEST_SLOW"] = "1"
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(autouse=True)
def unlocked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Objects are read-only folders; pytest, as an ordinary user, could not remove them."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    for directory, _, _ in os.walk(folder) if folder else ():
        os.chmod(directory, 0o755)


@pytest.fixture(scope="session")
def zig() -> Path:
    """The zig binary."""
    chosen = os.environ.get("FORGE_TEST_ZIG")
    return Path(chosen) if chosen else realize("zig")[0] / "zig"


@pytest.fixture(scope="session")
def busybox() -> Path:
    """A static busybox."""
    return realize("busybox")[0] / "bin" / "busybox"
