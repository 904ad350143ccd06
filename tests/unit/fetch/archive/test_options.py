"""What of an archive goes where: Debian packages, merged roots, patterns, several archives in one tree."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.errors import ExitCode
from mmojo_forge.fetch.archive import ArchiveError, ExtractOptions, extract, extract_all, extract_each, writer
from tests.unit.fetch.archive.test_bytes import (
    COMPRESSIONS,
    Arena,
    ZipFile,
    ar_member,
    deb,
    directory,
    entry,
    hard_link,
    symlink,
    tar,
    zip_of,
)


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return Arena(tmp_path)


# Debian packages


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_of_a_debian_package_the_data_is_unpacked(arena: Arena, compression: str | None) -> None:
    data = tar(directory("./"), entry("./usr/bin/tool", b"x" * 999, mode=0o4755))
    packed = COMPRESSIONS[compression](data) if compression else data
    report = arena.extract(deb(data=packed, name=f"data.tar.{compression}" if compression else "data.tar"))
    assert arena.tree() == {"usr": ("d",), "usr/bin": ("d",), "usr/bin/tool": ("x", b"x" * 999)}
    assert report.format == (f"deb.{compression}" if compression else "deb")


def test_devices_in_a_debian_package_are_refused(arena: Arena) -> None:
    assert arena.refusal(deb(data=tar(entry("./dev/null", kind="3")))) == "archive-device"


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        pytest.param(deb(data=None), "archive-truncated", id="no data"),
        pytest.param(deb(data=b""), "archive-unknown-format", id="empty data"),
        pytest.param(deb(data=tar()) + ar_member("data.tar", tar()), "archive-duplicate", id="data twice"),
        pytest.param(deb(data=tar(), version=b"0.939000\n"), "archive-unsupported", id="an old version"),
        pytest.param(b"!<arch>\n" + ar_member("libfoo.o/", b"x"), "archive-unsupported", id="a static library"),
        pytest.param(b"!<arch>\n", "archive-truncated", id="nothing"),
        pytest.param(deb(data=tar()) + b"x" * 60, "archive-corrupt", id="a malformed header"),
        pytest.param(
            deb(data=tar()) + ar_member("_x", b"x")[:48] + b"-1        `\n", "archive-corrupt", id="a negative size"
        ),
        pytest.param(deb(data=tar()) + ar_member("_x", b"") * 99, "archive-too-many", id="too many members"),
    ],
)
def test_what_is_no_sound_package_is_refused(arena: Arena, package: bytes, reason: str) -> None:
    assert arena.refusal(package) == reason


def test_members_that_start_with_an_underscore_are_passed_over(arena: Arena) -> None:
    arena.extract(deb(data=tar(entry("f", b"x"))) + ar_member("_gpgorigin", b"sig"))
    assert arena.tree() == {"f": ("f", b"x")}


def test_a_package_cut_short_anywhere_is_refused(arena: Arena) -> None:
    data = deb(data=COMPRESSIONS["xz"](tar(entry("f", b"x"))), name="data.tar.xz").rstrip(b"\n")
    for cut in range(len(data)):
        assert arena.refusal(data[:cut]) in {"archive-truncated", "archive-unknown-format"}


# Root file systems


def test_absolute_links_of_a_root_become_relative(arena: Arena) -> None:
    links = {
        "etc/a": ("/usr/share/x", "../usr/share/x"),
        "etc/b": ("/etc/c", "c"),
        "etc/d": ("/", ".."),
        "top": ("/", "."),
        "var/run": ("/run", "../run"),
        "usr/up": ("/../../etc/x", "../etc/x"),
        "usr/rel": ("../etc/x", "../etc/x"),
    }
    arena.extract(tar(*(symlink(path, target) for path, (target, _) in links.items())), root_links=True)
    assert {path: value[1] for path, value in arena.tree().items() if value[0] == "l"} == {
        path: written for path, (_, written) in links.items()
    }


def test_relative_links_out_of_a_root_are_refused_all_the_same(arena: Arena) -> None:
    assert arena.refusal(tar(symlink("usr/l", "../../etc")), root_links=True) == "archive-symlink-escapes"
    assert arena.refusal(tar(symlink("bin/l", "../../etc")), merge_usr=True) == "archive-symlink-escapes"


def test_a_split_root_is_merged_into_usr(arena: Arena) -> None:
    arena.extract(
        tar(
            directory("./bin"),
            entry("./bin/sh", b"sh", mode=0o755),
            entry("./usr/bin/env", b"env", mode=0o755),
            hard_link("./bin/same", "./bin/sh"),
            symlink("./bin/env", "/usr/bin/env"),
            symlink("./usr/bin/sh2", "/bin/sh"),
            symlink("./lib/x/libz.so", "libz.so.1"),
            symlink("./usr/lib/x/libdev.so", "../../../lib/x/libz.so.1"),
            symlink("./lib/conf", "../etc/conf"),
            symlink("./lib64", "usr/lib64"),
            symlink("./usr/sbin/self", "../../sbin/self"),
            directory("./sbin"),
        ),
        merge_usr=True,
        root_links=True,
    )
    tree = arena.tree()
    assert {path: value[1] for path, value in tree.items() if value[0] == "l"} == {
        "bin": "usr/bin",
        "lib": "usr/lib",
        "sbin": "usr/sbin",
        "usr/bin/sh2": "sh",
        "usr/lib/x/libz.so": "libz.so.1",
        "usr/lib/x/libdev.so": "libz.so.1",
        "usr/lib/conf": "../../etc/conf",
    }
    assert {path: value[1] for path, value in tree.items() if value[0] == "x"} == {
        "usr/bin/sh": b"sh",
        "usr/bin/same": b"sh",
        "usr/bin/env": b"env",
    }


def test_many_packages_make_one_root(arena: Arena) -> None:
    options: dict[str, Any] = {"merge_usr": True, "root_links": True}
    arena.extract(deb(data=tar(directory("./lib"), entry("./lib/a", b"a"), symlink("./lib/l", "a"))), **options)
    arena.extract(deb(data=tar(entry("./usr/lib/b", b"b"), entry("./lib/a", b"a"), symlink("lib/l", "a"))), **options)
    assert arena.tree() == {
        "usr": ("d",),
        "usr/lib": ("d",),
        "usr/lib/a": ("f", b"a"),
        "usr/lib/b": ("f", b"b"),
        "usr/lib/l": ("l", "a"),
        "lib": ("l", "usr/lib"),
    }


def test_a_root_that_was_not_merged_before_is_refused(arena: Arena) -> None:
    arena.extract(tar(entry("bin/a", b"a")))
    assert arena.refusal(tar(entry("bin/b", b"b")), merge_usr=True) == "archive-duplicate"


# Several archives


@pytest.mark.parametrize("make", [lambda name, data: tar(entry(name, data)), lambda *file: zip_of(ZipFile(*file))])
@pytest.mark.parametrize("other", [b"other", b"first, and more", b"firs", b""])
def test_a_file_of_another_archive_must_be_the_same_or_replaceable(arena: Arena, make: Any, other: bytes) -> None:
    arena.extract(make("f", b"first"))
    arena.extract(make("f", b"first"))
    assert arena.refusal(make("f", other)) == "archive-duplicate"
    assert arena.tree() == {"f": ("f", b"first")}
    arena.extract(make("f", other), replace=True)
    assert arena.tree() == {"f": ("f", other)}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (entry("f", b"x"), entry("f", b"x", mode=0o755)),
        (entry("f", b"x"), symlink("f", "x")),
        (symlink("f", "x"), entry("f", b"x")),
        (symlink("f", "x"), symlink("f", "y")),
    ],
)
def test_things_of_one_name_and_different_kinds_are_refused(arena: Arena, first: bytes, second: bytes) -> None:
    arena.extract(tar(first))
    assert arena.refusal(tar(second)) == "archive-duplicate"
    arena.extract(tar(second), replace=True)


def test_a_fifo_in_the_destination_is_not_waited_for(arena: Arena) -> None:
    arena.dest.mkdir()
    os.mkfifo(arena.dest / "f")
    assert arena.refusal(tar(entry("f", b"x"))) == "archive-duplicate"


def test_extracting_all_is_extracting_each_in_order(arena: Arena, tmp_path: Path) -> None:
    archives = []
    for index in range(9):
        path = tmp_path / f"{index}.deb"
        content = tar(entry("shared", b"%d" % index), entry(f"d/f{index}", bytes(index * 100_000)))
        path.write_bytes(deb(data=COMPRESSIONS["xz"](content), name="data.tar.xz") if index else zip_of())
        archives.append(path)
    options = ExtractOptions(replace=True)
    reports = extract_all(archives, arena.dest, options)
    together = arena.tree()
    assert together["shared"] == ("f", b"8")
    arena.dest = tmp_path / "each"
    assert [extract(path, arena.dest, options) for path in archives] == reports
    assert arena.tree() == together
    assert extract_all([], arena.dest) == []


def test_the_first_bad_archive_ends_extracting_all(arena: Arena, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.tar", tmp_path / "bad.tar"
    good.write_bytes(tar(entry("f", b"x")))
    bad.write_bytes(tar(entry("g", b"x"), entry("../h")))
    gc.collect()  # what tests before this one left behind must not be closed in the middle of it
    descriptors = len(os.listdir("/proc/self/fd"))
    for second, reason in ((bad, "archive-dotdot"), (tmp_path / "missing", "archive-unreadable")):
        with pytest.raises(ArchiveError) as caught:
            extract_all([good, second, good, good, good], arena.dest)
        assert caught.value.reason == reason
        assert second.name in caught.value.message
    assert len(os.listdir("/proc/self/fd")) == descriptors


# What is selected


TREE = tar(
    directory("top"),
    entry("top/README", b"r"),
    entry("top/src/main.c", b"c"),
    entry("top/src/main.h", b"h"),
    entry("top/src/deep/er/x.c", b"x"),
    entry("top/tests/t1.c", b"t"),
    symlink("top/src/link", "main.c"),
)


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"strip_components": 1}, "README src/deep/er/x.c src/link src/main.c src/main.h tests/t1.c"),
        ({"strip_components": 2}, "deep/er/x.c link main.c main.h t1.c"),
        ({"subpath": "top/src"}, "deep/er/x.c link main.c main.h"),
        ({"subpath": "./top//src/"}, "deep/er/x.c link main.c main.h"),
        ({"strip_components": 1, "subpath": "tests"}, "t1.c"),
        ({"strip_components": 1, "include": ("src/*.c",)}, "src/main.c"),
        ({"strip_components": 1, "include": ("**/*.c",)}, "src/deep/er/x.c src/main.c tests/t1.c"),
        ({"strip_components": 1, "include": ("src/**",), "exclude": ("src/deep",)}, "src/link src/main.c src/main.h"),
        ({"strip_components": 1, "include": ("src/**/*.[ch]",)}, "src/deep/er/x.c src/main.c src/main.h"),
        ({"strip_components": 1, "include": ("src/main.?",), "exclude": ("**/*.[!h]",)}, "src/main.h"),
        ({"strip_components": 1, "include": ("tests",)}, "tests/t1.c"),
        ({"strip_components": 1, "exclude": ("src", "tests/**")}, "README"),
        ({"strip_components": 1, "include": ("README", "tests/t[0-9].c")}, "README tests/t1.c"),
    ],
)
def test_options_select_what_they_say(arena: Arena, options: dict[str, Any], files: str) -> None:
    arena.extract(TREE, **options)
    assert sorted(path for path, value in arena.tree().items() if value[0] != "d") == files.split()


@pytest.mark.parametrize(
    "options",
    [{"subpath": "top/sources"}, {"subpath": "top/README"}, {"strip_components": 9}, {"include": ("*.rs",)}],
)
def test_selecting_nothing_is_an_error(arena: Arena, options: dict[str, Any]) -> None:
    assert arena.refusal(TREE, **options) == "archive-nothing-selected"


@pytest.mark.parametrize("options", [{"include": ("/x",)}, {"exclude": ("../x",)}, {"include": ("",)}])
def test_a_pattern_out_of_the_tree_is_an_error(arena: Arena, options: dict[str, Any]) -> None:
    assert arena.refusal(TREE, **options) == "archive-bad-name"


def test_a_link_to_what_is_left_out_is_refused(arena: Arena) -> None:
    data = tar(entry("a/f", b"x"), hard_link("b/h", "a/f"), symlink("b/l", "../a/f"))
    assert arena.refusal(data, subpath="b") == "archive-hardlink"
    assert arena.refusal(data, subpath="b", exclude=("h",)) == "archive-symlink-escapes"


@pytest.mark.parametrize("glob", ["a^b", "a\\b", "[", "[]", "a.b", "a+b", "[^x]y", "(x)", "[a\\]"])
def test_what_is_special_in_regular_expressions_is_not_special_in_patterns(arena: Arena, glob: str) -> None:
    name = {"[^x]y": "^y", "[a\\]": "\\"}.get(glob, glob)
    arena.extract(tar(entry(name, b"x"), entry("axb", b"y")), include=(glob,))
    assert arena.tree() == {name: ("f", b"x")}


# The system says no


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "archive-no-space"), (errno.EACCES, "archive-cannot-write")]
)
def test_what_the_system_refuses_is_an_environment_error(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def full(descriptor: int, piece: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writer, "_write", full)
    with pytest.raises(ArchiveError) as caught:
        arena.extract(tar(entry("f", b"x")))
    assert caught.value.reason == reason
    assert caught.value.exit_code == ExitCode.ENVIRONMENT_ERROR


def test_a_missing_archive_or_one_that_is_no_file_is_unreadable(arena: Arena, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "fifo"):
        with pytest.raises(ArchiveError) as caught:
            extract(path, arena.dest)
        assert caught.value.reason == "archive-unreadable"


# Below a prefix


def test_with_a_prefix_all_of_an_archive_lies_below_it(arena: Arena) -> None:
    data = tar(directory("./"), entry("./a/b", b"x"), hard_link("./a/c", "./a/b"), symlink("./a/d", "b"))
    arena.extract(data, prefix="p/./q")
    assert arena.tree() == {
        "p": ("d",),
        "p/q": ("d",),
        "p/q/a": ("d",),
        "p/q/a/b": ("f", b"x"),
        "p/q/a/c": ("f", b"x"),
        "p/q/a/d": ("l", "b"),
    }


def test_a_zip_lies_below_its_prefix_too(arena: Arena) -> None:
    arena.extract(zip_of(ZipFile("a/b", b"x")), prefix="p")
    assert arena.tree() == {"p": ("d",), "p/a": ("d",), "p/a/b": ("f", b"x")}


@pytest.mark.parametrize("target", ["../outside", "a/../../outside", "../../outside"])
def test_symlinks_do_not_leave_the_prefix(arena: Arena, target: str) -> None:
    assert arena.refusal(tar(symlink("link", target)), prefix="p/q") == "archive-symlink-escapes"


@pytest.mark.parametrize("prefix", ["../p", "/p", "p/../../q"])
def test_a_prefix_is_within_the_tree(arena: Arena, prefix: str) -> None:
    assert arena.refusal(tar(entry("a", b"x")), prefix=prefix) in {"archive-dotdot", "archive-absolute-name"}


def test_each_archive_may_have_options_of_its_own(arena: Arena, tmp_path: Path) -> None:
    paths = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for path in paths:
        path.write_bytes(tar(entry("top/file", path.name.encode())))
    options = [ExtractOptions(strip_components=1, prefix=path.stem) for path in paths]
    extract_each(zip(paths, options, strict=True), tmp_path / "out")
    assert (tmp_path / "out/one/file").read_text() == "one.tar"
    assert (tmp_path / "out/two/file").read_text() == "two.tar"
