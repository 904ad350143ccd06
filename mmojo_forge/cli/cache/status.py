"""`forge cache status` shows what each cache has of this workspace; `forge challenge` compares caches with a rebuild.

`forge cache challenge` is the same command as `forge challenge`.
"""

from __future__ import annotations

import json
import time

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import from_option, jobs_option, json_option, quiet_option
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
@click.argument("targets", nargs=-1, metavar="[TARGET…]")
@from_option("names")
@json_option()
@click.pass_obj
def status(session: Session, targets: tuple[str, ...], names: tuple[str, ...], as_json: bool) -> None:
    """Show what each cache has of this workspace, or of each TARGET.

    Without TARGET it sums up all targets, one line per cache.
    """
    settings = session.cache_settings()
    trusted = session.keys().trusted()
    workspace = session.workspace
    request = Request.parse(targets)
    evaluation = evaluate(workspace, request) if targets else evaluate_all(workspace, tolerant=True)
    found = [
        cache_status(
            named_cache(name, table, trusted, session.environment),
            evaluation.instances,
            session.store,
            agree=settings.trust.agree,
            clock=time.monotonic,
        )
        for name, table in settings.chosen(names).items()
    ]
    if as_json:
        click.echo(json.dumps({"schema": 1, "caches": [_document(cache, trusted) for cache in found]}))
        return
    now = time.time()
    if targets:
        header = ("cache", "target", "state", "size", "known", "built", "by")
        console.show_table(header, [_target_row(cache, row, now) for cache in found for row in cache.targets])
    else:
        console.show_table(
            ("cache", "state", "targets", "size", "newest", "signed by"), [_row(cache, now) for cache in found]
        )
    for cache in found:
        _tell_problems(cache, trusted)


def _row(cache: CacheStatus, now: float) -> tuple[str, ...]:
    if cache.error is not None:
        return (cache.name, cache.error.reason, "", "", "", "")
    total = len(cache.targets)
    share = f"{cache.complete} of {total} ({100 * cache.complete // total} %)" if total else "0"
    age = console.format_age(now - cache.newest) if cache.newest is not None else ""
    builders = sorted({row.builder for row in cache.targets if row.complete})
    return (cache.name, "ok", share, console.format_size(cache.size), age, ", ".join(builders))


def _target_row(cache: CacheStatus, row: TargetStatus, now: float) -> tuple[str, ...]:
    state = "complete" if row.complete else "known" if row.builder else "missing"
    built = console.format_age(now - row.started) if row.builder else ""
    size = console.format_size(row.size) if row.builder else ""
    return (cache.name, row.target, state, size, f"{row.known} of {row.nodes} nodes", built, row.builder)


def _tell_problems(cache: CacheStatus, trusted: list[PublicKey]) -> None:
    if cache.error is not None:
        click.echo(f"cache {cache.name}: {cache.error.message}", err=True)
    for warning in cache.warnings:
        click.echo(f"warning: {warning}", err=True)
    for key in _unknown_keys(cache, trusted):
        click.echo(
            f"cache {cache.name} suggests the key {key}, which you do not trust. Ask its owner whether it is the "
            f"right one, then run: forge cache key trust {key}",
            err=True,
        )


def _unknown_keys(cache: CacheStatus, trusted: list[PublicKey]) -> list[PublicKey]:
    known = {key.key for key in trusted}
    return [key for key in cache.info.keys if key.key not in known] if cache.info else []


def _document(cache: CacheStatus, trusted: list[PublicKey]) -> dict[str, object]:
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
        for row in cache.targets
    ]
    return {
        "name": cache.name,
        "error": cache.error.reason if cache.error else None,
        "complete": cache.complete,
        "size": cache.size,
        "newest": cache.newest,
        "suggested_keys": [str(key) for key in cache.info.keys] if cache.info else [],
        "untrusted_keys": [str(key) for key in _unknown_keys(cache, trusted)],
        "warnings": list(cache.warnings),
        "targets": rows,
    }


_SHOWN_DIGITS = 12


@click.command("challenge")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@from_option("names")
@click.option("--closure", is_flag=True, help="Also compare all that TARGET… is built from, node by node.")
@click.option("--no-rebuild", is_flag=True, help="Compare with what the store has; build nothing.")
@jobs_option
@quiet_option
@json_option("Print progress as JSON events, the result as one JSON object.")
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
    """Rebuild each TARGET and compare it with what each cache has; exit 1 if any of them differs."""
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
        click.echo(json.dumps({"schema": 1, "challenges": [_challenge_document(node) for node in found]}))
    else:
        header = ("node", "asked", "builder", "verdict", "says", "differs in")
        console.show_table(header, [_challenge_row(node, answer) for node in found for answer in node.answers])
        _sum_up(found)
    return ExitCode.DONE if all(node.holds for node in found) else ExitCode.BUILD_FAILED


def _challenge_row(node: Challenge, answer: ChallengeAnswer) -> tuple[str, ...]:
    says = ", ".join(f"{name} {tree[:_SHOWN_DIGITS]}" for name, tree in sorted((answer.outputs or {}).items()))
    more = f" and {len(answer.differing) - 1} more" if len(answer.differing) > 1 else ""
    differs = f"{answer.differing[0]}{more}" if answer.differing else ""
    return (node.name, answer.source, answer.builder, answer.finding.value, says, differs)


def _sum_up(found: list[Challenge]) -> None:
    for node in found:
        if node.holds:
            continue
        trees = ", ".join(f"{name} {tree}" for name, tree in sorted(node.reference.items()))
        click.echo(f"{node.name}: {'rebuilt' if node.rebuilt else 'here'} as {trees}", err=True)


def _challenge_document(node: Challenge) -> dict[str, object]:
    answers = [
        {
            "source": answer.source,
            "finding": answer.finding.value,
            "builder": answer.builder,
            "outputs": dict(answer.outputs or {}),
            "started": answer.started,
            "differing": list(answer.differing),
        }
        for answer in node.answers
    ]
    return {
        "name": node.name,
        "key": node.key,
        "rebuilt": node.rebuilt,
        "reference": dict(node.reference),
        "answers": answers,
    }
