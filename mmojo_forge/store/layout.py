"""The layout of a store directory, as text. The no-op path imports this module, so it imports nothing itself.

blobs/ab/cdef…[.x]    content; `.x` where the file is executable
trees/<id>            canonical manifests
objects/<id>-<name>   trees checked out by hard links
db.sqlite             the rows; a blob or tree is valid only if it has one
logs/ab/cdef….zst     build logs by action key
roots/<link>          symlinks to the links that keep trees alive
locks                 one file; each locked key is one byte of it
tmp/<process>/        unfinished files; the process that owns the directory holds a lock on it
damaged/              blobs that `repair` set aside; nothing reads them

The engine keeps downloads/, failed/, checks/ and cache/ beside these.
"""

from __future__ import annotations

BLOBS = "blobs"
TREES = "trees"
OBJECTS = "objects"
DATABASE = "db.sqlite"
LOGS = "logs"
ROOTS = "roots"
LOCKS = "locks"
TMP = "tmp"
DIRECTORIES = (BLOBS, TREES, OBJECTS, LOGS, ROOTS, TMP)

OPEN_LOCK = "open.lock"
"""In tmp/: a process holds it while it makes its directory in tmp/ or removes those of dead processes."""
PUBLISH_LOCK = "publish.lock"
"""In tmp/: a publisher holds it shared from the first rename into blobs/ until it has committed the rows. Cleaning up
dead processes, verify and garbage collection hold it exclusively, for moments: they must see no half-published state.
"""
INTENT = "intent"
"""In tmp/<process>/<this>-<n>: the paths that the process is renaming into place and that have no row yet."""

USING = "using"
"""In tmp/<process>/: the lease of the process, which lists trees. They are not collected while the process lives."""
UNLEASED = "unleased"
"""Replaces the start time in the name of a process's directory: this process leases nothing."""
MAINTENANCE_KEY = "store maintenance"
"""The key that collecting and repairing hold exclusively, and verifying and counting hold shared. It is no digest, so
it cannot clash with the key of a build."""
DAMAGED = "damaged"
DOWNLOADS, FAILED, CHECKS, CACHE = "downloads", "failed", "checks", "cache"

EXECUTABLE_SUFFIX = ".x"
# A file name has at most 255 bytes; the tree id and a dash take 65.
MAX_OBJECT_NAME = 190
EPOCH = 1
"""Modification time, in seconds, of every stored file, so that no build can see when its inputs were made."""


def blob_path(digest: str, executable: bool) -> str:
    """The blob's path in blobs/."""
    return f"{digest[:2]}/{digest[2:]}{EXECUTABLE_SUFFIX if executable else ''}"


def object_name(tree: str, name: str) -> str:
    """The object's name in objects/."""
    return f"{tree}-{name}"


def log_path(key: str) -> str:
    """The log's path in logs/."""
    return f"{key[:2]}/{key[2:]}.zst"
