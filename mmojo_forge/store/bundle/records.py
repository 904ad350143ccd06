"""The bundle format: `forge store export` writes one file that carries trees, their content and traces.

A bundle is a POSIX tar in one zstd frame with a checksum. Its members, in this order, each once:

    forge-bundle.json        the contents: a list of all that follows, in canonical JSON:
                             {"blobs":[["<blake3>",executable,size],…],"schema":1,
                              "targets":[{"label":…,"name":…,"target":…,"tree":…},…],
                              "traces":[["<key>",size],…],"trees":[["<id>",size],…]}
    trees/<id>               canonical manifests, by id
    traces/<key>             trace entries, by key: JSON, with the preimage as text and any number of signatures
    blobs/<blake3>[.x]       content, in the order in which the trees first need it

Sizes are in bytes. `tar_header` makes every header from name and size alone, and nothing follows the end. So the same
contents always give the same bytes. GNU tar can read a bundle. Readers ignore unknown keys of JSON objects, and refuse
another schema.

Trace entries are those of caches (model/trace_entry.py), but they need no signature. The reader marks an imported
trace: its builder is `imported:` and the name that the file gives. A signature covers the name without that prefix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmojo_forge.errors import ExitCode
from mmojo_forge.model import canonical, trace_entry
from mmojo_forge.model.digest import ActionKey, BlobDigest, TreeId, is_hex_digest
from mmojo_forge.model.trace import Trace
from mmojo_forge.model.trace_entry import EntryError
from mmojo_forge.store import layout
from mmojo_forge.store.add.batch import Blob
from mmojo_forge.store.protocol import StoreError

SCHEMA = 1
CONTENTS = "forge-bundle.json"
BLOCK = 512
MOST_CONTENTS = 64 << 20
MOST_METADATA = 256 << 20
"""The most bytes of manifests, and of trace entries, that a reader accepts: it holds them in memory."""
WINDOW_LOG_MOST = 27
"""A reader accepts windows up to 128 MiB, zstd's own default limit; the decompressor allocates that much memory."""

_OCTAL_MOST = 8**11 - 1
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
# Printable ASCII only, because commands show these texts on terminals.
_TEXT = re.compile(r"[ -~]{0,300}")


class BundleError(StoreError):
    """The file is not a bundle, is damaged, or contradicts itself. The store imported nothing."""

    exit_code = ExitCode.INPUT_ERROR


@dataclass(frozen=True, slots=True)
class BundledTarget:
    """A target that the bundle was made for, with the name of its object, its tree, and its label as text."""

    target: str
    name: str
    tree: TreeId
    label: str


