"""The store's SQLite database: one connection for all threads of a process, write-ahead logging, a schema number.

Commits are not synced to the disk one by one (`synchronous=NORMAL` keeps the database whole through a power cut, at
the price of the newest rows). Instead each row says in which *epoch* it was written, and `LocalStore.sync` makes a
whole epoch durable at once. After a power cut the rows of epochs that did not become durable are checked against the
files (store/recovery.py); a killed process loses nothing that way, as its files are the kernel's by then.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmojo_forge.store.noop_lookup import APPLICATION_ID, SCHEMA, boot_id
from mmojo_forge.store.protocol import StoreUnusableError

_BUSY_SECONDS = 120

_TABLES = """
CREATE TABLE epochs (id INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, durable INTEGER NOT NULL DEFAULT 0);
CREATE TABLE blobs (
    digest TEXT NOT NULL, executable INTEGER NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL,
    epoch INTEGER NOT NULL, PRIMARY KEY (digest, executable)) WITHOUT ROWID;
CREATE TABLE trees (
    id TEXT PRIMARY KEY, size INTEGER NOT NULL, files INTEGER NOT NULL, added REAL NOT NULL, used REAL NOT NULL,
    epoch INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE traces (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, outputs TEXT NOT NULL, builder TEXT NOT NULL, started REAL NOT NULL,
    seconds REAL NOT NULL, peak_memory INTEGER NOT NULL, preimage BLOB NOT NULL);
CREATE TABLE conflicts (
    key TEXT NOT NULL, name TEXT NOT NULL, outputs TEXT NOT NULL, builder TEXT NOT NULL, started REAL NOT NULL,
    seconds REAL NOT NULL, peak_memory INTEGER NOT NULL, preimage BLOB NOT NULL, PRIMARY KEY (key, outputs, builder));
CREATE TABLE resolved (
    derivation TEXT NOT NULL, output TEXT NOT NULL, tree TEXT NOT NULL,
    PRIMARY KEY (derivation, output)) WITHOUT ROWID;
CREATE TABLE observations (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, seconds REAL NOT NULL, peak_memory INTEGER NOT NULL);
CREATE INDEX observations_by_name ON observations (name, id);
"""


class Database:
    """The open database. Callers may assume that it has our schema and that each method is safe in any thread."""

    def __init__(self, path: str) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close()
            raise

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        """The rows of one question."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything that is executed on the connection in the body, or nothing of it."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            self._connection.close()

    def _prepare(self, path: str) -> None:
        execute = self._connection.execute
        _check_schema(path, execute("PRAGMA application_id").fetchone()[0], self._version(), self._is_empty())
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute("PRAGMA cache_size = -16384")
        if self._version() == 0:
            with self.transaction():
                for statement in filter(str.strip, _TABLES.split(";")):
                    execute(statement)
                execute(f"PRAGMA application_id = {APPLICATION_ID}")
                execute(f"PRAGMA user_version = {SCHEMA}")

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _is_empty(self) -> bool:
        return self._connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def current_epoch(connection: sqlite3.Connection) -> int:
    """The epoch for rows that are written in the running transaction."""
    boot = boot_id()
    row = connection.execute("SELECT max(id) FROM epochs WHERE durable = 0 AND boot = ?", (boot,)).fetchone()
    if row[0] is not None:
        return int(row[0])
    return new_epoch(connection)


def new_epoch(connection: sqlite3.Connection) -> int:
    """A new epoch: whatever belongs to an older one was committed before."""
    cursor = connection.execute("INSERT INTO epochs (boot) VALUES (?)", (boot_id(),))
    return int(cursor.lastrowid or 0)


def json_list(values: Iterable[str]) -> str:
    """Strings as a parameter for `json_each`, so that a question takes any number of them."""
    return json.dumps(list(values))


def _check_schema(path: str, application: int, version: int, empty: bool) -> None:
    if application == APPLICATION_ID and version == SCHEMA:
        return
    if empty and application == 0 and version == 0:
        return
    if application == APPLICATION_ID and version > SCHEMA:
        raise StoreUnusableError(
            f"open store database {path}: its schema {version} is newer than {SCHEMA}, which this forge knows",
            detail="Use the forge that made this store, or let FORGE_STORE point to another folder.",
            reason="store-schema",
        )
    raise StoreUnusableError(
        f"open store database {path}: not made by forge (application {application:#x}, schema {version})",
        detail="Let FORGE_STORE point to an empty folder.",
        reason="store-schema",
    )
