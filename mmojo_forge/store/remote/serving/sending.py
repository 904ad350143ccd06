"""Answering GET and HEAD: objects by sendfile(2), whole or in part, and folders as nginx lists them.

aiohttp's own FileResponse is not used: it opens its path itself and so follows links, answers 404 when it runs out of
descriptors, and when a file cannot be read to its end it leaves the client waiting for the rest.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from types import MappingProxyType
from typing import BinaryIO

from aiohttp import web

from mmojo_forge.store.remote.serving.failure import Hopeless, Refusal
from mmojo_forge.store.remote.serving.folder import ServedFolder
from mmojo_forge.store.remote.serving.limits import Limits
from mmojo_forge.store.remote.serving.metrics import Metrics
from mmojo_forge.store.remote.serving.objects import CacheObject, folder_at
from mmojo_forge.store.remote.serving.pace import Pace
from mmojo_forge.store.remote.serving.ranges import Version, is_known, wanted_part
from mmojo_forge.store.remote.serving.threads import Threads
from mmojo_forge.store.remote.transport import Listed, Span

COMMON_HEADERS: Mapping[str, str] = MappingProxyType({"Server": "mmojo-forge", "X-Content-Type-Options": "nosniff"})
_PLAIN = "application/octet-stream"
_JSON = "application/json"


class Sender:
    """Sends what is in a folder; gives up clients that take it too slowly."""

    def __init__(self, folder: ServedFolder, threads: Threads, limits: Limits, metrics: Metrics) -> None:
        self._folder = folder
        self._threads = threads
        self._limits = limits
        self._metrics = metrics

    async def send_object(self, request: web.BaseRequest, wanted: CacheObject) -> web.StreamResponse:
        """Answer with the object; raises Refusal where there is none, Hopeless where the answer was cut."""
        descriptor = await self._threads.run(self._folder.open, wanted.stored)
        if descriptor is None and wanted.is_empty_blob:
            descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        if descriptor is None:
            raise missing(wanted.path)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            version = Version.of(descriptor)
            if is_known(request, version):
                return await self.send(request, web.Response(status=304, headers=version.headers()))
            part = wanted_part(request, version)
            response = _head(version, part)
            async with self._in_time(request, part.length if part else version.size):
                await response.prepare(request)
                if request.method == "GET":
                    await self._send_file(request, file, part or Span(0, version.size))
                await response.write_eof()
            return response

    async def send_listing(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Answer with what lies in a folder; raises Refusal where there is none."""
        listed = await self._threads.run(self._folder.entries, path) if folder_at(path) else None
        if listed is None:
            raise missing(f"{path}/")
        return await self.send(request, web.Response(body=_listing(listed), content_type=_JSON))

    async def send(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        """Send an answer that is in memory."""
        response.headers.update(COMMON_HEADERS)
        size = len(response.body) if isinstance(response.body, bytes) else 0
        async with self._in_time(request, size):
            await response.prepare(request)
            await response.write_eof()
        if request.method != "HEAD":
            self._metrics.sent += size
        return response

    async def _send_file(self, request: web.BaseRequest, file: BinaryIO, part: Span) -> None:
        transport = request.transport
        if part.length == 0:
            return
        if transport is None or transport.is_closing():
            raise Hopeless
        try:
            sent = await asyncio.get_running_loop().sendfile(transport, file, part.start, part.length)
        except RuntimeError as error:  # the transport began to close since
            raise Hopeless from error
        self._metrics.sent += sent
        if sent != part.length:  # somebody has cut the file meanwhile, and the client waits for the rest
            raise Hopeless

    def _in_time(self, request: web.BaseRequest, size: int) -> _InTime:
        return _InTime(request, Pace(self._limits).whole(size))


class _InTime:
    """Sends within a time. Once an answer has begun, every failure means that the connection is cut."""

    def __init__(self, request: web.BaseRequest, timeout: asyncio.Timeout) -> None:
        self._request = request
        self._timeout = timeout

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            await self._timeout.__aexit__(kind, error, None)
        except TimeoutError as slow:
            self._cut()
            raise Hopeless from slow
        if isinstance(error, OSError | Hopeless):
            self._cut()
            raise Hopeless from error

    def _cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


def missing(path: str) -> Refusal:
    """The refusal for what is not there."""
    return Refusal(404, "not-found", f"{path} is not there")


def _head(version: Version, part: Span | None) -> web.StreamResponse:
    headers = {**COMMON_HEADERS, "Content-Type": _PLAIN, "Accept-Ranges": "bytes", **version.headers()}
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{version.size}"
    response = web.StreamResponse(status=206 if part else 200, headers=headers)
    response.content_length = part.length if part else version.size
    return response


def _listing(listed: Sequence[Listed]) -> bytes:
    """As nginx's `autoindex_format json`."""
    rows = []
    for one in listed:
        row = {"name": one.name, "mtime": formatdate(one.modified, usegmt=True)}
        rows.append({**row, "type": "directory"} if one.is_folder else {**row, "type": "file", "size": one.size})
    return json.dumps(rows, separators=(",", ":")).encode()
