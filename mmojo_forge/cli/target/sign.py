"""`forge sign FILE…` writes a signature beside each file; `forge verify FILE…` checks such signatures.

The format is minisign's, so that people without forge can verify files with the stock `minisign`.
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
@click.option(
    "--key", "key_file", type=click.Path(path_type=Path), help="A private key to use in place of builder.key."
)
@click.option("--comment", default="", help="One line to sign along with the file; `verify` shows it.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where to write the signature (default: FILE.minisig)."
)
@click.option("--public-key", "show_key", is_flag=True, help="Print the public key in minisign's format.")
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
    """Sign each FILE with the key that signs your builds, and print the paths of the signatures."""
    if not files and not show_key:
        raise click.UsageError("There is nothing to sign: give a FILE, or --public-key.")
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
    "--key",
    "given",
    multiple=True,
    metavar="KEY|FILE",
    help="Accept this key, not the trusted keys. Repeatable.",
)
@click.option("--signature", type=click.Path(path_type=Path), help="Where the signature is (default: FILE.minisig).")
@json_option()
@click.pass_obj
def verify(
    session: Session, files: tuple[Path, ...], given: tuple[str, ...], signature: Path | None, as_json: bool
) -> None:
    """Check the signature of each FILE, and print who signed it; fail at the first that is not valid."""
    if signature is not None and len(files) != 1:
        raise click.UsageError("--signature is for one FILE.")
    ring = session.any_keys()
    trusted = [read_public_key(text) for text in given] or [MinisignKey.of(key) for key in ring.trusted()]
    revoked = [MinisignKey.of(key) for key in ring.revoked()]
    found = [verify_file(file, trusted, revoked=revoked, signature=signature) for file in files]
    if as_json:
        click.echo(json.dumps({"schema": 1, "verified": [_document(verified) for verified in found]}))
        return
    for verified in found:
        key = verified.key
        click.echo(f"{verified.path}: signed by {key.key.name}, key {show_id(key.id)}; {verified.comment}")


def _document(verified: Verified) -> dict[str, str]:
    key = verified.key
    names = {"name": key.key.name, "key": key.text, "key_id": show_id(key.id)}
    return {"file": str(verified.path), **names, "comment": verified.comment}
