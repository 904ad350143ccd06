"""Where things lie in a store directory. Text only: the no-op path imports this, so nothing heavy does it import.

blobs/ab/cdef…[.x]    content; `.x` where the file is executable
trees/<id>            canonical manifests
objects/<id>-<name>   trees checked out by hard links
db.sqlite             what is valid; a blob or tree without a row does not exist
logs/ab/cdef….zst     build logs by action key
roots/<link>          symlinks to the links that keep trees alive
locks                 one file, one byte of it for each key that is locked
tmp/<process>/        everything unfinished; the directory is locked by the process it belongs to
damaged/              blobs that `repair` set aside; nothing reads them
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
"""In tmp/: held while a process makes or cleans its place in the store."""
PUBLISH_LOCK = "publish.lock"
"""In tmp/: held shared from the first rename into blobs/ until the rows are committed, and exclusively, for moments,
by whoever must see no such half-way state (clean-up of dead processes, verify, garbage collection)."""
INTENT = "intent"
"""In tmp/<process>/<this>-<n>: the paths that are being renamed into place and have no row yet."""

USING = "using"
"""In tmp/<process>/: the trees that the process was told are valid; they are not collected while it lives."""
UNLEASED = "unleased"
"""Instead of its start in the name of a process's directory: nothing is kept for this process's sake."""
MAINTENANCE_KEY = "store maintenance"
"""The key (no build's, as it is no digest) that is held exclusively to collect or repair, shared to look at it all."""
DAMAGED = "damaged"
DOWNLOADS, FAILED, CHECKS, CACHE = "downloads", "failed", "checks", "cache"

EXECUTABLE_SUFFIX = ".x"
MAX_OBJECT_NAME = 190
EPOCH = 1
"""Modification time, in seconds, of everything that is stored: no build can see when its inputs were made."""


def blob_path(digest: str, executable: bool) -> str:
    """The blob's path in blobs/."""
    return f"{digest[:2]}/{digest[2:]}{EXECUTABLE_SUFFIX if executable else ''}"


def object_name(tree: str, name: str) -> str:
    """The object's name in objects/."""
    return f"{tree}-{name}"


def log_path(key: str) -> str:
    """The log's path in logs/."""
    return f"{key[:2]}/{key[2:]}.zst"
