"""`forge cache key …`: the key that this user signs with, and the keys that are trusted."""

from __future__ import annotations

import json

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import json_option
from mmojo_forge.engine.session import Session
from mmojo_forge.model.signature import PublicKey


@click.group("key")
def key() -> None:
    """The key that this user signs with, and the keys that are trusted."""


@key.command("generate")
@click.option("--name", default="", help="What others shall call it; a name made of the key if not given.")
@click.pass_obj
def generate(session: Session, name: str) -> None:
    """Make a key to sign with, and print its public half. Building makes one too, when there is none."""
    click.echo(session.keys().generate(name).public)


@key.command("show")
@json_option()
@click.pass_obj
def show(session: Session, as_json: bool) -> None:
    """Show the own public key and every key that was trusted, revoked ones too."""
    ring = session.keys()
    own = ring.own().public
    listed = ring.listed()
    if as_json:
        rows = [{"key": str(one.key), "file": str(one.file), "revoked": one.revoked or None} for one in listed]
        click.echo(json.dumps({"schema": 1, "own": str(own), "keys": rows}))
        return
    header = ("state", "key", "file")
    rows_shown = [
        (f"revoked: {one.revoked}" if one.revoked else "trusted", str(one.key), str(one.file)) for one in listed
    ]
    console.show_table(header, [("own", str(own), str(ring.own_file)), *rows_shown])


@key.command("trust")
@click.argument("name_and_key", metavar="NAME:KEY")
@click.option("--user", is_flag=True, help="For this user only, and not for all who share the workspace.")
@click.pass_obj
def trust(session: Session, name_and_key: str, user: bool) -> None:
    """Believe what this key signs."""
    click.echo(session.keys().trust(PublicKey.parse(name_and_key), for_all=not user))


@key.command("revoke")
@click.argument("name")
@click.option("--reason", default="", help="Why; kept in the list.")
@click.pass_obj
def revoke(session: Session, name: str, reason: str) -> None:
    """Believe nothing of this key any more, whenever it was signed."""
    click.echo(session.keys().revoke(name, reason))
