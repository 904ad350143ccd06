"""`forge info TARGET|FILE`: what a finished result is, whence it came."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mmojo_forge.ape.container import read_container
from mmojo_forge.cli import units
from mmojo_forge.cli.context import Context
from mmojo_forge.engine.build_info import read_build_info, summarise
from mmojo_forge.engine.query import ResultInfo, find_result


@click.command("info")
@click.argument("what")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def command(context: Context, what: str, as_json: bool) -> None:
    """Show what TARGET (or a FILE that forge built) is: tree, size, label, action key, build time, slices."""
    info = find_result(context.workspace, what, context.folder, context.store)
    slices = _slices(info.path)
    build = read_build_info(info.path)
    if as_json:
        print(json.dumps({"schema": 1, **_document(info), "slices": slices, "build": build}))
        return
    for name, value in _document(info).items():
        if value is not None:
            print(f"{name:<12} {value}")
    if slices:
        print(f"{'slices':<12} {' '.join(slices)}")
    for name, value in summarise(build or {}):
        print(f"{name:<12} {value}")


def _document(info: ResultInfo) -> dict[str, object]:
    trace = info.trace
    return {
        "path": str(info.path),
        "tree": info.tree,
        "size": units.size(info.size),
        "bytes": info.size,
        "files": info.files,
        "label": str(info.label) if info.label else None,
        "name": trace.name if trace else None,
        "key": trace.key if trace else None,
        "built by": trace.builder if trace else None,
        "signed by": " ".join(one.key for one in trace.signatures) or None if trace else None,
        "build time": units.duration(trace.seconds) if trace else None,
    }


def _slices(path: Path) -> list[str]:
    if not path.is_file() or path.stat().st_size < 64:
        return []
    with path.open("rb") as file:
        if not file.read(8).startswith(b"MZqFpD='"):
            return []
    return [one.name for one in read_container(path).slices]
