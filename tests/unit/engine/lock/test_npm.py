"""Locking npm closures: read out of a source or a folder, each tarball pinned once, nothing of it believed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.engine.lock.add_source import add_source
from mmojo_forge.engine.lock.lock import Locker, check_lock
from mmojo_forge.engine.query.repair import make_anew
from mmojo_forge.engine.services import Settings
from mmojo_forge.engine.workspace import Workspace, as_package
from mmojo_forge.errors import ForgeError
from mmojo_forge.fetch.fake import FakeFetcher
from mmojo_forge.model.derivation import Derivation
from mmojo_forge.model.digest import TreeId
from mmojo_forge.model.lockfile import ExpectedOutput, Lock
from mmojo_forge.model.tree import Tree
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.maintain.repair import Lost, RepairResult
from mmojo_forge.store.memory import MemoryStore
from tests.support.engines import Bench, DictFetcher

ARCHIVE = "url:https://example.org/page-1.tar.gz"
PLACE = "page-1/ui/package-lock.json"
OF_ARCHIVE = f'Url("https://example.org/page-1.tar.gz"), "{PLACE}"'
OF_FOLDER = 'Files("ui"), "package-lock.json"'
OF_FILE = 'Files("ui/package-lock.json")'
TARBALLS = {
    "npm:a@1.0.0": b"a 1",
    "npm:a@2.0.0": b"a 2",
    "npm:@s/b@1.0.0": b"b",
}


def recipe(lock: str, exclude: str = "()") -> str:
    return f"""
from mmojo_forge.recipe import Files, NpmClosure, Url, node_modules, recipe

@recipe("page")
def page():
    return node_modules("page-modules", NpmClosure("page", {lock}, exclude={exclude}))
