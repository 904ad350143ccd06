"""`forge ape inspect FILE`: what is in a program, and whether it is what was linked."""

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
@click.option("--no-verify", is_flag=True, help="Do not read the contents, only the directory and the headers.")
@json_option()
def inspect(file: Path, no_verify: bool, as_json: bool) -> None:
    """Show what is in FILE: slices, models, arguments, pages, the certificate, every zip entry.

    Every byte is checked against what was linked. A native program with files at its end can be looked at, too.
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
    # Nobody has recorded what a native program's own bytes are.
    whole = "every byte as it was linked" if container.slices else "every file in it as its CRC says"
    return f"{', '.join(parts)}; {whole if container.verified else 'contents not checked'}"


def _show_parts(container: Container) -> None:
    slices = [
        (one.name, f"{one.offset:#x}", console.format_size(one.size), one.sha256[:16], " ".join(one.features) or "any")
        for one in container.slices
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
            (one.name, console.format_size(one.size), _about(one.facts), "mapped" if one.mappable else "not mappable")
            for one in report.models
        ]
        console.show_table(("model", "size", "what", "how"), rows)
        click.echo()
    if report.modules:
        modules = [(one.name, console.format_size(one.size), described(one)) for one in report.modules]
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
