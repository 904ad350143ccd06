"""Licence texts out of real archives in a real store."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mmojo_forge.engine.sbom import notices
from mmojo_forge.engine.sbom.bom import Bill, make_bill
from mmojo_forge.engine.sbom.notices import NoticeError
from mmojo_forge.engine.services import Settings
from mmojo_forge.model.derivation import ALL, Component, Derivation, Input, LocalSource, Node, Notice, Source
from mmojo_forge.model.digest import BlobDigest, Sha256, TreeId, blake3_hex
from mmojo_forge.model.lockfile import Lock
from mmojo_forge.store.local import LocalStore
from tests.support.engines import Bench, DictFetcher

HEADER = b"""int x;
// Copyright 2020 Somebody
//
// Permission is granted.
int y;
"""
SERVER = {"LICENSE": b"MIT License  \r\n\r\nCopyright server\r\n", "src/x.c": HEADER}
NPM = {"package/LICENSE.md": b"MIT, npm\n", "package/index.js": b"", "package/deep/LICENSE": b"of another\n"}


def tar(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def archive(name: str, content: bytes) -> Source:
    digest = BlobDigest(blake3_hex(content))
    return Source(name, f"url:https://e.org/{name}", digest, len(content), Sha256(hashlib.sha256(content).hexdigest()))


def unpacked(source: Source, *components: Component) -> Derivation:
    edges = {"archive-000": Input(source, "out", "/forge/archive-000")}
    return Derivation("source", "builtin:unpack", ("{}", '["archive-000"]'), {}, edges, components=components)


def bill(inputs: Mapping[str, Node]) -> Bill:
    edges = {name: Input(node, "out", f"/forge/{name}") for name, node in inputs.items()}
    root = Derivation("program", "copy", (), {}, edges, contents=dict.fromkeys(inputs, ALL))
    return make_bill(root, "out", "program", Lock(), workspace=Path("/work"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    content = {"url:https://e.org/server.tgz": tar(SERVER), "url:https://e.org/npm.tgz": tar(NPM)}
    with LocalStore.open(tmp_path / "store") as store:
        yield Bench(tmp_path, store, fetcher=DictFetcher({**content, "url:https://e.org/model.gguf": b"GGUF"}))


SOURCE = archive("server.tgz", tar(SERVER))
SETTINGS = Settings(2, 1 << 30)


def texts(bench: Bench, made_of: Bill) -> dict[str, tuple[str, ...]]:
    return {one.item.name: one.texts for one in notices.collect(made_of, bench.services(), SETTINGS)}


def test_texts_are_read_from_the_unpacked_source_and_cleaned(bench: Bench) -> None:
    tree = unpacked(SOURCE, Component("server", "1", "MIT", notices=("LICENSE",)))
    assert texts(bench, bill({"source": tree})) == {"server": ("MIT License\n\nCopyright server",)}
    assert bench.fetcher.fetched == ["server.tgz"]


def test_lines_of_a_source_file_lose_their_comment_marks(bench: Bench) -> None:
    notice = Notice("src/x.c", "Copyright 2020", "Permission is granted")
    tree = unpacked(SOURCE, Component("part", "1", "MIT", notices=(notice,)))
    assert texts(bench, bill({"source": tree})) == {"part": ("Copyright 2020 Somebody\n\nPermission is granted.",)}


@pytest.mark.parametrize(
    "notice",
    ["COPYING", "src", Notice("src/x.c", "Copyright 1999"), Notice("src/x.c", "Copyright 2020", "no such line")],
)
def test_a_text_that_has_moved_is_an_error_and_not_left_out(bench: Bench, notice: str | Notice) -> None:
    tree = unpacked(SOURCE, Component("part", "1", "MIT", notices=(notice,)))
    with pytest.raises(NoticeError) as caught:
        texts(bench, bill({"source": tree}))
    assert caught.value.reason == "notice-missing"


def test_an_archive_that_is_used_as_it_is_has_its_licence_at_its_top(bench: Bench) -> None:
    assert texts(bench, bill({"module": archive("npm.tgz", tar(NPM))})) == {"npm.tgz": ("MIT, npm",)}


def test_what_has_no_text_is_told(bench: Bench) -> None:
    made_of = bill({"model": archive("model.gguf", b"GGUF"), "source": unpacked(SOURCE)})
    collected = notices.collect(made_of, bench.services(), SETTINGS)
    assert sorted(item.name for item in notices.missing(collected)) == ["model.gguf"]
    with pytest.raises(NoticeError) as caught:
        notices.check_complete(made_of, collected)
    assert caught.value.reason == "notice-undeclared"


def test_our_own_files_need_no_third_partys_notice(bench: Bench, tmp_path: Path) -> None:
    own = LocalSource("source", str(tmp_path), TreeId("a" * 64))
    assert texts(bench, bill({"own": own})) == {}


def test_a_text_stands_once_however_many_things_it_is_for(bench: Bench) -> None:
    one, two = (Component(name, "1", "MIT", notices=("LICENSE",)) for name in ("one", "two"))
    made_of = bill({"source": unpacked(SOURCE, one, two)})
    collected = notices.collect(made_of, bench.services(), SETTINGS)
    rendered = notices.render(made_of, collected)
    assert rendered.count("Copyright server") == 1
    assert "one 1\ntwo 1\n" in rendered
    assert "  one 1: MIT\n  two 1: MIT\n" in rendered
    assert rendered == notices.render(made_of, collected[::-1])
