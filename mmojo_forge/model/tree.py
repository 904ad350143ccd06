"""File trees: the content of store objects. The id of a tree is the BLAKE3 of its canonical manifest.

A tree has names, kinds, the executable bit, blob digests and symlink targets. It has no times, owners or other modes.
Its root is a directory or a single file. The manifest is canonical JSON:

    {"entries":[["","d"],["bin","d"],["bin/sh","x","<blake3>",1234],["lib","l","usr/lib"]],"schema":1}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mmojo_forge.errors import ForgeError
from mmojo_forge.model import canonical
from mmojo_forge.model.digest import BlobDigest, TreeId, blake3_hex, is_hex_digest

SCHEMA = 1
MAX_PATH_BYTES = 4095  # PATH_MAX on Linux counts the NUL
MAX_NAME_BYTES = 255
MAX_DEPTH = 128
MAX_LINK_HOPS = 40  # what Linux follows before ELOOP


class TreeError(ForgeError):
    """A file tree or a manifest cannot be a store object."""


class EntryKind(StrEnum):
    """The kind of an entry; the values are those in manifests."""

    FILE = "f"
    EXECUTABLE = "x"
    SYMLINK = "l"
    DIRECTORY = "d"


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name in a tree. `digest` and `size` (bytes) are set for files, `target` for symlinks."""

    path: str
    kind: EntryKind
    digest: BlobDigest | None = None
    size: int = 0
    target: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether the entry has content in a blob."""
        return self.digest is not None


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole file tree. Callers may assume that entries are sorted, complete and safe to check out.

    The root comes first, and every parent is a directory that precedes its children. No part of a path is `.`, `..` or
    empty, or has a NUL. No symlink is absolute or leads out of the tree.
    """

    entries: tuple[TreeEntry, ...]
    id: TreeId = field(init=False, compare=False)
    _manifest: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.entries)
        document: canonical.Json = {"entries": [_row(entry) for entry in self.entries], "schema": SCHEMA}
        object.__setattr__(self, "_manifest", canonical.encode(document))
        object.__setattr__(self, "id", TreeId(blake3_hex(self._manifest)))

    @classmethod
    def of(cls, entries: Iterable[TreeEntry]) -> Tree:
        """The tree with these entries, in any order. Adds the root directory if it is missing."""
        listed = sorted(entries, key=lambda entry: sort_key(entry.path))
        if not listed or listed[0].path:
            listed.insert(0, TreeEntry("", EntryKind.DIRECTORY))
        return cls(tuple(listed))

    @classmethod
    def of_file(cls, digest: BlobDigest, size: int, *, executable: bool = False) -> Tree:
        """The tree whose root is one file. Every source is such a tree."""
        return cls((TreeEntry("", EntryKind.EXECUTABLE if executable else EntryKind.FILE, digest, size),))

    @classmethod
    def parse(cls, manifest: bytes) -> Tree:
        """The tree that a manifest describes; raises TreeError unless it is canonical and keeps every rule."""
        tree = cls(tuple(_parse_rows(manifest)))
        if tree.encode() != manifest:
            raise TreeError("read tree manifest: not in canonical form", reason="tree-not-canonical")
        return tree

    def encode(self) -> bytes:
        """The canonical manifest."""
        return self._manifest

    @property
    def size(self) -> int:
        """The bytes of content. Each blob counts as often as it occurs."""
        return sum(entry.size for entry in self.entries)

    @property
    def root_is_file(self) -> bool:
        """Whether the tree is one file rather than a directory."""
        return self.entries[0].is_file

    def files(self) -> Iterator[TreeEntry]:
        """The entries that have content."""
        return (entry for entry in self.entries if entry.digest is not None)


def sort_key(path: str) -> str:
    """The sort key of a path: part by part in UTF-8 bytes, so that a directory precedes everything below it.

    NUL, which no name has, sorts before everything else. Code points sort as their UTF-8 bytes do.
    """
    return path.replace("/", "\0")


