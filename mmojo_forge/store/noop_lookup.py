"""The no-op path: what derivations were realised to before, read from the database alone.

A second `forge realize` should cost little more than starting Python. So this module imports only sqlite3 and os, and
deals in plain text. It opens no LocalStore, cleans nothing up, and writes only the time of last use.
Every function here may answer "not known"; the caller then opens a LocalStore.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable

from mmojo_forge.store import layout

SCHEMA = 1
# "forg" in ASCII. SQLite keeps it in the file's header, so forge can refuse a database of another program.
APPLICATION_ID = 0x666F7267
USE_GRANULARITY = 3600.0
"""Seconds within which a second use of a tree is not recorded: most no-ops then write nothing at all."""

_RESOLVED = """
SELECT resolved.derivation, resolved.output, resolved.tree, trees.used
FROM resolved JOIN trees ON trees.id = resolved.tree JOIN epochs ON epochs.id = trees.epoch
WHERE resolved.derivation = ? AND (epochs.durable OR epochs.boot = ?)
"""


def lookup_resolved(store: str, derivations: Iterable[str]) -> dict[str, dict[str, str]]:
    """The valid trees, by output, of each derivation that was realised in the store at this path before."""
    try:
        # mode=rw: a lookup must not create an empty database.
        connection = sqlite3.connect(f"file:{_quoted(store)}/{layout.DATABASE}?mode=rw", uri=True, timeout=10)
    except sqlite3.Error:
        return {}
    try:
        header = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if header != [APPLICATION_ID, SCHEMA]:
            return {}
        boot = boot_id()
        known: dict[str, dict[str, str]] = {}
        stale: list[str] = []
        before = time.time() - USE_GRANULARITY
        for wanted in derivations:
            for derivation, output, tree, used in connection.execute(_RESOLVED, (wanted, boot)):
                known.setdefault(derivation, {})[output] = tree
                if used < before:
                    stale.append(tree)
        if stale:
            _touch(connection, stale)
        return known
    except sqlite3.Error:
        return {}
    finally:
        connection.close()


def _touch(connection: sqlite3.Connection, trees: list[str]) -> None:
    """Record that the trees are used now. Gives up when another process is writing."""
    try:
        # 20 ms: losing one time of last use is cheaper than making a no-op wait.
        connection.execute("PRAGMA busy_timeout = 20")
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            connection.executemany("UPDATE trees SET used = ? WHERE id = ?", [(time.time(), tree) for tree in trees])
    except sqlite3.Error:
        return


def object_path(store: str, tree: str, name: str) -> str | None:
    """The path of the checked-out object, or None if it does not exist."""
    path = os.path.join(store, layout.OBJECTS, layout.object_name(tree, name))
    return path if os.path.lexists(path) else None


def has_root(store: str, link: str, target: str) -> bool:
    """Whether the link already points to the target and is registered as a root."""
    link = settled(link)
    try:
        return os.readlink(link) == link_text(store, link, target) and os.readlink(root_path(store, link)) == link
    except OSError:
        return False


def settled(link: str) -> str:
    """The absolute path of a link, with symlinks resolved in its parent directories but not in its last part."""
    directory, name = os.path.split(os.path.abspath(link))
    return os.path.join(os.path.realpath(directory), name)


def root_path(store: str, link: str) -> str:
    """The entry in roots/ for a link outside the store: the link's path, escaped, or a digest if it is too long."""
    name = link.strip("/").replace("%", "%25").replace("/", "%2F")
    if len(os.fsencode(name)) > 255:
        # Imported here because it would slow down every no-op.
        import hashlib

        name = hashlib.sha256(os.fsencode(link)).hexdigest()
    return os.path.join(store, layout.ROOTS, name)


def link_text(store: str, link: str, target: str) -> str:
    """The text of a root link: relative if link and store share a folder, so that the folder can be moved."""
    home = os.path.dirname(os.path.realpath(store))
    directory = os.path.dirname(link)
    if directory == home or directory.startswith(home.rstrip("/") + "/"):
        return os.path.relpath(target, directory)
    return os.path.abspath(target)


def boot_id() -> str:
    """The kernel's boot id. Files written under another id may not have reached the disk before a power cut."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _quoted(path: str) -> str:
    return os.path.abspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
