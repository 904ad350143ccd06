"""Two users and a cache between them: what one builds the other downloads, as far as it may be believed."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import Forge
from tests.functional.test_store import damage

CHAIN = """
@recipe("base")
def base():
    return sh("base", "printf base > /forge/out/out")

@recipe("base.top")
def top(base: Package):
    return sh("top", "cat /forge/base /forge/base > /forge/out/out", inputs={"base": base})

@recipe("base.random")
def random():
    return sh("random", "cat /proc/sys/kernel/random/uuid > /forge/out/out")
"""


@pytest.fixture
def bob(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """Another user with the same workspace, an empty store and a key of their own."""
    forge.recipe("base", CHAIN)
    root = tmp_path_factory.mktemp("bob") / "workspace"
    shutil.copytree(forge.root, root, ignore=shutil.ignore_patterns("store", "out", "home"), symlinks=True)
    return Forge(root, dict(forge.environment))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def answer(forge: Forge, *arguments: str, expect: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(forge.run("cache", *arguments, "--json", expect=expect).stdout)
    assert document["schema"] == 1
    return document


def own_key(forge: Forge) -> str:
    return str(answer(forge, "key", "show")["own"])


def share(forge: Forge, cache: Path, *targets: str) -> dict[str, Any]:
    forge.realize(*targets)
    done: dict[str, Any] = answer(forge, "push", "--to", str(cache), *targets)["caches"][str(cache)]
    return done


def test_what_one_builds_the_other_downloads_and_passes_on(forge: Forge, bob: Forge, cache: Path) -> None:
    done = share(forge, cache, "base.top")
    assert (done["trees"], done["traces"] > 1) == (1, True)
    assert share(forge, cache, "base.top")["sent_bytes"] < 5000
    bob.run("cache", "key", "trust", own_key(forge))
    (bob.root / "forge.toml").write_text(f'[cache.team]\nurl = "{cache}"\n')
    planned = json.loads(bob.run("plan", "base.top", "--json").stdout)
    assert [(step["name"], step["action"]) for step in planned["steps"]] == [("top", "substitute")]
    (path,) = bob.realize("base.top")
    assert path.read_text() == "basebase"
    bob.run("store", "verify")
    assert [one.name.partition("-")[2] for one in (bob.store / "objects").iterdir()] == ["top"]
    assert bob.built("base.top") == []
    second = cache.with_name("second")
    bob.run("cache", "push", "--to", str(second), "base.top")
    state = answer(bob, "status", "base.top", "--from", str(second))["caches"][0]["targets"][0]
    assert state["complete"]


def test_a_revoked_key_counts_no_more_neither_in_the_cache_nor_in_the_store(
    forge: Forge, bob: Forge, cache: Path
) -> None:
    share(forge, cache, "base.top")
    key = own_key(forge)
    bob.run("cache", "key", "trust", key)
    (bob.root / "forge.toml").write_text(f'[cache.team]\nurl = "{cache}"\n')
    bob.run("cache", "pull", "base.top")
    bob.run("cache", "key", "revoke", key.partition(":")[0], "--reason", "stolen")
    assert bob.error("cache", "pull", "base.top")["reason"] == "not-substituted"
    assert bob.built("base.top")[-2:] == ["base", "top"]


def test_a_cache_that_vanishes_half_way_only_costs_time(forge: Forge, bob: Forge, cache: Path) -> None:
    share(forge, cache, "base.top")
    bob.run("cache", "key", "trust", own_key(forge))
    (bob.root / "forge.toml").write_text(f'[cache.team]\nurl = "{cache}"\n')
    shutil.rmtree(cache / "packs")
    assert bob.built("base.top")[-2:] == ["base", "top"]
    shutil.rmtree(cache)
    assert bob.built("base") == []


def test_a_cache_that_is_not_there_is_told_of_and_not_missed(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    (forge.root / "forge.toml").write_text('[cache.gone]\nurl = "http://127.0.0.1:9/x"\n')
    done = forge.run("realize", "base.top")
    assert done.stderr.count("cache gone: ") == 1
    assert Path(done.stdout.strip()).read_text() == "basebase"


@pytest.mark.parametrize("command", [("realize", "base.top"), ("cache", "status", "--from", "CACHE", "base.top")])
def test_ctrl_c_ends_waiting_for_a_cache_that_does_not_answer(forge: Forge, command: tuple[str, ...]) -> None:
    forge.recipe("base", CHAIN)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        (forge.root / "forge.toml").write_text(f'[cache.silent]\nurl = "{url}"\n')
        own_key(forge)
        with forge.start(*(url if word == "CACHE" else word for word in command)) as process:
            server.settimeout(60)
            client, _ = server.accept()
            with client:
                client.recv(10_000)
                process.send_signal(signal.SIGINT)
                begun = time.monotonic()
                process.communicate(timeout=100)
                # The stall limit is twenty seconds: this tells waking from waiting, not fast from slow.
                assert time.monotonic() - begun < 15
    assert process.returncode == 130
    forge.run("store", "verify")


def test_without_or_only_caches(forge: Forge, bob: Forge, cache: Path) -> None:
    share(forge, cache, "base.top")
    bob.run("cache", "key", "trust", own_key(forge))
    (bob.root / "forge.toml").write_text(f'[cache.team]\nurl = "{cache}"\n')
    assert bob.error("realize", "--substitute-only", "base")["reason"] == "not-substituted"
    bob.run("realize", "--no-substitute", "--substitute-only", "base", expect=2)
    planned = json.loads(bob.run("plan", "--no-substitute", "base.top", "--json").stdout)
    assert {step["action"] for step in planned["steps"]} >= {"build", "fetch"}


def test_a_challenge_tells_the_truthful_from_the_lying(forge: Forge, bob: Forge, cache: Path) -> None:
    share(forge, cache, "base.top", "base.random")
    bob.run("cache", "key", "trust", own_key(forge))
    (bob.root / "forge.toml").write_text(f'[cache.team]\nurl = "{cache}"\n')
    (honest,) = answer(bob, "challenge", "base.top")["challenges"]
    assert [(one["source"], one["finding"]) for one in honest["answers"]] == [("team", "match")]
    document = answer(bob, "challenge", "base.random", expect=1)
    (other,) = document["challenges"][0]["answers"]
    assert (other["source"], other["finding"], other["differing"]) == ("team", "mismatch", ["out"])
    assert bob.error("cache", "challenge", "--no-rebuild", "base.top")["reason"] == "not-built"


def test_settings_that_make_no_sense_are_refused(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    settings = forge.root / "forge.toml"
    settings.write_text('[cache.team]\nurl = "https://evil.example"\ntoken_file = "~/.ssh/id_ed25519"\n')
    assert forge.error("realize", "base")["reason"] == "settings-malformed"
    settings.write_text("[cache.team]\nurl = 7\n")
    assert forge.error("realize", "base")["reason"] == "settings-malformed"
    settings.write_text("")
    forge.realize("base")
    assert forge.error("cache", "push", "base")["reason"] == "which-cache"
    assert forge.error("cache", "push", "--to", "team", "base")["reason"] == "no-such-cache"
    assert forge.error("cache", "push", "--to", "gopher://x/", "base", expect=3)["reason"] == "cache-url"
    settings.write_text('[cache.a]\nurl = "a/"\n[cache.b]\nurl = "b/"\npush = "after-build"\n')
    assert list(answer(forge, "push", "base")["caches"]) == ["b"]
    assert (forge.root / "b" / "cache-info.json").exists()


def test_what_is_built_is_pushed_in_the_background_if_that_is_set(forge: Forge, bob: Forge, cache: Path) -> None:
    (forge.root / "forge.toml").write_text(f'[cache.team]\nurl = "{cache}"\npush = "after-build"\n')
    forge.realize("base.top")
    bob.run("cache", "key", "trust", own_key(forge))
    (bob.root / "forge.toml").write_text(f'[cache.team]\nurl = "{cache}"\n')
    assert bob.built("base.top") == ["top"]
    # Its inputs are there as well, for whoever changes only what is above them.
    state = answer(bob, "status", "base")["caches"][0]["targets"][0]
    assert (state["builder"], state["nodes_known"] > 1) == (own_key(forge).partition(":")[0], True)
    shutil.rmtree(cache)
    cache.write_text("no folder")
    forge.run("store", "gc", "--older-than", "0")
    (forge.root / "out" / "base.top").unlink()
    forge.run("store", "gc", "--older-than", "0", "--forget")
    done = forge.run("realize", "base.top")
    assert done.stderr.count("push to team is off for the rest of this run") == 1


def test_what_is_damaged_is_mended_from_a_cache(forge: Forge, bob: Forge, cache: Path) -> None:
    share(forge, cache, "base.top")
    bob.run("cache", "key", "trust", own_key(forge))
    (bob.root / "forge.toml").write_text(f'[cache.team]\nurl = "{cache}"\n')
    (path,) = bob.realize("base.top")
    damage(bob, b"basebase", b"damaged!")
    bob.run("store", "verify", expect=1)
    bob.run("store", "repair")
    bob.run("store", "verify")
    assert path.read_text() == "basebase"
    # It was not built: what it is made of never came here.
    assert [one.name.partition("-")[2] for one in (bob.store / "objects").iterdir()] == ["top"]
