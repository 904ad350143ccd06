"""`forge check TARGET…`: rebuild under variations, compare the outputs byte for byte, and sign a receipt.

With `--against` it rebuilds nothing, and compares the store with the receipt of another builder.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import jobs_option, json_option, quiet_option, set_option
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.check.bisect import Cause
from mmojo_forge.engine.check.check import CheckRequest, check_request, compare_request
from mmojo_forge.engine.check.checker import CheckError, CheckReport, CheckVerdict
from mmojo_forge.engine.check.receipt import Agreement, write_receipt
from mmojo_forge.engine.check.variations import Variation
from mmojo_forge.engine.realise.builder import BuildFailed, object_name
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.workspace import Request
from mmojo_forge.errors import ExitCode
from mmojo_forge.model.derivation import INHERENT, Aspect

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_MOST_DIFFERENCES = 20


@click.command(
    "check",
    epilog="Exit codes: 0 identical (or agrees), 1 something differs or cannot be rebuilt, 2 usage or input error, "
    "3 this machine cannot do it. docs/proof.md describes the JSON and the receipt.",
)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@click.option("--closure", is_flag=True, help="Also check all that TARGET… is built from, toolchains included.")
@click.option(
    "--bisect", is_flag=True, help="Where an output differs or a build fails, find the variations that cause it."
)
@click.option("--isolate", "bisect_too", is_flag=True, hidden=True, help="The former name of --bisect.")
@click.option("--diff", "with_diff", is_flag=True, help="Show differences with diffoscope.")
@click.option("--receipt", type=_FILE, help="Where to write the signed receipt (default: out/TARGET.intoto.jsonl).")
@click.option("--against", type=_FILE, help="Do not rebuild; compare with this receipt of another builder.")
@set_option
@click.option("--scratch", type=_FOLDER, help="Folder to rebuild in; best on another file system than the store's.")
@jobs_option
@quiet_option
@json_option("Print progress as JSON events, the report as one JSON object.")
@click.pass_obj
def check(
    session: Session,
    targets: tuple[str, ...],
    closure: bool,
    bisect: bool,
    bisect_too: bool,
    with_diff: bool,
    receipt: Path | None,
    against: Path | None,
    settings: tuple[str, ...],
    scratch: Path | None,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Rebuild each TARGET under variations, and compare the outputs byte for byte.

    A variation changes what must not matter: the clock, the user, the number of CPUs and more. forge writes a signed
    receipt of the result.
    """
    bisect = bisect or bisect_too
    run_settings = session.settings(jobs=jobs)
    reporter = make_reporter(run_settings.jobs, as_json=as_json and not quiet, quiet=quiet)
    request = Request.parse(targets, settings)
    if against is not None:
        if closure or bisect or with_diff or receipt or scratch:
            raise click.UsageError(
                "--against excludes --closure, --bisect, --diff, --receipt and --scratch: it rebuilds nothing."
            )
        services, file = session.services(reporter), session.folder / against
        agreements = compare_request(session.workspace, request, file, session.keys(), services, run_settings)
        return _compare(agreements, as_json=as_json)
    diffoscope = _find_diffoscope(as_json=as_json) if with_diff else None
    # Read now, so that a key that cannot be read fails before hours of rebuilding, not after.
    key = session.keys().own()
    rebuild = CheckRequest(request, closure, bisect, _find_scratch(session, scratch), session.environment)
    services = session.services(reporter)
    report = check_request(session.workspace, rebuild, services, run_settings, session.open_store)
    wanted = session.folder / receipt if receipt else session.workspace.results / f"{targets[0]}.intoto.jsonl"
    written: Path | None = None
    try:
        write_receipt(wanted, report, session.store, key)
        written = wanted
    finally:
        _tell(report, written, as_json=as_json)
    if diffoscope:
        _show_with(diffoscope, session, report)
    return report.exit_code


