"""Sources of which only the SHA-256 is known: pinned without being had, built from as from any other once they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mmojo_forge.engine.check import check
from mmojo_forge.engine.errors import BuildsFailed, EngineError
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.lock.add_source import add_source
from mmojo_forge.engine.lock.lock import Locker, check_lock
from mmojo_forge.engine.plan import Action, make_plan
from mmojo_forge.engine.sbom.contents import DeclaredContents
from mmojo_forge.engine.sbom.provenance import source_reference
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.errors import ExitCode
from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.fake import FakeFetcher
from mmojo_forge.fetch.fetcher import Fetcher
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.model.derivation import Derivation, Download, Input, Source, action_key, downloading
from mmojo_forge.model.digest import BlobDigest, Sha256, blake3_hex
from mmojo_forge.model.lockfile import Lock, LockError, Pin
from mmojo_forge.model.tree import Tree
from mmojo_forge.net.settings import HttpSettings
from mmojo_forge.recipe.api import Package
from mmojo_forge.recipe.errors import RecipeError
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.memory import MemoryStore
from tests.support.engines import Bench, DictFetcher, node

CONTENT = b"what a project publishes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "https://example.org/tool-4.0.2.zip"
MIRROR = "https://mirror.example.org/tool.zip"
WANTED = Download("tool-4.0.2.zip", f"url:{URL}", Sha256(SHA256), len(CONTENT), mirrors=(MIRROR,))
MEASURED = Source("tool-4.0.2.zip", f"url:{URL}", BlobDigest(blake3_hex(CONTENT)), len(CONTENT), Sha256(SHA256))
RECIPE = """
from mmojo_forge.recipe import Url, recipe, unpack

@recipe("tool")
def tool():
    return unpack("tool", Url("{url}", mirrors=("{mirror}",), sha256="{sha256}", size={size}))
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with LocalStore.open(tmp_path / "store") as store:
        yield Bench(tmp_path, store, fetcher=DictFetcher({WANTED.locator: CONTENT}))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "workspace"
    (root / "recipes" / "tool").mkdir(parents=True)
    write_recipe(root, SHA256)
    (root / "forge.lock").touch()
    return Workspace.find(root)


def write_recipe(root: Path, sha256: str, size: int = len(CONTENT)) -> None:
    text = RECIPE.format(url=URL, mirror=MIRROR, sha256=sha256, size=size)
    (root / "recipes" / "tool" / "recipe.py").write_text(text)


def lock_with(workspace: Workspace, store: MemoryStore | LocalStore, fetcher: FakeFetcher) -> Lock:
    lock = Locker(workspace, store, fetcher, lambda _line: None).update().lock
    workspace.write_lock(lock)
    return workspace.read_lock()


def target(workspace: Workspace) -> Derivation:
    return workspace.evaluator(workspace.read_lock()).instantiate(Package("tool")).node


# In the graph


def test_where_it_is_looked_for_is_no_part_of_its_identity() -> None:
    elsewhere = replace(WANTED, locator="url:https://elsewhere.example.org/x", mirrors=())
    assert downloading(WANTED).id == downloading(elsewhere).id
    others = (replace(WANTED, sha256=Sha256("0" * 64)), replace(WANTED, size=1), replace(WANTED, executable=True))
    assert len({downloading(one).id for one in (WANTED, *others)}) == 4


def test_it_is_planned_as_a_download_of_its_size(bench: Bench) -> None:
    plan = make_plan(Graph.of([node("app", tool=downloading(WANTED))]), bench.store)
    assert [(step.action, step.size) for step in plan.steps] == [(Action.FETCH, len(CONTENT)), (Action.BUILD, 0)]


def test_what_is_built_from_it_is_known_by_the_key_that_it_has_from_the_source(bench: Bench) -> None:
    assert bench.realise(node("app", tool=downloading(WANTED))) == {"app": CONTENT}
    assert bench.ran() == ["app"]
    again = node("app", tool=MEASURED)
    assert make_plan(Graph.of([again]), bench.store).steps == ()
    assert bench.realise(again) == {"app": CONTENT}
    assert bench.ran() == []


def test_it_is_fetched_once_and_has_a_trace(bench: Bench) -> None:
    wanted = downloading(WANTED)
    bench.realise(node("app", tool=wanted))
    bench.realise(node("other", "copy", comment="another", tool=wanted))
    assert bench.fetcher.fetched == [WANTED.name]
    key = action_key(wanted.preimage({}))
    assert bench.store.lookup([key])[key].outputs["out"].tree == MEASURED.tree


def test_one_that_is_a_program_may_be_run(bench: Bench) -> None:
    wanted = downloading(replace(WANTED, executable=True))
    bench.realise(wanted)
    [tree] = bench.store.lookup_resolved([wanted.id])[wanted.id].values()
    assert tree == Tree.of_file(MEASURED.digest, MEASURED.size, executable=True).id


