"""Stores a cache's files with Bazel's HTTP cache protocol, on bazel-remote or any server that accepts PUT.

An object at path P is an action result, as Bazel calls it, with one output file:

    /ac/<SHA-256 of "mmojo-forge cache 1\\n" + P>   {"outputFiles":[{"digest":{"hash":H,"sizeBytes":"N"},"path":P}]}
    /cas/<H>                                       the content, whose SHA-256 is H

bazel-remote validates action results and rejects anything else, so forge writes results that Bazel could read. They
are JSON, which bazel-remote accepts and returns when the headers name it. Such a server evicts results and blobs
independently (bazelbuild/bazel#8250), so an object exists only if both do. It cannot list. forge trusts nothing that
it returns, since signatures and hashes verify the content. Whole blobs are also compared with H, which tells a
damaged blob from a false claim.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256

from mmojo_forge.cache.failure import CacheError, CacheFault, lying, missing
from mmojo_forge.cache.transport.client import WebClient
from mmojo_forge.cache.transport.protocol import Body, Listed, Span, check_path, read_body
from mmojo_forge.net.settings import HttpSettings

SCHEME = "bazel+"
_NAMESPACE = b"mmojo-forge cache 1\n"
_JSON = "application/json"
_MAX_RESULT = 64 << 10
# The most action results kept in memory.
_REMEMBERED = 10_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Blob:
    """The output file of an action result."""

    sha256: str
    size: int

    @property
    def path(self) -> str:
        return f"cas/{self.sha256}"


class BazelTransport:
    """A transport to a Bazel cache. The http or https URL may begin with `bazel+`."""

    def __init__(self, url: str, settings: HttpSettings | None = None) -> None:
        self._client = WebClient(url.removeprefix(SCHEME), settings, kind=SCHEME)
        self._known: dict[str, _Blob] = {}
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """The URL, without user and password."""
        return self._client.place

    @contextmanager
    def open(self, path: str, span: Span | None = None) -> Iterator[Body]:
        """The blob that the path's result names, or a part of it."""
        # Only packs are read in parts. They never change and have many parts, so one request for the result will do.
        blob = (self._known.get(path) if span else None) or self._find(path)
        if blob is None:
            raise missing(self.place, path)
        with ExitStack() as stack:
            try:
                body = stack.enter_context(self._client.get(blob.path, span))
            except CacheError as error:
                self._forget(path)
                if error.fault is CacheFault.MISSING:
                    raise missing(self.place, path) from error
                raise
            yield body if span else _Checked(body, blob, self.place, path)

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        """Write the blob, then the result. The protocol has no conditional PUT, so `if_absent` looks first."""
        if if_absent and self.size(path) is not None:
            return False
        result = _result_path(path)
        blob = _Blob(sha256(content).hexdigest(), len(content))
        self._forget(path)
        self._client.put(blob.path, content)
        self._client.put(result, _encode(path, blob), content_type=_JSON)
        return True

    def size(self, path: str) -> int | None:
        """The object's size, or None unless both its result and its blob exist."""
        blob = self._find(path)
        if blob is None:
            return None
        found = self._client.size(blob.path)
        # Some servers omit the length in an answer to HEAD; the result has it too.
        return found if found is None else found or blob.size

    def entries(self, folder: str) -> list[Listed]:
        """Always raises CacheError (`cache-no-listing`)."""
        message = f"list {check_path(folder)} in {self.place}: Bazel's protocol cannot list"
        raise CacheError(message, reason="cache-no-listing", fault=CacheFault.REFUSING)

    def delete(self, path: str) -> None:
        """Remove the result. The server evicts the blob, which another path may share."""
        result = _result_path(path)
        self._forget(path)
        self._client.delete(result)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _find(self, path: str) -> _Blob | None:
        try:
            with self._client.get(_result_path(path), accept=_JSON) as body:
                encoded = read_body(body, self.place, path, _MAX_RESULT)
        except CacheError as error:
            if error.fault is CacheFault.MISSING:
                return None
            raise
        try:
            blob = _parse(encoded, path)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise lying(self.place, path, f"malformed action result: {error!r}"[:300], "cache-malformed") from error
        with self._lock:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[path] = blob
        return blob

    def _forget(self, path: str) -> None:
        with self._lock:
            self._known.pop(path, None)


class _Checked:
    """A whole blob whose SHA-256 is checked at its end."""

    def __init__(self, body: Body, blob: _Blob, place: str, path: str) -> None:
        self._body = body
        self._blob = blob
        self._place = place
        self._path = path
        self._hasher = sha256()

    def read(self, count: int, /) -> bytes:
        """The next bytes."""
        part = self._body.read(count)
        self._hasher.update(part)
        if count and not part and self._hasher.hexdigest() != self._blob.sha256:
            raise lying(
                self._place, self._path, "the blob does not have the SHA-256 that its result names", "blob-mismatch"
            )
        return part


def _result_path(path: str) -> str:
    return f"ac/{sha256(_NAMESPACE + check_path(path).encode()).hexdigest()}"


def _encode(path: str, blob: _Blob) -> bytes:
    """An ActionResult in the JSON of protocol buffers, where 64-bit numbers are strings."""
    digest = {"hash": blob.sha256, "sizeBytes": str(blob.size)}
    document = {"outputFiles": [{"path": path, "digest": digest}]}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _parse(encoded: bytes, path: str) -> _Blob:
    """The blob that a result names for this path; raises ValueError, KeyError, TypeError or AttributeError."""
    (file,) = json.loads(encoded)["outputFiles"]
    # The JSON of protocol buffers omits fields that are zero.
    name, size = file["digest"]["hash"], int(file["digest"].get("sizeBytes", 0))
    if file["path"] != path or not _SHA256.fullmatch(name) or size < 0:
        raise ValueError("it names another file, or no valid digest")
    return _Blob(name, size)
