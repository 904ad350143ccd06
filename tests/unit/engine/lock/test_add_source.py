"""Sources that somebody brings: known by their content, believed only where one says so."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.lock import add_source as module
from mmojo_forge.engine.lock.add_source import add_source
from mmojo_forge.engine.lock.lock import Locker
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.fetch.download import Digests, Received
from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.fetcher import Fetcher
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.model.derivation import Source
from mmojo_forge.model.digest import BlobDigest
from mmojo_forge.model.lockfile import Lock, Pin, Userland
from mmojo_forge.model.tree import Tree
from mmojo_forge.store.memory import MemoryStore
from mmojo_forge.store.protocol import StoreError

RECIPE = """
from mmojo_forge.recipe import File, Url, recipe, unpack

@recipe("land")
def land():
    return unpack("land", File("model.gguf"), File("tool", executable=True), Url("https://example.org/more.tar"))
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "workspace"
    (root / "recipes" / "land").mkdir(parents=True)
    (root / "recipes" / "land" / "recipe.py").write_text(RECIPE)
    (root / "forge.lock").touch()
    return Workspace.find(root)


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path / "store")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def pin_of(name: str, locator: str, data: bytes) -> Pin:
    digests = Digests()
    digests.update(data)
    received = digests.received("")
    return Pin(name, locator, received.sha256, received.blake3, received.size)


def refusal(workspace: Workspace, store: MemoryStore, path: Path, **more: object) -> EngineError:
    before = workspace.lock_path.read_text()
    with pytest.raises(EngineError) as caught:
        add_source(workspace, store, path, **more)  # type: ignore[arg-type]
    assert workspace.lock_path.read_text() == before
    return caught.value


