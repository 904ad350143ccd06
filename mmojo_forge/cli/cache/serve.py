"""`forge cache serve FOLDER`: a cache's folder over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmojo_forge.cache.server.limits import Limits
from mmojo_forge.cache.server.metrics import Exchange, Reporter
from mmojo_forge.cache.server.tokens import Access, Tokens
from mmojo_forge.cli.context import Context
from mmojo_forge.cli.options import Size
from mmojo_forge.extras import require_extra

if TYPE_CHECKING:
    from mmojo_forge.cache.server.server import CacheServer

_PATH = click.Path(path_type=Path)


@click.command("serve")
@click.argument("folder", type=_PATH)
@click.option("--listen", default="127.0.0.1:8484", show_default=True, metavar="HOST:PORT", help="Port 0: a free one.")
@click.option("--token-file", type=_PATH, help="Tokens, one per line, that allow to write; without it nobody may.")
@click.option("--read-token-file", type=_PATH, help="Tokens that allow to read; without it everybody may.")
@click.option("--tls-cert", type=_PATH, metavar="FILE.pem", help="Speak TLS, with this certificate and its chain.")
@click.option("--tls-key", type=_PATH, metavar="FILE.pem", help="The certificate's key.")
@click.option("--tls-client-ca", type=_PATH, metavar="FILE.pem", help="Only clients with a certificate by these.")
@click.option("--plain", is_flag=True, help="Let other machines reach it without TLS.")
@click.option("--max-size", type=Size(), help="What the cache may have in all; a write beyond is refused.")
@click.option(
    "--connections", type=click.IntRange(1, 100_000), default=1024, show_default=True, help="At once; more are refused."
)
@click.option("--verbose", is_flag=True, help="A line on stderr for each request.")
@click.option("--json", "as_json", is_flag=True, help="The address as a JSON object; requests too.")
@click.pass_obj
def serve(
    context: Context,
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
    """Serve the cache in FOLDER over HTTP, to this machine unless told otherwise.

    Prints its URL when it can be reached, and serves until it is interrupted. Bazel and ccache can use it, too.
    """
    if (tls_cert is None) != (tls_key is None) or (tls_client_ca and not tls_cert):
        raise click.UsageError("Give --tls-cert and --tls-key together, and --tls-client-ca only with them.")
    require_extra("serve")
    # aiohttp, which only this command needs.
    from mmojo_forge.cache.server.server import Address, CacheServer, ServerSettings, TlsFiles

    here = context.folder
    settings = ServerSettings(
        Address.parse(listen),
        Access(
            Tokens.read(here / token_file) if token_file else None,
            Tokens.read(here / read_token_file) if read_token_file else None,
        ),
        TlsFiles(here / tls_cert, here / tls_key, here / tls_client_ca if tls_client_ca else None)
        if tls_cert and tls_key
        else None,
        plain,
        max_size,
        _raise_descriptors(replace(Limits(), connections=connections)),
    )
    reporter = _Log(verbose=verbose, as_json=as_json)
    asyncio.run(_serve(CacheServer(here / folder, settings, reporter), as_json=as_json))


async def _serve(server: CacheServer, *, as_json: bool) -> None:
    stopped = asyncio.Event()
    async with server:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        print(json.dumps({"schema": 1, "url": server.url, "pid": os.getpid()}) if as_json else server.url, flush=True)
        await stopped.wait()


def _raise_descriptors(limits: Limits) -> Limits:
    """Let the process open as many files as the limits need; fewer connections where the system allows no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    needed = limits.descriptors
    if soft == unlimited or soft >= needed:
        return limits
    allowed = needed if hard == unlimited else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    fewer = limits.connections - (needed - allowed + 1) // 2
    if fewer < limits.connections:
        click.echo(f"forge: {max(1, fewer)} connections: the system allows {allowed} open files", err=True)
    return replace(limits, connections=max(1, fewer))


class _Log(Reporter):
    """Failures on stderr, and with `verbose` every request. What a client wrote is escaped."""

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
            print(json.dumps(event), file=sys.stderr, flush=True)
            return
        status = f"{exchange.status or 'cut'} {exchange.reason}".rstrip()
        milliseconds = exchange.seconds * 1000
        told = f"{exchange.client} {ascii(exchange.method)[1:-1]} {ascii(exchange.target)[1:-1]} {status}"
        print(f"{told} {milliseconds:.1f} ms", file=sys.stderr, flush=True)

    def failed(self, message: str) -> None:
        if self._as_json:
            print(json.dumps({"event": "failed", "message": message}), file=sys.stderr, flush=True)
        else:
            click.echo(f"forge: {message}", err=True)
