"""Answers GET and HEAD: objects or parts of them by sendfile(2), and folder listings in the format of nginx.

aiohttp's FileResponse does not fit. It opens the path itself and so follows links. It answers 404 when it runs out of
descriptors. When a file cannot be read to its end, it leaves the client waiting for the rest.

`Version`, `is_known` and `wanted_part` implement validators, conditions and single ranges (RFC 9110, sections 13, 14).
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
    """The size and modification time of a file, which distinguish its versions."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, descriptor: int) -> Version:
        """The version of an open file."""
        status = os.fstat(descriptor)
        return cls(status.st_size, status.st_mtime_ns)

    @property
    def tag(self) -> str:
        """The entity tag, without quotes."""
        return f"{self.modified_ns:x}-{self.size:x}"

    @property
    def modified(self) -> int:
        """The modification time in whole seconds, the resolution of HTTP headers."""
        return self.modified_ns // 1_000_000_000

    def headers(self) -> dict[str, str]:
        """The headers with the version's validators."""
        return {"ETag": f'"{self.tag}"', "Last-Modified": formatdate(self.modified, usegmt=True)}


def is_known(request: web.BaseRequest, version: Version) -> bool:
    """Whether the client has this version (304); raises RequestRefused (412) if the client's condition fails."""
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
    """The requested part, or None for the whole file; raises RequestRefused (416) if no such part exists.

    Several ranges, other units and malformed ranges are ignored, as RFC 9110 allows or requires.
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
        raise RequestRefused(
            416, "range", "the range is outside the file", {"Content-Range": f"bytes */{version.size}"}
        )
    return Span(start, length)


def _matches(tags: tuple[ETag, ...], version: Version, *, weak: bool) -> bool:
    return any(tag.value == "*" or (tag.value == version.tag and (weak or not tag.is_weak)) for tag in tags)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def _unmet() -> RequestRefused:
    return RequestRefused(412, "precondition", "the object has changed")


COMMON_HEADERS: Mapping[str, str] = MappingProxyType({"Server": "mmojo-forge", "X-Content-Type-Options": "nosniff"})
_PLAIN = "application/octet-stream"
_JSON = "application/json"


class Sender:
    """Sends objects and listings of a folder, and gives up clients that read too slowly."""

    def __init__(self, folder: ServedFolder, threads: Threads, limits: ServerLimits, metrics: Metrics) -> None:
        self._folder = folder
        self._threads = threads
        self._limits = limits
        self._metrics = metrics

    async def send_object(self, request: web.BaseRequest, wanted: CacheObject) -> web.StreamResponse:
        """Answer with the object; raises RequestRefused if it does not exist, Hopeless if the answer was aborted."""
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
        """Answer with a folder's entries; raises RequestRefused if the folder does not exist."""
        listed = await self._threads.run(self._folder.entries, path) if folder_at(path) else None
        if listed is None:
            raise missing(f"{path}/")
        return await self.send(request, web.Response(body=_listing(listed), content_type=_JSON))

    async def send(self, request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
        """Send an answer whose body is in memory."""
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
        except RuntimeError as error:  # The transport began to close meanwhile.
            raise Hopeless from error
        self._metrics.sent += sent
        if sent != part.length:  # The file was truncated meanwhile, and the client waits for the rest.
            raise Hopeless

    def _in_time(self, request: web.BaseRequest, size: int) -> _InTime:
        return _InTime(request, ClientPace(self._limits).whole(size))


class _InTime:
    """Limits the time of an answer. Once an answer has begun, any failure can only abort the connection."""

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
    """The refusal for an object that does not exist."""
    return RequestRefused(404, "not-found", f"{path} does not exist")


def _head(version: Version, part: Span | None) -> web.StreamResponse:
    headers = {**COMMON_HEADERS, "Content-Type": _PLAIN, "Accept-Ranges": "bytes", **version.headers()}
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{version.size}"
    response = web.StreamResponse(status=206 if part else 200, headers=headers)
    response.content_length = part.length if part else version.size
    return response


def _listing(listed: Sequence[Listed]) -> bytes:
    """The listing in the format of nginx's `autoindex_format json`."""
    rows = []
    for entry in listed:
        row = {"name": entry.name, "mtime": formatdate(entry.modified, usegmt=True)}
        rows.append({**row, "type": "directory"} if entry.is_folder else {**row, "type": "file", "size": entry.size})
    return json.dumps(rows, separators=(",", ":")).encode()
