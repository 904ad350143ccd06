"""What packaging tests begin with: a small server, a model, and packaging without a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmojo_forge.ape.files.content import read_entry
from mmojo_forge.ape.packaging.gather import gather
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.packaging.outputs import Format, choose_outputs
from mmojo_forge.ape.packaging.package import PackagePlan, Product, plan_package, write_package
from mmojo_forge.ape.read.program import read_program
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import Asset, LinkSpec
from tests.support.ape_samples import write_inputs
from tests.support.ape_samples.gguf import make_gguf

SLICES = {
    "linux-x86_64/v3": b"best" * 999,
    "linux-x86_64/v2": b"plain" * 999,
    "windows-x86_64": b"win",
    "macos-aarch64": b"mac",
}


def make_server(folder: Path, *, pages: Sequence[str] = ("chat", "complete"), info: str | None = None) -> Path:
    """A linked APE with pages, as `mmojo-server.ape` has them; `info` is its build-info.json."""
    spec = write_inputs(folder / "in", SLICES)
    assets = []
    for name in ("build-info.json", *(f"ui/{page}/index.html" for page in pages)):
        path = folder / "in" / name.replace("/", "-")
        path.write_text(info if info is not None and name == "build-info.json" else f"{name} " * 50)
        assets.append(Asset(name, path))
    return link(LinkSpec("mmojo-server", spec.slices, spec.launchers, tuple(assets)), folder / "mmojo-server.ape").path


def make_model(path: Path, **more: Any) -> Path:
    """A small model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_gguf(**more))
    return path


def named(path: Path) -> NamedFile:
    """A file under its own name."""
    return NamedFile(path.name, path)


def write(path: Path, text: str | bytes) -> Path:
    """A file with this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def make_folder(folder: Path, *names: str) -> Path:
    """A folder with files of these names, each holding its name."""
    for name in names:
        write(folder / name, name)
    return folder


def plan(program: Path, out: Path, formats: Sequence[str] = ("ape",), **order: Any) -> list[PackagePlan]:
    """What would be made."""
    wanted = PackageOrder(program, **order)
    contents = gather(wanted)
    return plan_package(contents, choose_outputs(out, [Format(one) for one in formats], wanted.name, contents.program))


def package(program: Path, out: Path, formats: Sequence[str] = ("ape",), **order: Any) -> list[Product]:
    """What is made; it is there."""
    return write_package(plan(program, out, formats, **order), lambda _done, _total: None, durable=False)


def files_in(program: Path) -> dict[str, bytes]:
    """The assets in a program, by name."""
    found = read_program(program)
    with program.open("rb") as stream:
        return {entry.name: b"".join(read_entry(stream, entry, program.name)) for entry in found.assets}


def files_below(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
