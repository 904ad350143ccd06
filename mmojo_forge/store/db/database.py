"""The store's SQLite database: one connection for all threads of a process, write-ahead logging, a schema number.

SQLite does not sync each commit to the disk: `synchronous=NORMAL` keeps the database consistent through a power cut,
but may lose the newest rows. Instead each row names its *epoch*, and `LocalStore.sync` makes whole epochs durable.
After a power cut, maintain/recovery.py checks the rows of epochs that were not durable against the files. A killed
process loses nothing, because the kernel still writes its data to the disk.
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
        """All rows that the query gives."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, in a transaction that commits if the body succeeds and rolls back if it raises."""
        # IMMEDIATE takes the write lock at once: upgrading a read lock later may fail as busy without any wait.
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def _prepare(self, path: str) -> None:
        execute = self._connection.execute
        _check_schema(path, execute("PRAGMA application_id").fetchone()[0], self._version(), self._is_empty())
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute("PRAGMA cache_size = -16384")  # negative: KiB, so 16 MiB
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
    """The epoch for rows that the running transaction writes."""
    boot = boot_id()
    row = connection.execute("SELECT max(id) FROM epochs WHERE durable = 0 AND boot = ?", (boot,)).fetchone()
    if row[0] is not None:
        return int(row[0])
    return new_epoch(connection)


def new_epoch(connection: sqlite3.Connection) -> int:
    """A new epoch. All rows of older epochs were committed before it begins."""
    cursor = connection.execute("INSERT INTO epochs (boot) VALUES (?)", (boot_id(),))
    return int(cursor.lastrowid or 0)


def json_list(values: Iterable[str]) -> str:
    """The strings as one parameter for `json_each`, because SQLite limits the number of parameters of a query."""
    return json.dumps(list(values))


def _check_schema(path: str, application: int, version: int, empty: bool) -> None:
    if application == APPLICATION_ID and version == SCHEMA:
        return
    if empty and application == 0 and version == 0:
        return
    if application == APPLICATION_ID and version > SCHEMA:
        raise StoreUnusableError(
            f"open store database {path}: it has schema {version}, but this version of forge reads schema {SCHEMA}",
            detail="Use the version of forge that made this store, or set FORGE_STORE to another folder.",
            reason="store-schema",
        )
    raise StoreUnusableError(
        f"open store database {path}: forge did not make it (application {application:#x}, schema {version})",
        detail="Set FORGE_STORE to an empty folder.",
        reason="store-schema",
    )
