"""The builders that forge runs itself, without a sandbox.

- `builtin:unpack` unpacks archives. The first userland has no other userland to be built in, so it needs this.
- `builtin:node-modules` lays out npm packages as npm does, but runs none of their scripts.
- `builtin:download` fetches a file whose SHA-256 alone is known; `builder.py` does that itself, with the fetcher.

Both treat their inputs as hostile and write only to their own output folder. The outputs are registered like any
other. The builder name is part of the action key: a change in what a builtin produces needs a new name.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.executor.request import BuildOutcome, BuildResult
from mmojo_forge.model.derivation import Derivation

UNPACK = "builtin:unpack"
NODE_MODULES = "builtin:node-modules"


def run(node: Derivation, inputs: Mapping[str, Path], out: Path) -> BuildResult:
    """Run the builtin that `node` names on its inputs.

    Raises ArchiveError, and EngineError (`no-such-builtin`, `bad-symlink`, `bad-command`).
    """
    builders = {UNPACK: _unpack, NODE_MODULES: _lay_out_packages}
    if node.builder not in builders:
        raise EngineError(f"realize {node.name}: unknown builder {node.builder}", reason="no-such-builtin")
    started = time.monotonic()
    builders[node.builder](node, inputs, out / "out")
    return BuildResult(BuildOutcome.SUCCEEDED, 0, time.monotonic() - started)


def _unpack(node: Derivation, inputs: Mapping[str, Path], destination: Path) -> None:
    options: dict[str, Any] = json.loads(node.args[0])
    order: list[str] = json.loads(node.args[1])
    debian_usr = options.get("debian_usr", False)
    whole = destination.with_name("root") if debian_usr else destination
    whole.mkdir()
    # Decompressors, of which a run that unpacks nothing needs none.
    from mmojo_forge.fetch.archive import ExtractOptions, extract_all

    extract_all(
        [inputs[name] for name in order],
        whole,
        ExtractOptions(
            strip_components=options.get("strip_components", 0),
            subpath=options.get("subpath"),
            include=tuple(options.get("include", ())),
            exclude=tuple(options.get("exclude", ())),
            merge_usr=debian_usr,
            root_links=debian_usr,
            may_be_empty=debian_usr,
        ),
    )
    if debian_usr:
        (whole / "usr").rename(destination)
    for path, target in sorted(options.get("symlinks", {}).items()):
        _add_symlink(node, destination, path, target)


def _add_symlink(node: Derivation, destination: Path, path: str, target: str) -> None:
    """Make a symlink that the recipe asks for. Its folder must exist and, with links resolved, lie in the output."""
    parent = (destination / path).parent
    if not parent.resolve().is_relative_to(destination.resolve()) or os.path.lexists(destination / path):
        raise EngineError(
            f"realize {node.name}: cannot add symlink {path}: its folder is outside of the output, or the path exists",
            reason="bad-symlink",
        )
    (destination / path).symlink_to(target)


def _lay_out_packages(node: Derivation, inputs: Mapping[str, Path], destination: Path) -> None:
    """Fill a node_modules folder: unpack each tarball, without its top folder, at its places; then link the commands.

    Outer packages are unpacked first. Nested packages then land in real folders, or are refused if a symlink is there.
    """
    layout: dict[str, Any] = json.loads(node.args[0])
    places = sorted((folder, name) for name, folders in layout["packages"].items() for folder in folders)
    destination.mkdir()
    # As above.
    from mmojo_forge.fetch.archive import ExtractOptions, extract_each

    extract_each(
        ((inputs[name], ExtractOptions(strip_components=1, prefix=folder)) for folder, name in places), destination
    )
    for link, file in sorted(layout["bins"].items()):
        _add_command(node, destination, link, file)


def _add_command(node: Derivation, destination: Path, link: str, file: str) -> None:
    """Link a command to its file and make the file executable. Does nothing if the package lacks the file."""
    root = destination.resolve()
    program, name = (destination / file).resolve(), destination / link
    if not program.is_relative_to(root) or not name.parent.parent.resolve().is_relative_to(root):
        raise EngineError(f"realize {node.name}: command {link} leads out of node_modules", reason="bad-command")
    if not program.is_file():
        return
    if name.parent.is_symlink() or os.path.lexists(name):
        raise EngineError(f"realize {node.name}: command {link}: a package already has that path", reason="bad-command")
    name.parent.mkdir(exist_ok=True)
    name.symlink_to(os.path.relpath(destination / file, name.parent))
    program.chmod(0o755)
