"""Patches: what is applied, what is refused, what a maintainer is told, and when they are tried."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from mmojo_forge.engine.errors import BuildsFailed
from mmojo_forge.engine.lock.lock import Locked, Locker
from mmojo_forge.engine.lock.patches import PatchesFailed, affected_trees, try_patches
from mmojo_forge.engine.services import Settings
from mmojo_forge.engine.workspace import Workspace, as_package
from mmojo_forge.executor.build_log import BuildLog
from mmojo_forge.executor.request import BuildOutcome, BuildRequest, BuildResult, CancelSignal
from mmojo_forge.fetch.fake import FakeFetcher
from mmojo_forge.model.lockfile import LockError
from mmojo_forge.recipe import patcher
from mmojo_forge.recipe.source_trees import is_patched
from mmojo_forge.store.local import LocalStore
from tests.support.engines import Bench, DictFetcher, FunctionExecutor

HEAD = "Subject: {}\nWhy: because\nUpstream: would need a test\n\n"
ONE = "".join(f"line {number}\n" for number in range(1, 31))
FILES = {"one.txt": ONE, "sub/two.txt": "a\nb\nc\n", "sub/tool.sh": "echo\n"}


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def diff(path: str, before: str, after: str, subject: str = "a change") -> str:
    """A patch that makes `after` of `before`; an empty text is no file."""
    lines = HEAD.format(subject)
    for prefix, text in (("a", before), ("b", after)):
        write(Path(f"{prefix}-side"), {path: text})
    done = subprocess.run(
        ["diff", "-u", f"a-side/{path}", f"b-side/{path}"], capture_output=True, text=True, check=False
    ).stdout.splitlines(keepends=True)
    old, new = ("/dev/null" if not text else f"{side}/{path}" for side, text in (("a", before), ("b", after)))
    return "".join((lines, f"--- {old}\n+++ {new}\n", *done[2:]))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A read-only tree, as the store has them."""
    source = write(tmp_path / "source", FILES)
    (source / "link").symlink_to("sub")
    (source / "file-link").symlink_to("one.txt")
    (source / "way-out").symlink_to("..")
    (source / "sub/tool.sh").chmod(0o555)
    for name in ("one.txt", "sub/two.txt"):
        (source / name).chmod(0o444)
    return source


Patcher = Callable[[Mapping[str, str]], tuple[int, Path, list[str]]]


