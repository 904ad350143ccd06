"""forge.lock and forge.outputs: what is written reads back, merges, and says so where it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmojo_forge.model.digest import BlobDigest, DerivationId, Sha256, TreeId
from mmojo_forge.model.lockfile import (
    ExpectedOutput,
    Lock,
    LockConflict,
    LockError,
    Pin,
    Userland,
    dump_outputs,
    parse_outputs,
)
from mmojo_forge.model.node_modules import NodeModules, NpmPackage

PIN = Pin("zig.whl", "pypi:zig==1/zig.whl", Sha256("a" * 64), BlobDigest("b" * 64), 7, ("https://example.org/z",))
LOCK = Lock(
    {"zig.whl": PIN},
    {
        "base": Userland(
            "base", "bookworm", "amd64", ("bash",), {"bash": Pin("bash", "debian:x", PIN.sha256, PIN.blake3, 1)}
        )
    },
)


def test_a_lock_reads_back_and_is_sorted_with_one_table_for_each_pin() -> None:
    text = LOCK.dump()
    assert Lock.parse(text) == LOCK
    more = Lock({"a.whl": Pin("a.whl", "pypi:a==1/a.whl", PIN.sha256, PIN.blake3, 1), **LOCK.sources})
    assert [line for line in more.dump().splitlines() if line.startswith("[source")] == [
        '[source."a.whl"]',
        '[source."zig.whl"]',
    ]


def test_two_peoples_new_pins_merge_line_by_line() -> None:
    """What each adds is one block of lines; both blocks together are a valid lock."""
    mine = Lock(
        {**LOCK.sources, "a.whl": Pin("a.whl", "pypi:a==1/a.whl", PIN.sha256, PIN.blake3, 1)},
        LOCK.userlands,
    )
    theirs = Lock(
        {**LOCK.sources, "zz.whl": Pin("zz.whl", "pypi:zz==1/zz.whl", PIN.sha256, PIN.blake3, 1)},
        LOCK.userlands,
    )
    block = theirs.dump().partition('[source."zz.whl"]')[2].partition("\n\n")[0]
    merged = mine.dump().replace("[userland", f'[source."zz.whl"]{block}\n\n[userland', 1)
    assert Lock.parse(merged).sources.keys() == {"a.whl", "zig.whl", "zz.whl"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("schema = 2\n", "lock-schema"),
        ("", "lock-schema"),
        ("<<<<<<< HEAD\n", "lock-conflict"),
        ("schema = 1\nunknown = 1\n", "lock-malformed"),
        ('schema = 1\n[source.a]\nlocator = "x"\nsha256 = "zz"\nblake3 = "zz"\nsize = 1\n', "lock-malformed"),
        ('schema = 1\n[source.a]\nlocator = "x"\n', "lock-malformed"),
    ],
)
def test_a_foreign_or_broken_lock_is_refused(text: str, reason: str) -> None:
    with pytest.raises(LockError) as caught:
        Lock.parse(text)
    assert caught.value.reason == reason


PACKAGE = NpmPackage("node_modules/a", "npm:a@1.0.0", 3, PIN.sha256, PIN.blake3, f"sha512-{'A' * 86}==", "MIT", {})


def test_the_pins_of_a_lock_are_those_of_sources_userlands_and_npm_closures() -> None:
    lock = replace(LOCK, npm={"page": NodeModules.of("page", "lock", "", TreeId("e" * 64), (), [PACKAGE])})
    assert [(pin.name, pin.locator) for pin in lock.pins()] == [
        ("zig.whl", PIN.locator),
        ("bash", "debian:x"),
        ("a-1.0.0.tgz", "npm:a@1.0.0"),
    ]
    npm = list(lock.pins())[-1]
    assert (npm.size, npm.version, npm.licence, npm.measured) == (3, "1.0.0", "MIT", True)


# Outputs


def output(target: str, derivation: str, tree: str) -> ExpectedOutput:
    return ExpectedOutput(target, DerivationId(derivation * 64), TreeId(tree * 64))


OUTPUTS = {"a.b": output("a.b", "c", "d"), "z": output("z", "1", "2")}
OLD_TABLES = dump_outputs(OUTPUTS).partition("schema = 1\n")[2]


def test_outputs_read_back_and_are_sorted() -> None:
    text = dump_outputs(dict(reversed(OUTPUTS.items())))
    assert list(parse_outputs(text).items()) == list(OUTPUTS.items())
    assert parse_outputs(dump_outputs({})) == {}


def test_a_lock_of_before_has_outputs_that_are_read_and_not_written_again() -> None:
    lock = Lock.parse(LOCK.dump() + OLD_TABLES)
    assert lock == replace(LOCK, outputs=OUTPUTS)
    assert lock.dump() == LOCK.dump()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("schema = 2\n", "lock-schema"),
        ("schema = 1\n[output.a]\n", "lock-malformed"),
        (f'schema = 1\n[output.a]\nderivation = "short"\ntree = "{"a" * 64}"\n', "lock-malformed"),
        (f'schema = 1\n[output.a]\nderivation = "{"a" * 64}"\ntree = "{"A" * 64}"\n', "lock-malformed"),
        ("schema = 1\n[source.a]\n", "lock-malformed"),
        (dump_outputs(OUTPUTS) + OLD_TABLES, "lock-malformed"),
    ],
)
def test_damaged_outputs_are_refused(text: str, reason: str) -> None:
    with pytest.raises(LockError) as caught:
        parse_outputs(text)
    assert caught.value.reason == reason


def test_a_table_that_is_there_twice_is_named() -> None:
    with pytest.raises(LockError) as caught:
        parse_outputs(dump_outputs(OUTPUTS) + OLD_TABLES)
    assert '[output."a.b"]' in caught.value.detail


# Merges


def conflict(ours: str, theirs: str, base: str | None = None) -> str:
    middle = "" if base is None else f"||||||| base\n{base}"
    return f"<<<<<<< ours\n{ours}{middle}=======\n{theirs}>>>>>>> theirs\n"


@pytest.mark.parametrize("base", [None, 'derivation = "old"\n'])
def test_a_conflict_names_what_both_sides_changed_and_what_one_side_has(base: str | None) -> None:
    lines = dump_outputs(OUTPUTS).splitlines(keepends=True)
    start = lines.index('[output."a.b"]\n') + 1
    theirs = dump_outputs({"a.b": output("a.b", "5", "6"), "a.c": output("a.c", "7", "8")}).splitlines(keepends=True)
    here = conflict("".join(lines[start : start + 2]), "".join(theirs[start:]), base)
    with pytest.raises(LockConflict) as caught:
        parse_outputs("".join([*lines[:start], here, *lines[start + 2 :]]))
    assert caught.value.reason == "lock-conflict"
    assert (caught.value.changed, caught.value.added) == (("output a.b",), ("output a.c",))
    assert "forge lock --outputs" in caught.value.detail


def test_a_conflict_in_a_userland_names_the_package() -> None:
    text = LOCK.dump()
    with pytest.raises(LockConflict) as caught:
        Lock.parse(text.replace('locator = "debian:x"\n', conflict('locator = "debian:y"\n', 'locator = "debian:z"\n')))
    assert (caught.value.changed, caught.value.added) == (("userland base package bash",), ())


def test_a_conflict_that_cuts_a_table_apart_is_told_all_the_same() -> None:
    with pytest.raises(LockConflict) as caught:
        Lock.parse(LOCK.dump() + conflict("[source.\n", "a\n"))
    assert (caught.value.changed, caught.value.added) == ((), ())
