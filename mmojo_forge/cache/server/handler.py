"""Turns a request into an answer: it routes, checks access, and maps every failure to a status.

/health  /metrics    GET, HEAD
/<object>            GET, HEAD, PUT, DELETE       (objects.py)
/<folder>/           GET, HEAD
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
from types import MappingProxyType

from aiohttp import web

from mmojo_forge.cache.server.failure import Hopeless, RequestRefused
from mmojo_forge.cache.server.folder import ServedFolder, Threads
from mmojo_forge.cache.server.metrics import CONTENT_TYPE, Exchange, Metrics, ServerReporter
from mmojo_forge.cache.server.objects import object_at
from mmojo_forge.cache.server.receiving import UploadReceiver
from mmojo_forge.cache.server.sending import Sender, missing
from mmojo_forge.cache.server.tokens import Access

_READING = frozenset({"GET", "HEAD"})
_WRITING = frozenset({"PUT", "DELETE"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CROWDED = frozenset({errno.EMFILE, errno.ENFILE})
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_RETRY = MappingProxyType({"Retry-After": "2"})


class Handler:
    """Answers every request. It raises nothing except a cancellation."""

    def __init__(
        self,
        folder: ServedFolder,
        sender: Sender,
        receiver: UploadReceiver | None,
        access: Access,
        threads: Threads,
        metrics: Metrics,
        reporter: ServerReporter,
    ) -> None:
        self._folder = folder
        self._sender = sender
        self._receiver = receiver
        self._access = access
        self._threads = threads
        self._metrics = metrics
        self._reporter = reporter

    async def answer(self, request: web.BaseRequest, *, crowded: bool) -> web.StreamResponse:
        """The answer to the request, which is 503 on a `crowded` connection."""
        began = asyncio.get_running_loop().time()
        status, reason = 0, ""
        response: web.StreamResponse = web.Response()
        try:
            try:
                if crowded:
                    raise RequestRefused(503, "crowded", "too many connections", _RETRY)
                response = await self._answer(request)
            except (OSError, RequestRefused) as error:
                refusal = error if isinstance(error, RequestRefused) else self._failure(request, error)
                reason = refusal.reason
                response = await self._refuse(request, refusal)
            status = response.status
        except (Hopeless, ConnectionError) as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and not isinstance(cause, ConnectionError | TimeoutError):
                self._tell(request, cause)
            response.force_close()
            if request.transport is not None:
                request.transport.abort()
        self._metrics.answered(request.method, str(status) if status else "cut")
        seconds = asyncio.get_running_loop().time() - began
        client = request.remote or ""
        self._reporter.answered(Exchange(client, request.method, request.raw_path, status, seconds, reason))
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        method = request.method
        path = _ABSOLUTE.sub("", request.raw_path, count=1).removeprefix("/")
        if method not in _READING | _WRITING:
            raise RequestRefused(405, "method", f"the method {method} is not supported", {"Allow": self._allowed()})
        if path == "health" and method in _READING:
            return await self._sender.send(request, await self._health())
        authorization = request.headers.getall("Authorization", [])
        if method in _WRITING:
            return await self._write(request, path, authorization)
        self._access.check_reading(authorization)
        if path == "metrics":
            body = self._metrics.render().encode()
            return await self._sender.send(request, web.Response(body=body, headers={"Content-Type": CONTENT_TYPE}))
        if path.endswith("/"):
            return await self._sender.send_listing(request, path[:-1])
        wanted = object_at(path)
        if wanted is None:
            raise missing("the requested object")
        return await self._sender.send_object(request, wanted)

    async def _write(self, request: web.BaseRequest, path: str, authorization: list[str]) -> web.StreamResponse:
        if self._receiver is None:
            raise RequestRefused(405, "read-only", "this server is read-only", {"Allow": self._allowed()})
        self._access.check_writing(authorization)
        wanted = object_at(path)
        if wanted is None:
            raise missing("the object to write")
        if request.method == "PUT":
            return await self._sender.send(request, await self._receiver.put(request, wanted))
        return await self._sender.send(request, await self._receiver.delete(wanted))

    async def _health(self) -> web.Response:
        if not await self._threads.run(self._folder.is_there):
            raise RequestRefused(503, "folder", "the folder is gone")
        return _document(200, {"schema": 1, "status": "ok", "writable": self._receiver is not None})

    async def _refuse(self, request: web.BaseRequest, refusal: RequestRefused) -> web.StreamResponse:
        if request.method in _WRITING:
            self._metrics.refused_write(refusal.reason)
        document = {"error": {"reason": refusal.reason, "message": refusal.message}}
        response = _document(refusal.status, document)
        response.headers.update(refusal.headers)
        if refusal.status in {408, 503}:
            response.force_close()
        await self._sender.send(request, response)
        if refusal.status == 408:
            # Do not wait for the rest of a body that arrives too slowly.
            request.protocol.force_close()
        return response

    def _failure(self, request: web.BaseRequest, error: OSError) -> RequestRefused:
        """The refusal for an OSError; raises the error itself if it means that the client is gone."""
        if isinstance(error, ConnectionError):
            raise error
        self._tell(request, error)
        if error.errno in _FULL:
            return RequestRefused(507, "full", "no space left")
        if error.errno in _CROWDED:
            return RequestRefused(503, "crowded", "too many open files", _RETRY)
        return RequestRefused(500, "io", "the folder cannot be read or written")

    def _tell(self, request: web.BaseRequest, error: OSError) -> None:
        self._reporter.failed(f"{request.method} {request.raw_path!r}: {error.strerror or error}")

    def _allowed(self) -> str:
        return ", ".join(["GET", "HEAD", *(["PUT", "DELETE"] if self._access.writable else [])])


def _document(status: int, document: object) -> web.Response:
    body = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    return web.Response(status=status, body=body, content_type="application/json")