def test_a_file_is_pinned_once_and_then_known_by_its_content(
    workspace: Workspace, store: MemoryStore, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf", b"model")
    added = add_source(workspace, store, path, pin=True)
    assert added.pinned
    assert workspace.read_lock().sources["model.gguf"] == added.pin == pin_of("model.gguf", "file:model.gguf", b"model")
    tree = Tree.of_file(added.pin.blake3, 5).id
    assert store.valid_trees([tree]) == {tree}
    other = MemoryStore(tmp_path / "other")
    elsewhere = write(tmp_path / "whatever.bin", b"model")
    assert add_source(workspace, other, elsewhere).pin.name == "model.gguf"
    assert other.valid_trees([tree]) == {tree}
    assert elsewhere.exists()


def test_a_tool_that_is_brought_is_executable(workspace: Workspace, store: MemoryStore, tmp_path: Path) -> None:
    added = add_source(workspace, store, write(tmp_path / "x", b"tool"), name="tool", pin=True)
    tree = Tree.of_file(added.pin.blake3, 4, executable=True).id
    assert store.valid_trees([tree]) == {tree}


def test_any_pinned_source_may_be_brought(workspace: Workspace, store: MemoryStore, tmp_path: Path) -> None:
    url = pin_of("more.tar", "url:https://example.org/more.tar", b"more")
    package = pin_of("bash", "debian:pool/b/bash.deb", b"bash")
    userland = Userland("base", "bookworm", "amd64", ("bash",), {"bash": package})
    workspace.write_lock(Lock({"more.tar": url}, {"base": userland}))
    assert add_source(workspace, store, write(tmp_path / "a", b"more")).pin == url
    assert add_source(workspace, store, write(tmp_path / "b", b"bash")).pin == package


def test_what_is_not_pinned_or_is_something_else_is_refused(
    workspace: Workspace, store: MemoryStore, tmp_path: Path
) -> None:
    pin = pin_of("model.gguf", "file:model.gguf", b"model")
    workspace.write_lock(Lock({"model.gguf": pin}))
    assert refusal(workspace, store, write(tmp_path / "model.gguf", b"another")).reason == "source-mismatch"
    assert refusal(workspace, store, write(tmp_path / "x", b"another")).reason == "source-unknown"
    assert refusal(workspace, store, write(tmp_path / "x", b"model"), name="tool").reason == "source-mismatch"
    assert refusal(workspace, store, tmp_path / "missing").reason == "source-unreadable"
    assert refusal(workspace, store, tmp_path).reason == "source-unreadable"
    for name in ("more.tar", "other"):
        assert refusal(workspace, store, tmp_path / "x", name=name, pin=True).reason == "source-unknown"


def test_a_link_stands_for_the_file_it_leads_to(workspace: Workspace, store: MemoryStore, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", b"model")
    link = tmp_path / "model.gguf"
    link.symlink_to("elsewhere")
    added = add_source(workspace, store, link, pin=True)
    tree = Tree.of_file(added.pin.blake3, 5).id
    assert store.valid_trees([tree]) == {tree}
    assert link.is_symlink()


def test_what_has_no_end_is_not_read(workspace: Workspace, store: MemoryStore, tmp_path: Path) -> None:
    pipe = tmp_path / "model.gguf"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        assert refusal(workspace, store, path, name="model.gguf", pin=True).reason == "source-unreadable"


def test_a_file_that_grows_meanwhile_is_not_taken(
    workspace: Workspace, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "model.gguf", b"model")
    measure = module._measure

    def grown(measured: Path) -> Received:
        received = measure(measured)
        write(measured, b"model, more of it")
        return received

    monkeypatch.setattr(module, "_measure", grown)
    assert refusal(workspace, store, path, pin=True).reason == "source-changed"


def test_nothing_is_pinned_that_the_store_does_not_have(
    workspace: Workspace, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: object, **_more: object) -> Tree:
        raise StoreError("add: no space left", reason="store-full")

    monkeypatch.setattr(store, "add_file", full)
    before = workspace.lock_path.read_text()
    with pytest.raises(StoreError):
        add_source(workspace, store, write(tmp_path / "model.gguf", b"model"), pin=True)
    assert workspace.lock_path.read_text() == before


def test_what_others_pin_meanwhile_stays(
    workspace: Workspace, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = pin_of("tool", "file:tool", b"tool")
    add_file = store.add_file

    def slow(path: Path, **more: Any) -> Tree:
        workspace.write_lock(Lock({"tool": other}))
        return add_file(path, **more)

    monkeypatch.setattr(store, "add_file", slow)
    added = add_source(workspace, store, write(tmp_path / "model.gguf", b"model"), pin=True)
    assert workspace.read_lock().sources == {"tool": other, "model.gguf": added.pin}


def test_what_forge_lock_wants_no_longer_is_not_pinned_again(
    workspace: Workspace, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = replace(pin_of("more.tar", "url:https://example.org/more.tar", b"more"), blake3=BlobDigest(""))
    workspace.write_lock(Lock({"more.tar": pin}))
    add_file = store.add_file

    def slow(path: Path, **more: Any) -> Tree:
        workspace.write_lock(Lock({"more.tar": replace(pin, size=7)}))
        return add_file(path, **more)

    monkeypatch.setattr(store, "add_file", slow)
    with pytest.raises(EngineError) as caught:
        add_source(workspace, store, write(tmp_path / "more.tar", b"more"))
    assert caught.value.reason == "lock-changed"
    assert workspace.read_lock().sources["more.tar"].size == 7


def test_lock_keeps_what_was_pinned_by_hand_and_says_what_is_missing(
    workspace: Workspace, store: MemoryStore, tmp_path: Path
) -> None:
    fetcher = Fetcher(FetchSettings({"HOME": str(tmp_path)}, tmp_path / "state"))
    locker = Locker(workspace, store, fetcher, lambda _line: None)
    with pytest.raises(FetchError) as caught:
        locker.update()
    assert caught.value.reason == "source-by-hand"
    assert "add-source --pin --name model.gguf" in caught.value.detail
    source = Source("model.gguf", "file:model.gguf", "b" * 64, 5, "a" * 64)  # type: ignore[arg-type]
    with pytest.raises(FetchError) as caught:
        fetcher.fetch(source, tmp_path / "download")
    assert caught.value.reason == "source-by-hand"
    assert "a" * 64 in caught.value.detail
