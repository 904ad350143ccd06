"""What `forge package` says of a package, inside and beside it: the same each time, renewed, never of the key."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.ape.packaging.contents import PackageContents
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.packaging.outputs import Format
from mmojo_forge.engine.package import packaging
from mmojo_forge.engine.package.documents import (
    SBOM,
    Hashes,
    SidecarWriter,
    bill_of_file,
    with_sbom,
    with_sbom_renewed,
    without_sbom,
)
from mmojo_forge.engine.package.packaging import Planned
from mmojo_forge.engine.sbom.bom import Bill
from mmojo_forge.engine.sbom.documents import sha256_of
from mmojo_forge.engine.trust.signing import verify_file
from mmojo_forge.model.minisign import MinisignKey
from mmojo_forge.model.signature import PrivateKey
from tests.support.ape_samples.packages import files_in, make_model, make_server, named, write
from tests.unit.ape.packaging.test_package import CERTIFICATE, KEY

OWN = PrivateKey.generate("builder")


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return make_server(tmp_path / "server")


@pytest.fixture
def order(server: Path, tmp_path: Path) -> PackageOrder:
    return PackageOrder(
        server,
        models=(named(make_model(tmp_path / "m.gguf")),),
        args=named(write(tmp_path / "args", "--port 1\n")),
        cert=write(tmp_path / "c.pem", CERTIFICATE),
        key=write(tmp_path / "k.pem", KEY),
        files=(NamedFile("notes.txt", write(tmp_path / "notes", "notes")),),
    )


@pytest.fixture
def bill(server: Path) -> Bill:
    found = bill_of_file(server)
    return replace(found, root=replace(found.root, ref="derivation:x^out"), depends={"derivation:x^out": ()})


def written(order: PackageOrder, out: Path, document: Any, *formats: Format) -> Planned:
    planned = packaging.plan(order, out, formats or (Format.APE,), document)
    packaging.write(planned, lambda _done, _total: None)
    return planned


def with_bill(bill: Bill) -> Any:
    return lambda contents: with_sbom(contents, bill, Hashes())


def renewed(contents: PackageContents) -> PackageContents:
    return with_sbom_renewed(contents, Hashes())


def components(program: Path) -> dict[str, str]:
    document = json.loads(files_in(program)[SBOM])
    found = {one["name"]: one.get("hashes", [{}])[0].get("content", "") for one in document["components"]}
    assert "serialNumber" in document
    return found


def test_the_bill_inside_names_what_was_added_but_no_key_and_nothing_that_changes(
    order: PackageOrder, bill: Bill, tmp_path: Path
) -> None:
    for name in ("one.ape", "two.ape"):
        written(order, tmp_path / name, with_bill(bill))
    assert (tmp_path / "one.ape").read_bytes() == (tmp_path / "two.ape").read_bytes()
    found = components(tmp_path / "one.ape")
    assert set(found) == {"mmojo-server.ape", "m.gguf", "notes.txt", "certs/server.crt"}
    assert found["m.gguf"] == sha256_of(order.models[0].path)
    document = json.loads(files_in(tmp_path / "one.ape")[SBOM])
    assert document["metadata"]["component"]["name"] == "mmojo-server"
    assert "hashes" not in document["metadata"]["component"]


def test_packaging_again_gives_the_bill_that_packaging_at_once_gives(
    order: PackageOrder, bill: Bill, tmp_path: Path
) -> None:
    other = named(make_model(tmp_path / "other.gguf", architecture="qwen2"))
    written(order, tmp_path / "first.ape", with_bill(bill))
    again = PackageOrder(tmp_path / "first.ape", name="hello", models=(other,), remove=("notes.txt",))
    written(again, tmp_path / "again.ape", renewed)
    written(replace(order, name="hello", models=(other,), files=()), tmp_path / "once.ape", with_bill(bill))
    assert files_in(tmp_path / "again.ape")[SBOM] == files_in(tmp_path / "once.ape")[SBOM]
    assert (tmp_path / "again.ape").read_bytes() == (tmp_path / "once.ape").read_bytes()


def test_a_bill_is_left_out_left_alone_or_given(order: PackageOrder, bill: Bill, tmp_path: Path) -> None:
    written(order, tmp_path / "first.ape", with_bill(bill))
    written(PackageOrder(tmp_path / "first.ape"), tmp_path / "none.ape", without_sbom)
    assert SBOM not in files_in(tmp_path / "none.ape")
    written(PackageOrder(tmp_path / "none.ape"), tmp_path / "still.ape", renewed)
    assert SBOM not in files_in(tmp_path / "still.ape")
    theirs = replace(order, files=(NamedFile(SBOM, write(tmp_path / "theirs", '{"metadata": 1}')),))
    written(theirs, tmp_path / "theirs.ape", with_bill(bill))
    planned = written(PackageOrder(tmp_path / "theirs.ape"), tmp_path / "kept.ape", renewed)
    assert files_in(tmp_path / "kept.ape")[SBOM] == b'{"metadata": 1}'
    assert any(SBOM in warning for warning in planned.warnings)


def test_a_dry_run_reads_no_file_and_knows_the_size(order: PackageOrder, bill: Bill, tmp_path: Path) -> None:
    dry = packaging.plan(
        order, tmp_path / "x.ape", [Format.APE], lambda contents: with_sbom(contents, bill, Hashes(skip=True))
    )
    written(order, tmp_path / "x.ape", with_bill(bill))
    assert dry.products[0].size == (tmp_path / "x.ape").stat().st_size


def test_beside_each_file_lie_its_bill_provenance_and_signature(
    order: PackageOrder, bill: Bill, tmp_path: Path
) -> None:
    out = tmp_path / "x.ape"
    planned = written(order, out, with_bill(bill), Format.APE, Format.ZIP, Format.FOLDER)
    beside = SidecarWriter(bill, {"target": "mmojo-server.ape"}, OWN, Hashes(), sign=True)
    left = list(beside.leave(planned.plans))
    assert [(one.kind, one.path.name) for one in left] == [
        (kind, name + suffix)
        for name in ("x.ape", "x.zip")
        for kind, suffix in (("sbom", ".cdx.json"), ("provenance", ".intoto.json"), ("signature", ".minisig"))
    ]
    assert verify_file(out, [MinisignKey.of(OWN.public)]).path == out
    document = json.loads((tmp_path / "x.ape.cdx.json").read_bytes())
    assert {"alg": "SHA-256", "content": sha256_of(out)} in document["metadata"]["component"]["hashes"]
    names = {one["name"] for one in document["components"]}
    assert {"mmojo-server-args", "m.gguf", SBOM} <= names
    assert "certs/server.key" not in names
    envelope = json.loads((tmp_path / "x.ape.intoto.json").read_bytes())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["subject"] == [{"name": "x.ape", "digest": {"sha256": sha256_of(out)}}]
    before = {one.path: one.path.read_bytes() for one in left}
    assert {one.path: one.path.read_bytes() for one in beside.leave(planned.plans)} == before
