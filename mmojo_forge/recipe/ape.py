"""Specs that link an APE (one file for every machine) and pack content into it: link_ape, package_server, with_files.

All run `mmojo_forge.ape` in the sandbox, from source. That package uses only the standard library, so it can be an
ordinary input. What these functions write into phases and orders is hashed: a change changes action keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mmojo_forge.model import canonical
from mmojo_forge.recipe.api import Files, ForgeFiles, Limits, Package, Spec, Wanted, build, quote

_LINKER: Mapping[str, Wanted] = MappingProxyType({"linker": ForgeFiles("ape"), "errors": ForgeFiles("errors.py")})
_AT: Mapping[str, str] = MappingProxyType(
    {
        "linker": "/forge/python/mmojo_forge/ape",
        "errors": "/forge/python/mmojo_forge/errors.py",
    }
)
_RUN = "PYTHONPATH=/forge/python python3 -B -m mmojo_forge.ape"


@dataclass(frozen=True, slots=True)
class Slice:
    """One native executable in an APE: its system, and the package and path that it comes from.

    `features` are the CPU features that `level` demands, named as in Linux's /proc/cpuinfo.
    """

    system: str
    package: Package
    path: str
    level: str = ""
    features: tuple[str, ...] = ()

    def order(self, name: str) -> dict[str, canonical.Json]:
        """The slice's entry in the linker's order (JSON); `name` is the name of its input."""
        row: dict[str, canonical.Json] = {"system": self.system, "path": f"/forge/{name}/{self.path}"}
        return {**row, **({"level": self.level} if self.level else {}), "features": list(self.features)}


def link_ape(
    name: str,
    *,
    userland: Wanted,
    launchers: Wanted,
    program: str,
    slices: Mapping[str, Slice],
    assets: Mapping[str, str | Wanted] | None = None,
    inputs: Mapping[str, Wanted] | None = None,
    prepare: str = "",
) -> Spec:
    """A spec for one file that runs on every system it has a slice for. The output is the file itself.

    `slices` are by name; those of one system are listed best first.

    `assets` are files and folders to put into the file, by their names in it. A value is an input, which goes in whole,
    or a path. A path is either relative to /build, or it begins with /forge/INPUT for a part of one of `inputs`.
    `prepare` is shell text that runs first in /build and can make such files.
    """
    given = {_input_name(asset): wanted for asset, wanted in (assets or {}).items() if not isinstance(wanted, str)}
    paths = {
        asset: wanted if isinstance(wanted, str) else f"/forge/{_input_name(asset)}"
        for asset, wanted in (assets or {}).items()
    }
    order: dict[str, canonical.Json] = {
        "program": program,
        "slices": [entry.order(slice_name) for slice_name, entry in slices.items()],
        "launchers": {
            system: f"/forge/launchers/{system}{'.exe' if system.startswith('windows') else '.elf'}"
            for system in ("linux-x86_64", "linux-aarch64", "windows-x86_64")
        },
        "assets": [{"name": asset, "path": path} for asset, path in sorted(paths.items())],
    }
    link = f"{_write_order(order)}{_RUN} link order.json /forge/out/out"
    inputs = {**(inputs or {}), **given}
    spec = build(
        name,
        userland=userland,
        inputs={
            **inputs,
            "launchers": launchers,
            **_LINKER,
            **{slice_name: entry.package for slice_name, entry in slices.items()},
        },
        at=_AT,
        phases={**({"prepare": prepare} if prepare else {}), "link": link},
    )
    # The file contains all inputs except the linker and the userland. A recipe may narrow that by `containing`.
    return spec.containing("launchers", *slices, *inputs).for_any_machine()


def package_server(  # noqa: PLR0913 (a package has as many parts)
    name: str,
    *,
    userland: Wanted,
    program: Wanted,
    path: str = "",
    server: str = "",
    models: Mapping[str, Wanted] | None = None,
    mmproj: Mapping[str, Wanted] | None = None,
    args: Files | str = "",
    page: str = "",
    ui: Wanted | None = None,
    files: Mapping[str, Wanted] | None = None,
    modules: Mapping[str, Wanted] | None = None,
    remove: tuple[str, ...] = (),
    form: Literal["ape", "folder", "zip", "oci", "oci-tar"] = "ape",
    limits: Limits = Limits(),
) -> Spec:
    """A spec for a packaged server, as `forge package` makes it. The output is the file or folder itself.

    docs/package.md has the layout. The parameters:

    - `program`: an APE, or a package that has a native program at `path`;
    - `server`: the name that the server reports;
    - `models`: GGUF files by their names in the server, one entry for each part of a split model. It serves the first;
    - `mmproj`: the multimodal projector by its name;
    - `args`: arguments as text or as a file (YAML if its name ends in .yaml);
    - `page`: the name of a page that the program has; `ui`: a folder with a page of your own;
    - `files`: further files and folders by name;
    - `modules`: GPU backends by name (`ggml-vulkan`). A statically linked program also needs `host`, the programs that
      can load them;
    - `remove`: patterns of files in the program that the package leaves out.
    """
    named = {"model": models or {}, "mmproj": mmproj or {}, "file": files or {}, "module": modules or {}}
    inputs: dict[str, Wanted] = {"program": program}
    for kind, given in named.items():
        inputs.update({_input_name(entry, kind): wanted for entry, wanted in given.items()})
    inputs.update({"ui": ui} if ui else {})
    inputs.update({"args": args} if isinstance(args, Files) else {})
    rows = {kind: [_row(entry, kind) for entry in given] for kind, given in named.items()}
    order: dict[str, canonical.Json] = {
        "program": f"/forge/program/{path}" if path else "/forge/program",
        "name": server,
        "models": rows["model"],
        "files": rows["file"],
        **({"modules": rows["module"]} if modules else {}),
        "page": page,
        "remove": list(remove),
        **({"mmproj": rows["mmproj"][0]} if mmproj else {}),
        **({"ui": "/forge/ui"} if ui else {}),
        **({"args": _args_row(args)} if args else {}),
    }
    write_args = f"printf %s {quote(args)} > args\n" if isinstance(args, str) and args else ""
    package = f"{_write_order(order)}{write_args}{_RUN} package order.json /forge/out/out --format {form}"
    phases = {"package": package}
    return build(
        name, userland=userland, inputs={**inputs, **_LINKER}, at=_AT, limits=limits, phases=phases
    ).containing(*inputs)


def with_files(name: str, *, userland: Wanted, program: Wanted, path: str, files: Mapping[str, Wanted]) -> Spec:
    """A spec for a copy of the folder `program` that has `files`, by name, in the zip of the native program at `path`.

    It is for content that a program reads from its own file, such as web pages. A change of the content then does not
    compile the program again.
    """
    inputs: dict[str, Wanted] = {
        "program": program,
        **{_input_name(file, "file"): wanted for file, wanted in files.items()},
    }
    order: dict[str, canonical.Json] = {
        "program": f"/forge/program/{path}",
        "files": [_row(file, "file") for file in files],
    }
    out = f"/forge/out/out/{path}"
    copy = f"cp -r /forge/program /forge/out/out\nchmod -R u+w /forge/out/out\nrm {quote(out)}\n"
    package = f"{_write_order(order)}{copy}{_RUN} package order.json {quote(out)}"
    return build(name, userland=userland, inputs={**inputs, **_LINKER}, at=_AT, phases={"package": package}).containing(
        *inputs
    )


def _row(name: str, kind: str) -> canonical.Json:
    return {"name": name, "path": f"/forge/{_input_name(name, kind)}"}


def _args_row(args: Files | str) -> canonical.Json:
    if isinstance(args, str):
        return {"name": "args", "path": "args"}
    return {"name": args.path.rpartition("/")[2], "path": "/forge/args"}


def _input_name(name: str, kind: str = "asset") -> str:
    """The name of the input that becomes the file `name`. Different files get different names."""
    # Input names allow few characters. `_` is escaped as well, so that no two file names give the same result.
    escaped = (char if char.isascii() and (char.isalnum() or char in "-.") else f"_{ord(char):x}_" for char in name)
    return f"{kind}-{''.join(escaped)}"


def _write_order(order: dict[str, canonical.Json]) -> str:
    return f"cat > order.json <<'END'\n{canonical.encode(order).decode()}\nEND\n"
