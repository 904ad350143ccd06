"""`forge cache status`: what each cache has of this workspace.

`forge challenge`, `forge cache challenge`: what the caches say beside what a rebuild gives.
"""

from __future__ import annotations

import json
import time

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import from_option, json_option, quiet_option
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.cache.challenge import Challenge, ChallengeAnswer, challenge_request
from mmojo_forge.engine.cache.open import named_cache
from mmojo_forge.engine.cache.status import CacheStatus, TargetStatus, cache_status
from mmojo_forge.engine.evaluation import evaluate, evaluate_all
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.workspace import Request
from mmojo_forge.errors import ExitCode
from mmojo_forge.model.signature import PublicKey


@click.command("status")
@click.argument("targets", nargs=-1)
@from_option("names")
@json_option()
@click.pass_obj
def status(session: Session, targets: tuple[str, ...], names: tuple[str, ...], as_json: bool) -> None:
    """Show what each cache has: of every target of the workspace in sum, or of TARGET… one by one."""
    settings = session.cache_settings()
    trusted = session.keys().trusted()
    workspace = session.workspace
    request = Request.parse(targets)
    evaluation = evaluate(workspace, request) if targets else evaluate_all(workspace, tolerant=True)
    found = [
        cache_status(
            named_cache(name, one, trusted, session.environment),
            evaluation.instances,
            session.store,
            agree=settings.trust.agree,
            clock=time.monotonic,
        )
        for name, one in settings.chosen(names).items()
    ]
    if as_json:
        click.echo(json.dumps({"schema": 1, "caches": [_document(one, trusted) for one in found]}))
        return
    now = time.time()
    if targets:
        header = ("cache", "target", "state", "size", "known", "built", "by")
        console.show_table(header, [_target_row(one, row, now) for one in found for row in one.targets])
    else:
        console.show_table(
            ("cache", "state", "targets", "size", "newest", "signed by"), [_row(one, now) for one in found]
        )
    for one in found:
        _tell_problems(one, trusted)


def _row(one: CacheStatus, now: float) -> tuple[str, ...]:
    if one.error is not None:
        return (one.name, one.error.reason, "", "", "", "")
    total = len(one.targets)
    share = f"{one.complete} of {total} ({100 * one.complete // total} %)" if total else "0"
    age = console.format_age(now - one.newest) if one.newest is not None else ""
    builders = sorted({row.builder for row in one.targets if row.complete})
    return (one.name, "ok", share, console.format_size(one.size), age, ", ".join(builders))


def _target_row(one: CacheStatus, row: TargetStatus, now: float) -> tuple[str, ...]:
    state = "complete" if row.complete else "known" if row.builder else "missing"
    built = console.format_age(now - row.started) if row.builder else ""
    size = console.format_size(row.size) if row.builder else ""
    return (one.name, row.target, state, size, f"{row.known} of {row.nodes} nodes", built, row.builder)


def _tell_problems(one: CacheStatus, trusted: list[PublicKey]) -> None:
    if one.error is not None:
        click.echo(f"cache {one.name}: {one.error.message}", err=True)
    for warning in one.warnings:
        click.echo(f"warning: {warning}", err=True)
    for key in _unknown_keys(one, trusted):
        click.echo(
            f"cache {one.name} suggests the key {key}, which is not trusted here; ask its owner whether it is the "
            f"right one, then: forge cache key trust {key}",
            err=True,
        )


def _unknown_keys(one: CacheStatus, trusted: list[PublicKey]) -> list[PublicKey]:
    known = {key.key for key in trusted}
    return [key for key in one.info.keys if key.key not in known] if one.info else []


def _document(one: CacheStatus, trusted: list[PublicKey]) -> dict[str, object]:
    rows = [
        {
            "target": row.target,
            "complete": row.complete,
            "size": row.size,
            "builder": row.builder,
            "started": row.started,
            "nodes_known": row.known,
            "nodes": row.nodes,
        }
        for row in one.targets
    ]
    return {
        "name": one.name,
        "error": one.error.reason if one.error else None,
        "complete": one.complete,
        "size": one.size,
        "newest": one.newest,
        "suggested_keys": [str(key) for key in one.info.keys] if one.info else [],
        "untrusted_keys": [str(key) for key in _unknown_keys(one, trusted)],
        "warnings": list(one.warnings),
        "targets": rows,
    }


_SHOWN_DIGITS = 12


@click.command("challenge")
@click.argument("targets", nargs=-1, required=True)
@from_option("names")
@click.option("--closure", is_flag=True, help="Also everything that TARGET… are built from, node by node.")
@click.option("--no-rebuild", is_flag=True, help="Compare with what this store has, without building anything.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="Cores for the rebuild (default: all).")
@quiet_option
@json_option("Progress as JSON events, the result as one JSON object.")
@click.pass_obj
def challenge(
    session: Session,
    targets: tuple[str, ...],
    names: tuple[str, ...],
    closure: bool,
    no_rebuild: bool,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Rebuild TARGET… and compare with what each cache says; exit code 1 if anybody says something else."""
    settings = session.settings(jobs=jobs)
    reporter = make_reporter(settings.jobs, as_json=as_json, quiet=quiet)
    found = challenge_request(
        session.workspace,
        Request.parse(targets),
        session.caches(names, reporter.warning),
        session.services(reporter, caches=names),
        settings,
        closure=closure,
        rebuild=not no_rebuild,
    )
    if as_json:
        click.echo(json.dumps({"schema": 1, "challenges": [_challenge_document(one) for one in found]}))
    else:
        header = ("node", "asked", "builder", "verdict", "says", "differs in")
        console.show_table(header, [_challenge_row(one, answer) for one in found for answer in one.answers])
        _sum_up(found)
    return ExitCode.DONE if all(one.holds for one in found) else ExitCode.BUILD_FAILED


def _challenge_row(one: Challenge, answer: ChallengeAnswer) -> tuple[str, ...]:
    says = ", ".join(f"{name} {tree[:_SHOWN_DIGITS]}" for name, tree in sorted((answer.outputs or {}).items()))
    more = f" and {len(answer.differing) - 1} more" if len(answer.differing) > 1 else ""
    differs = f"{answer.differing[0]}{more}" if answer.differing else ""
    return (one.name, answer.source, answer.builder, answer.finding.value, says, differs)


def _sum_up(found: list[Challenge]) -> None:
    for one in found:
        if one.holds:
            continue
        trees = ", ".join(f"{name} {tree}" for name, tree in sorted(one.reference.items()))
        click.echo(f"{one.name}: {'rebuilt' if one.rebuilt else 'here'} as {trees}", err=True)


def _challenge_document(one: Challenge) -> dict[str, object]:
    answers = [
        {
            "source": answer.source,
            "finding": answer.finding.value,
            "builder": answer.builder,
            "outputs": dict(answer.outputs or {}),
            "started": answer.started,
            "differing": list(answer.differing),
        }
        for answer in one.answers
    ]
    return {
        "name": one.name,
        "key": one.key,
        "rebuilt": one.rebuilt,
        "reference": dict(one.reference),
        "answers": answers,
    }
