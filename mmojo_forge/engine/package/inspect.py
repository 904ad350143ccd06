"""What a packaged program has in it, for people and for programs: arguments, models, modules, pages, the certificate.

What is wrong with one of them is part of the report and no error: whoever looks wants to know of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmojo_forge.ape.arguments import head, plain, yaml
from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.files import content
from mmojo_forge.ape.format.zip_directory import DirectoryEntry
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.read.container import Container, describe, read_container
from mmojo_forge.ape.read.gguf import Gguf, read_gguf
from mmojo_forge.engine.package.certificates import Certificate, CertificateError, check_key, read_certificate
from mmojo_forge.engine.package.modules import PackagedModule, modules_in

__all__ = ["ArgumentFile", "Container", "Gguf", "Model", "PackageReport", "describe", "inspect_file", "report_on"]


@dataclass(frozen=True, slots=True)
class ArgumentFile:
    """A file of arguments: its text, what it comes to but for variables, and what is wrong with it."""

    name: str
    text: str
    words: tuple[str, ...]
    fault: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model in the program. `facts` are None where it cannot be read."""

    name: str
    size: int
    facts: Gguf | None
    mappable: bool
    fault: str


@dataclass(frozen=True, slots=True)
class PackageReport:
    """What is in a program, besides itself."""

    arguments: tuple[ArgumentFile, ...]
    models: tuple[Model, ...]
    modules: tuple[PackagedModule, ...]
    pages: tuple[str, ...]
    certificate: Certificate | None
    faults: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Fields of `forge ape inspect --json`: arguments, models, modules, pages, certificate, faults."""
        found = self.certificate
        return {
            "arguments": [asdict(one) for one in self.arguments],
            "models": [asdict(one) for one in self.models],
            "modules": [one.to_json() for one in self.modules],
            "pages": list(self.pages),
            "certificate": found
            and {
                "names": list(found.names),
                "issuer": found.issuer,
                "begins": found.begins.isoformat(),
                "expires": found.expires.isoformat(),
            },
            "faults": list(self.faults),
        }


def inspect_file(path: Path, now: float, *, verify: bool) -> tuple[Container, PackageReport]:
    """What a file holds as it was linked, with `verify` every byte checked, and what is packaged in it.

    `now` is in seconds since the epoch: a certificate has a date. Raises ApeError.
    """
    container = read_container(path, verify=verify)
    return container, report_on(path, container.entries, now)


def report_on(path: Path, found: Sequence[DirectoryEntry], now: float) -> PackageReport:
    """What the zip entries of the program at `path` are."""
    models = tuple(_model(path, entry) for entry in found if names.is_mapped(entry.name))
    arguments = tuple(_arguments(path, entry) for entry in found if entry.name in names.ARGUMENTS)
    modules = modules_in(path, found)
    certificate, faults = _certificate(path, {entry.name: entry for entry in found}, now)
    faults += [f"{one.name}: {one.fault}" for one in models if one.fault]
    faults += [f"{one.name}: {one.fault}" for one in modules if one.fault]
    faults += [one.fault for one in arguments if one.fault]
    pages = names.pages_of(entry.name for entry in found)
    return PackageReport(arguments, models, modules, pages, certificate, tuple(faults))


def _model(path: Path, entry: DirectoryEntry) -> Model:
    fault = ""
    if entry.deflated:
        fault = "it is compressed, so it cannot be mapped"
    elif not entry.mappable:
        fault = f"its data is at {entry.offset:#x}, no multiple of 64 KiB, so it cannot be mapped"
    if entry.deflated:
        return Model(entry.name, entry.size, None, False, fault)
    try:
        with content.open_input(path, "program") as stream:
            facts = read_gguf(stream, entry.offset, entry.size, entry.name)
    except ApeError as error:
        return Model(entry.name, entry.size, None, entry.mappable, fault or error.message)
    return Model(entry.name, entry.size, facts, entry.mappable, fault)


def _arguments(path: Path, entry: DirectoryEntry) -> ArgumentFile:
    try:
        data = _read(path, entry)
        if entry.name == head.YAML_NAME:
            words = [word.decode("utf-8", "replace") for word in yaml.parse_yaml(data, entry.name)]
        else:
            words = [plain.show(word) for word in plain.parse_plain(data, entry.name)]
    except ApeError as error:
        return ArgumentFile(entry.name, "", (), error.message)
    return ArgumentFile(entry.name, data.decode(), tuple(words), "")


def _certificate(path: Path, found: dict[str, DirectoryEntry], now: float) -> tuple[Certificate | None, list[str]]:
    if names.CERT not in found:
        return None, []
    try:
        certificate = read_certificate(_read(path, found[names.CERT]), names.CERT)
        if names.KEY not in found:
            return certificate, [f"{names.KEY} is missing"]
        check_key(certificate, _read(path, found[names.KEY]), names.KEY)
    except (ApeError, CertificateError) as error:
        return None, [error.message]
    return certificate, certificate.warnings(now)


def _read(path: Path, entry: DirectoryEntry) -> bytes:
    with content.open_input(path, "program") as stream:
        return content.read_entry_text(stream, entry, str(path))
