"""Answers PUT and DELETE.

An upload goes to a hidden file as it arrives, within the limits of size, quota and pace. After verification the file
gets its name; a failed upload leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Self

from aiohttp import HttpVersion11, web

from mmojo_forge.cache.server.failure import RequestRefused
from mmojo_forge.cache.server.folder import Incoming, ServedFolder, Threads
from mmojo_forge.cache.server.limits import ClientPace, ServerLimits
from mmojo_forge.cache.server.metrics import Metrics
from mmojo_forge.cache.server.objects import CacheObject
from mmojo_forge.cache.server.sending import missing
from mmojo_forge.cache.server.verify import Verifier


class Quota:
    """The maximum size of the cache in bytes (unlimited if `most` is None), and the bytes used."""

    def __init__(self, most: int | None, used: int = 0) -> None:
        self._most = most
        self._used = used

    def take(self, count: int) -> None:
        """Reserve bytes; raises RequestRefused (507) if they exceed the quota."""
        if self._most is not None and self._used + count > self._most:
            raise RequestRefused(507, "full", f"the cache is full: {self._used:,} of {self._most:,} bytes are used")
        self._used += count

    def give(self, count: int) -> None:
        """Release bytes."""
        self._used -= count


class Upload:
    """A context manager for one upload. On exit, the object is complete, or the folder is unchanged.

    Its methods block on the disk, and raise OSError. They run in other threads, so they leave the quota to the event
    loop's thread.
    """

    def __init__(self, folder: ServedFolder, incoming: Incoming, wanted: CacheObject) -> None:
        self._folder = folder
        self._incoming = incoming
        self._wanted = wanted
        self._verifier = Verifier(wanted)
        self._name, self._descriptor = incoming.create()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        with contextlib.suppress(OSError):
            self._incoming.remove(self._name)

    def write(self, block: bytes) -> None:
        """Append bytes."""
        self._verifier.update(block)
        view = memoryview(block)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self, *, replace: bool) -> int | None:
        """Verify the upload, give it its name durably, and return the size of the object that it replaced.

        Returns None if the name is taken and `replace` is not set. Raises RequestRefused (422) if verification fails.
        """
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            self._verifier.verify(file)
        os.fsync(self._descriptor)
        return self._folder.publish(self._incoming, self._name, self._wanted.stored, replace=replace)


_CREATED, _REPLACED, _REMOVED = 201, 204, 204


class UploadReceiver:
    """Executes writes to a folder."""

    def __init__(
        self,
        folder: ServedFolder,
        incoming: Incoming,
        quota: Quota,
        threads: Threads,
        limits: ServerLimits,
        metrics: Metrics,
    ) -> None:
        self._folder = folder
        self._incoming = incoming
        self._quota = quota
        self._threads = threads
        self._limits = limits
        self._metrics = metrics

    async def put(self, request: web.BaseRequest, wanted: CacheObject) -> web.Response:
        """Write the object. Raises RequestRefused, also if it exists by now and must not be replaced."""
        if_absent = _only_if_absent(request)
        replace = wanted.replaceable and not if_absent
        _check_body(request, wanted)
        if not replace and await self._threads.run(self._folder.size, wanted.stored) is not None:
            raise _taken(wanted, if_absent)
        await _ask_to_go_on(request)
        with await self._threads.run(Upload, self._folder, self._incoming, wanted) as upload:
            taken = 0
            try:
                pace = ClientPace(self._limits)
                while block := await self._next(request, pace, taken):
                    if taken + len(block) > wanted.most:
                        raise _too_large(wanted)
                    self._quota.take(len(block))
                    taken += len(block)
                    await self._threads.run(upload.write, block)
                before = await self._threads.run(upload.finish, replace=replace)
                if before is None:
                    raise _taken(wanted, if_absent)
            except BaseException:
                self._quota.give(taken)
                raise
        self._quota.give(before)
        self._metrics.wrote(wanted.kind)
        return web.Response(status=_REPLACED if before else _CREATED)

    async def delete(self, wanted: CacheObject) -> web.Response:
        """Remove the object; raises RequestRefused (404) if it does not exist."""
        before = await self._threads.run(self._folder.remove, wanted.stored)
        if before is None:
            raise missing(wanted.path)
        self._quota.give(before)
        self._metrics.deleted += 1
        return web.Response(status=_REMOVED)

    async def _next(self, request: web.BaseRequest, pace: ClientPace, so_far: int) -> bytes:
        try:
            async with pace.next_part(so_far):
                block = await request.content.readany()
        except TimeoutError as error:
            raise RequestRefused(408, "too-slow", f"the body arrived too slowly: {so_far:,} bytes") from error
        except web.RequestPayloadError as error:
            raise RequestRefused(400, "bad-request", f"the body is malformed: {error}") from error
        self._metrics.received += len(block)
        return block


def _only_if_absent(request: web.BaseRequest) -> bool:
    """Whether the client forbids a replacement; raises RequestRefused (412) for any other condition.

    RFC 9110 does not allow a server to ignore a condition that it does not support.
    """
    known = request.headers.get("If-None-Match", "*").strip() == "*"
    if not known or "If-Match" in request.headers or "If-Unmodified-Since" in request.headers:
        raise RequestRefused(412, "precondition", "writes support only the condition If-None-Match: *")
    return "If-None-Match" in request.headers


def _check_body(request: web.BaseRequest, wanted: CacheObject) -> None:
    if "Content-Range" in request.headers:
        raise RequestRefused(400, "bad-request", "partial writes are not supported (RFC 9110, 14.5)")
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise RequestRefused(415, "encoded", "encoded bodies are not supported", {"Accept-Encoding": "identity"})
    if (request.content_length or 0) > wanted.most:
        raise _too_large(wanted)


async def _ask_to_go_on(request: web.BaseRequest) -> None:
    """Answer `Expect: 100-continue`, after all checks that do not need the body."""
    expected = request.headers.get("Expect", "")
    if not expected or request.version != HttpVersion11:
        return
    if expected.lower() != "100-continue":
        raise RequestRefused(417, "expectation", "only the expectation 100-continue is supported")
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(wanted: CacheObject) -> RequestRefused:
    return RequestRefused(413, "too-large", f"{wanted.path} may have at most {wanted.most:,} bytes")


def _taken(wanted: CacheObject, if_absent: bool) -> RequestRefused:
    if if_absent:
        return RequestRefused(412, "already-there", f"{wanted.path} already exists")
    return RequestRefused(409, "written-once", f"{wanted.path} already exists and cannot be replaced")
