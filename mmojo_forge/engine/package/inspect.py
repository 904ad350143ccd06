"""`forge ape inspect`: reports the arguments, models, modules, pages and the certificate in a packaged program.

A fault of one of them is part of the report and not an error, so that one run reports all faults.
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
    """An argument file: its text, its words before variables are expanded, and its fault, if any."""

    name: str
    text: str
    words: tuple[str, ...]
    fault: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model in the program. `facts` is None if it cannot be read; `mappable` means that the server can mmap it."""

    name: str
    size: int
    facts: Gguf | None
    mappable: bool
    fault: str


@dataclass(frozen=True, slots=True)
class PackageReport:
    """What a packaged program contains besides its code. `faults` collects the faults of all parts."""

    arguments: tuple[ArgumentFile, ...]
    models: tuple[Model, ...]
    modules: tuple[PackagedModule, ...]
    pages: tuple[str, ...]
    certificate: Certificate | None
    faults: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields of `forge ape inspect --json`: arguments, models, modules, pages, certificate, faults."""
        found = self.certificate
        return {
            "arguments": [asdict(file) for file in self.arguments],
            "models": [asdict(model) for model in self.models],
            "modules": [module.to_json() for module in self.modules],
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
    """The structure of a linked file, and the report on what is packaged in it. Raises ApeError.

    `verify` checks every byte. `now`, in seconds since the epoch, is compared with the certificate's dates.
    """
    container = read_container(path, verify=verify)
    return container, report_on(path, container.entries, now)


def report_on(path: Path, found: Sequence[DirectoryEntry], now: float) -> PackageReport:
    """The report on the zip entries `found` in the program at `path`."""
    models = tuple(_model(path, entry) for entry in found if names.is_mapped(entry.name))
    arguments = tuple(_arguments(path, entry) for entry in found if entry.name in names.ARGUMENTS)
    modules = modules_in(path, found)
    certificate, faults = _certificate(path, {entry.name: entry for entry in found}, now)
    faults += [f"{model.name}: {model.fault}" for model in models if model.fault]
    faults += [f"{module.name}: {module.fault}" for module in modules if module.fault]
    faults += [file.fault for file in arguments if file.fault]
    pages = names.pages_of(entry.name for entry in found)
    return PackageReport(arguments, models, modules, pages, certificate, tuple(faults))


def _model(path: Path, entry: DirectoryEntry) -> Model:
    fault = ""
    if entry.deflated:
        fault = "it is compressed, so it cannot be mapped"
    elif not entry.mappable:
        fault = f"its data is at {entry.offset:#x}, which is not a multiple of 64 KiB, so it cannot be mapped"
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
