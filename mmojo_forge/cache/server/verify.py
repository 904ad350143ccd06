"""Verifies that an uploaded object matches its name. It needs no trust in the client.

    packs/…      BLAKE3 of the bytes, as they arrive       cas/…    SHA-256 of the bytes, as they arrive
    trees/…      one Zstandard frame, BLAKE3 of its content    maps/… index/…   one complete Zstandard frame
    traces/…     the key matches the preimage, and the signer in the name has a valid signature
    names/…      the tree id       cache-info.json   a client can parse it
    ac/…         anything, and so for the marks of collections

Clients decide which signers to trust. A map or an index can still contain false statements, which lead to a miss
(cache/README.md, "What is not promised").
"""

from __future__ import annotations

import hashlib
import json
from typing import BinaryIO, Protocol

import zstandard
from blake3 import blake3

from mmojo_forge.cache.failure import CacheError, lying
from mmojo_forge.cache.format import chunks, layout
from mmojo_forge.cache.format.index import TraceChecker
from mmojo_forge.cache.format.info import read_info
from mmojo_forge.cache.server.failure import RequestRefused
from mmojo_forge.cache.server.objects import CacheObject, ObjectKind
from mmojo_forge.cache.transport.fakes import MemoryTransport
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.digest import ActionKey
from mmojo_forge.model.signature import PublicKey

_PLACE = "the upload"
_HEADER = 18
"""The longest header of a Zstandard frame (RFC 8878, 3.1.1.1) and its magic number."""
_WINDOW = 8 << 20
"""The largest window for unpacking, which limits memory. It is larger than the windows of forge's writer."""
_BLOCK = 1 << 20


class _Hash(Protocol):
    def update(self, data: bytes, /) -> object:
        """Hash more bytes."""

    def hexdigest(self) -> str:
        """The digest in hexadecimal."""


class Verifier:
    """Verifies one object: it hashes while the object arrives, and checks the rest at the end."""

    def __init__(self, wanted: CacheObject) -> None:
        self._wanted = wanted
        self._hash: _Hash | None = None
        if wanted.kind is ObjectKind.PACKS:
            self._hash = blake3()
        elif wanted.kind is ObjectKind.BLOBS:
            self._hash = hashlib.sha256()

    def update(self, block: bytes) -> None:
        """Hash the next bytes of the object."""
        if self._hash is not None:
            self._hash.update(block)

    def verify(self, file: BinaryIO) -> None:
        """Raise RequestRefused (422) unless the complete file matches its name."""
        try:
            self._verify(file)
        except CacheError as error:
            raise RequestRefused(422, error.reason, error.message) from error

    def _verify(self, file: BinaryIO) -> None:
        wanted = self._wanted
        match wanted.kind:
            case ObjectKind.PACKS | ObjectKind.BLOBS:
                if self._hash is not None and self._hash.hexdigest() != wanted.digest:
                    raise self._other("pack-mismatch" if wanted.kind is ObjectKind.PACKS else "blob-mismatch")
            case ObjectKind.TREES:
                if self._unpack(file, layout.MAX_MANIFEST) != wanted.digest:
                    raise self._other("manifest-mismatch")
            case ObjectKind.MAPS:
                self._unpack(file, layout.MAX_MANIFEST)
            case ObjectKind.INDEX:
                self._unpack(file, layout.MAX_INDEX)
            case ObjectKind.NAMES:
                if file.read() != wanted.digest.encode():
                    raise self._other("name-mismatch")
            case ObjectKind.TRACES:
                self._check_trace(file.read())
            case ObjectKind.INFO:
                transport = MemoryTransport()
                transport.put(layout.INFO, file.read())
                read_info(transport)
            case ObjectKind.RESULTS | ObjectKind.MARK | ObjectKind.UNNAMED:
                pass

    def _unpack(self, file: BinaryIO, most: int) -> str:
        """The BLAKE3 of the single frame's content; raises CacheError if the frame is damaged or its size is wrong."""
        path = self._wanted.path
        size = chunks.content_size(file.read(_HEADER), _PLACE, path)
        if size > most:
            raise lying(_PLACE, path, f"unpacks to more than {most:,} bytes", "cache-too-large")
        file.seek(0)
        digest, got = blake3(), 0
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        try:
            # `read_across_frames` reads on after the frame, so that trailing data is an error.
            with decompressor.stream_reader(file, read_across_frames=True, closefd=False) as content:
                while block := content.read(min(_BLOCK, size - got + 1)):
                    digest.update(block)
                    got += len(block)
        except zstandard.ZstdError as error:
            raise lying(_PLACE, path, f"damaged: {error}", "cache-frame") from error
        if got != size:
            raise lying(_PLACE, path, f"a frame does not hold {size:,} bytes", "cache-frame")
        return digest.hexdigest()

    def _check_trace(self, content: bytes) -> None:
        path = self._wanted.path
        try:
            signers = [PublicKey.parse(str(row["key"])) for row in json.loads(content)["signatures"]]
        except (ValueError, KeyError, TypeError, RecursionError, ForgeError) as error:
            raise lying(_PLACE, path, f"malformed trace entry: {error!r}"[:300], "trace-malformed") from error
        # The server trusts no particular key: it checks the signatures of the signers that the entry names.
        TraceChecker(tuple(signers), _PLACE).parse(content, path, ActionKey(self._wanted.digest), self._wanted.signer)

    def _other(self, reason: str) -> RequestRefused:
        return RequestRefused(422, reason, f"write {self._wanted.path}: the content does not match the name")
