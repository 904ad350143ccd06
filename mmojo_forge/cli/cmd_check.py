"""`forge check TARGET…`: build again with everything varied that must not matter, and compare byte for byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mmojo_forge.cli import table, units
from mmojo_forge.cli.context import Context
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.build import BuildFailed, object_name
from mmojo_forge.engine.check import CheckReport, Verdict
from mmojo_forge.engine.check_run import CheckRequest, check_request, compare_request
from mmojo_forge.engine.receipt import Agreement, write_receipt
from mmojo_forge.engine.workspace import Request
from mmojo_forge.errors import ExitCode
from mmojo_forge.store.local import LocalStore

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("check")
@click.argument("targets", nargs=-1, required=True)
@click.option("--closure", is_flag=True, help="Check all that TARGET… is built from too, toolchains included.")
@click.option("--isolate", is_flag=True, help="Where something differs, rebuild once per variation to find which.")
@click.option("--diff", "with_diff", is_flag=True, help="Show differences with diffoscope.")
@click.option("--receipt", type=_FILE, help="Where to write the signed receipt (out/TARGET.intoto.jsonl).")
@click.option("--against", type=_FILE, help="Rebuild nothing; compare with this receipt of another builder.")
@click.option("--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe.")
@click.option("--scratch", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where to rebuild.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="Cores for all builds together (default: all).")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
@click.pass_obj
def command(
    context: Context,
    targets: tuple[str, ...],
    closure: bool,
    isolate: bool,
    with_diff: bool,
    receipt: Path | None,
    against: Path | None,
    settings: tuple[str, ...],
    scratch: Path | None,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Rebuild TARGET… with everything varied that must not matter, and say where an output is not identical."""
    run_settings = context.settings(jobs=jobs)
    reporter = make_reporter(run_settings.jobs, quiet=quiet)
    request, world = Request.parse(targets, settings), context.world(reporter)
    if against is not None:
        return _compare(
            compare_request(context.workspace, request, against, context.keys(), world, run_settings), as_json=as_json
        )
    report = check_request(
        context.workspace,
        CheckRequest(request, closure, isolate, scratch, context.environment),
        world,
        run_settings,
        lambda path, shuffle: LocalStore.open(path, shuffle=shuffle),
    )
    written = receipt or context.workspace.results / f"{targets[0]}.intoto.jsonl"
    write_receipt(written, report, context.store, context.keys().own())
    if as_json:
        print(json.dumps({**_document(report), "receipt": str(written)}))
    else:
        _show(report)
        print(f"\nreceipt: {written}")
    if with_diff:
        _show_with_diffoscope(context, report)
    return ExitCode.DONE if report.identical else ExitCode.BUILD_FAILED


def _compare(agreements: list[Agreement], *, as_json: bool) -> int:
    agree = all(one.agrees for one in agreements)
    if as_json:
        rows = [
            {
                "name": one.claim.name,
                "key": one.claim.key,
                "signer": one.claim.signer,
                "agrees": one.agrees,
                "theirs": dict(one.claim.outputs),
                "ours": dict(one.ours),
            }
            for one in agreements
        ]
        print(json.dumps({"schema": 1, "agrees": agree, "nodes": rows}))
    else:
        header = ("verdict", "node", "output", "ours", "theirs", "signed by")
        table.show(header, [row for one in agreements for row in _agreement_rows(one)])
    return ExitCode.DONE if agree else ExitCode.BUILD_FAILED


def _agreement_rows(one: Agreement) -> Iterator[tuple[str, ...]]:
    for output in sorted({*one.claim.outputs, *one.ours}):
        theirs, ours = one.claim.outputs.get(output, "none"), one.ours.get(output, "none")
        state = "agrees" if theirs == ours else "DISAGREES"
        yield (state, one.claim.name, output, ours[:16], theirs[:16], one.claim.signer)


def _show(report: CheckReport) -> None:
    rows = [row for verdict in report.verdicts for row in _rows(verdict)]
    table.show(("verdict", "node", "output", "tree", "time"), rows)
    for verdict in report.verdicts:
        for line in _explain(verdict):
            print(line)
    varied = [one for one in report.variations if not one.refused]
    print(f"\nvaried, all at once, in one rebuild of each node ({len(varied)} of {len(report.variations)}):")
    for one in report.variations:
        print(
            f"  {one.aspect.value:<18} "
            + (f"not varied: {one.refused}" if one.refused else f"{one.usual} → {one.other}")
        )


def _rows(verdict: Verdict) -> Iterator[tuple[str, ...]]:
    time_text = units.duration(verdict.seconds)
    if verdict.failure:
        yield ("failed", verdict.node.name, "", "", time_text)
    for output in verdict.outputs:
        state = "identical" if output.identical else "DIFFERENT"
        yield (state, verdict.node.name, output.name, output.expected[:16], time_text)


def _explain(verdict: Verdict) -> Iterator[str]:
    if verdict.failure:
        yield f"\n{verdict.node.name} could not be rebuilt:"
        yield f"  {verdict.failure.message}"
        if isinstance(verdict.failure, BuildFailed):
            # Its log was in the store of the rebuild, and is gone.
            yield from (f"    {line}" for line in verdict.failure.failure.last_lines)
        return
    for output in verdict.outputs:
        if not output.identical:
            yield f"\n{verdict.node.name}, output {output.name}: {output.expected} became {output.got}"
            yield from (f"  {one}" for one in output.differences[:20])
            if len(output.differences) > 20:
                yield f"  … and {len(output.differences) - 20} more files"
    if verdict.unstable:
        yield "  It differs even when nothing is varied."
    elif verdict.causes:
        yield f"  It depends on: {', '.join(verdict.causes)}."
    elif verdict.kept:
        yield f"  What came out is kept in {verdict.kept}; --isolate finds which variation makes the difference."


def _document(report: CheckReport) -> dict[str, object]:
    return {
        "schema": 1,
        "identical": report.identical,
        "variations": [
            {"aspect": one.aspect.value, "usual": one.usual, "other": one.other, "refused": one.refused or None}
            for one in report.variations
        ],
        "nodes": [_node(verdict) for verdict in report.verdicts],
    }


def _node(verdict: Verdict) -> dict[str, object]:
    return {
        "name": verdict.node.name,
        "key": verdict.key,
        "label": verdict.node.label.to_json(),
        "identical": verdict.identical,
        "seconds": verdict.seconds,
        "failure": verdict.failure.reason if verdict.failure else None,
        "depends_on": [aspect.value for aspect in verdict.causes],
        "unstable": verdict.unstable,
        "outputs": [
            {
                "name": output.name,
                "expected": output.expected,
                "got": output.got,
                "differences": [
                    {"path": one.path, "kind": one.kind.value, "offset": one.offset, "section": one.section}
                    for one in output.differences
                ],
            }
            for output in verdict.outputs
        ],
    }


def _show_with_diffoscope(context: Context, report: CheckReport) -> None:
    if report.identical:
        return
    program = shutil.which("diffoscope")
    if program is None:
        print("forge: --diff needs diffoscope: sudo apt-get install diffoscope-minimal", file=sys.stderr)
        return
    sys.stdout.flush()
    for verdict in report.verdicts:
        for output in verdict.outputs:
            if not output.identical and verdict.kept:
                expected = context.store.checkout(output.expected, object_name(verdict.node.name, output.name))
                subprocess.run([program, str(expected), str(verdict.kept / output.name)], check=False)
