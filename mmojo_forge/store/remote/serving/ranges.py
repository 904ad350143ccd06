"""Which part of an object is wanted (RFC 9110, sections 13 and 14): validators, conditions, single ranges."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from email.utils import formatdate

from aiohttp import ETag, web

from mmojo_forge.store.remote.serving.failure import Refusal
from mmojo_forge.store.remote.transport import Span

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
        raise Refusal(416, "range", "no such range", {"Content-Range": f"bytes */{version.size}"})
    return Span(start, length)


def _matches(tags: tuple[ETag, ...], version: Version, *, weak: bool) -> bool:
    return any(tag.value == "*" or (tag.value == version.tag and (weak or not tag.is_weak)) for tag in tags)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def _unmet() -> Refusal:
    return Refusal(412, "precondition", "it is another one by now")
