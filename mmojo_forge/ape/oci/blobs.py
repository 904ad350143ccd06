"""Where an image's blobs go: an image layout (OCI image-spec, image-layout.md) as a folder, or the same as a tar.

oci-layout               {"imageLayoutVersion":"1.0.0"}
index.json               which image this is, and its tag
blobs/sha256/DIGEST      layers, configurations, manifests, each under the SHA-256 of its bytes
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from mmojo_forge.ape.errors import OciError, OciReason
from mmojo_forge.ape.files.staging import Staging
from mmojo_forge.ape.oci.tar import Bytes, ByteSource, Hashed, TarMember, encode_member, end_of_archive

_BLOBS: Final = "blobs/sha256"
_LAYOUT: Final = Bytes(b'{"imageLayoutVersion":"1.0.0"}')
_INDEX: Final = "index.json"
_MARK: Final = "oci-layout"


class Blobs(Protocol):
    """A layout in the making."""

    def put(self, source: ByteSource) -> str:
        """Adds a blob; its SHA-256."""

    def finish(self, index: bytes) -> None:
        """Ends the layout with its index.json."""


@dataclass(frozen=True, slots=True)
class FolderBlobs:
    """A layout as a folder, which must be empty."""

    folder: Path

    def put(self, source: ByteSource) -> str:
        """Adds a blob; its SHA-256."""
        new = self.folder / _BLOBS / "new"
        new.parent.mkdir(parents=True, exist_ok=True)
        sha256 = hashlib.sha256()
        with new.open("wb") as stream:
            for chunk in source.chunks():
                sha256.update(chunk)
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        new.rename(new.with_name(sha256.hexdigest()))
        return sha256.hexdigest()

    def finish(self, index: bytes) -> None:
        """Ends the layout with its index.json."""
        for name, data in ((_MARK, _LAYOUT.data), (_INDEX, index)):
            with (self.folder / name).open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())


@dataclass(slots=True)
class ArchiveBlobs:
    """A layout as a tar, written in one go: a blob's name comes before its bytes, so its source is read twice."""

    stream: BinaryIO
    _known: set[str] = field(default_factory=set, init=False)

    def put(self, source: ByteSource) -> str:
        """Adds a blob; its SHA-256. Raises OciError (`oci-changed`) if it was another the second time."""
        digest = _digest(source)
        if digest not in self._known:
            if not self._known:
                self._add(TarMember("blobs", 0o755))
                self._add(TarMember(_BLOBS, 0o755))
            written = Hashed(source)
            self._add(TarMember(f"{_BLOBS}/{digest}", 0o644, written))
            if written.sha256 != digest:
                raise OciError("write an image: a file changed while it was read", reason=OciReason.CHANGED)
            self._known.add(digest)
        return digest

    def finish(self, index: bytes) -> None:
        """Ends the layout with its index.json."""
        self._add(TarMember(_INDEX, 0o644, Bytes(index)))
        self._add(TarMember(_MARK, 0o644, _LAYOUT))
        self.stream.write(end_of_archive())

    def _add(self, member: TarMember) -> None:
        for chunk in encode_member(member):
            self.stream.write(chunk)


@contextmanager
def open_layout(out: Path, staging: Staging, *, archive: bool) -> Iterator[Blobs]:
    """A layout that becomes `out` when `staging` is committed.

    A folder that is an image layout already is replaced then, and nothing else that lies there. Raises OciError
    (`oci-in-the-way`), ApeError (`ape-output`, `ape-disk-full`).
    """
    check_place(out, archive=archive)
    if archive:
        with staging.file(out) as stream:
            yield ArchiveBlobs(stream)
    else:
        yield FolderBlobs(staging.folder(out))


def check_place(out: Path, *, archive: bool) -> None:
    """Refuses a place where something else lies (`oci-in-the-way`)."""
    if not os.path.lexists(out) or (archive and out.is_file()):
        return
    if not archive and out.is_dir() and not out.is_symlink():
        names = {path.name for path in out.iterdir()}
        if not names or (names == {_MARK, _INDEX, "blobs"} and _count_images(out) <= 1):
            return
    raise OciError(
        f"write image {out}: something else lies there",
        detail="A file is replaced by a tar; an empty folder, or an image layout with one image in it, by a layout.",
        reason=OciReason.IN_THE_WAY,
    )


def _count_images(layout: Path) -> int:
    try:
        return len(json.loads((layout / _INDEX).read_bytes())["manifests"])
    except (OSError, ValueError, KeyError, TypeError):
        # What cannot be read could be anything.
        return 2


def _digest(source: ByteSource) -> str:
    hashed = Hashed(source)
    for _ in hashed.chunks():
        pass
    return hashed.sha256
