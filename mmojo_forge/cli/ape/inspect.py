"""`forge ape inspect FILE`: what is in a packaged program, and whether every byte is as forge linked it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import json_option
from mmojo_forge.engine.package.inspect import Container, Gguf, PackageReport, describe, inspect_file
from mmojo_forge.engine.package.modules import described


@click.command("inspect")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--no-verify", is_flag=True, help="Read only the directory and the headers, not the contents.")
@json_option()
def inspect(file: Path, no_verify: bool, as_json: bool) -> None:
    """Show what is in FILE: slices, models, arguments, pages, certificate and zip entries.

    forge checks every byte against the recorded hashes. FILE may also be a native program with files at its end.
    """
    container, report = inspect_file(file, time.time(), verify=not no_verify)
    if as_json:
        click.echo(json.dumps({**describe(container), **report.to_json()}))
        return
    click.echo(f"{file}: {_headline(container)}\n")
    if container.slices:
        _show_parts(container)
    _show_report(report)
    entries = [
        (entry.name, f"{entry.offset:#x}", console.format_size(entry.size), "deflated" if entry.deflated else "stored")
        for entry in container.entries
    ]
    console.show_table(("zip entry", "offset", "size", "how"), entries)
    for fault in report.faults:
        click.echo(f"warning: {fault}", err=True)


def _headline(container: Container) -> str:
    parts = [container.program or f"a program for {container.system}", console.format_size(container.size)]
    if container.slices:
        parts.append(f"assimilated for {container.assimilated}" if container.assimilated else "portable")
    if container.pe and container.pe.signature:
        parts.append(f"with a signature of {console.format_size(container.pe.signature.size)} for Windows")
    # A native program has no record of its own bytes: only the zip entries have a CRC.
    whole = "every byte as linked" if container.slices else "every file in it matches its CRC"
    return f"{', '.join(parts)}; {whole if container.verified else 'contents not checked'}"


def _show_parts(container: Container) -> None:
    slices = [
        (
            part.name,
            f"{part.offset:#x}",
            console.format_size(part.size),
            part.sha256[:16],
            " ".join(part.features) or "any",
        )
        for part in container.slices
    ]
    console.show_table(("slice", "offset", "size", "sha256", "needs"), slices)
    click.echo()
    console.show_table(("part", "offset", "size"), list(_parts(container)))
    click.echo()


def _parts(container: Container) -> Iterator[tuple[str, str, str]]:
    if container.pe:
        yield "Windows launcher (PE)", "0x0", "in the front"
    for launcher in container.launchers:
        yield f"{launcher.system} launcher (ELF)", f"{launcher.offset:#x}", console.format_size(launcher.size)


def _show_report(report: PackageReport) -> None:
    if report.models:
        rows = [
            (
                model.name,
                console.format_size(model.size),
                _about(model.facts),
                "mapped" if model.mappable else "not mappable",
            )
            for model in report.models
        ]
        console.show_table(("model", "size", "what", "how"), rows)
        click.echo()
    if report.modules:
        modules = [(module.name, console.format_size(module.size), described(module)) for module in report.modules]
        console.show_table(("module", "size", "what"), modules)
        click.echo()
    facts = list(_facts(report))
    if facts:
        console.show_table(("what", "value"), facts)
        click.echo()


def _about(facts: Gguf | None) -> str:
    if facts is None:
        return "cannot be read"
    part = f", part {facts.split + 1} of {facts.splits}" if facts.splits > 1 else ""
    label = f" {facts.name}" if facts.name else ""
    return (
        f"{facts.architecture or 'unknown'}{label}, {_count(facts.parameters)} parameters, {facts.quantization}{part}"
    )


def _count(parameters: int) -> str:
    if parameters < 1e6:
        return str(parameters)
    return f"{parameters / 1e6:.0f} M" if parameters < 1e9 else f"{parameters / 1e9:.1f} G"


def _facts(report: PackageReport) -> Iterator[tuple[str, str]]:
    for file in report.arguments:
        yield file.name, file.fault or " ".join(file.words)
    if report.pages:
        yield "pages", ", ".join(report.pages)
    if report.certificate:
        hosts = ", ".join(report.certificate.names) or "no host"
        yield "certificate", f"for {hosts}, until {report.certificate.expires:%Y-%m-%d}"
