"""Locking: what is downloaded to be pinned is in the store afterwards."""

from __future__ import annotations

from pathlib import Path

from mmojo_forge.engine.lock.lock import Locker
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.fetch.download import Digests
from mmojo_forge.fetch.fake import FakeFetcher
from mmojo_forge.model.lockfile import Pin, Userland
from mmojo_forge.model.tree import Tree
from mmojo_forge.store.memory import MemoryStore

RECIPE = """
from mmojo_forge.recipe import Debian, Url, recipe, unpack

@recipe("land")
def land():
    return unpack("land", Debian("base", "bookworm", ("bash",)), Url("https://example.org/more.tar"))
"""
CONTENTS = {"debian:bash": b"bash", "debian:libc6": b"libc6", "url:https://example.org/more.tar": b"more"}


def pin(name: str) -> Pin:
    digests = Digests()
    digests.update(CONTENTS[f"debian:{name}"])
    received = digests.received("")
    return Pin(name, f"debian:{name}", received.sha256, received.blake3, received.size)


def test_what_was_downloaded_to_be_pinned_is_in_the_store_and_not_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "recipes" / "land").mkdir(parents=True)
    (tmp_path / "recipes" / "land" / "recipe.py").write_text(RECIPE)
    (tmp_path / "forge.lock").touch()
    closure = {name: pin(name) for name in ("bash", "libc6")}
    fetcher = FakeFetcher(CONTENTS, {"base": Userland("base", "bookworm", "amd64", ("bash",), closure)})
    store = MemoryStore(tmp_path / "store")
    workspace = Workspace.find(tmp_path)
    locker = Locker(workspace, store, fetcher, lambda _line: None)
    lock = locker.update().lock
    pins = [*lock.sources.values(), *lock.userlands["base"].closure.values()]
    trees = {Tree.of_file(each.blake3, each.size).id for each in pins}
    assert store.valid_trees(trees) == trees
    assert sorted(fetcher.fetched) == sorted(CONTENTS)
    workspace.write_lock(lock)
    assert locker.update().lock == lock
    assert len(fetcher.fetched) == len(CONTENTS)
    store.close()
