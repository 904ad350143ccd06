"""Bundles: what goes in comes out, byte for byte the same; what is not as it must be stays out, all of it."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import action_key
from mmojo_forge.model.digest import BlobDigest, TreeId, blake3_hex
from mmojo_forge.model.trace import Trace, TraceOutput, TraceSignature
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry
from mmojo_forge.store.add.batch import Blob
from mmojo_forge.store.bundle import records
from mmojo_forge.store.bundle.records import BundleContents, BundledTarget
from mmojo_forge.store.bundle.writer import write_bundle
from mmojo_forge.store.local import LocalStore
from tests.support.killed import in_child_killed_at
from tests.unit.store.test_crash import make_tree

PREIMAGE = b'{"inputs":{},"label":{"facts":{},"reproducible":true},"name":"thing-1","outputs":["out"]}'
CONTENT = b"the content"
TREE = Tree.of([TreeEntry("file", EntryKind.FILE, BlobDigest(blake3_hex(CONTENT)), len(CONTENT))])
BLOB = Blob(BlobDigest(blake3_hex(CONTENT)), False)
KEY = action_key(PREIMAGE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


def refusal(place: Path, path: Path) -> str:
    """The reason with which the file is refused, and nothing of it taken in."""
    with LocalStore.open(place) as store:
        with pytest.raises(ForgeError) as caught:
            store.import_bundle(path)
        report = store.verify()
        assert (report.blobs, report.trees, report.findings) == (0, 0, ())
        assert store.lookup([KEY]) == {}
        left = [name for name in os.listdir(store._scratch.path) if not name.startswith(("intent", "using"))]
        assert left == []
    return caught.value.reason


def a_trace(tree: TreeId, **changes: Any) -> Trace:
    trace = Trace(KEY, "thing-1", PREIMAGE, {"out": TraceOutput(tree, len(CONTENT))}, "anna", 5.0, 2.5, 100)
    return replace(trace, **changes)


def member(name: str, data: bytes) -> bytes:
    return records.tar_header(name, len(data)) + data + bytes(records.padding(len(data)))


def document(**changes: Any) -> dict[str, Any]:
    """The contents of a bundle with one tree and one trace, with some of it changed."""
    entry = records.encode(a_trace(TREE.id))
    whole = {
        "blobs": [[BLOB.digest, False, len(CONTENT)]],
        "schema": 1,
        "targets": [{"label": "reproducible", "name": "thing", "target": "thing", "tree": TREE.id}],
        "traces": [[KEY, len(entry)]],
        "trees": [[TREE.id, len(TREE.encode())]],
    }
    return {**whole, **changes}


def parts(**changes: Any) -> list[bytes]:
    """The members of that bundle, and its end."""
    return [
        member(records.CONTENTS, json.dumps(document(**changes)).encode()),
        member(f"trees/{TREE.id}", TREE.encode()),
        member(f"traces/{KEY}", records.encode(a_trace(TREE.id))),
        member(f"blobs/{BLOB.digest}", CONTENT),
        bytes(1024),
    ]


def packed(path: Path, members: Iterable[bytes]) -> Path:
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(b"".join(members)))
    return path


def export(store: LocalStore, path: Path, trees: Iterable[TreeId], traces: Iterable[Trace] = ()) -> BundleContents:
    trees = list(trees)
    targets = [BundledTarget(f"target-{tree[:8]}", "thing", tree, "reproducible") for tree in trees]
    return write_bundle(store, path, targets, trees, traces)


def test_what_was_exported_is_there_after_the_import(place: Path, tmp_path: Path) -> None:
    signature = TraceSignature("anna:AAAA", b"signed")
    with LocalStore.open(tmp_path / "origin") as origin:
        one = origin.add_path(make_tree(tmp_path / "one", "1"))
        two = origin.add_file(io.BytesIO(b"the same every time"), executable=True)
        contents = export(origin, tmp_path / "file", [one.id, two.id], [a_trace(two.id, signatures=(signature,))])
    steps: list[tuple[int, int]] = []
    with LocalStore.open(place) as store:
        imported = store.import_bundle(tmp_path / "file", on_progress=lambda *step: steps.append(step))
        assert imported.contents == contents
        assert store.verify().findings == ()
        assert store.read_tree(one.id) == one
        assert (store.checkout(one.id, "one") / "lib" / "link").read_bytes() == b"the same every time"
        assert os.access(store.checkout(two.id, "two"), os.X_OK)
        (trace,) = store.lookup([KEY]).values()
        assert store.signed(trace) == a_trace(two.id, builder="imported:anna", signatures=(signature,))
    assert (imported.new_traces, imported.conflicts) == (1, 0)
    assert steps[-1] == (contents.size, contents.size)


def test_the_same_contents_are_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        with LocalStore.open(tmp_path / name) as store:
            trees = [store.add_path(make_tree(tmp_path / f"{name}-{salt}", salt)).id for salt in "12"]
            export(store, tmp_path / f"{name}.bundle", reversed(trees) if name == "a" else trees, [a_trace(trees[0])])
        files.append((tmp_path / f"{name}.bundle").read_bytes())
    assert files[0] == files[1]


def test_what_came_in_a_bundle_goes_on_in_one_under_its_builders_name(place: Path, tmp_path: Path) -> None:
    with LocalStore.open(place) as store:
        store.import_bundle(packed(tmp_path / "first", parts()))
        export(store, tmp_path / "second", [TREE.id], store.lookup([KEY]).values())
    with LocalStore.open(tmp_path / "third") as third:
        third.import_bundle(tmp_path / "second")
        assert [trace.builder for trace in third.lookup([KEY]).values()] == ["imported:anna"]


def test_tar_reads_it(place: Path, tmp_path: Path) -> None:
    packed(tmp_path / "file", parts())
    plain = zstandard.ZstdDecompressor().decompressobj().decompress((tmp_path / "file").read_bytes())
    listed = subprocess.run(["tar", "-tf", "-"], input=plain, capture_output=True, check=True).stdout.decode()
    assert listed.split() == [records.CONTENTS, f"trees/{TREE.id}", f"traces/{KEY}", f"blobs/{BLOB.digest}"]


@given(st.integers(0, (1 << 62) - 1))
def test_every_size_survives_its_header(size: int) -> None:
    assert records.parse_header(records.tar_header("blobs/x", size)) == ("blobs/x", size)


def test_a_known_trace_is_not_replaced_by_one_of_a_bundle(place: Path, tmp_path: Path) -> None:
    with LocalStore.open(place) as store:
        own = store.add_file(io.BytesIO(b"ours"))
        store.record(a_trace(own.id, builder="local"))
        imported = store.import_bundle(packed(tmp_path / "file", parts()))
        assert (imported.new_traces, imported.conflicts) == (0, 1)
        assert store.lookup([KEY])[KEY].outputs["out"].tree == own.id


def test_an_export_of_what_is_damaged_leaves_no_file(place: Path, tmp_path: Path) -> None:
    with LocalStore.open(place) as store:
        tree = store.add_file(io.BytesIO(CONTENT))
        blob = place / "blobs" / BLOB.digest[:2] / BLOB.digest[2:]
        blob.chmod(0o644)
        blob.write_bytes(CONTENT[::-1])
        with pytest.raises(ForgeError) as caught:
            export(store, tmp_path / "file", [tree.id])
    assert caught.value.reason == "blob-corrupt"
    assert os.listdir(tmp_path) == ["store"]


def test_a_file_that_is_cut_off_anywhere_is_refused(place: Path, tmp_path: Path) -> None:
    whole = packed(tmp_path / "whole", parts()).read_bytes()
    for length in [*range(0, len(whole), 7), *range(len(whole) - 8, len(whole))]:
        (tmp_path / "cut").write_bytes(whole[:length])
        assert refusal(place, tmp_path / "cut") in {"bundle-truncated", "bundle-malformed"}


def test_something_after_the_end_is_refused(place: Path, tmp_path: Path) -> None:
    whole = packed(tmp_path / "whole", parts()).read_bytes()
    for more in (b"x", whole, zstandard.ZstdCompressor().compress(b"")):
        (tmp_path / "more").write_bytes(whole + more)
        assert refusal(place, tmp_path / "more") == "bundle-malformed"
    assert refusal(place, packed(tmp_path / "more", [*parts(), bytes(512)])) == "bundle-malformed"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7), compressed=st.booleans())
def test_a_flipped_bit_is_refused_or_changes_nothing_that_counts(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int, compressed: bool
) -> None:
    tmp_path = tmp_path_factory.mktemp("flip")
    plain = bytearray(b"".join(parts()))
    if not compressed:
        plain[position % len(plain)] ^= 1 << bit
    data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(bytes(plain)))
    if compressed:
        data[position % len(data)] ^= 1 << bit
    (tmp_path / "file").write_bytes(bytes(data))
    with LocalStore.open(tmp_path / "store") as store:
        try:
            store.import_bundle(tmp_path / "file")
        except ForgeError:
            assert store.verify().trees == 0
            return
        finally:
            store._added = False
        # A time, a builder's name, a key that nobody knows: what no identity covers.
        assert store.read_tree(TREE.id) == TREE
        assert store.verify().findings == ()
        assert set(store.lookup([KEY])) <= {KEY}


def swap(index: int, data: bytes) -> Callable[[], list[bytes]]:
    def make() -> list[bytes]:
        members = parts()
        members[index] = data
        return members

    return make


def entry(**changes: Any) -> Callable[[], list[bytes]]:
    """A bundle whose trace entry says something else."""
    whole = {**json.loads(records.encode(a_trace(TREE.id))), **changes}
    data = json.dumps(whole).encode()

    def make() -> list[bytes]:
        members = parts(traces=[[KEY, len(data)]])
        members[2] = member(f"traces/{KEY}", data)
        return members

    return make


def as_link(whole: bytes) -> bytes:
    """The member as a symlink, with the checksum that goes with it."""
    block = bytearray(whole[:512])
    block[156:157] = b"2"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + whole[512:]


OTHER = "f" * 64
LONG = 1 << 61
ESCAPING = b'{"entries":[["","d"],["../x","f","%s",11]],"schema":1}' % BLOB.digest.encode()
ESCAPING_ID = blake3_hex(ESCAPING)


def escaping() -> list[bytes]:
    members = parts(trees=[[ESCAPING_ID, len(ESCAPING)]], targets=[])
    members[1] = member(f"trees/{ESCAPING_ID}", ESCAPING)
    return members


HOSTILE: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "another schema": (lambda: parts(schema=2), "bundle-schema"),
    "contents that are a list": (swap(0, member(records.CONTENTS, b"[]")), "bundle-malformed"),
    "contents that are no JSON": (swap(0, member(records.CONTENTS, b"{")), "bundle-malformed"),
    "contents that nest without end": (swap(0, member(records.CONTENTS, b"[" * 200_000)), "bundle-malformed"),
    "no contents": (lambda: parts()[1:], "bundle-malformed"),
    "contents without end": (swap(0, records.tar_header(records.CONTENTS, LONG)), "bundle-malformed"),
    "a digest that is none": (lambda: parts(trees=[["../../x", 3]]), "bundle-malformed"),
    "something named twice": (lambda: parts(trees=document()["trees"] * 2), "bundle-malformed"),
    "a negative size": (lambda: parts(blobs=[[BLOB.digest, False, -1]]), "bundle-malformed"),
    "a size that is a truth": (lambda: parts(blobs=[[BLOB.digest, False, True]]), "bundle-malformed"),
    "a mode that is a number": (lambda: parts(blobs=[[BLOB.digest, 0, 11]]), "bundle-malformed"),
    "control characters": (
        lambda: parts(targets=[{**document()["targets"][0], "target": "\x1b[2J"}]),
        "bundle-malformed",
    ),
    "a target without tree": (
        lambda: parts(targets=[{**document()["targets"][0], "tree": OTHER}]),
        "bundle-incomplete",
    ),
    "more than the disk holds": (lambda: parts(blobs=[[BLOB.digest, False, LONG]]), "disk-full"),
    "manifests without end": (lambda: parts(trees=[[TREE.id, LONG]]), "bundle-too-large"),
    "traces without end": (lambda: parts(traces=[[KEY, LONG]]), "bundle-too-large"),
    "a manifest of another tree": (
        lambda: [
            *parts(trees=[[OTHER, len(TREE.encode())]])[:1],
            member(f"trees/{OTHER}", TREE.encode()),
            *parts()[2:],
        ],
        "bundle-wrong-tree",
    ),
    "a tree that leaves its folder": (escaping, "bundle-malformed"),
    "a name that leaves its folder": (swap(3, member("../../etc/passwd", CONTENT)), "bundle-malformed"),
    "an absolute name": (swap(3, member("/etc/passwd", CONTENT)), "bundle-malformed"),
    "a link": (swap(3, as_link(member(f"blobs/{BLOB.digest}", CONTENT))), "bundle-malformed"),
    "members in another order": (lambda: [parts()[0], parts()[3], *parts()[1:3], parts()[4]], "bundle-malformed"),
    "a blob that is missing": (lambda: [*parts()[:3], parts()[4]], "bundle-malformed"),
    "a blob that is a lie": (swap(3, member(f"blobs/{BLOB.digest}", CONTENT[::-1])), "bundle-wrong-blob"),
    "a longer blob than announced": (swap(3, member(f"blobs/{BLOB.digest}", CONTENT + b"x")), "bundle-malformed"),
    "a blob of another size than the tree's": (lambda: parts(blobs=[[BLOB.digest, False, 12]]), "bundle-wrong-size"),
    "a blob that no tree needs": (
        lambda: parts(blobs=[*document()["blobs"], [OTHER, False, 0]]),
        "bundle-unexpected",
    ),
    "a blob that is not listed": (lambda: parts(blobs=[]), "bundle-incomplete"),
    "data in the padding": (
        swap(3, records.tar_header(f"blobs/{BLOB.digest}", 11) + CONTENT + b"x" * records.padding(11)),
        "bundle-malformed",
    ),
    "a trace of another key": (entry(key=OTHER), "bundle-wrong-trace"),
    "a trace with another preimage": (entry(preimage=PREIMAGE.decode() + " "), "bundle-wrong-trace"),
    "a trace of another schema": (entry(schema=2), "bundle-malformed"),
    "a trace with other outputs": (entry(outputs={"dev": {"size": 1, "tree": TREE.id}}), "bundle-malformed"),
    "a trace whose output is no tree": (entry(outputs={"out": {"size": 1, "tree": "x"}}), "bundle-malformed"),
    "a trace whose time is no number": (entry(seconds=float("nan")), "bundle-malformed"),
    "a trace whose memory has no end": (entry(peak=1e300), "bundle-malformed"),
    "a builder that is a terminal's command": (entry(builder="\x1b]0;x\x07"), "bundle-malformed"),
    "a signature that is none": (entry(signatures=[{"key": "k", "value": "%"}]), "bundle-malformed"),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_a_hostile_bundle_is_refused(place: Path, tmp_path: Path, what: str) -> None:
    make, reason = HOSTILE[what]
    assert refusal(place, packed(tmp_path / "file", make())) == reason


@pytest.mark.parametrize("data", [b"", b"no bundle at all", bytes(5000)])
def test_a_file_that_is_something_else_is_refused(place: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert refusal(place, tmp_path / "file").startswith("bundle-")


def test_a_bomb_is_refused_before_it_unfolds(place: Path, tmp_path: Path) -> None:
    compressor = zstandard.ZstdCompressor().compressobj()
    with (tmp_path / "bomb").open("wb") as file:
        file.write(compressor.compress(b"".join(parts()[:3])))
        for _ in range(500):
            file.write(compressor.compress(bytes(1 << 20)))
        file.write(compressor.flush())
    assert (tmp_path / "bomb").stat().st_size < 1 << 20
    assert refusal(place, tmp_path / "bomb") == "bundle-malformed"


def test_a_window_that_takes_all_memory_is_refused(place: Path, tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "file").write_bytes(compressor.compress(b"".join(parts())) + compressor.flush())
    assert refusal(place, tmp_path / "file") == "bundle-malformed"


def test_keys_that_nobody_knows_yet_are_no_hindrance(place: Path, tmp_path: Path) -> None:
    with LocalStore.open(place) as store:
        store.import_bundle(packed(tmp_path / "file", parts(signers=["anna"])))
        assert store.has_tree(TREE.id)


def test_an_import_that_is_killed_at_any_call_is_whole_or_nothing(place: Path, tmp_path: Path) -> None:
    packed(tmp_path / "file", parts())
    killed, call = True, 0
    while killed:

        def act() -> None:
            with LocalStore.open(place) as store:
                store.import_bundle(tmp_path / "file")

        killed = in_child_killed_at(call, act)
        with LocalStore.open(place) as store:
            report = store.verify()
            assert report.findings == ()
            assert (report.trees, report.blobs) in {(0, 0), (1, 1)}
        call += 1
    assert call > 8
    assert report.trees == 1
