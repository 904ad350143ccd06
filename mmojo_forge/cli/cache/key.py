"""`forge cache key …`: the key that signs the user's builds, and the keys that are trusted."""

from __future__ import annotations

import json

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import json_option
from mmojo_forge.engine.session import Session
from mmojo_forge.model.signature import PublicKey


@click.group("key")
def key() -> None:
    """Manage the key that signs your builds, and the keys that you trust."""


@key.command("generate", short_help="Make your signing key.")
@click.option("--name", default="", help="Name of the key for others (default: made from the key).")
@click.pass_obj
def generate(session: Session, name: str) -> None:
    """Make the key that signs your builds, and print its public half.

    The first build makes one, too, if there is none.
    """
    click.echo(session.keys().generate(name).public)


@key.command("show", short_help="Show your key and the trusted ones.")
@json_option()
@click.pass_obj
def show(session: Session, as_json: bool) -> None:
    """Show your public key and every key that was ever trusted, revoked ones included."""
    ring = session.keys()
    own = ring.own().public
    listed = ring.listed()
    if as_json:
        rows = [{"key": str(entry.key), "file": str(entry.file), "revoked": entry.revoked or None} for entry in listed]
        click.echo(json.dumps({"schema": 1, "own": str(own), "keys": rows}))
        return
    header = ("state", "key", "file")
    rows_shown = [
        (f"revoked: {entry.revoked}" if entry.revoked else "trusted", str(entry.key), str(entry.file))
        for entry in listed
    ]
    console.show_table(header, [("own", str(own), str(ring.own_file)), *rows_shown])


@key.command("trust", short_help="Trust what a key signs.")
@click.argument("name_and_key", metavar="NAME:KEY")
@click.option("--user", is_flag=True, help="Trust it for yourself only, not for everybody who shares the workspace.")
@click.pass_obj
def trust(session: Session, name_and_key: str, user: bool) -> None:
    """Trust what NAME:KEY signs."""
    click.echo(session.keys().trust(PublicKey.parse(name_and_key), for_all=not user))


@key.command("revoke", short_help="Trust a key no longer.")
@click.argument("name")
@click.option("--reason", default="", help="The reason; `show` prints it.")
@click.pass_obj
def revoke(session: Session, name: str, reason: str) -> None:
    """Stop trusting the key NAME, also for what it signed before."""
    click.echo(session.keys().revoke(name, reason))
