"""Reads build-info.json: a recipe's facts about the program it built, beside the program or inside an APE."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmojo_forge.ape.read import container

NAME = "build-info.json"
# The first bytes of every APE.
_MAGIC = b"MZqFpD='"
_LARGEST = 1 << 20
_LEAST_BYTES = 64


def read_build_info(path: Path) -> dict[str, Any] | None:
    """The build info of the program or result folder at `path`; None if there is none, or it is unreadable.

    build-info.json is in the program's folder, or in the parent of its `bin` folder.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(_MAGIC)) == _MAGIC:
                    return _in_container(path)
        folders = [path] if path.is_dir() else [path.parent, path.parent.parent]
        found = next((folder / NAME for folder in folders if (folder / NAME).is_file()), None)
        return _parse(found.read_bytes()) if found and found.stat().st_size <= _LARGEST else None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile):
        return None


def _in_container(path: Path) -> dict[str, Any] | None:
    with zipfile.ZipFile(path) as archive:
        entry = next((found for found in archive.infolist() if found.filename == NAME), None)
        return _parse(archive.read(entry)) if entry and entry.file_size <= _LARGEST else None


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def summarise(info: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rows of label and text for a person: version, compiler, CPU; for an APE, one row for each slice."""
    llama = info.get("llama.cpp", {})
    if llama:
        yield "llama.cpp", f"{llama.get('version')} build {llama.get('build')} ({llama.get('commit')})"
    yield from _program(info)
    for name, facts in sorted(info.get("slices", {}).items()):
        yield "slice", f"{name}: {'; '.join(text for _, text in _program(facts))}"
    if "threads" in info:
        yield "threads", f"suggested: {info['threads']}"
    if info.get("reasons"):
        yield "not portable", ", ".join(info["reasons"])


def _program(info: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    compiler = info.get("compiler")
    if not compiler:
        return
    yield "compiler", f"{compiler.get('name')}, {compiler.get('version')}, {compiler.get('target')}"
    cpu = info.get("cpu", {})
    yield "cpu", f"{compiler.get('cpu')}{' needs ' + ' '.join(cpu['requires']) if cpu.get('requires') else ''}"
    yield "blas", f"{info.get('blas') or 'none'}, {'OpenMP' if info.get('openmp') else 'no OpenMP'}"


def slices_of(path: Path) -> list[str]:
    """The names of an APE's slices; empty for any other file or folder. Raises ApeError."""
    if not path.is_file() or path.stat().st_size < _LEAST_BYTES:
        return []
    with path.open("rb") as file:
        if not file.read(len(_MAGIC)).startswith(_MAGIC):
            return []
    return [found.name for found in container.read_container(path).slices]