def _find_scratch(session: Session, scratch: Path | None) -> Path | None:
    folder = session.folder / scratch if scratch else None
    if folder and not folder.is_dir():
        raise click.UsageError(f"--scratch: there is no folder {folder}.")
    return folder


def _find_diffoscope(*, as_json: bool) -> str:
    if as_json:
        raise click.UsageError("--diff prints text for people, --json for programs: leave one of them out.")
    program = shutil.which("diffoscope")
    if program is None:
        raise CheckError(
            "check --diff: diffoscope is not installed",
            detail="Install it: sudo apt-get install diffoscope-minimal. Or omit --diff: forge keeps what differs.",
            reason="no-diffoscope",
        )
    return program


def _tell(report: CheckReport, receipt: Path | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**_document(report), "receipt": str(receipt) if receipt else None}))
        return
    _show(report)
    if receipt:
        click.echo(f"\nreceipt: {receipt}")


def _compare(agreements: list[Agreement], *, as_json: bool) -> int:
    agree = all(agreement.agrees for agreement in agreements)
    if as_json:
        rows = [
            {
                "name": agreement.claim.name,
                "key": agreement.claim.key,
                "signer": agreement.claim.signer,
                "confirmed": agreement.claim.confirmed,
                "agrees": agreement.agrees,
                "theirs": dict(agreement.claim.outputs),
                "ours": dict(agreement.ours),
            }
            for agreement in agreements
        ]
        click.echo(json.dumps({"schema": 1, "agrees": agree, "nodes": rows}))
    else:
        header = ("verdict", "node", "output", "ours", "theirs", "signed by", "their rebuild")
        console.show_table(header, [row for agreement in agreements for row in _agreement_rows(agreement)])
    return ExitCode.DONE if agree else ExitCode.BUILD_FAILED


def _agreement_rows(agreement: Agreement) -> Iterator[tuple[str, ...]]:
    claim = agreement.claim
    for output in sorted({*claim.outputs, *agreement.ours}):
        theirs, ours = claim.outputs.get(output, "none"), agreement.ours.get(output, "none")
        state = "agrees" if theirs == ours else "DISAGREES"
        confirmed = "identical" if claim.confirmed else "not identical"
        yield (state, claim.name, output, ours[:16], theirs[:16], claim.signer, confirmed)


def _show(report: CheckReport) -> None:
    rows = [row for verdict in report.verdicts for row in _rows(verdict)]
    console.show_table(("verdict", "node", "output", "tree", "time"), rows)
    for verdict in report.verdicts:
        for line in _explain(verdict):
            click.echo(line)
    # Only aspects that every node was rebuilt under count; an exemption of any node is printed with its aspect.
    varied = [
        variation
        for variation in report.variations
        if not variation.refused and not report.check_exemptions(variation.aspect)
    ]
    click.echo(f"\nvaried, all at once, in one rebuild of each node ({len(varied)} of {len(report.variations)}):")
    for variation in report.variations:
        for line in _describe_variation(variation, report):
            click.echo(line)
    unpacked = sum(verdict.node.is_builtin for verdict in report.verdicts)
    if unpacked:
        click.echo(f"{console.plural(unpacked, 'node')} unpacked by forge itself: of those, only place and time varied")


def _describe_variation(variation: Variation, report: CheckReport) -> Iterator[str]:
    change = f"not varied: {variation.refused}" if variation.refused else f"{variation.usual} → {variation.other}"
    yield f"  {variation.aspect.value:<18} {change}"
    for reason, names in report.check_exemptions(variation.aspect).items():
        yield f"  {'':<18} not varied for {', '.join(names)}: {reason}"


def _rows(verdict: CheckVerdict) -> Iterator[tuple[str, ...]]:
    time_text = console.format_duration(verdict.seconds)
    if verdict.failure:
        yield ("failed", verdict.node.name, "", "", time_text)
    for output in verdict.outputs:
        state = "identical" if output.identical else "DIFFERENT"
        yield (state, verdict.node.name, output.name, output.expected[:16], time_text)