def test_a_download_that_fails_blocks_what_needs_it(bench: Bench) -> None:
    class Unreachable(DictFetcher):
        def fetch(self, *_arguments: object, **_more: object) -> None:
            raise FetchError("fetch: no network", reason="network-unreachable")

    bench.fetcher = Unreachable({})
    with pytest.raises(BuildsFailed) as caught:
        bench.realise(node("app", tool=downloading(WANTED)))
    assert caught.value.exit_code == ExitCode.ENVIRONMENT_ERROR
    assert caught.value.blocked == ("app",)


def test_it_is_not_downloaded_again_to_be_checked() -> None:
    graph = Graph.of([node("app", tool=downloading(WANTED))])
    assert [one.name for one in check._nodes(graph, closure=True)] == ["app"]


def test_it_is_a_source_in_bills_and_receipts() -> None:
    unpacked = Derivation(
        "tool", "builtin:unpack", (), {}, {"archive": Input(downloading(WANTED), "out", "/forge/archive")}
    )
    [part] = DeclaredContents(Graph.of([unpacked])).of(unpacked)
    assert (part.component.name, part.source) == (WANTED.name, WANTED)
    assert source_reference(WANTED)["digest"] == {"sha256": SHA256}


# In forge.lock


def test_lock_pins_it_without_downloading_it(workspace: Workspace, tmp_path: Path) -> None:
    fetcher, store = FakeFetcher({}), MemoryStore(tmp_path / "store")
    lock = lock_with(workspace, store, fetcher)
    pin = lock.sources[WANTED.name]
    assert pin == Pin(WANTED.name, WANTED.locator, WANTED.sha256, BlobDigest(""), len(CONTENT), (MIRROR,))
    assert not pin.measured
    assert "blake3" not in workspace.lock_path.read_text()
    assert fetcher.fetched == []
    assert check_lock(workspace, store).clean
    [edge] = target(workspace).inputs.values()
    assert edge.node.id == downloading(WANTED).id


def test_lock_adds_the_blake3_once_the_file_was_had_here(workspace: Workspace, bench: Bench) -> None:
    lock_with(workspace, bench.store, FakeFetcher({}))
    before = target(workspace)
    [edge] = before.inputs.values()
    bench.realise(edge.node)
    assert lock_with(workspace, bench.store, FakeFetcher({})).sources[WANTED.name].blake3 == MEASURED.digest
    [edge] = target(workspace).inputs.values()
    assert edge.node == replace(MEASURED, mirrors=(MIRROR,))
    assert target(workspace).id != before.id


def test_a_recipe_that_names_another_hash_than_the_lock_is_told_of(workspace: Workspace, tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "store")
    lock_with(workspace, store, FakeFetcher({}))
    for sha256, size in (("1" * 64, len(CONTENT)), (SHA256, 1)):
        write_recipe(workspace.root, sha256, size)
        with pytest.raises(LockError) as caught:
            target(workspace)
        assert caught.value.reason == "pin-stale"
        assert check_lock(workspace, store).stale == (f"source {WANTED.name}",)
    assert lock_with(workspace, store, FakeFetcher({})).sources[WANTED.name].size == 1


@pytest.mark.parametrize(("sha256", "size"), [("", 5), (SHA256, 0)])
def test_a_hash_without_a_size_is_refused(workspace: Workspace, sha256: str, size: int) -> None:
    write_recipe(workspace.root, sha256, size)
    with pytest.raises(RecipeError) as caught:
        workspace.evaluator(Lock(), locking=True).instantiate(Package("tool"))
    assert caught.value.reason == "source-half-known"


def test_a_package_lock_has_to_be_read_when_it_is_pinned(workspace: Workspace) -> None:
    url = f'Url("{URL}", sha256="{SHA256}", size={len(CONTENT)})'
    (workspace.root / "recipes" / "tool" / "recipe.py").write_text(
        "from mmojo_forge.recipe import NpmClosure, Url, node_modules, recipe\n"
        f'@recipe("tool")\ndef tool():\n    return node_modules("tool", NpmClosure("tool", {url}))\n'
    )
    with pytest.raises(RecipeError) as caught:
        workspace.evaluator(Lock(), locking=True).instantiate(Package("tool"))
    assert caught.value.reason == "npm-lock-unread"


# Brought by hand


def test_a_file_that_is_brought_is_measured_and_used(workspace: Workspace, tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "store")
    lock_with(workspace, store, FakeFetcher({}))
    path = tmp_path / "whatever.bin"
    path.write_bytes(CONTENT)
    added = add_source(workspace, store, path)
    assert added.pinned
    assert workspace.read_lock().sources[WANTED.name] == added.pin
    assert added.pin.blake3 == MEASURED.digest
    assert added.pin.mirrors == (MIRROR,)
    assert store.valid_trees([MEASURED.tree]) == {MEASURED.tree}
    assert not add_source(workspace, store, path).pinned