"""


def integrity(locator: str) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(TARBALLS[locator]).digest()).decode()


def package_lock(a: str = "1.0.0", **changed: Any) -> bytes:
    packages = {
        "": {"dependencies": {"a": "*", "@s/b": "*"}},
        "node_modules/a": {"version": a, "integrity": integrity(f"npm:a@{a}"), "license": "MIT", **changed},
        "node_modules/@s/b": {"version": "1.0.0", "integrity": integrity("npm:@s/b@1.0.0"), "bin": {"b": "b.js"}},
        "node_modules/@s/b/node_modules/a": {"version": "1.0.0", "integrity": integrity("npm:a@1.0.0")},
    }
    packages["node_modules/@s/b"]["dependencies"] = {"a": "*"}
    return json.dumps({"lockfileVersion": 3, "packages": packages}).encode()


def archive(content: bytes, name: str = PLACE) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


class Desk:
    """A workspace with one recipe, its store, and a fetcher that has the tarballs."""

    def __init__(self, root: Path, text: str, content: bytes) -> None:
        self.root = root
        self.said: list[str] = []
        self.fetcher = FakeFetcher({**TARBALLS, ARCHIVE: archive(content)})
        self.store = MemoryStore(root / "store")
        (root / "recipes" / "page" / "ui").mkdir(parents=True)
        (root / "recipes" / "page" / "ui" / "package-lock.json").write_bytes(content)
        self.write(text)
        (root / "forge.lock").touch()
        self.workspace = Workspace.find(root)

    def write(self, text: str) -> None:
        (self.root / "recipes" / "page" / "recipe.py").write_text(text)

    def lock(self, *names: str) -> Lock:
        lock = Locker(self.workspace, self.store, self.fetcher, self.said.append).update(names).lock
        self.workspace.write_lock(lock)
        return lock

    def refusal(self) -> str:
        before = self.workspace.lock_path.read_bytes()
        with pytest.raises(ForgeError) as caught:
            self.lock()
        assert self.workspace.lock_path.read_bytes() == before
        return caught.value.reason

    def node(self) -> Derivation:
        return self.workspace.evaluator(self.workspace.read_lock()).instantiate(as_package("page")).node


@pytest.mark.parametrize("place", [OF_ARCHIVE, OF_FOLDER, OF_FILE])
def test_each_package_is_pinned_with_its_hashes_place_and_licence(tmp_path: Path, place: str) -> None:
    desk = Desk(tmp_path, recipe(place), package_lock("2.0.0"))
    packages = desk.lock().npm["page"].packages()
    assert [(one.path, one.locator, one.licence, dict(one.bins)) for one in packages] == [
        ("node_modules/@s/b", "npm:@s/b@1.0.0", "", {"b": "b.js"}),
        ("node_modules/@s/b/node_modules/a", "npm:a@1.0.0", "", {}),
        ("node_modules/a", "npm:a@2.0.0", "MIT", {}),
    ]
    for one in packages:
        content = TARBALLS[one.locator]
        assert (one.integrity, one.size) == (integrity(one.locator), len(content))
        assert one.sha256 == hashlib.sha256(content).hexdigest()
        assert desk.store.valid_trees([Tree.of_file(one.blake3, one.size).id]), "the next build wants it"
    assert check_lock(desk.workspace, desk.store).clean
    assert sorted(edge.node.name for edge in desk.node().inputs.values()) == [
        "a-1.0.0.tgz",
        "a-2.0.0.tgz",
        "s+b-1.0.0.tgz",
    ]
    assert desk.said[-1].startswith("  page: 3 of 3")


def test_a_tarball_that_is_installed_twice_is_downloaded_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_FILE), package_lock())
    assert len(desk.lock().npm["page"].packages()) == 3
    assert sorted(desk.fetcher.fetched) == ["npm:@s/b@1.0.0", "npm:a@1.0.0"]


def test_what_is_locked_stays_and_only_what_is_new_is_downloaded(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_FILE), package_lock())
    lock = desk.lock()
    desk.fetcher.fetched.clear()
    assert desk.lock() == desk.lock("page") == lock
    assert desk.fetcher.fetched == []
    (tmp_path / "recipes/page/ui/package-lock.json").write_bytes(package_lock("2.0.0"))
    assert check_lock(desk.workspace, desk.store).stale == ("npm page",)
    desk.lock()
    assert desk.fetcher.fetched == ["npm:a@2.0.0"]


def test_a_source_whose_content_changes_is_read_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_ARCHIVE), package_lock())
    desk.lock()
    desk.fetcher.contents = {**TARBALLS, ARCHIVE: archive(package_lock("2.0.0"))}
    paths = {one.path: one.version for one in desk.lock("page").npm["page"].packages()}
    assert paths["node_modules/a"] == "2.0.0"


def test_a_tarball_can_be_brought_by_hand(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_FILE), package_lock())
    lock = desk.lock()
    desk.store = MemoryStore(tmp_path / "another store")
    (tmp_path / "a.tgz").write_bytes(TARBALLS["npm:a@1.0.0"])
    added = add_source(desk.workspace, desk.store, tmp_path / "a.tgz")
    assert (added.pin.name, added.pinned) == ("a-1.0.0.tgz", False)
    assert desk.store.has_tree(Tree.of_file(added.pin.blake3, added.pin.size).id)
    assert desk.workspace.read_lock() == lock


def test_an_archive_that_has_left_the_store_is_fetched_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_ARCHIVE), package_lock())
    desk.lock()
    desk.store.close()
    desk.store = MemoryStore(tmp_path / "another store")
    desk.write(recipe(OF_ARCHIVE, exclude='("@s/*",)'))
    assert check_lock(desk.workspace, desk.store).stale == ("npm page",)
    desk.fetcher.fetched.clear()
    assert [one.path for one in desk.lock().npm["page"].packages()] == ["node_modules/a"]
    assert desk.fetcher.fetched == [ARCHIVE]


def test_a_closure_that_is_not_locked_is_named_with_what_to_do(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_FILE), package_lock())
    assert check_lock(desk.workspace, desk.store).missing == ("npm page",)
    with pytest.raises(ForgeError) as caught:
        desk.node()
    assert caught.value.reason == "pin-missing"
    assert "forge lock --update page" in (caught.value.detail or "")
    desk.lock()
    desk.write(recipe(OF_FILE, exclude='("a",)'))
    with pytest.raises(ForgeError) as caught:
        desk.node()
    assert caught.value.reason == "pin-stale"


def test_a_target_with_a_closure_keeps_the_output_that_is_expected_of_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_FILE), package_lock())
    lock = desk.lock()
    expected = ExpectedOutput("page", desk.node().id, TreeId("1" * 64))
    desk.workspace.write_outputs({"page": expected})
    report = check_lock(desk.workspace, desk.store)
    assert (report.clean, report.outputs.stale) == (True, ())
    assert desk.lock() == lock
    assert desk.workspace.read_outputs(lock) == {"page": expected}


def test_a_closure_that_nobody_declares_goes(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_FILE), package_lock())
    desk.lock()
    desk.write(recipe(OF_FILE).replace('NpmClosure("page"', 'NpmClosure("other"'))
    report = check_lock(desk.workspace, desk.store)
    assert (report.missing, report.unused) == (("npm other",), ("npm page",))
    assert list(desk.lock().npm) == ["other"]


def test_lines_that_a_merge_has_spoilt_are_named_and_written_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_FILE), package_lock())
    lock = desk.lock()
    text = desk.workspace.lock_path.read_text()
    desk.workspace.lock_path.write_text(text.replace('{"path": "node_modules/a"', '<<<<<<< {"path": "node_modules/a"'))
    with pytest.raises(ForgeError) as caught:
        desk.node()
    assert (caught.value.reason, "forge lock --update page" in (caught.value.detail or "")) == ("lock-malformed", True)
    assert check_lock(desk.workspace, desk.store).stale == ("npm page",)
    assert desk.lock() == lock


@pytest.mark.parametrize(
    ("place", "content", "reason"),
    [
        (OF_FILE, package_lock(integrity=integrity("npm:@s/b@1.0.0")), "npm-lock-conflict"),
        (OF_FILE, package_lock("2.0.0", integrity=integrity("npm:a@1.0.0")), "hash-mismatch"),
        (OF_FILE, package_lock(integrity=""), "npm-lock-no-integrity"),
        (OF_FILE, package_lock(name="gone"), "not-found"),
        (OF_FILE, b"\xff\xfe", "npm-lock-malformed"),
        (OF_FILE, b"{}", "npm-lock-version"),
        ('Files("ui/other.json")', b"", "local-files-missing"),
        ('Files("ui"), "other.json"', b"", "npm-lock-missing"),
        ('Files("ui")', b"", "npm-lock-missing"),
        (f'Url("{ARCHIVE.removeprefix("url:")}"), "page-2/package-lock.json"', b"", "npm-lock-missing"),
        (f'Url("{ARCHIVE.removeprefix("url:")}")', b"", "npm-lock-malformed"),
    ],
)
def test_what_cannot_be_locked_leaves_the_lock_as_it_is(
    tmp_path: Path, place: str, content: bytes, reason: str
) -> None:
    assert Desk(tmp_path, recipe(place), content).refusal() == reason


def test_an_archive_with_a_lock_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_ARCHIVE), b" " * ((64 << 20) + 1))
    assert desk.refusal() == "archive-too-big"


def test_a_closure_is_no_input_of_a_build_and_declared_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, recipe(OF_FILE).replace("node_modules(", "unpack(").replace("node_modules,", "unpack,"), b"")
    assert desk.refusal() == "npm-closure-misplaced"
    desk.write(
        recipe(OF_FILE)
        + """
@recipe("page.other")
def other():
    return node_modules("other", NpmClosure("page", Files("ui/package-lock.json"), exclude=("a",)))
"""
    )
    assert desk.refusal() == "source-ambiguous"


def test_a_lost_tarball_is_fetched_again_by_its_pin(tmp_path: Path) -> None:
    """Even when no target needs it any more."""
    desk = Desk(tmp_path, recipe(OF_FILE), package_lock())
    packages = desk.lock().npm["page"].packages()
    desk.write(
        """
from mmojo_forge.recipe import Files, recipe, unpack

@recipe("page")
def page():
    return unpack("page", Files("ui"))
"""
    )
    trees = {Tree.of_file(one.blake3, one.size).id for one in packages}
    with LocalStore.open(tmp_path / "local") as store:
        bench = Bench(tmp_path, store, fetcher=DictFetcher(TARBALLS))
        mended = RepairResult(lost=[Lost(tree, "tarball", ()) for tree in sorted(trees)])
        assert make_anew(desk.workspace, mended, bench.services(), Settings(1, 1 << 30)).whole
        assert store.valid_trees(trees) == trees