@pytest.fixture
def patched(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Patcher:
    """A function that applies a folder of patches: the exit code, the tree, and the summary of what is wrong."""

    def run(files: Mapping[str, str]) -> tuple[int, Path, list[str]]:
        (tmp_path / "patches").mkdir()
        code = patcher.main(source, write(tmp_path / "patches", files), tmp_path / "out")
        said = capsys.readouterr().out.splitlines()
        return code, tmp_path / "out", said[said.index(patcher.SUMMARY) + 1 :] if patcher.SUMMARY in said else []

    return run


def tree_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


FIRST = ONE.replace("line 3\n", "line three\n")
SECOND = FIRST.replace("line 4\n", "line four\n")


def test_patches_are_applied_in_the_order_of_their_names(patched: Patcher, source: Path) -> None:
    code, tree, wrong = patched(
        {
            # The second is for what the first leaves.
            "0002-b.patch": diff("one.txt", FIRST, SECOND),
            "0001-a.patch": diff("one.txt", ONE, FIRST) + diff("sub/new.txt", "", "new\n").partition("\n\n")[2],
            "README.md": "not a patch",
        }
    )
    assert (code, wrong) == (0, [])
    assert tree_of(tree) == {**FILES, "one.txt": SECOND, "sub/new.txt": "new\n"}
    assert (tree / "link").readlink() == Path("sub")
    assert os.access(tree / "sub/tool.sh", os.X_OK)
    assert tree_of(source) == FILES


def test_a_patch_may_make_and_remove_files(patched: Patcher) -> None:
    code, tree, _ = patched({"a.patch": diff("sub/two.txt", FILES["sub/two.txt"], "")})
    assert code == 0
    assert sorted(tree_of(tree)) == ["one.txt", "sub/tool.sh"]


def test_a_patch_is_found_where_lines_above_it_moved_its_place(patched: Patcher) -> None:
    moved = ONE.replace("line 20\n", "line twenty\n")
    code, tree, _ = patched({"a.patch": diff("one.txt", "new top\n" + ONE, "new top\n" + moved)})
    assert (code, (tree / "one.txt").read_text()) == (0, moved)


def test_new_files_lie_in_the_tree_as_in_the_folder(patched: Patcher) -> None:
    code, tree, wrong = patched({"files/sub/our.cpp": "int x;\n", "files/deep/er/our.h": "", "files/top": ""})
    assert (code, wrong) == (0, [])
    assert {"sub/our.cpp", "deep/er/our.h", "top"} <= tree_of(tree).keys()


def test_every_patch_that_does_not_apply_is_named_with_file_and_hunk(patched: Patcher) -> None:
    other = ONE.replace("line 3\n", "other 3\n").replace("line 27\n", "other 27\n")
    change = other.replace("other 3\n", "x\n").replace("line 15\n", "fits\n").replace("other 27\n", "y\n")
    code, tree, wrong = patched(
        {
            "0001-hunks.patch": diff("one.txt", other, change, "three hunks"),
            "0002-good.patch": diff("sub/two.txt", FILES["sub/two.txt"], "a\nB\nc\n"),
            "0003-gone.patch": diff("sub/gone.txt", "x\n", "y\n", "of a file that is gone"),
            "files/one.txt": "",
        }
    )
    assert code == 1
    assert wrong[0] == "  0001-hunks.patch (three hunks)"
    assert [line.partition(", line")[0].strip() for line in wrong[1:3]] == [
        "one.txt: hunk 1 of 3",
        "one.txt: hunk 3 of 3",
    ]
    assert wrong[1].endswith("@@ -1,6 +1,6 @@")
    assert wrong[3:] == [
        "  0003-gone.patch (of a file that is gone)",
        "    sub/gone.txt: the file is not there",
        "  files",
        "    one.txt: the source has a file of that name",
    ]
    # What fits is tried all the same, so that what comes after it is judged for itself.
    assert "fits" in (tree / "one.txt").read_text()
    assert (tree / "sub/two.txt").read_text() == "a\nB\nc\n"


def test_context_that_is_almost_the_same_is_not_enough(patched: Patcher) -> None:
    """With fuzz, `patch` would leave out the first line of the context and put the change there."""
    almost = ONE.replace("line 17\n", "line xvii\n")
    code, _, wrong = patched({"a.patch": diff("one.txt", almost, almost.replace("line 20\n", "line xx\n"))})
    assert code == 1
    assert wrong[1].strip().startswith("one.txt: hunk 1 of 1")


def test_a_patch_that_upstream_has_taken_is_told(patched: Patcher) -> None:
    code, tree, wrong = patched({"a.patch": diff("one.txt", ONE.replace("line 3\n", "old 3\n"), ONE)})
    assert code == 1
    assert wrong[1].strip() == "the source has all of it already: upstream may have taken it"
    assert tree_of(tree) == FILES


@pytest.mark.parametrize("missing", ["Subject", "Why", "Upstream"])
def test_a_patch_without_its_whole_head_is_refused_and_nothing_is_applied(patched: Patcher, missing: str) -> None:
    good = diff("one.txt", ONE, FIRST)
    # Below the first file the head is over, and without a text it says nothing.
    bad = good.replace(f"{missing}: ", f"{missing}:\nX-{missing}: ") + f"{missing}: too late\n"
    code, tree, wrong = patched({"a.patch": bad, "b.patch": good})
    assert code == 1
    assert not tree.exists()
    assert len(wrong) == 2
    assert wrong[1].endswith(f"has no {missing}:")


def test_new_files_come_after_all_patches(patched: Patcher) -> None:
    """A patch and a folder that both make a file are a mistake, whatever the patch is called."""
    code, _, wrong = patched({"z.patch": diff("both.txt", "", "by the patch\n"), "files/both.txt": "ours\n"})
    assert code == 1
    assert wrong == ["  files", "    both.txt: the source has a file of that name"]


def test_a_folder_is_no_patch_and_a_file_no_folder_of_files(patched: Patcher) -> None:
    code, tree, wrong = patched({"a.patch/x": "", "files": ""})
    assert code == 1
    assert [line.strip() for line in wrong[::2]] == ["a.patch", "files"]
    assert not tree.exists()


def test_what_is_neither_a_patch_nor_our_files_is_refused(patched: Patcher) -> None:
    code, _, wrong = patched({"a.diff": diff("one.txt", ONE, FIRST), "b.patch~": ""})
    assert code == 1
    assert [line.partition(" (")[0] for line in wrong[::2]] == ["  a.diff", "  b.patch~"]


TRUNCATED = HEAD.format("x") + "--- a/one.txt\n+++ b/one.txt\n@@ -1,4 +1,4 @@\n line 1\n"
BINARY = (
    HEAD.format("x") + "diff --git a/new b/new\nnew file mode 100644\nindex 0..1\nGIT binary patch\nliteral 1\nMcmb\n"
)


@pytest.mark.parametrize(
    "text",
    [
        HEAD.format("no diff below it"),
        TRUNCATED,
        BINARY,
        HEAD.format("x") + "--- a/one.txt\n+++ b/one.txt\n@@ -1,4 +1,4 @@\nnonsense\n",
    ],
)
def test_a_patch_that_is_none_is_told_of(patched: Patcher, text: str) -> None:
    code, tree, wrong = patched({"a.patch": text})
    assert code == 1
    assert wrong[0].startswith("  a.patch")
    assert len(wrong) > 1
    assert tree_of(tree) == FILES


def hostile(path: str, before: str = "secret") -> str:
    return f"{HEAD.format('x')}--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-{before}\n+broken\n"


ESCAPES = {
    "above the tree": hostile("../outside.txt"),
    "by an absolute path": hostile("/../outside.txt").replace("a//", "/").replace("b//", "/"),
    "through a link to a folder": hostile("way-out/outside.txt"),
    "through a link to a file": hostile("file-link", "line 1"),
    "a new file through a link": f"{HEAD.format('x')}--- /dev/null\n+++ b/way-out/new\n@@ -0,0 +1 @@\n+broken\n",
    "a rename out of it": f"{HEAD.format('x')}diff --git a/one.txt b/../one.txt\nsimilarity index 100%\n"
    "rename from one.txt\nrename to ../outside.txt\n",
    "commands of ed": f"{HEAD.format('x')}--- a/one.txt\n+++ b/one.txt\n1c\nbroken\n.\n!touch ../outside.txt\n",
}


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)
def test_a_patch_writes_only_files_of_the_tree(patched: Patcher, tmp_path: Path, text: str) -> None:
    (tmp_path / "outside.txt").write_text("secret\n")
    code, tree, wrong = patched({"a.patch": text})
    assert code == 1
    assert len(wrong) > 1
    assert (tmp_path / "outside.txt").read_text() == "secret\n"
    assert not (tmp_path / "new").exists()
    left = {name: text for name, text in tree_of(tree).items() if not name.endswith(".rej")}
    assert left in ({}, FILES)  # nothing at all where it is refused beforehand


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("sub/two.txt", "has a file of that name"),
        ("file-link", "has a file of that name"),
        ("link/new", "has a symbolic link at link"),
        ("one.txt/new", "has a file where a folder is needed"),
    ],
)
def test_a_new_file_takes_the_place_of_nothing(patched: Patcher, name: str, cause: str) -> None:
    code, tree, wrong = patched({f"files/{name}": "ours"})
    assert code == 1
    assert wrong[1].startswith(f"    {name}: the source ")
    assert wrong[1].endswith(cause)
    assert tree_of(tree) == FILES


