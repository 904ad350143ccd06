"""The recipe functions that link and package: what they order, and what is an input of what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mmojo_forge.recipe import Files, Package, Slice, Spec, Url, link_ape, package_server, with_files

USERLAND = Package("userland")


def order_of(spec: Spec) -> dict[str, Any]:
    """The order that the build writes for the linker."""
    script = spec.args[-1]
    found: dict[str, Any] = json.loads(script.split("<<'END'\n")[1].split("\nEND\n")[0])
    return found


def test_other_packages_become_assets_as_they_are() -> None:
    page = Package("llama-ui")
    spec = link_ape(
        "server.ape",
        userland=USERLAND,
        launchers=Package("ape"),
        program="server",
        slices={"linux-x86_64": Slice("linux-x86_64", Package("one"), "bin/server")},
        assets={"ui/chat": page, "ui/complete": Files("complete"), "a": "/forge/more/a", "b": "b.json"},
        inputs={"more": Package("more")},
    )
    paths = {row["name"]: row["path"] for row in order_of(spec)["assets"]}
    assert paths == {
        "a": "/forge/more/a",
        "b": "b.json",
        "ui/chat": "/forge/asset-ui_2f_chat",
        "ui/complete": "/forge/asset-ui_2f_complete",
    }
    assert spec.inputs["asset-ui_2f_chat"] == page
    assert spec.portable
    assert spec.contents is not None
    assert set(spec.contents) == {"launchers", "linux-x86_64", "more", "asset-ui_2f_chat", "asset-ui_2f_complete"}


def test_a_packaged_server_can_be_an_image() -> None:
    spec = package_server("hello", userland=USERLAND, program=Package("server.ape"), form="oci-tar")
    assert spec.args[-1].strip().endswith("package order.json /forge/out/out --format oci-tar")


def test_a_packaged_server_has_its_model_and_all_else_as_inputs() -> None:
    model, part = Url("https://example.org/m.gguf"), Package("bench-model.tiny")
    spec = package_server(
        "hello",
        userland=USERLAND,
        program=Package("server.native"),
        path="bin/server",
        server="hello",
        models={"m-00001-of-00002.gguf": model, "m-00002-of-00002.gguf": part},
        mmproj={"see.gguf": part},
        args=Files("more/hello-args.yaml"),
        ui=Files("page"),
        files={"docs": Files("docs")},
        remove=("ui/complete",),
        form="folder",
    )
    assert order_of(spec) == {
        "program": "/forge/program/bin/server",
        "name": "hello",
        "models": [
            {"name": "m-00001-of-00002.gguf", "path": "/forge/model-m-00001-of-00002.gguf"},
            {"name": "m-00002-of-00002.gguf", "path": "/forge/model-m-00002-of-00002.gguf"},
        ],
        "mmproj": {"name": "see.gguf", "path": "/forge/mmproj-see.gguf"},
        "args": {"name": "hello-args.yaml", "path": "/forge/args"},
        "ui": "/forge/ui",
        "page": "",
        "files": [{"name": "docs", "path": "/forge/file-docs"}],
        "remove": ["ui/complete"],
    }
    assert spec.args[-1].rstrip().endswith("/forge/out/out --format folder")
    assert spec.inputs["model-m-00001-of-00002.gguf"] == model
    assert not spec.portable
    assert spec.contents is not None
    assert "linker" not in spec.contents and "program" in spec.contents


def test_arguments_may_stand_in_the_recipe() -> None:
    spec = package_server("x", userland=USERLAND, program=Package("p"), args="--alias 'it'\\''s'\n")
    assert order_of(spec)["args"] == {"name": "args", "path": "args"}
    assert "args" not in spec.inputs
    assert "printf %s" in spec.args[-1]
    assert "args" not in order_of(package_server("x", userland=USERLAND, program=Package("p")))


@pytest.mark.parametrize(
    ("one", "other"), [("a-b.gguf", "a_b.gguf"), ("a b.gguf", "a_20_b.gguf"), ("ä.gguf", "a.gguf")]
)
def test_each_name_is_an_input_of_its_own(one: str, other: str) -> None:
    spec = package_server(
        "x", userland=USERLAND, program=Package("p"), models={one: Package("one"), other: Package("other")}
    )
    rows = {row["name"]: row["path"].removeprefix("/forge/") for row in order_of(spec)["models"]}
    assert spec.inputs[rows[one]] == Package("one")
    assert spec.inputs[rows[other]] == Package("other")


def test_files_go_behind_the_program_of_a_folder() -> None:
    page = Package("llama-ui")
    spec = with_files("paged", userland=USERLAND, program=Package("built"), path="bin/server", files={"ui/chat": page})
    assert order_of(spec) == {
        "program": "/forge/program/bin/server",
        "files": [{"name": "ui/chat", "path": "/forge/file-ui_2f_chat"}],
    }
    assert spec.inputs["file-ui_2f_chat"] == page
    assert spec.args[-1].rstrip().endswith("package order.json '/forge/out/out/bin/server'")
    assert spec.contents is not None
    assert set(spec.contents) == {"program", "file-ui_2f_chat"}
