"""One file for every machine: how recipes link one, and pack what it serves into it.

Both run `mmojo_forge.ape` in the sandbox, from source: it is standard library only, and an input like any other.
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
    """One native executable in an APE: the system it is for, the CPU level with the features that this demands (named
    as in Linux's /proc/cpuinfo), the package that has it and where it lies there."""

    system: str
    package: Package
    path: str
    level: str = ""
    features: tuple[str, ...] = ()

    def order(self, name: str) -> dict[str, canonical.Json]:
        """The slice in the linker's words; `name` is its input's."""
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
    """One file that runs on every system it has a slice for; slices of one system stand best first, by name.

    `assets` are files and folders that go into it, by their name there: another package (or whatever can be an
    input), all of it, or a path. A path is relative to /build, where `prepare`, shell text that runs first, may have
    made it, or begins with /forge/INPUT, a part of one of `inputs`. The output is the file itself.
    """
    given = {_input_name(asset): wanted for asset, wanted in (assets or {}).items() if not isinstance(wanted, str)}
    paths = {
        asset: wanted if isinstance(wanted, str) else f"/forge/{_input_name(asset)}"
        for asset, wanted in (assets or {}).items()
    }
    order: dict[str, canonical.Json] = {
        "program": program,
        "slices": [one.order(name) for name, one in slices.items()],
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
            **{slice_name: one.package for slice_name, one in slices.items()},
        },
        at=_AT,
        phases={**({"prepare": prepare} if prepare else {}), "link": link},
    )
    # The linker is not in it, nor is what runs it; what else was given is, unless the recipe says otherwise.
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
    """A server with what it serves, as `forge package` makes it: docs/package.md has what goes where.

    `program` is an APE, or a package that has a native program at `path`. `models` are GGUF files by their name in
    the server, the parts of a split one each; the first is the one that is served. `args` are arguments, as text or
    as a file (YAML if it ends in .yaml). `page` names a page that the program has, `ui` is a folder to be one. `files`
    are further files and folders by name, `modules` GPU backends by theirs (`ggml-vulkan`; a program that is linked
    statically also wants `host`, the programs that can load them), `remove` what is left out of what the program has;
    `server` is what the server calls itself. The output is the file, or the folder, itself.
    """
    named = {"model": models or {}, "mmproj": mmproj or {}, "file": files or {}, "module": modules or {}}
    inputs: dict[str, Wanted] = {"program": program}
    for kind, given in named.items():
        inputs.update({_input_name(one, kind): wanted for one, wanted in given.items()})
    inputs.update({"ui": ui} if ui else {})
    inputs.update({"args": args} if isinstance(args, Files) else {})
    rows = {kind: [_row(one, kind) for one in given] for kind, given in named.items()}
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
    """The folder `program` with `files`, by name, at the end of the native program that it has at `path`.

    For what a program reads from its own file and should not be compiled with it, such as web pages. The output is
    such a folder.
    """
    inputs: dict[str, Wanted] = {"program": program, **{_input_name(one, "file"): it for one, it in files.items()}}
    order: dict[str, canonical.Json] = {
        "program": f"/forge/program/{path}",
        "files": [_row(one, "file") for one in files],
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
    """The name of the input that becomes the file `name`: another one for each name."""
    letters = (one if one.isascii() and (one.isalnum() or one in "-.") else f"_{ord(one):x}_" for one in name)
    return f"{kind}-{''.join(letters)}"


def _write_order(order: dict[str, canonical.Json]) -> str:
    return f"cat > order.json <<'END'\n{canonical.encode(order).decode()}\nEND\n"