def test_a_link_is_no_new_file(patched: Patcher, tmp_path: Path) -> None:
    (tmp_path / "patches/files").mkdir(parents=True)
    (tmp_path / "patches/files/x").symlink_to("/etc/passwd")
    (tmp_path / "patches").rename(tmp_path / "kept")
    code = patcher.main(tmp_path / "source", tmp_path / "kept", tmp_path / "out")
    assert code == 1
    assert not (tmp_path / "out").exists()


def test_a_dash_line_that_is_removed_is_no_new_file_of_the_diff(patched: Patcher) -> None:
    """A removed `-- x` reads `--- x` in the patch, and an added `++ x` reads `+++ x`."""
    code, tree, _ = patched(
        {
            "0.patch": diff("sql.txt", "", "-- comment\nend\n"),
            "1.patch": diff("sql.txt", "-- comment\nend\n", "++ comment\nend\n"),
        }
    )
    assert (code, (tree / "sql.txt").read_text()) == (0, "++ comment\nend\n")
    (one,) = patcher.read_sections(Path("..") / "patches/1.patch")
    assert (one.path, len(one.hunks)) == ("sql.txt", 1)


# From here on: the recipe function, and `forge lock`.

RECIPE = """
from mmojo_forge.recipe import Debian, Package, Url, apply_patches, recipe, unpack

VERSION = "1"

@recipe("our-tree")
def our_tree(land: Package):
    return apply_patches("our-tree", Package("our-tree.upstream"), userland=land)

@recipe("our-tree.upstream")
def upstream():
    return unpack("our-tree-source", Url(f"https://example.org/tree-{VERSION}.tar"))
"""
LAND = """
from mmojo_forge.recipe import Url, recipe, unpack

@recipe("land")
def land():
    return unpack("land", Url("https://example.org/land.tar"))
"""


