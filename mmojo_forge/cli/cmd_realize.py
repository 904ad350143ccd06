"""`forge realize TARGET…`: build or fetch; the paths on stdout, the progress on stderr, links in out/."""

from __future__ import annotations

import click

from mmojo_forge.cli.context import Context
from mmojo_forge.cli.results import show
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.run import realise_request
from mmojo_forge.engine.workspace import Request


@click.command("realize")
@click.argument("targets", nargs=-1, required=True)
@click.option("--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="Cores for all builds together (default: all).")
@click.option("-k", "--keep-going", is_flag=True, help="After a failure, build what does not need the failed node.")
@click.option("--no-link", is_flag=True, help="Leave no link in out/; the result may be collected at any time.")
@click.option("--substitute-only", is_flag=True, help="Build nothing; take all of it from the caches, or fail.")
@click.option("--no-substitute", is_flag=True, help="Ask no cache.")
@click.option("--cache", "caches", multiple=True, metavar="NAME|URL", help="Ask this cache instead of those set.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON events, the result as one JSON object.")
@click.pass_obj
def command(
    context: Context,
    targets: tuple[str, ...],
    settings: tuple[str, ...],
    jobs: int | None,
    keep_going: bool,
    no_link: bool,
    substitute_only: bool,
    no_substitute: bool,
    caches: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Build TARGET…, download them, or find that they are here already, and print where they lie."""
    if no_substitute and (substitute_only or caches):
        raise click.UsageError("--no-substitute excludes --substitute-only and --cache.")
    run_settings = context.settings(jobs=jobs, keep_going=keep_going, substitute_only=substitute_only)
    reporter = make_reporter(run_settings.jobs, as_json=as_json, quiet=quiet)
    request = Request.parse(targets, settings)
    world = context.world(reporter, caches=None if no_substitute else caches)
    results = realise_request(context.workspace, request, world, run_settings, link=not no_link)
    show(results, as_json=as_json)
