"""Tar entries that want to get out: names, symlinks, hard links, each CVE of its own."""

from __future__ import annotations

import gzip
import itertools
import os
from pathlib import Path

import pytest

from mmojo_forge.fetch.archive import ArchiveLimits
from tests.unit.fetch.archive.test_bytes import Arena, directory, entry, hard_link, long_name, pax, symlink, tar


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return Arena(tmp_path)


# Names that lead elsewhere


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "archive-absolute-name"),
        ("//etc/passwd", "archive-absolute-name"),
        ("../secret", "archive-dotdot"),
        ("a/../../secret", "archive-dotdot"),
        ("a/../b", "archive-dotdot"),
        ("..", "archive-dotdot"),
        ("a/" + "n" * 256, "archive-name-too-long"),
        ("ü" * 128, "archive-name-too-long"),
        ("a/" * 2048 + "b", "archive-name-too-long"),
        ("a/" * 128 + "b", "archive-too-deep"),
        ("nul\0/../../secret", "archive-bad-name"),
        (".", "archive-bad-name"),
    ],
)
@pytest.mark.parametrize("kind", ["0", "1", "2"])
def test_a_name_that_is_not_plain_is_refused(arena: Arena, name: str, reason: str, kind: str) -> None:
    member = entry("f", kind=kind, target="f" if kind != "0" else b"")
    assert arena.refusal(tar(entry("f"), pax(path=name) + member)) == reason


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(entry("../secret", b"x"), id="in the header"),
        pytest.param(entry("secret", b"x", prefix=b".."), id="by the prefix"),
        pytest.param(long_name("../secret") + entry("f", b"x"), id="by a GNU long name"),
        pytest.param(pax(path="../secret") + entry("f", b"x"), id="by pax"),
        pytest.param(directory("../inner/etc"), id="as a directory"),
    ],
)
def test_a_name_with_dotdot_is_refused_wherever_it_stands(arena: Arena, written: bytes) -> None:
    assert arena.refusal(tar(written)) == "archive-dotdot"


def test_absolute_names_are_refused_and_not_made_relative(arena: Arena) -> None:
    """GHSA-gr92-w2r5-qw5p: absolute paths in tarballs were written outside."""
    assert arena.refusal(tar(entry(str(arena.root / "secret"), b"x"))) == "archive-absolute-name"


@pytest.mark.parametrize("field", [{"name": b"\xff\xfe"}, {"name": b"l", "kind": "2", "target": b"\xff"}])
def test_names_and_targets_that_are_not_utf8_are_refused(arena: Arena, field: dict[str, str | bytes]) -> None:
    assert arena.refusal(tar(entry(**field))) == "archive-bad-name"  # type: ignore[arg-type]


def test_an_empty_name_is_refused(arena: Arena) -> None:
    assert arena.refusal(tar(entry("f"), pax(path="") + entry("f"))) == "archive-bad-name"


# Symlinks


@pytest.mark.parametrize("target", ["..", "../secret", "a/../../secret", "x/../..", "./.././", "../../../../etc"])
def test_a_symlink_that_leaves_the_tree_by_text_is_refused(arena: Arena, target: str) -> None:
    assert arena.refusal(tar(symlink("l", target))) == "archive-symlink-escapes"


def test_an_absolute_symlink_is_refused(arena: Arena) -> None:
    assert arena.refusal(tar(symlink("l", "/etc/passwd"))) == "archive-symlink-absolute"


@pytest.mark.parametrize("target", ["", "t" * 4096, "nul\0"])
def test_a_symlink_to_what_is_no_path_is_refused(arena: Arena, target: str) -> None:
    assert arena.refusal(tar(pax(linkpath=target) + entry("l", kind="2"))) == "archive-symlink-bad-target"


@pytest.mark.parametrize(
    "through",
    [entry("l/f", b"x"), directory("l"), directory("l/d"), symlink("l/s", "f"), hard_link("l/h", "f")],
    ids=["file", "the directory itself", "directory", "symlink", "hard link"],
)
@pytest.mark.parametrize("target", ["d", "nowhere", "d/../d"])
def test_nothing_is_written_through_a_symlink(arena: Arena, through: bytes, target: str) -> None:
    data = tar(entry("f"), directory("d"), symlink("l", target), through)
    assert arena.refusal(data) == "archive-through-symlink"


@pytest.mark.parametrize("replacement", [symlink("d", "."), entry("d", b"x"), hard_link("d", "f")])
def test_a_directory_is_never_replaced(arena: Arena, replacement: bytes) -> None:
    data = tar(entry("f"), directory("d"), entry("d/f", b"x"), replacement)
    assert arena.refusal(data) == "archive-duplicate"
    assert arena.refusal(data, replace=True) == "archive-duplicate"


def test_a_file_is_not_replaced_by_a_directory(arena: Arena) -> None:
    assert arena.refusal(tar(entry("d"), directory("d"))) == "archive-duplicate"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_symlinks_that_escape_only_together_are_refused_in_any_order(arena: Arena, order: tuple[int, ...]) -> None:
    """By text `d/up/../..` is the root; in effect `d/up` is the root already."""
    parts = [directory("d/e"), symlink("d/e/up", ".."), symlink("escape", "d/e/up/../../secret")]
    assert arena.refusal(tar(*(parts[index] for index in order))) == "archive-symlink-escapes"


def test_dotdot_behind_what_an_other_archive_could_make_a_symlink_is_refused(arena: Arena) -> None:
    assert arena.refusal(tar(symlink("escape", "later/../secret"))) == "archive-symlink-escapes"
    assert arena.refusal(tar(entry("file"), symlink("behind", "file/../x"))) == "archive-symlink-escapes"