def test_what_was_measured_stays_so_when_it_is_pinned_again_or_looked_for_elsewhere(
    workspace: Workspace, tmp_path: Path
) -> None:
    store = MemoryStore(tmp_path / "store")
    lock_with(workspace, store, FakeFetcher({}))
    path = tmp_path / WANTED.name
    path.write_bytes(CONTENT)
    pin = add_source(workspace, store, path).pin
    locker = Locker(workspace, store, FakeFetcher({}), lambda _line: None)
    assert locker.update([WANTED.name]).lock.sources[WANTED.name] == pin
    recipe = workspace.root / "recipes" / "tool" / "recipe.py"
    recipe.write_text(recipe.read_text().replace("https://example.org", "https://elsewhere.example.org"))
    moved = locker.update().lock.sources[WANTED.name]
    assert moved == replace(pin, locator=pin.locator.replace("example.org", "elsewhere.example.org"))


NAMES = ("tool-4.0.2.zip", "tool-3.9.7.zip", "tool.zip", "tool-4.0.2.zip.1", "tool-4.0.2 (1).zip", "tool_5.zip")


@pytest.mark.parametrize("name", NAMES)
def test_another_version_is_refused_and_changes_nothing(workspace: Workspace, tmp_path: Path, name: str) -> None:
    store = MemoryStore(tmp_path / "store")
    lock_with(workspace, store, FakeFetcher({}))
    before = workspace.lock_path.read_text()
    path = tmp_path / name
    path.write_bytes(CONTENT + b".")
    with pytest.raises(EngineError) as caught:
        add_source(workspace, store, path)
    assert caught.value.reason == "source-mismatch"
    assert URL in caught.value.detail
    assert MIRROR in caught.value.detail
    assert workspace.lock_path.read_text() == before
    assert store.valid_trees([MEASURED.tree]) == set()


def test_what_is_known_by_nothing_is_told_what_is_waited_for(workspace: Workspace, tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "store")
    lock_with(workspace, store, FakeFetcher({}))
    path = tmp_path / "download"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(EngineError) as caught:
        add_source(workspace, store, path)
    assert caught.value.reason == "source-unknown"
    assert f"{WANTED.name}: {len(CONTENT)} bytes, SHA-256 {SHA256}" in caught.value.detail
    assert "--pin" not in caught.value.detail


def test_what_was_brought_is_known_to_the_store_whatever_becomes_of_the_lock(
    workspace: Workspace, tmp_path: Path
) -> None:
    store = MemoryStore(tmp_path / "store")
    fetcher = FakeFetcher({})
    lock_with(workspace, store, fetcher)
    before = workspace.lock_path.read_text()
    path = tmp_path / WANTED.name
    path.write_bytes(CONTENT)
    add_source(workspace, store, path)
    workspace.lock_path.write_text(before)
    assert store.lookup_resolved([downloading(WANTED).id]) == {downloading(WANTED).id: {"out": MEASURED.tree}}
    assert lock_with(workspace, store, fetcher).sources[WANTED.name].blake3 == MEASURED.digest
    assert fetcher.fetched == []


def test_a_lock_that_cannot_be_written_is_told_of_and_the_file_is_used(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(tmp_path / "store")
    lock_with(workspace, store, FakeFetcher({}))

    def refuse(_workspace: Workspace, _lock: Lock) -> bool:
        raise LockError("write forge.lock: Read-only file system", reason="lock-unwritable")

    monkeypatch.setattr(Workspace, "write_lock", refuse)
    path = tmp_path / WANTED.name
    path.write_bytes(CONTENT)
    added = add_source(workspace, store, path)
    assert not added.pinned
    assert "Read-only" in added.unwritten
    assert store.valid_trees([MEASURED.tree]) == {MEASURED.tree}


def test_the_error_of_a_download_names_every_place_and_the_way_by_hand(tmp_path: Path) -> None:
    places = ("http://127.0.0.1:9/first/tool.zip", "http://127.0.0.1:9/second/tool.zip")
    http = HttpSettings(attempts=1)
    settings = FetchSettings({"HOME": str(tmp_path)}, tmp_path, http=http, plain_schemes=frozenset({"http"}))
    fetcher = Fetcher(settings)
    wanted = replace(WANTED, locator=f"url:{places[0]}", mirrors=places[1:])
    with pytest.raises(FetchError) as caught:
        fetcher.fetch(wanted, tmp_path / "download")
    assert caught.value.reason == "network-unreachable"
    assert caught.value.exit_code == ExitCode.ENVIRONMENT_ERROR
    assert [url for url, _ in caught.value.attempts] == list(places)
    assert f"forge store add-source {WANTED.name}" in caught.value.detail
    assert SHA256 in caught.value.detail
