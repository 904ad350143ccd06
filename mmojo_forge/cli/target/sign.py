"""`forge sign FILE…`: a signature beside each file, for `forge verify` and the stock `minisign`.

`forge verify FILE…`: whether files are what somebody who is trusted signed.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from mmojo_forge.cli.options import json_option
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.trust.signing import Verified, read_private_key, read_public_key, sign_file, verify_file
from mmojo_forge.model.minisign import MinisignKey, show_id


@click.command("sign")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--key", "key_file", type=click.Path(path_type=Path), help="A file like builder.key, instead of it.")
@click.option("--comment", default="", help="One line that is signed, too, and shown by whoever verifies.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where the signature goes; FILE.minisig if not given."
)
@click.option("--public-key", "show_key", is_flag=True, help="Print the public key as minisign wants it.")
@json_option()
@click.pass_obj
def sign(
    session: Session,
    files: tuple[Path, ...],
    key_file: Path | None,
    comment: str,
    output: Path | None,
    show_key: bool,
    as_json: bool,
) -> None:
    """Sign FILE… as a whole, with the key that signs what is built; print where the signatures lie."""
    if not files and not show_key:
        raise click.UsageError("Nothing to sign: give a FILE, or --public-key.")
    if output is not None and len(files) != 1:
        raise click.UsageError("--output is for one FILE.")
    key = read_private_key(key_file) if key_file else session.any_keys().own()
    public = MinisignKey.of(key.public)
    made = [sign_file(file, key, comment=comment, out=output) for file in files]
    if as_json:
        rows = [{"file": str(file), "signature": str(path)} for file, path in zip(files, made, strict=True)]
        names = {"key": public.text, "key_id": show_id(public.id), "name": public.key.name}
        click.echo(json.dumps({"schema": 1, **names, "signed": rows}))
        return
    if show_key:
        click.echo(public.dump(), nl=False)
    for path in made:
        click.echo(path)
    if made:
        click.echo(f"verify with: minisign -V -P {public.text} -m FILE, or forge verify FILE", err=True)


@click.command("verify")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option(
    "--key", "given", multiple=True, metavar="KEY|FILE", help="Whom to believe, instead of those who are trusted here."
)
@click.option("--signature", type=click.Path(path_type=Path), help="Where the signature is; FILE.minisig if not given.")
@json_option()
@click.pass_obj
def verify(
    session: Session, files: tuple[Path, ...], given: tuple[str, ...], signature: Path | None, as_json: bool
) -> None:
    """Check the signature of FILE… and say whose it is. The first that does not hold is an error."""
    if signature is not None and len(files) != 1:
        raise click.UsageError("--signature is for one FILE.")
    ring = session.any_keys()
    trusted = [read_public_key(one) for one in given] or [MinisignKey.of(key) for key in ring.trusted()]
    revoked = [MinisignKey.of(key) for key in ring.revoked()]
    found = [verify_file(file, trusted, revoked=revoked, signature=signature) for file in files]
    if as_json:
        click.echo(json.dumps({"schema": 1, "verified": [_document(one) for one in found]}))
        return
    for one in found:
        click.echo(f"{one.path}: signed by {one.key.key.name}, key {show_id(one.key.id)}; {one.comment}")


def _document(one: Verified) -> dict[str, str]:
    names = {"name": one.key.key.name, "key": one.key.text, "key_id": show_id(one.key.id)}
    return {"file": str(one.path), **names, "comment": one.comment}