def test_the_long_path_chain_of_cve_2025_4517_writes_nothing(arena: Arena) -> None:
    """CVE-2025-4517, -4330, -4138: realpath gives up beyond PATH_MAX, and the rest of the name is taken as text."""
    component, path, steps = "d" * 247, "", []
    for step in "abcdefghijklmnop":
        steps += [directory(path + component), symlink(path + step, component)]
        path += f"{component}/"
    short = "/".join("abcdefghijklmnop")
    long_link = f"{short}/{'l' * 254}"
    steps += [
        symlink(long_link, "../" * 16),
        symlink("escape", f"{long_link}/../../secret"),
        hard_link("flaglink", "escape"),
        entry("flaglink", b"overwritten"),
    ]
    assert arena.refusal(tar(*steps)) == "archive-through-symlink"
    # The link that ends the chain, put where it does not lead through others, and what was to go through it:
    end = [symlink(f"{component}/deep", ".." + "/." * 1000), symlink("escape", f"{component}/deep/../secret")]
    assert arena.refusal(tar(directory(component), *end)) == "archive-symlink-escapes"


def test_a_path_that_only_descriptors_can_reach_is_written(arena: Arena) -> None:
    """Longer than PATH_MAX from the root, within the limits from the destination."""
    name = "/".join(["d" * 250] * 16) + "/f"
    arena.extract(tar(pax(path=name) + entry("f", b"x")))
    descriptor = os.open(arena.dest, os.O_RDONLY)
    for part in name.split("/"):
        below = os.open(part, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    assert os.read(descriptor, 9) == b"x"
    os.close(descriptor)


def test_metadata_of_files_outside_stay_as_they_are(arena: Arena) -> None:
    """CVE-2024-12718: times and permissions of files outside were set through a symlink or `..`."""
    assert arena.refusal(tar(symlink("l", "."), entry("l", kind="5", mode=0o777))) == "archive-through-symlink"
    assert arena.refusal(tar(directory("d"), entry("d/..", kind="5", mode=0o777))) == "archive-dotdot"


def test_what_is_left_out_is_left_out_whatever_it_is(arena: Arena) -> None:
    """CVE-2025-4435: with errors ignored, tarfile extracted the members that its filter had rejected."""
    arena.extract(tar(entry("f", b"x"), entry("dev/null", kind="3"), symlink("bad", "/etc")), exclude=("dev", "bad"))
    assert arena.tree() == {"f": ("f", b"x")}
    assert arena.refusal(tar(entry("../f", b"x")), exclude=("**",)) == "archive-dotdot"


def test_a_symlink_planted_in_the_destination_is_not_followed(arena: Arena) -> None:
    """CVE-2026-39860: a symlink planted where something is to be written."""
    arena.dest.mkdir()
    (arena.dest / "etc").symlink_to("../etc")
    (arena.dest / "secret").symlink_to("../secret")
    assert arena.refusal(tar(entry("etc/passwd", b"x"))) == "archive-through-symlink"
    assert arena.refusal(tar(entry("secret", b"x"))) == "archive-duplicate"
    arena.extract(tar(entry("secret", b"x")), replace=True)
    assert arena.tree()["secret"] == ("f", b"x")


def test_a_destination_that_is_a_symlink_is_refused(arena: Arena) -> None:
    arena.dest.symlink_to("etc")
    assert arena.refusal(tar(entry("passwd", b"x"))) == "archive-cannot-write"


# Hard links


@pytest.mark.parametrize(
    ("before", "target"),
    [
        pytest.param([symlink("d/e/s", "../f"), entry("d/f")], "d/e/s", id="a deeper symlink (CVE-2026-11940)"),
        pytest.param([symlink("s", "d/f"), entry("d/f")], "s", id="a symlink"),
        pytest.param([entry("s"), symlink("s", "d/f")], "s", id="a file that became a symlink"),
        pytest.param([directory("d")], "d", id="a directory"),
        pytest.param([], "missing", id="nothing"),
        pytest.param([], "link", id="itself"),
        pytest.param([entry("d/f"), symlink("s", "d")], "s/f", id="a file through a symlink"),
        pytest.param([directory("d")], ".", id="the root"),
    ],
)
def test_a_hard_link_to_anything_but_an_extracted_file_is_refused(
    arena: Arena, before: list[bytes], target: str
) -> None:
    assert arena.refusal(tar(*before, hard_link("link", target), entry("missing"))) == "archive-hardlink"


@pytest.mark.parametrize(
    ("target", "reason"),
    [("../secret", "archive-dotdot"), ("/etc/passwd", "archive-absolute-name"), ("", "archive-bad-name")],
)
def test_a_hard_link_out_of_the_tree_is_refused(arena: Arena, target: str, reason: str) -> None:
    assert arena.refusal(tar(hard_link("link", target))) == reason


def test_a_hard_link_to_its_own_name_changes_nothing(arena: Arena) -> None:
    arena.extract(tar(entry("f", b"x"), hard_link("f", "./f")))
    assert arena.tree() == {"f": ("f", b"x")}


def test_a_hard_link_to_a_file_of_another_archive_is_refused(arena: Arena) -> None:
    arena.extract(tar(entry("f", b"x")))
    assert arena.refusal(tar(hard_link("link", "f"))) == "archive-hardlink"


def test_hard_links_count_as_the_copies_they_become(arena: Arena) -> None:
    data = tar(entry("f", bytes(9000)), *(hard_link(f"l{index}", "f") for index in range(9)))
    assert arena.refusal(data, limits=ArchiveLimits(total_bytes=50_000)) == "archive-too-big"
    assert arena.refusal(gzip.compress(data), limits=ArchiveLimits(ratio=50, ratio_slack=0)) == "archive-ratio"
