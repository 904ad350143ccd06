"""`forge shell NAME`: step into the sandbox of a failed build, as it was left."""

from __future__ import annotations

import os

import click

from mmojo_forge.cli.context import Context
from mmojo_forge.engine import failed
from mmojo_forge.executor import personality


@click.command("shell")
@click.argument("name")
@click.argument("argv", nargs=-1)
@click.pass_obj
def command(context: Context, name: str, argv: tuple[str, ...]) -> None:
    """Open a shell (or run ARGV) in the sandbox of the last failed build of NAME: same files, same environment."""
    request = failed.with_terminal(failed.request_of(context.places.failed_build(name)))
    click.echo(
        f"In /build as the failed build of {name} left it; inputs are in /forge, outputs go to /forge/out.", err=True
    )
    sandbox = context.executor().shell_command(request, argv)
    for descriptor in sandbox.descriptors:
        os.set_inheritable(descriptor, True)
    os.umask(0o022)
    personality.take_on(personality.USUAL)
    # bwrap gets no environment: what it has can be read in the sandbox as that of process 1.
    os.execve(sandbox.argv[0], sandbox.argv, {})
