"""`forge sbom TARGET`: the bill of materials of a target's result, and its licence texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import json_option, set_option
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.document import write_document
from mmojo_forge.engine.sbom import documents, notices
from mmojo_forge.engine.sbom.bom import TREE_PROPERTY, Bill, BomItem
from mmojo_forge.engine.sbom.licence import NOASSERTION
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.workspace import Request

_HEADER = ("component", "version", "licence", "role", "source")


@click.command("sbom")
@click.argument("target")
@set_option
@click.option(
    "--format",
    "form",
    type=click.Choice(list(documents.FORMATS)),
    default="cyclonedx",
    show_default=True,
    help="The format of the document.",
)
@click.option("--table", "as_table", is_flag=True, help="Print a table instead of a document.")
@click.option("--all", "everything", is_flag=True, help="With --table: also list what it was built with.")
@click.option("--notices", "as_notices", is_flag=True, help="Write the licence texts of all components instead.")
@click.option("--strict", is_flag=True, help="Fail unless every component has a declared licence.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to write (default: stdout)."
)
@json_option("With --table: print one JSON object. Print errors as JSON.")
@click.pass_obj
def sbom(
    session: Session,
    target: str,
    settings: tuple[str, ...],
    form: str,
    as_table: bool,
    everything: bool,
    as_notices: bool,
    strict: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write TARGET's bill of materials: its components with version, hashes and licence, and what it was built with.

    forge makes it from the derivation graph, so that it is the same each time. To give it a time stamp, set
    SOURCE_DATE_EPOCH.
    """
    if as_table and (as_notices or output):
        raise click.UsageError("--table excludes --notices and --output.")
    bill = documents.bill_of(session.workspace, Request.parse((target,), settings), session.store)
    if strict:
        documents.check_complete(bill)
    _warn(bill)
    if as_table:
        _show(bill, everything=everything, as_json=as_json)
    elif as_notices:
        _write(_notices(session, bill, strict=strict, as_json=as_json), output)
    else:
        _write(documents.FORMATS[form](bill, epoch=_epoch(session.environment)), output)


def _notices(session: Session, bill: Bill, *, strict: bool, as_json: bool) -> bytes:
    settings = session.settings()
    reporter = make_reporter(settings.jobs, as_json=as_json)
    collected = notices.collect(bill, session.services(reporter), settings)
    if strict:
        notices.check_complete(bill, collected)
    for item in notices.missing(collected):
        reporter.warning(f"{item.name} {item.version} ({item.licence or NOASSERTION}) comes without a licence text")
    return notices.render(bill, collected).encode()


def _write(document: bytes, output: Path | None) -> None:
    if output:
        write_document(output, document)
    else:
        sys.stdout.buffer.write(document)
        sys.stdout.flush()


def _epoch(environment: Mapping[str, str]) -> int | None:
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if text and not text.isdecimal():
        raise click.UsageError(f"SOURCE_DATE_EPOCH is {text!r}, not seconds since 1970.")
    return int(text) if text else None


def _warn(bill: Bill) -> None:
    for name in bill.undeclared:
        click.echo(f"warning: {name} does not say which of its inputs it contains: all are listed", err=True)
    if TREE_PROPERTY not in bill.root.properties:
        click.echo(f"warning: {bill.root.name} is not built: the bill has no hashes of it", err=True)


def _show(bill: Bill, *, everything: bool, as_json: bool) -> None:
    # Intermediate results consist of the other components, and have no licence of their own.
    rows = [("in it", item) for item in bill.contained if item.ref in bill.parts]
    rows += [("built with", item) for item in bill.built_with] if everything else []
    if as_json:
        click.echo(json.dumps({"schema": 1, "target": bill.root.name, "components": [_row(*row) for row in rows]}))
        return
    console.show_table(_HEADER, [tuple(_row(role, item).values()) for role, item in rows])


def _row(role: str, item: BomItem) -> dict[str, str]:
    source = item.origin.name if item.origin else item.purl
    values = (item.name, item.version, item.licence or NOASSERTION, role, source)
    return dict(zip(_HEADER, values, strict=True))