@dataclass(frozen=True, slots=True)
class BundleContents:
    """The contents of a bundle, with sizes in bytes. Callers may assume that no id occurs twice."""

    targets: tuple[BundledTarget, ...]
    trees: Mapping[TreeId, int]
    traces: Mapping[ActionKey, int]
    blobs: Mapping[Blob, int]

    @property
    def size(self) -> int:
        """The bytes of all blobs."""
        return sum(self.blobs.values())

    def encode(self) -> bytes:
        """The canonical bytes of forge-bundle.json."""
        document: canonical.Json = {
            "blobs": [[blob.digest, blob.executable, size] for blob, size in self.blobs.items()],
            "schema": SCHEMA,
            "targets": [
                {"label": target.label, "name": target.name, "target": target.target, "tree": target.tree}
                for target in self.targets
            ],
            "traces": [[key, size] for key, size in self.traces.items()],
            "trees": [[tree, size] for tree, size in self.trees.items()],
        }
        return canonical.encode(document)

    @classmethod
    def parse(cls, data: bytes) -> BundleContents:
        """The contents in a forge-bundle.json; raises BundleError (`bundle-malformed`, `bundle-schema`)."""
        try:
            document = json.loads(data)
            schema = document["schema"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise malformed(f"{CONTENTS} is not readable: {error}") from error
        if schema != SCHEMA:
            raise BundleError(
                f"import bundle: it has schema {str(schema)[:20]}, but this version of forge reads schema {SCHEMA}",
                detail="Import it with the version of forge that made it, or with a newer one.",
                reason="bundle-schema",
            )
        try:
            return cls(
                tuple(_target(row) for row in document["targets"]),
                _sizes(document["trees"], lambda digest: TreeId(_digest(digest))),
                _sizes(document["traces"], lambda digest: ActionKey(_digest(digest))),
                _sizes(([(row[0], row[1]), row[2]] for row in document["blobs"]), _blob),
            )
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise malformed(f"{CONTENTS}: {error}") from error


def members(contents: BundleContents) -> Iterator[tuple[str, int]]:
    """Names and sizes of the members after the contents, in order."""
    yield from ((f"trees/{tree}", size) for tree, size in contents.trees.items())
    yield from ((f"traces/{key}", size) for key, size in contents.traces.items())
    yield from ((blob_member(blob), size) for blob, size in contents.blobs.items())


def blob_member(blob: Blob) -> str:
    """The member name of a blob."""
    return f"blobs/{blob.digest}{layout.EXECUTABLE_SUFFIX if blob.executable else ''}"


def tar_header(name: str, size: int) -> bytes:
    """The 512 bytes of the tar header for a member of this name and size."""
    block = bytearray(BLOCK)
    block[: len(name)] = name.encode("ascii")
    for start, length, value in ((100, 8, 0o444), (108, 8, 0), (116, 8, 0), (136, 12, layout.EPOCH)):
        block[start : start + length] = b"%0*o\0" % (length - 1, value)
    # Sizes of 8 GiB and more do not fit in octal. GNU tar's binary form holds them; common tar programs read it.
    block[_SIZE] = b"%011o\0" % size if size <= _OCTAL_MOST else b"\x80" + size.to_bytes(11, "big")
    block[_CHECKSUM] = b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\x0000"
    block[_CHECKSUM] = b"%06o\0 " % sum(block)
    return bytes(block)


def parse_header(block: bytes) -> tuple[str, int]:
    """Name and size of a member; raises BundleError unless `tar_header` gives the same header for them."""
    try:
        name = block[:100].rstrip(b"\0").decode("ascii")
        field = block[_SIZE]
        size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.rstrip(b"\0"), 8)
        if 0 <= size < 1 << 62 and tar_header(name, size) == block:
            return name, size
    except (ValueError, IndexError):
        pass
    raise malformed("a tar header is wrong")


def padding(size: int) -> int:
    """The number of zero bytes after a member of that size."""
    return -size % BLOCK


def malformed(why: str) -> BundleError:
    """The error for a file that does not have the form of a bundle."""
    return BundleError(
        f"import bundle: {why}",
        detail="The file is damaged, or `forge store export` did not write it. Forge imported nothing.",
        reason="bundle-malformed",
    )


def _sizes(rows: Any, make: Callable[[Any], Any]) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for identifier, size in rows:
        if type(size) is not int or size < 0:
            raise ValueError("a size is not a number of bytes")
        made = make(identifier)
        if made in found:
            raise ValueError("an id occurs twice")
        found[made] = size
    return found


def _blob(row: Any) -> Blob:
    digest, executable = row
    if not isinstance(executable, bool):
        raise TypeError("a blob's executable flag is neither true nor false")
    return Blob(BlobDigest(_digest(digest)), executable)


def _digest(text: Any) -> str:
    if not isinstance(text, str) or not is_hex_digest(text):
        raise ValueError("a digest is not 64 hexadecimal digits")
    return text


def _target(row: Any) -> BundledTarget:
    texts = [row[name] for name in ("target", "name", "label")]
    if not all(isinstance(text, str) and _TEXT.fullmatch(text) for text in texts):
        raise ValueError("a target has a missing or malformed field")
    return BundledTarget(texts[0], texts[1], TreeId(_digest(row["tree"])), texts[2])


IMPORTED = "imported:"


def encode(trace: Trace) -> bytes:
    """The trace entry as it stands in a bundle."""
    return trace_entry.encode(replace(trace, builder=trace.builder.removeprefix(IMPORTED)))


def parse(data: bytes, key: ActionKey) -> Trace:
    """The trace in the entry for `key`; raises BundleError (`bundle-malformed`, `bundle-wrong-trace`)."""
    try:
        trace = trace_entry.from_json(json.loads(data))
    except EntryError as error:
        if error.wrong_key:
            raise _wrong(key) from error
        raise malformed(f"trace {key} is not readable: {error}") from error
    except (ValueError, RecursionError) as error:
        raise malformed(f"trace {key} is not readable: {error}"[:300]) from error
    if trace.key != key:
        raise _wrong(key)
    return replace(trace, builder=IMPORTED + trace.builder)


def _wrong(key: ActionKey) -> BundleError:
    return BundleError(
        f"import bundle: trace {key} does not match its key",
        detail="Somebody changed the file. Forge imported nothing.",
        reason="bundle-wrong-trace",
    )
