"""Making an APE a native ELF that a bare execve starts: the 64 bytes that its printf line holds go to offset 0.

Such a copy no longer starts on other systems; the rest of the file, and what is read out of it, stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.ape import container, content, script
from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.replace_file import replace_file


@dataclass(frozen=True, slots=True)
class Assimilated:
    """What `assimilate` wrote."""

    path: Path
    system: str


def assimilate(path: Path, system: str, out: Path | None = None) -> Assimilated:
    """Makes `path`, or a copy of it at `out`, a native executable of `system` (`linux-x86_64`, `linux-aarch64`)."""
    ape = container.read_container(path)
    with content.open_input(path, "APE") as stream:
        headers = script.decode_headers(stream.read(script.LOADER_WINDOW))
    header = dict(zip(ape.elf_headers, headers, strict=True)).get(system)
    if header is None:
        raise ApeError(
            f"assimilate {path}: it has no launcher for {system}",
            detail="it can become an executable of: " + (", ".join(ape.elf_headers) or "nothing"),
            reason=ApeReason.NO_HEADER,
        )
    if out is None:
        _write_in_place(path, header)
    else:
        _write_copy(path, out, header)
    return Assimilated(out or path, system)


def _write_in_place(path: Path, header: bytes) -> None:
    try:
        with path.open("r+b") as stream:
            stream.write(header)
    except OSError as error:
        raise ApeError(f"assimilate {path}: {error.strerror}", reason=ApeReason.INPUT) from error


def _write_copy(path: Path, out: Path, header: bytes) -> None:
    with replace_file(out, mode=0o755, what="assimilate") as to, content.open_input(path, "APE") as stream:
        for chunk in content.read_chunks(stream):
            to.write(chunk)
        to.seek(0)
        to.write(header)
