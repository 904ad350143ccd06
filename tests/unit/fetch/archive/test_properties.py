"""Archives of random trees unpack to these trees; archives with random damage touch nothing outside."""

from __future__ import annotations

import contextlib
import io
import random
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from mmojo_forge.fetch.archive import ArchiveError
from tests.unit.fetch.archive.test_bytes import (
    COMPRESSIONS,
    Arena,
    Seen,
    ZipFile,
    deb,
    directory,
    entry,
    hard_link,
    long_name,
    pax,
    symlink,
    tar,
    zip_of,
)

names = st.text(st.characters(exclude_characters="/\0\\", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in {".", ".."}
)
contents = st.binary(max_size=2000) | st.integers(1, 3).map(lambda times: bytes(range(256)) * 300 * times)
leaves = st.tuples(st.sampled_from(["f", "x"]), contents) | st.tuples(st.just("l"), names)
trees = st.recursive(
    st.dictionaries(names, leaves, max_size=4),
    lambda below: st.dictionaries(names, leaves | below, max_size=4),
    max_leaves=12,
)


def flat(tree: dict[str, Any], above: str = "") -> Seen:
    """A nested tree as `Arena.tree` shows it; parents first."""
    seen: Seen = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            seen[above + name] = ("d",)
            seen |= flat(value, f"{above}{name}/")
        else:
            seen[above + name] = value
    return seen


def written_tar(tree: Seen, format_number: int, mode: Literal["w", "w:gz", "w:bz2", "w:xz"]) -> bytes:
    """The tree as the standard library's tarfile writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=format_number) as archive:
        for path, (kind, *value) in tree.items():
            info = tarfile.TarInfo(path)
            info.mode = 0o755 if kind in "dx" else 0o644
            if kind == "d":
                info.type = tarfile.DIRTYPE
            elif kind == "l":
                info.type, info.linkname = tarfile.SYMTYPE, value[0]
            else:
                info.size = len(value[0])
            archive.addfile(info, io.BytesIO(value[0]) if kind in "fx" else None)
    return out.getvalue()


def written_zip(tree: Seen, compression: int) -> bytes:
    """The tree as the standard library's zipfile writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for path, (kind, *value) in tree.items():
            info = zipfile.ZipInfo(path + ("/" if kind == "d" else ""))
            info.create_system = 3
            info.compress_type = compression
            info.external_attr = {"d": 0o40755, "f": 0o100644, "x": 0o100755, "l": 0o120777}[kind] << 16
            content = value[0].encode() if kind == "l" else (value[0] if value else b"")
            archive.writestr(info, content)
    return out.getvalue()


@contextlib.contextmanager
def an_arena() -> Any:
    """A fresh arena; a fixture would be shared by all examples."""
    with tempfile.TemporaryDirectory() as root:
        yield Arena(Path(root))


@settings(max_examples=40, deadline=None)
@given(tree=trees.map(flat), form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), data=st.data())
def test_a_random_tree_comes_out_of_a_tar_as_it_went_in(tree: Seen, form: int, data: st.DataObject) -> None:
    mode: Any = data.draw(st.sampled_from(["w", "w:gz", "w:bz2", "w:xz"]))
    with an_arena() as arena:
        arena.extract(written_tar(tree, form, mode))
        assert arena.tree() == tree


@settings(max_examples=40, deadline=None)
@given(tree=trees.map(flat), compression=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_a_random_tree_comes_out_of_a_zip_as_it_went_in(tree: Seen, compression: int) -> None:
    with an_arena() as arena:
        arena.extract(written_zip(tree, compression))
        assert arena.tree() == tree


BASE = tar(
    directory("d"),
    entry("d/f", b"hello" * 200, mode=0o755),
    symlink("l", "d/f"),
    pax(path="d/" + "n" * 120, mtime="1.5") + entry("n", b"x"),
    long_name("d/" + "m" * 120) + entry("m", b"y", magic=b"ustar  \0"),
    hard_link("h", "d/f"),
)
SEEDS = [
    BASE,
    *(pack(BASE) for pack in COMPRESSIONS.values()),
    deb(data=COMPRESSIONS["xz"](BASE), name="data.tar.xz"),
    zip_of(
        ZipFile("d/", b"", 0o40755, method=0),
        ZipFile("d/f", b"hello" * 200, 0o100755),
        ZipFile("l", b"d/f", 0o120777, method=0),
        ZipFile("g", b"stored", method=0),
    ),
]


def damage(data: bytes, chance: random.Random) -> bytes:
    """`data` with a few bytes changed, cut out or put in, where it matters: most of a tar is padding."""
    broken = bytearray(data)
    interesting = [index for index, byte in enumerate(data) if byte] or [0]
    for _ in range(chance.randint(1, 4)):
        at = min(chance.choice(interesting), len(broken) - 1)
        kind = chance.randrange(6)
        if kind < 3:
            broken[at] = chance.choice([0, 0x2E, 0x2F, 0x37, 0x80, 0xFF, broken[at] ^ 1 << chance.randrange(8)])
        elif kind == 3:
            del broken[at : at + chance.choice([1, 2, 512])]
        elif kind == 4:
            broken[at:at] = chance.choice([b"../", b"/", b"\0", b"\xff" * 8, bytes(512)])
        else:
            del broken[at:]
        if not broken:
            break
    return bytes(broken)


def with_checksums(data: bytes) -> bytes:
    """A tar whose header checksums are right again, so that damage gets past them."""
    out = b""
    for start in range(0, len(data), 512):
        block = bytearray(data[start : start + 512])
        if len(block) == 512 and block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
        out += bytes(block)
    return out


@settings(max_examples=150, deadline=None)
@given(seed=st.sampled_from(range(len(SEEDS))), number=st.integers(0, 1 << 32), mend=st.booleans())
def test_random_damage_is_refused_or_harmless(seed: int, number: int, mend: bool) -> None:
    """Arena.extract checks the sentinels; anything but ArchiveError fails the test."""
    data = damage(SEEDS[seed], random.Random(number))
    with an_arena() as arena, contextlib.suppress(ArchiveError):
        arena.extract(with_checksums(data) if mend and seed == 0 else data)


paths = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map("/".join)
targets = st.lists(st.sampled_from(["a", "b", "c", ".", "..", "../.."]), min_size=1, max_size=5).map("/".join)
hostile = st.lists(
    st.builds(symlink, paths, targets | st.just("/a"))
    | st.builds(symlink, paths, targets)
    | st.builds(directory, paths)
    | st.builds(entry, paths, st.binary(max_size=5))
    | paths.map(lambda path: entry(path) + hard_link("h", path)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(archives=st.lists(hostile, min_size=1, max_size=3), options=st.fixed_dictionaries(
    {name: st.booleans() for name in ("replace", "merge_usr", "root_links")}
))  # fmt: skip
def test_no_mixture_of_links_and_files_gets_out(archives: list[list[bytes]], options: dict[str, bool]) -> None:
    """After any extractions that went through, every symlink leads, in effect, to within the destination."""
    with an_arena() as arena:
        for entries in archives:
            try:
                arena.extract(tar(*entries), **options)
            except ArchiveError:
                return
        for path, (kind, *_) in arena.tree().items():
            if kind == "l":
                with contextlib.suppress(OSError, RuntimeError):  # a loop leads nowhere
                    assert (arena.dest / path).resolve().is_relative_to(arena.dest.resolve())
