"""`forge cache serve FOLDER`: serve a cache's folder over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import click

from mmojo_forge.cli.options import Size, json_option
from mmojo_forge.engine.cache.serve import Exchange, ServeOptions, Server, ServerReporter, make_server
from mmojo_forge.engine.session import Session

_PATH = click.Path(path_type=Path)


@click.command("serve")
@click.argument("folder", type=_PATH)
@click.option("--listen", default="127.0.0.1:8484", show_default=True, metavar="HOST:PORT", help="Port 0: a free one.")
@click.option("--token-file", type=_PATH, help="Tokens that allow writing, one per line; without it nobody may write.")
@click.option("--read-token-file", type=_PATH, help="Tokens that allow reading; without it everybody may read.")
@click.option("--tls-cert", type=_PATH, metavar="FILE.pem", help="Use TLS, with this certificate and its chain.")
@click.option("--tls-key", type=_PATH, metavar="FILE.pem", help="The certificate's private key.")
@click.option(
    "--tls-client-ca", type=_PATH, metavar="FILE.pem", help="Serve only clients with a certificate of this CA."
)
@click.option("--plain", is_flag=True, help="Serve other machines without TLS.")
@click.option("--max-size", type=Size(), help="Size limit of the cache; the server refuses writes beyond it.")
@click.option(
    "--connections",
    type=click.IntRange(1, 100_000),
    metavar="N",
    default=1024,
    show_default=True,
    help="Most connections at once; the server refuses more.",
)
@click.option("--verbose", is_flag=True, help="Print a line on stderr for each request.")
@json_option("Print the address as one JSON object, and requests and failures as JSON events.")
@click.pass_obj
def serve(
    session: Session,
    folder: Path,
    listen: str,
    token_file: Path | None,
    read_token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    plain: bool,
    max_size: int | None,
    connections: int,
    verbose: bool,
    as_json: bool,
) -> None:
    """Serve the cache in FOLDER over HTTP, by default to this machine only.

    forge prints the URL once the server is up, and serves until you interrupt it. Bazel and ccache can use it, too.
    """
    if (tls_cert is None) != (tls_key is None) or (tls_client_ca and not tls_cert):
        raise click.UsageError("Give --tls-cert and --tls-key together, and --tls-client-ca only with them.")

    def absolute(path: Path | None) -> Path | None:
        return session.folder / path if path else None

    options = ServeOptions(
        listen,
        absolute(token_file),
        absolute(read_token_file),
        absolute(tls_cert),
        absolute(tls_key),
        absolute(tls_client_ca),
        plain,
        max_size,
        connections,
    )
    reporter = _Log(verbose=verbose, as_json=as_json)
    server = make_server(
        session.folder / folder, options, reporter, lambda message: click.echo(f"forge: {message}", err=True)
    )
    asyncio.run(_serve(server, as_json=as_json))


async def _serve(server: Server, *, as_json: bool) -> None:
    stopped = asyncio.Event()
    async with server:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        click.echo(json.dumps({"schema": 1, "url": server.url, "pid": os.getpid()}) if as_json else server.url)
        await stopped.wait()


class _Log(ServerReporter):
    """Prints failures on stderr, and with `verbose` every request. It escapes what a client sent."""

    def __init__(self, *, verbose: bool, as_json: bool) -> None:
        self._verbose = verbose
        self._as_json = as_json

    def answered(self, exchange: Exchange) -> None:
        if not self._verbose:
            return
        if self._as_json:
            event = {
                "event": "answered",
                "client": exchange.client,
                "method": exchange.method,
                "target": exchange.target,
                "status": exchange.status or None,
                "reason": exchange.reason or None,
                "seconds": round(exchange.seconds, 6),
            }
            click.echo(json.dumps(event), err=True)
            return
        status = f"{exchange.status or 'cut'} {exchange.reason}".rstrip()
        milliseconds = exchange.seconds * 1000
        request = f"{exchange.client} {ascii(exchange.method)[1:-1]} {ascii(exchange.target)[1:-1]} {status}"
        click.echo(f"{request} {milliseconds:.1f} ms", err=True)

    def failed(self, message: str) -> None:
        if self._as_json:
            click.echo(json.dumps({"event": "failed", "message": message}), err=True)
        else:
            click.echo(f"forge: {message}", err=True)
