"""`forge cache pull`: results out of caches, and nothing but caches."""

from __future__ import annotations

import click

from mmojo_forge.cli.context import Context
from mmojo_forge.cli.results import show
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.run import realise_request
from mmojo_forge.engine.workspace import Request


@click.command("pull")
@click.argument("targets", nargs=-1, required=True)
@click.option("--from", "caches", multiple=True, metavar="NAME|URL|FOLDER", help="Where from, instead of those set.")
@click.option("--no-link", is_flag=True, help="Leave no link in out/; the result may be collected at any time.")
@click.option("--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON events, the result as one JSON object.")
@click.pass_obj
def command(
    context: Context,
    targets: tuple[str, ...],
    caches: tuple[str, ...],
    no_link: bool,
    settings: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Take TARGET… from the caches without building anything, and print where they lie."""
    run_settings = context.settings(substitute_only=True)
    reporter = make_reporter(run_settings.jobs, as_json=as_json, quiet=quiet)
    world = context.world(reporter, caches=caches)
    request = Request.parse(targets, settings)
    results = realise_request(context.workspace, request, world, run_settings, link=not no_link)
    show(results, as_json=as_json)