def archive(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


CONTENTS = {
    "url:https://example.org/land.tar": archive({"bin/sh": ""}),
    "url:https://example.org/tree-1.tar": archive(FILES),
    "url:https://example.org/tree-2.tar": archive({**FILES, "sub/two.txt": "a\nb2\nc\n"}),
}


class HostPatcher(FunctionExecutor):
    """Runs the patcher outside of any sandbox; of the build's script only its paths are taken."""

    def run(
        self,
        request: BuildRequest,
        *,
        cancellation: CancelSignal | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> BuildResult:
        self.ran.append(request.name)
        at = {mount.at: str(mount.source) for mount in request.mounts}
        assert "python3 -B /forge/patcher.py /forge/source /forge/patches /forge/out/out" in request.argv[-1]
        paths = [at[path] for path in ("/forge/patcher.py", "/forge/source", "/forge/patches")]
        done = subprocess.run(
            [sys.executable, "-I", "-B", *paths, str(request.out / "out")], capture_output=True, check=False
        )
        with BuildLog(request.log, request.limits.log_bytes) as log:
            log.write(done.stdout + done.stderr)
        return BuildResult(BuildOutcome.FAILED if done.returncode else BuildOutcome.SUCCEEDED, done.returncode, 0.0)


class Maintainer:
    """Someone who keeps a workspace with a patched tree."""

    def __init__(self, root: Path, bench: Bench) -> None:
        self.bench = bench
        (root / "forge.lock").touch()
        write(root / "recipes", {"our-tree/recipe.py": RECIPE, "land/recipe.py": LAND})
        self.patches = root / "recipes/our-tree/patches"
        write(self.patches, {"0001-a.patch": diff("one.txt", ONE, FIRST)})
        write(self.patches, {"0002-b.patch": diff("sub/two.txt", FILES["sub/two.txt"], "a\nB\nc\n", "a big B")})
        self.recipe = root / "recipes/our-tree/recipe.py"
        self.workspace = Workspace.find(root, bench.store.path)

    def lock(self, *names: str) -> Locked:
        """What `forge lock` does."""
        locker = Locker(self.workspace, self.bench.store, FakeFetcher(CONTENTS), lambda _line: None)
        locked = locker.update(names)
        self.workspace.write_lock(locked.lock)
        if trees := affected_trees(self.workspace, locked.lock, locked.resolved):
            try_patches(trees, self.bench.services(), Settings(2, 1 << 30))
        return locked

    def take_version(self, version: str) -> None:
        self.recipe.write_text(RECIPE.replace('VERSION = "1"', f'VERSION = "{version}"'))


@pytest.fixture
def maintainer(tmp_path: Path) -> Iterator[Maintainer]:
    with LocalStore.open(tmp_path / "store") as store:
        bench = Bench(tmp_path, store, HostPatcher({}), DictFetcher(CONTENTS))
        (tmp_path / "workspace").mkdir()
        yield Maintainer(tmp_path / "workspace", bench)


def test_patches_are_tried_on_a_new_source_and_not_again(maintainer: Maintainer) -> None:
    assert maintainer.lock().resolved == {"land.tar", "tree-1.tar"}
    assert maintainer.bench.ran() == ["our-tree"]
    assert maintainer.lock().resolved == frozenset()
    assert maintainer.bench.ran() == []


def test_a_new_version_on_which_a_patch_does_not_apply_is_pinned_and_told(maintainer: Maintainer) -> None:
    maintainer.lock()
    maintainer.take_version("2")
    with pytest.raises(PatchesFailed) as caught:
        maintainer.lock()
    assert caught.value.reason == "patches-do-not-apply"
    assert caught.value.exit_code == 1
    assert "0001-a.patch" not in caught.value.report
    assert caught.value.report.splitlines()[0] == "  0002-b.patch (a big B)"
    assert "sub/two.txt: hunk 1 of 1" in caught.value.report
    assert "forge realize our-tree.upstream" in caught.value.detail
    # The new pin is there, so that the new source can be had and the patch be mended against it.
    assert "tree-2.tar" in maintainer.workspace.read_lock().sources
    write(maintainer.patches, {"0002-b.patch": diff("sub/two.txt", "a\nb2\nc\n", "a\nB2\nc\n")})
    maintainer.lock("our_tree")


def test_a_patch_with_a_bad_head_is_told_by_the_lock_too(maintainer: Maintainer) -> None:
    write(maintainer.patches, {"0002-b.patch": "no head\n"})
    with pytest.raises(PatchesFailed) as caught:
        maintainer.lock()
    assert "0002-b.patch" in caught.value.report


@pytest.mark.parametrize("name", ["our-tree", "our_tree", "tree-1.tar"])
def test_what_is_to_be_resolved_anew_may_be_named_by_its_package(maintainer: Maintainer, name: str) -> None:
    maintainer.lock()
    assert maintainer.lock(name).resolved == {"tree-1.tar"}


def test_a_source_of_another_package_tries_nothing(maintainer: Maintainer) -> None:
    """The userland is below the patched tree too, but no patch is for it."""
    maintainer.lock()
    maintainer.bench.ran()
    locked = maintainer.lock("land")
    assert locked.resolved == {"land.tar"}
    assert affected_trees(maintainer.workspace, locked.lock, locked.resolved) == []


def test_a_name_that_is_neither_pin_nor_package_is_refused(maintainer: Maintainer) -> None:
    with pytest.raises(LockError) as caught:
        maintainer.lock("our.tree")
    assert caught.value.reason == "unknown-pin"
    assert "our-tree" in caught.value.detail


def test_a_build_that_fails_for_another_cause_is_not_called_a_patch(maintainer: Maintainer) -> None:
    def broken(_request: BuildRequest) -> None:
        raise RuntimeError

    maintainer.bench.executor = FunctionExecutor({"/bin/bash": broken})
    with pytest.raises(BuildsFailed) as caught:
        maintainer.lock()
    assert caught.value.reason == "build-failed"


def test_a_patched_tree_knows_its_target_and_its_source(maintainer: Maintainer) -> None:
    locked = maintainer.lock()
    (tree,) = affected_trees(maintainer.workspace, locked.lock, {"tree-1.tar"})
    assert (tree.target, tree.source) == ("our-tree", "our-tree.upstream")
    evaluator = maintainer.workspace.evaluator(locked.lock)
    assert is_patched(evaluator.instantiate(as_package("our-tree")).node)
    assert not is_patched(evaluator.instantiate(as_package("our-tree.upstream")).node)