def check_name(name: str) -> None:
    """Raise TreeError unless `name` can be one part of a path on every file system we check out to."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise TreeError(f"add {name!r} to a tree: it is not a file name", reason="tree-bad-name")
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise TreeError(f"add {name!r} to a tree: the name is not UTF-8", reason="tree-bad-name") from error
    if length > MAX_NAME_BYTES:
        message = f"add {name[:40]!r}… to a tree: the name is longer than {MAX_NAME_BYTES} bytes"
        raise TreeError(message, reason="tree-bad-name")


def check_symlink(path: str, target: str) -> None:
    """Raise TreeError unless `target`, resolved as text only, stays inside the tree of `path`.

    `_check_resolved` also follows the other symlinks of the tree.
    """
    if target.startswith("/"):
        raise TreeError(f"add symlink {path}: its target {target} is absolute", reason="symlink-absolute")
    if not target or "\0" in target:
        raise TreeError(f"add symlink {path}: its target is empty or has a NUL", reason="symlink-bad-target")
    depth = path.count("/")
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in {"", "."}:
            depth += 1
        if depth < 0:
            raise TreeError(f"add symlink {path}: its target {target} leaves the tree", reason="symlink-escapes")


def _check(entries: tuple[TreeEntry, ...]) -> None:
    if not entries or entries[0].path:
        raise TreeError("make tree: it has no root entry", reason="tree-no-root")
    if entries[0].kind is EntryKind.SYMLINK:
        raise TreeError("make tree: the root is a symlink", reason="tree-bad-root")
    directories = {""} if entries[0].kind is EntryKind.DIRECTORY else set[str]()
    previous = ""
    for entry in entries[1:]:
        _check_entry(entry, directories)
        key = sort_key(entry.path)
        if key <= previous:
            raise TreeError(f"make tree: {entry.path} is out of order or occurs twice", reason="tree-order")
        previous = key
    _check_content(entries[0])
    links = {entry.path: entry.target for entry in entries if entry.target is not None}
    for path in links:
        _check_resolved(path, links)


def _check_resolved(path: str, links: Mapping[str, str]) -> None:
    """Raise TreeError if a symlink leaves the tree through other symlinks: after one, `..` may lead further up."""
    here = path.split("/")[:-1]
    pending = links[path].split("/")[::-1]
    hops = 0
    while pending:
        part = pending.pop()
        if part == ".." and not here:
            raise TreeError(f"add symlink {path}: it leaves the tree through other symlinks", reason="symlink-escapes")
        if part == "..":
            here.pop()
        elif part not in {"", "."}:
            here.append(part)
            target = links.get("/".join(here))
            if target is not None:
                hops += 1
                if hops > MAX_LINK_HOPS:
                    return  # a loop leads nowhere
                here.pop()
                pending.extend(target.split("/")[::-1])


def _check_entry(entry: TreeEntry, directories: set[str]) -> None:
    parent, slash, name = entry.path.rpartition("/")
    check_name(name)
    if slash and not parent:
        raise TreeError(f"make tree: {entry.path} is absolute", reason="tree-bad-name")
    if parent not in directories:
        raise TreeError(f"make tree: {entry.path} has no parent directory", reason="tree-no-parent")
    if len(entry.path.encode()) > MAX_PATH_BYTES or entry.path.count("/") >= MAX_DEPTH:
        raise TreeError(f"make tree: the path {entry.path[:80]}… is too long or too deep", reason="tree-bad-name")
    if entry.kind is EntryKind.DIRECTORY:
        directories.add(entry.path)
    elif entry.kind is EntryKind.SYMLINK:
        check_symlink(entry.path, entry.target or "")
    _check_content(entry)


def _check_content(entry: TreeEntry) -> None:
    has_content = entry.kind in {EntryKind.FILE, EntryKind.EXECUTABLE}
    if has_content != (entry.digest is not None) or (entry.kind is EntryKind.SYMLINK) != (entry.target is not None):
        raise TreeError(f"make tree: {entry.path!r} is not a well-formed {entry.kind.name}", reason="tree-entry")
    if entry.digest is not None and (not is_hex_digest(entry.digest) or entry.size < 0):
        raise TreeError(f"make tree: {entry.path!r} has a malformed digest or size", reason="tree-entry")


def _row(entry: TreeEntry) -> list[canonical.Json]:
    if entry.digest is not None:
        return [entry.path, entry.kind.value, entry.digest, entry.size]
    if entry.target is not None:
        return [entry.path, entry.kind.value, entry.target]
    return [entry.path, entry.kind.value]


def _parse_rows(manifest: bytes) -> Iterator[TreeEntry]:
    try:
        document = json.loads(manifest)
        if document["schema"] != SCHEMA:
            message = f"read tree manifest: it has schema {document['schema']}, but forge reads schema {SCHEMA}"
            raise TreeError(message, reason="tree-schema")
        for row in document["entries"]:
            yield _entry(*row)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TreeError(f"read tree manifest: {error}", reason="tree-malformed") from error


def _entry(path: str, kind: str, content: str | None = None, size: int = 0) -> TreeEntry:
    parsed = EntryKind(kind)
    if parsed is EntryKind.SYMLINK:
        return TreeEntry(path, parsed, target=content)
    if not isinstance(path, str) or not isinstance(size, int):
        raise TypeError("an entry is path, kind, digest, size")
    return TreeEntry(path, parsed, BlobDigest(content) if content is not None else None, size)
