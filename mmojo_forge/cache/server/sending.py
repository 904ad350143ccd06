"""Answering GET and HEAD: objects by sendfile(2), whole or in part, and folders as nginx lists them.

aiohttp's own FileResponse is not used: it opens its path itself and so follows links, answers 404 when it runs out of
descriptors, and when a file cannot be read to its end it leaves the client waiting for the rest.

Which part of an object is wanted (RFC 9110, sections 13 and 14): validators, conditions, single ranges.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import formatdate
from types import MappingProxyType
from typing import BinaryIO

from aiohttp import ETag, web

from mmojo_forge.cache.server.failure import Hopeless, RequestRefused
from mmojo_forge.cache.server.folder import ServedFolder, Threads
from mmojo_forge.cache.server.limits import ClientPace, ServerLimits
from mmojo_forge.cache.server.metrics import Metrics
from mmojo_forge.cache.server.objects import CacheObject, folder_at
from mmojo_forge.cache.transport.protocol import Listed, Span

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a file: what tells it from earlier and later ones."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, descriptor: int) -> Version:
        """That of an open file."""
        status = os.fstat(descriptor)
        return cls(status.st_size, status.st_mtime_ns)

    @property
    def tag(self) -> str:
        """The entity tag, without quotes."""
        return f"{self.modified_ns:x}-{self.size:x}"

    @property
    def modified(self) -> int:
        """When it was made, in whole seconds, as headers have it."""
        return self.modified_ns // 1_000_000_000

    def headers(self) -> dict[str, str]:
        """The headers that tell it."""
        return {"ETag": f'"{self.tag}"', "Last-Modified": formatdate(self.modified, usegmt=True)}


def is_known(request: web.BaseRequest, version: Version) -> bool:
    """Whether the client has this version (304); raises Refusal (412) where it wants only another one."""
    if request.if_match is not None:
        if not _matches(request.if_match, version, weak=False):
            raise _unmet()
    elif request.if_unmodified_since is not None and version.modified > _seconds(request.if_unmodified_since):
        raise _unmet()
    if request.if_none_match is not None:
        return _matches(request.if_none_match, version, weak=True)
    since = request.if_modified_since
    return since is not None and version.modified <= _seconds(since)


def wanted_part(request: web.BaseRequest, version: Version) -> Span | None:
    """The part that is asked for, None for the whole; raises Refusal (416) where no such part exists.

    Several ranges, other units and nonsense are passed over, as they may or must be.
    """
    header = request.headers.get("Range", "") if request.method == "GET" else ""
    condition = request.headers.get("If-Range")
    if condition is not None and condition not in version.headers().values():
        return None
    found = _RANGE.fullmatch(header.strip())
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        length = min(int(suffix), version.size)
        start = version.size - length
    else:
        start = int(first)
        end = min(int(last), version.size - 1) if last is not None else version.size - 1
        if last is not None and int(last) < start:
            return None
        length = end - start + 1
    if length <= 0:
        raise RequestRefused(416, "range", "no such range", {"Content-Range": f"bytes */{version.size}"})
    return Span(start, length)


def _matches(tags: tuple[ETag, ...], version: Version, *, weak: bool) -> bool:
    return any(tag.value == "*" or (tag.value == version.tag and (weak or not tag.is_weak)) for tag in tags)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def _unmet() -> RequestRefused:
    return RequestRefused(412, "precondition", "it is another one by now")


COMMON_HEADERS: Mapping[str, str] = MappingProxyType({"Server": "mmojo-forge", "X-Content-Type-Options": "nosniff"})
_PLAIN = "application/octet-stream"
_JSON = "application/json"


class Sender:
    """Sends what is in a folder; gives up clients that take it too slowly."""

    def __init__(self, folder: ServedFolder, threads: Threads, limits: ServerLimits, metrics: Metrics) -> None:
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
        return _InTime(request, ClientPace(self._limits).whole(size))


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


def missing(path: str) -> RequestRefused:
    """The refusal for what is not there."""
    return RequestRefused(404, "not-found", f"{path} is not there")


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
