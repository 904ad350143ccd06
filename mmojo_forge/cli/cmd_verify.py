"""`forge verify FILE…`: whether files are what somebody who is trusted signed."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mmojo_forge.cli.context import Context
from mmojo_forge.engine.signing import Verified, read_public_key, verify_file
from mmojo_forge.model.minisign import MinisignKey, show_id


@click.command("verify")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option(
    "--key", "given", multiple=True, metavar="KEY|FILE", help="Whom to believe, instead of those who are trusted here."
)
@click.option("--signature", type=click.Path(path_type=Path), help="Where the signature is; FILE.minisig if not given.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def command(
    context: Context, files: tuple[Path, ...], given: tuple[str, ...], signature: Path | None, as_json: bool
) -> None:
    """Check the signature of FILE… and say whose it is. The first that does not hold is an error."""
    if signature is not None and len(files) != 1:
        raise click.UsageError("--signature is for one FILE.")
    ring = context.any_keys()
    trusted = [read_public_key(one) for one in given] or [MinisignKey.of(key) for key in ring.trusted()]
    revoked = [MinisignKey.of(key) for key in ring.revoked()]
    found = [verify_file(file, trusted, revoked=revoked, signature=signature) for file in files]
    if as_json:
        print(json.dumps({"schema": 1, "verified": [_document(one) for one in found]}))
        return
    for one in found:
        print(f"{one.path}: signed by {one.key.key.name}, key {show_id(one.key.id)}; {one.comment}")


def _document(one: Verified) -> dict[str, str]:
    names = {"name": one.key.key.name, "key": one.key.text, "key_id": show_id(one.key.id)}
    return {"file": str(one.path), **names, "comment": one.comment}
