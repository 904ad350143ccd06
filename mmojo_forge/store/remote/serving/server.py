"""A running server: everything put together, and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from mmojo_forge.store.remote.serving.address import Address, listen
from mmojo_forge.store.remote.serving.connection import Listener
from mmojo_forge.store.remote.serving.failure import ServeError
from mmojo_forge.store.remote.serving.folder import ServedFolder
from mmojo_forge.store.remote.serving.handler import Handler
from mmojo_forge.store.remote.serving.incoming import Incoming
from mmojo_forge.store.remote.serving.limits import Limits
from mmojo_forge.store.remote.serving.metrics import Metrics
from mmojo_forge.store.remote.serving.receiving import Receiver
from mmojo_forge.store.remote.serving.reporter import Reporter
from mmojo_forge.store.remote.serving.sending import Sender
from mmojo_forge.store.remote.serving.threads import Threads
from mmojo_forge.store.remote.serving.tls import TlsFiles
from mmojo_forge.store.remote.serving.tokens import Access
from mmojo_forge.store.remote.serving.upload import Quota


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a folder is served. `plain` allows other addresses than this machine's without TLS; `most_bytes` is what
    the cache may have in all."""

    address: Address = field(default_factory=lambda: Address("127.0.0.1", 0))
    access: Access = field(default_factory=Access)
    tls: TlsFiles | None = None
    plain: bool = False
    most_bytes: int | None = None
    limits: Limits = field(default_factory=Limits)


class CacheServer:
    """Serves a folder while its context lasts (`async with`); raises ServeError where it cannot begin to."""

    def __init__(self, folder: Path, settings: ServerSettings | None = None, reporter: Reporter | None = None) -> None:
        self._path = folder
        self._settings = settings or ServerSettings()
        self._reporter = reporter or Reporter()
        self._stack = contextlib.AsyncExitStack()
        self._address = self._settings.address

    @property
    def url(self) -> str:
        """Where it is, once it is there."""
        return f"{'https' if self._settings.tls else 'http'}://{self._address}"

    async def __aenter__(self) -> Self:
        """Listen, and accept."""
        async with contextlib.AsyncExitStack() as stack:
            settings = self._settings
            context = settings.tls.context() if settings.tls else None
            listener, self._address = listen(settings.address, guarded=settings.plain or context is not None)
            stack.callback(listener.close)
            metrics = Metrics(time.time())
            handler = await self._make_handler(stack, metrics)
            accepting = Listener(listener, context, handler, settings.limits, metrics)
            stack.push_async_callback(accepting.close)
            stack.push_async_callback(_stop, asyncio.create_task(accepting.run()))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let answers end for a while, cut the rest, leave nothing unfinished."""
        await self._stack.aclose()

    async def _make_handler(self, stack: contextlib.AsyncExitStack, metrics: Metrics) -> Handler:
        settings = self._settings
        folder = ServedFolder(self._path, make=settings.access.writable)
        stack.callback(folder.close)
        threads = Threads(settings.limits.threads)
        stack.callback(threads.close)
        receiver = None
        if settings.access.writable:
            incoming = self._open_incoming(folder)
            stack.callback(incoming.close)
            used = await threads.run(folder.total) if settings.most_bytes is not None else 0
            quota = Quota(settings.most_bytes, used)
            receiver = Receiver(folder, incoming, quota, threads, settings.limits, metrics)
        sender = Sender(folder, threads, settings.limits, metrics)
        return Handler(folder, sender, receiver, settings.access, threads, metrics, self._reporter)

    def _open_incoming(self, folder: ServedFolder) -> Incoming:
        try:
            return Incoming(folder.descriptor)
        except OSError as error:
            raise ServeError(
                f"write to {self._path}: {error.strerror or error}",
                detail="Serve it without --token-file, only to read, or give it a folder that can be written.",
                reason="serve-folder",
            ) from error


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