def _explain(verdict: CheckVerdict) -> Iterator[str]:
    if verdict.identical:
        return
    yield from _describe_failure(verdict) if verdict.failure else _describe_differences(verdict)
    if verdict.kept:
        yield f"  kept: {verdict.kept}"
    if verdict.cause:
        yield f"  {_describe_cause(verdict.cause, 'fails' if verdict.failure else 'differs')}"
    elif verdict.kept:
        yield "  --bisect finds the variation that causes it."


def _describe_failure(verdict: CheckVerdict) -> Iterator[str]:
    failure = verdict.failure
    assert failure is not None
    yield f"\n{verdict.node.name} could not be rebuilt:"
    yield f"  {failure.message}"
    yield from (f"  {line}" for line in failure.detail.splitlines())
    if isinstance(failure, BuildFailed):
        yield from (f"    {line}" for line in failure.failure.last_lines)


def _describe_differences(verdict: CheckVerdict) -> Iterator[str]:
    for output in verdict.outputs:
        if not output.identical:
            yield f"\n{verdict.node.name}, output {output.name}: {output.expected} became {output.got}"
            yield from (f"  {difference}" for difference in output.differences[:_MOST_DIFFERENCES])
            more = len(output.differences) - _MOST_DIFFERENCES
            if more > 0:
                yield f"  … and {console.plural(more, 'more difference')}"


def _describe_cause(cause: Cause, verb: str) -> str:
    names = ", ".join(cause.aspects)
    if cause.unstable:
        return f"It {verb} now and then, even when nothing is varied: it depends on chance or on the time."
    if cause.together:
        return f"It {verb} with these varied together, and with none of them alone: {names}."
    if set(cause.aspects) <= INHERENT:
        return f"It {verb} even if only that is varied which differs between any two builds: {names}."
    alone = "this varied alone" if len(cause.aspects) == 1 else "each of these varied alone"
    return f"It {verb} with {alone}: {names}."


def _document(report: CheckReport) -> dict[str, object]:
    return {
        "schema": 1,
        "identical": report.identical,
        "variations": [
            {
                "aspect": variation.aspect.value,
                "usual": variation.usual,
                "other": variation.other,
                "refused": variation.refused or None,
            }
            for variation in report.variations
        ],
        "nodes": [_node(verdict) for verdict in report.verdicts],
    }


def _node(verdict: CheckVerdict) -> dict[str, object]:
    cause = verdict.cause or Cause()
    return {
        "name": verdict.node.name,
        "id": verdict.node.id,
        "key": verdict.key,
        "label": verdict.node.label.to_json(),
        "identical": verdict.identical,
        "seconds": verdict.seconds,
        "varied": [aspect.value for aspect in Aspect if aspect in verdict.varied],
        "check_exemptions": dict(verdict.node.check_exemptions),
        "failure": verdict.failure.reason if verdict.failure else None,
        "message": verdict.failure.message if verdict.failure else None,
        "bisected": verdict.cause is not None,
        "depends_on": [aspect.value for aspect in cause.aspects],
        "together": cause.together,
        "unstable": cause.unstable,
        "kept": str(verdict.kept) if verdict.kept else None,
        "outputs": [
            {
                "name": output.name,
                "expected": output.expected,
                "got": output.got,
                "differences": [
                    {
                        "path": difference.path,
                        "kind": difference.kind.value,
                        "offset": difference.offset,
                        "section": difference.section,
                    }
                    for difference in output.differences
                ],
            }
            for output in verdict.outputs
        ],
    }


def _show_with(diffoscope: str, session: Session, report: CheckReport) -> None:
    sys.stdout.flush()
    for verdict in report.verdicts:
        for output in verdict.outputs:
            if not output.identical and verdict.kept:
                expected = session.store.checkout(output.expected, object_name(verdict.node.name, output.name))
                subprocess.run([diffoscope, str(expected), str(verdict.kept / output.name)], check=False)
