"""Answering PUT and DELETE: bodies go to the disk as they come, within limits, and get their names when verified."""

from __future__ import annotations

from aiohttp import HttpVersion11, web

from mmojo_forge.store.remote.serving.failure import Refusal
from mmojo_forge.store.remote.serving.folder import ServedFolder
from mmojo_forge.store.remote.serving.incoming import Incoming
from mmojo_forge.store.remote.serving.limits import Limits
from mmojo_forge.store.remote.serving.metrics import Metrics
from mmojo_forge.store.remote.serving.objects import CacheObject
from mmojo_forge.store.remote.serving.pace import Pace
from mmojo_forge.store.remote.serving.sending import missing
from mmojo_forge.store.remote.serving.threads import Threads
from mmojo_forge.store.remote.serving.upload import Quota, Upload

_CREATED, _REPLACED, _REMOVED = 201, 204, 204


class Receiver:
    """Takes what is written to a folder."""

    def __init__(
        self, folder: ServedFolder, incoming: Incoming, quota: Quota, threads: Threads, limits: Limits, metrics: Metrics
    ) -> None:
        self._folder = folder
        self._incoming = incoming
        self._quota = quota
        self._threads = threads
        self._limits = limits
        self._metrics = metrics

    async def put(self, request: web.BaseRequest, wanted: CacheObject) -> web.Response:
        """Write the object; raises Refusal, also where somebody else was first and it must not be replaced."""
        if_absent = _only_if_absent(request)
        replace = wanted.replaceable and not if_absent
        _check_body(request, wanted)
        if not replace and await self._threads.run(self._folder.size, wanted.stored) is not None:
            raise _taken(wanted, if_absent)
        await _ask_to_go_on(request)
        with await self._threads.run(Upload, self._folder, self._incoming, wanted) as upload:
            taken = 0
            try:
                pace = Pace(self._limits)
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
        """Remove the object; raises Refusal where there is none."""
        before = await self._threads.run(self._folder.remove, wanted.stored)
        if before is None:
            raise missing(wanted.path)
        self._quota.give(before)
        self._metrics.deleted += 1
        return web.Response(status=_REMOVED)

    async def _next(self, request: web.BaseRequest, pace: Pace, so_far: int) -> bytes:
        try:
            async with pace.next_part(so_far):
                block = await request.content.readany()
        except TimeoutError as error:
            raise Refusal(408, "too-slow", f"the body came too slowly: {so_far:,} bytes") from error
        except web.RequestPayloadError as error:
            raise Refusal(400, "bad-request", f"the body is malformed: {error}") from error
        self._metrics.received += len(block)
        return block


def _only_if_absent(request: web.BaseRequest) -> bool:
    """Whether nothing may be replaced; raises Refusal for conditions that are not known, and must not be ignored."""
    known = request.headers.get("If-None-Match", "*").strip() == "*"
    if not known or "If-Match" in request.headers or "If-Unmodified-Since" in request.headers:
        raise Refusal(412, "precondition", "the only condition for writing is If-None-Match: *")
    return "If-None-Match" in request.headers


def _check_body(request: web.BaseRequest, wanted: CacheObject) -> None:
    if "Content-Range" in request.headers:
        raise Refusal(400, "bad-request", "an object is written whole (RFC 9110, 14.5)")
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise Refusal(415, "encoded", "a body is taken as it is", {"Accept-Encoding": "identity"})
    if (request.content_length or 0) > wanted.most:
        raise _too_large(wanted)


async def _ask_to_go_on(request: web.BaseRequest) -> None:
    """Answer `Expect: 100-continue`, now that nothing is known that speaks against the body."""
    expected = request.headers.get("Expect", "")
    if not expected or request.version != HttpVersion11:
        return
    if expected.lower() != "100-continue":
        raise Refusal(417, "expectation", "the only expectation is 100-continue")
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(wanted: CacheObject) -> Refusal:
    return Refusal(413, "too-large", f"{wanted.path} may have {wanted.most:,} bytes")


def _taken(wanted: CacheObject, if_absent: bool) -> Refusal:
    if if_absent:
        return Refusal(412, "already-there", f"{wanted.path} is there")
    return Refusal(409, "written-once", f"{wanted.path} is there, and nothing of its kind is replaced")
