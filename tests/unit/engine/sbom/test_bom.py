"""Bills of materials: what is in a result, under which names, and what is only a tool; on small graphs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.engine.sbom import cyclonedx, spdx
from mmojo_forge.engine.sbom.bom import Bill, BomItem, make_bill
from mmojo_forge.engine.sbom.contents import ContentsError
from mmojo_forge.engine.sbom.documents import PackedFile, SbomError, bill_of_package, bill_of_program, check_complete
from mmojo_forge.model.derivation import ALL, Component, Derivation, Input, LocalSource, Node, Source
from mmojo_forge.model.digest import BlobDigest, Sha256, TreeId, blake3_hex
from mmojo_forge.model.lockfile import Lock, Pin, Userland

Contents = Mapping[str, tuple[str, ...]] | None


def pinned(name: str, locator: str, version: str = "", licence: str = "") -> Pin:
    content = name.encode()
    return Pin(
        name,
        locator,
        Sha256(blake3_hex(b"sha256 " + content)),
        BlobDigest(blake3_hex(content)),
        7,
        (),
        version,
        licence,
    )


SDIST = pinned("server-1.0.tar.gz", "pypi:server==1.0/server-1.0.tar.gz", "1.0")
WHEEL = pinned("zig-0.15-py3-none-any.whl", "pypi:zig==0.15/zig-0.15-py3-none-any.whl", "0.15")
TARBALL = pinned("acorn-8.15.0.tgz", "npm:acorn@8.15.0", "8.15.0", "MIT")
BASH = pinned("bash", "debian:pool/main/b/bash/bash_5.2.15-2+b7_amd64.deb", "5.2.15-2+b7")
LOCK = Lock(
    {pin.name: pin for pin in (SDIST, WHEEL, TARBALL)},
    {"base": Userland("base", "bookworm", "amd64", ("bash",), {"bash": BASH})},
)

SERVER = Component("server", "2.0-dev", "MIT", cpe="server:server", notices=("LICENSE",))
HTTP = Component("http", "0.1", "BSD-2-Clause")
ZIG = Component("zig", licence="MIT")
MUSL = Component("musl", "1.2.5", "MIT")
MINGW = Component("mingw-w64", "13.0", "ZPL-2.1 AND LicenseRef-Public-Domain")


def of(pin: Pin) -> Source:
    return Source(pin.name, pin.locator, pin.blake3, pin.size, pin.sha256)


def unpack(name: str, *sources: Pin, components: tuple[Component, ...] = ()) -> Derivation:
    inputs = {f"archive-{number:03}": of(pin) for number, pin in enumerate(sources)}
    return made(name, inputs, builder="builtin:unpack", components=components)


def made(
    name: str,
    inputs: Mapping[str, Node],
    contents: Contents = None,
    *,
    builder: str = "/bin/sh",
    components: tuple[Component, ...] = (),
) -> Derivation:
    edges = {key: Input(one, "out", "/usr" if key == "userland" else f"/forge/{key}") for key, one in inputs.items()}
    return Derivation(name, builder, (), {}, edges, components=components, contents=contents)


ZIG_TREE = unpack("zig-0.15", WHEEL, components=(ZIG, MUSL, MINGW))
SERVER_TREE = unpack("server-source", SDIST, components=(SERVER, HTTP))
USERLAND = unpack("userland", BASH)


def server(contents: Contents) -> Derivation:
    return made("server", {"zig": ZIG_TREE, "source": SERVER_TREE, "userland": USERLAND}, contents)


def bill(root: Derivation, lock: Lock = LOCK, workspace: Path = Path("/work")) -> Bill:
    return make_bill(root, "out", root.name, lock, workspace=workspace)


def names(items: tuple[BomItem, ...]) -> list[str]:
    return [item.name for item in items]


LINKED = {"source": ALL, "zig": ("musl",)}


def test_what_is_linked_is_in_it_and_what_compiles_is_not() -> None:
    made_of = bill(server(LINKED))
    assert names(made_of.contained) == ["http", "musl", "server"]
    assert names(made_of.built_with) == ["bash", "zig"]
    assert made_of.undeclared == ()
    check_complete(made_of)


def test_a_part_tells_the_archive_it_was_taken_from_and_its_hashes() -> None:
    [http] = [item for item in bill(server(LINKED)).contained if item.name == "http"]
    assert (http.version, http.licence, http.purl) == ("0.1", "BSD-2-Clause", "pkg:generic/http@0.1")
    assert http.hashes == {}
    assert http.origin is not None
    assert http.origin.hashes == {"SHA-256": SDIST.sha256, "BLAKE3": SDIST.blake3}


def test_a_source_that_is_a_component_itself_has_version_and_name_from_its_pin() -> None:
    [bash, zig] = bill(server(LINKED)).built_with
    assert (zig.version, zig.purl, zig.licence) == ("0.15", "pkg:pypi/zig@0.15", "MIT")
    assert zig.hashes == {"SHA-256": WHEEL.sha256, "BLAKE3": WHEEL.blake3}
    assert bash.purl == "pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64&distro=bookworm"
    assert bash.licence == ""


def test_a_pins_own_licence_counts_where_no_recipe_says_one() -> None:
    page = made("page", {"modules": unpack("modules", TARBALL), "userland": USERLAND}, {"modules": ALL})
    [acorn] = bill(page).contained
    assert (acorn.name, acorn.licence, acorn.purl) == ("acorn", "MIT", "pkg:npm/acorn@8.15.0")


def test_a_declaration_changes_no_identity() -> None:
    """Neither derivation ids nor action keys: else a licence that is mended would rebuild everything."""
    bare = made("server", {"zig": unpack("zig-0.15", WHEEL), "userland": USERLAND})
    told = made("server", {"zig": ZIG_TREE, "userland": USERLAND}, {"zig": ("musl",)})
    assert bare.id == told.id
    trees = {name: TreeId("0" * 64) for name in bare.inputs}
    assert bare.preimage(trees) == told.preimage(trees)


def test_what_forge_built_on_the_way_stands_between() -> None:
    library = made("library", {"source": SERVER_TREE, "userland": USERLAND}, {"source": ALL})
    program = made("program", {"library": library, "zig": ZIG_TREE, "userland": USERLAND}, {"library": ALL, "zig": ()})
    made_of = bill(program)
    assert names(made_of.contained) == ["http", "library", "server"]
    [between] = made_of.depends[made_of.root.ref]
    assert between == f"derivation:{library.id}^out"
    assert len(made_of.depends[between]) == 2
    assert made_of.root.licence == "BSD-2-Clause AND MIT"


def test_a_build_that_says_nothing_is_told_of_and_has_everything_but_its_userland() -> None:
    made_of = bill(server(None))
    assert names(made_of.contained) == ["http", "mingw-w64", "musl", "server", "zig"]
    assert names(made_of.built_with) == ["bash"]
    assert made_of.undeclared == ("server",)
    with pytest.raises(SbomError) as caught:
        check_complete(made_of)
    assert caught.value.reason == "contents-undeclared"


@pytest.mark.parametrize("licence", ["", "SEE LICENSE IN README", "BSD"])
def test_an_undeclared_or_unknown_licence_is_no_licence(licence: str) -> None:
    tree = unpack("server-source", SDIST, components=(replace(SERVER, licence=licence),))
    with pytest.raises(SbomError) as caught:
        check_complete(bill(made("server", {"source": tree}, {"source": ALL})))
    assert caught.value.reason == "licence-undeclared"
    assert "server" in caught.value.message


def test_a_component_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ContentsError) as caught:
        bill(server({"source": ALL, "zig": ("glibc",)}))
    assert caught.value.reason == "no-such-component"


def test_a_component_of_several_archives_has_to_say_of_which() -> None:
    thing = replace(SERVER, name="thing")
    both = unpack("both", SDIST, WHEEL, components=(thing,))
    with pytest.raises(ContentsError) as caught:
        bill(made("x", {"both": both}, {"both": ALL}))
    assert caught.value.reason == "component-unclear"
    told = unpack("both", SDIST, WHEEL, components=(replace(thing, of=SDIST.name), ZIG))
    assert names(bill(made("x", {"both": told}, {"both": ALL})).contained) == ["thing", "zig"]


def test_a_component_of_no_source_of_the_node_is_an_error() -> None:
    wrong = unpack("source", SDIST, components=(replace(SERVER, of="servre"),))
    with pytest.raises(ContentsError) as caught:
        bill(made("x", {"source": wrong}, {"source": ALL}))
    assert caught.value.reason == "component-unclear"


def test_files_of_the_workspace_go_by_their_path_or_the_name_they_are_given(tmp_path: Path) -> None:
    local = LocalSource("source", str(tmp_path / "recipes/hello/source"), TreeId("a" * 64))
    root = made("hello", {"source": local, "userland": USERLAND}, {"source": ALL})
    assert names(bill(root, workspace=tmp_path).contained) == ["recipes/hello/source"]
    named = made("hello", {"source": local}, {"source": ALL}, components=(Component("hello", licence="MIT"),))
    assert names(bill(named, workspace=tmp_path).contained) == ["hello"]


def test_two_versions_of_one_package_are_both_in_it() -> None:
    older = pinned("acorn-7.0.0.tgz", "npm:acorn@7.0.0", "7.0.0", "MIT")
    modules = unpack("modules", TARBALL, older)
    lock = Lock({**LOCK.sources, older.name: older})
    made_of = bill(made("page", {"modules": modules}, {"modules": ("acorn",)}), lock)
    assert [item.version for item in made_of.contained] == ["7.0.0", "8.15.0"]
    assert len({item.ref for item in made_of.contained}) == 2


def test_deep_graphs_are_walked_without_deep_recursion() -> None:
    node = server(LINKED)
    for number in range(3000):
        node = made(f"step-{number}", {"below": node}, {"below": ALL})
    assert len(bill(node).contained) == 3003


# Documents


def references(document: dict[str, Any]) -> list[str]:
    built_with = document["formulation"][0]["components"]
    rows = [document["metadata"]["component"], *document["components"], *built_with]
    return [row["bom-ref"] for row in rows]


def test_a_cyclonedx_document_holds_together() -> None:
    document = json.loads(cyclonedx.encode(bill(server(LINKED))))
    assert (document["bomFormat"], document["specVersion"], document["version"]) == ("CycloneDX", "1.6", 1)
    refs = references(document)
    assert len(set(refs)) == len(refs) == 6
    named = {ref for row in document["dependencies"] for ref in (row["ref"], *row["dependsOn"])}
    assert named <= set(refs)
    assert {row["scope"] for row in document["components"]} == {"required"}
    assert {row["scope"] for row in document["formulation"][0]["components"]} == {"excluded"}
    assert document["compositions"][0]["aggregate"] == "complete"


def component(document: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [row for row in document["components"] if row["name"] == name]
    result: dict[str, Any] = found
    return result


def test_cyclonedx_has_a_licence_as_id_expression_or_name() -> None:
    contents = {"source": ALL, "zig": ("musl", "mingw-w64")}
    document = json.loads(cyclonedx.encode(bill(server(contents))))
    assert component(document, "musl")["licenses"] == [{"license": {"id": "MIT"}}]
    [mingw] = component(document, "mingw-w64")["licenses"]
    assert mingw == {"expression": "ZPL-2.1 AND LicenseRef-Public-Domain"}
    [bash, _] = document["formulation"][0]["components"]
    assert bash["licenses"] == [{"license": {"name": "NOASSERTION"}}]
    assert component(document, "server")["cpe"] == "cpe:2.3:a:server:server:2.0-dev:*:*:*:*:*:*:*"
    [taken] = component(document, "server")["externalReferences"]
    assert taken["url"] == SDIST.locator
    assert {"alg": "SHA-256", "content": SDIST.sha256} in taken["hashes"]


def test_a_build_that_says_nothing_makes_the_composition_unknown() -> None:
    document = json.loads(cyclonedx.encode(bill(server(None))))
    assert document["compositions"][0]["aggregate"] == "unknown"


@pytest.mark.parametrize("encode", [cyclonedx.encode, spdx.encode])
def test_the_same_bill_gives_the_same_bytes_and_another_one_another_number(encode: Any) -> None:
    first, second = encode(bill(server(LINKED))), encode(bill(server(LINKED)))
    assert first == second
    number = "serialNumber" if encode is cyclonedx.encode else "documentNamespace"
    other = json.loads(encode(bill(server({"source": ALL}))))
    assert json.loads(first)[number] != other[number]


def test_a_time_stamp_is_there_only_if_one_is_given() -> None:
    made_of = bill(server(LINKED))
    assert "timestamp" not in json.loads(cyclonedx.encode(made_of))["metadata"]
    stamped = json.loads(cyclonedx.encode(made_of, epoch=1))["metadata"]
    assert stamped["timestamp"] == "1970-01-01T00:00:01Z"
    created = json.loads(spdx.encode(made_of))["creationInfo"]["created"]
    assert created == "1970-01-01T00:00:00Z"


def test_an_spdx_document_holds_together() -> None:
    made_of = bill(server({"source": ALL, "zig": ("mingw-w64",)}))
    document = json.loads(spdx.encode(made_of))
    ids = [package["SPDXID"] for package in document["packages"]]
    assert len(set(ids)) == len(ids)
    for row in document["relationships"]:
        assert {row["spdxElementId"], row["relatedSpdxElement"]} <= {*ids, "SPDXRef-DOCUMENT"}
    kinds = {row["relationshipType"] for row in document["relationships"]}
    assert kinds == {"DESCRIBES", "CONTAINS", "BUILD_TOOL_OF", "GENERATED_FROM"}
    assert [row["licenseId"] for row in document["hasExtractedLicensingInfos"]] == ["LicenseRef-Public-Domain"]
    licences = {package["name"]: package["licenseDeclared"] for package in document["packages"]}
    assert (licences["http"], licences["bash"]) == ("BSD-2-Clause", "NOASSERTION")


def test_a_packaged_file_has_the_target_and_what_was_added_to_it() -> None:
    target = bill(server(LINKED))
    model = PackedFile("tiny.gguf", "a" * 64, 12, "Apache-2.0")
    arguments = PackedFile("mmojo-server-args", "b" * 64, 3)
    packaged = bill_of_package(target, PackedFile("hello.ape", "c" * 64, 99), [model, arguments])
    assert packaged.root.hashes == {"SHA-256": "c" * 64}
    below = packaged.depends[packaged.root.ref]
    assert set(below) == {target.root.ref, model.item().ref, arguments.item().ref}
    document = json.loads(cyclonedx.encode(packaged))
    assert component(document, "tiny.gguf")["type"] == "machine-learning-model"
    roles = {row["type"] for row in document["components"] if row["name"] == target.root.name}
    assert roles == {"application", "library"}
    check_complete(packaged)


def test_of_a_program_that_is_no_target_it_is_said_that_nothing_is_known() -> None:
    program = bill_of_program(PackedFile("theirs.ape", "d" * 64, 5))
    document = json.loads(cyclonedx.encode(bill_of_package(program, PackedFile("ours.ape", "c" * 64, 9), [])))
    assert [row["name"] for row in document["components"]] == ["theirs.ape"]
    assert document["compositions"][0]["aggregate"] == "unknown"


def test_a_bill_that_goes_into_the_file_has_no_hash_of_it() -> None:
    packaged = bill_of_package(bill(server(LINKED)), PackedFile("hello.ape"), [])
    assert "hashes" not in json.loads(cyclonedx.encode(packaged))["metadata"]["component"]
