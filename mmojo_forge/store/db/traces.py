"""The build trace in the database, with its conflicts and signatures, and what derivations were realised to.

It also has the time and memory of past builds, and `build_closure`: the trees that other trees were built from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from mmojo_forge.model import canonical
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from mmojo_forge.model.trace import Trace, TraceOutput, TraceSignature, stem
from mmojo_forge.store.db.database import Database, json_list
from mmojo_forge.store.protocol import Observation, Recorded


def build_closure(database: Database, roots: Iterable[TreeId]) -> set[TreeId]:
    """The trees and everything that any trace says they were built from, including sources."""
    # Imported here: it takes 100 ms, and only `gc --keep-closure` needs it.
    import networkx

    graph: networkx.DiGraph[str] = networkx.DiGraph(_built_from(database))
    # One node above all roots, so that the walk visits a shared input once.
    graph.add_edges_from(("", root) for root in roots)
    below: set[str] = networkx.descendants(graph, "") if "" in graph else set()
    return set(map(TreeId, below))


def _built_from(database: Database) -> Iterator[tuple[str, str]]:
    """Pairs of a tree and one tree that it was built from."""
    for outputs, preimage in database.query("SELECT outputs, preimage FROM traces"):
        try:
            below = {edge["tree"] for edge in json.loads(preimage)["inputs"].values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            # The preimage is not a derivation's, so it names no inputs. `verify` reports it if somebody changed it.
            continue
        for output in json.loads(outputs).values():
            yield from ((output["tree"], tree) for tree in below)


_COLUMNS = "key, name, outputs, builder, started, seconds, peak_memory, preimage"
_REMEMBERED = 5  # builds whose time and memory are kept, per name
_EARLIER = 8  # traces that `earlier` looks at
# Made when the first signature is recorded, so that stores from before signatures need no new schema number.
_SIGNATURES = """
CREATE TABLE IF NOT EXISTS signatures (
    key TEXT NOT NULL, outputs TEXT NOT NULL, signer TEXT NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (key, outputs, signer))"""

_VOUCHED = "SELECT 1 FROM signatures s WHERE s.key = traces.key AND s.outputs = traces.outputs"
_KEY = "substr(signer, instr(signer, ':') + 1)"
_LISTED = "(SELECT value FROM json_each(?))"


class Traces:
    """The tables of traces, resolved derivations and observations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lookup(self, keys: Sequence[ActionKey]) -> dict[ActionKey, Trace]:
        """The traces that the store has for the keys."""
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM traces WHERE key IN (SELECT value FROM json_each(?))", (json_list(keys),)
        )
        return {row[0]: _trace(row) for row in rows}

    def conflicts(self, key: ActionKey) -> list[Trace]:
        """The traces of the key that came later and claim other outputs."""
        return [_trace(row) for row in self._database.query(f"SELECT {_COLUMNS} FROM conflicts WHERE key = ?", (key,))]

    def record(self, trace: Trace) -> Recorded:
        """Record the trace if its key is new. A trace with other outputs goes to the conflicts."""
        row = _row(trace)
        with self._database.transaction() as connection:
            known = connection.execute("SELECT outputs, builder FROM traces WHERE key = ?", (trace.key,)).fetchone()
            if known is None:
                connection.execute(f"INSERT INTO traces ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            elif known[0] != row[2]:
                connection.execute(f"INSERT OR IGNORE INTO conflicts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            if trace.seconds > 0:
                _observe(connection, trace)
            # A signature covers the builder's name, so it would not hold for a row that another builder made.
            if trace.signatures and (known is None or known[1] == trace.builder):
                connection.execute(_SIGNATURES)
                signed = [(trace.key, row[2], signature.key, signature.value) for signature in trace.signatures]
                connection.executemany("INSERT OR REPLACE INTO signatures VALUES (?, ?, ?, ?)", signed)
        if known is None:
            return Recorded.NEW
        return Recorded.SAME if known[0] == row[2] else Recorded.CONFLICT

    def signed(self, trace: Trace) -> Trace:
        """The trace with every signature that the store has for the same key and outputs."""
        if not self._database.query("SELECT 1 FROM sqlite_master WHERE name = 'signatures'"):
            return trace
        rows = self._database.query(
            "SELECT signer, signature FROM signatures WHERE key = ? AND outputs = ? ORDER BY signer",
            (trace.key, _row(trace)[2]),
        )
        return replace(trace, signatures=tuple(TraceSignature(signer, value) for signer, value in rows))

    def forget_signed_only_by(self, keys: Sequence[str]) -> int:
        """Delete the traces that only these keys (base64) signed; the number of traces deleted.

        Also deletes all signatures of these keys, and the resolved derivations that have a tree of those traces.
        """
        if not keys or not self._database.query("SELECT 1 FROM sqlite_master WHERE name = 'signatures'"):
            return 0
        with self._database.transaction() as connection:
            listed = (json_list(keys),)
            rows = connection.execute(
                f"SELECT key, outputs FROM traces WHERE EXISTS ({_VOUCHED} AND {_KEY} IN {_LISTED}) "
                f"AND NOT EXISTS ({_VOUCHED} AND {_KEY} NOT IN {_LISTED})",
                listed * 2,
            ).fetchall()
            trees = {row["tree"] for _, outputs in rows for row in json.loads(outputs).values()}
            connection.executemany("DELETE FROM traces WHERE key = ?", [(key,) for key, _ in rows])
            connection.execute(f"DELETE FROM signatures WHERE {_KEY} IN {_LISTED}", listed)
            connection.execute(
                "DELETE FROM resolved WHERE derivation IN "
                "(SELECT derivation FROM resolved WHERE tree IN (SELECT value FROM json_each(?)))",
                (json_list(trees),),
            )
        return len(rows)

    def lookup_resolved(self, derivations: Sequence[DerivationId]) -> dict[DerivationId, dict[str, TreeId]]:
        """The trees that derivations were realised to. They need not be valid any more."""
        known: dict[DerivationId, dict[str, TreeId]] = {}
        rows = self._database.query(
            "SELECT derivation, output, tree FROM resolved WHERE derivation IN (SELECT value FROM json_each(?))",
            (json_list(derivations),),
        )
        for derivation, output, tree in rows:
            known.setdefault(derivation, {})[output] = tree
        return known

    def record_resolved(self, resolved: Mapping[DerivationId, Mapping[str, TreeId]]) -> None:
        """Record the trees that derivations were realised to; the newest answer replaces older ones."""
        rows = [
            (derivation, output, tree) for derivation, outputs in resolved.items() for output, tree in outputs.items()
        ]
        with self._database.transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO resolved (derivation, output, tree) VALUES (?, ?, ?)", rows)

    def history(self, names: Iterable[str]) -> dict[str, Observation]:
        """The medians of the last few builds of each name."""
        seen: dict[str, list[tuple[float, int]]] = {}
        rows = self._database.query(
            "SELECT name, seconds, peak_memory FROM observations "
            "WHERE name IN (SELECT value FROM json_each(?)) ORDER BY id DESC",
            (json_list(names),),
        )
        for name, seconds, memory in rows:
            seen.setdefault(name, []).append((seconds, memory))
        return {
            name: Observation(median(build[0] for build in last), int(median(build[1] for build in last)))
            for name, last in ((name, builds[:_REMEMBERED]) for name, builds in seen.items())
        }

    def earlier(self, name: str, output: str) -> list[TreeId]:
        """The last few trees of one output, for builds of this name in any version, newest first."""
        known = (row[0] for row in self._database.query("SELECT DISTINCT name FROM traces"))
        same = [candidate for candidate in known if stem(candidate) == stem(name)]
        rows = self._database.query(
            "SELECT outputs FROM traces WHERE name IN (SELECT value FROM json_each(?)) ORDER BY rowid DESC LIMIT ?",
            (json_list(same), _EARLIER),
        )
        found = (json.loads(outputs).get(output) for (outputs,) in rows)
        return list(dict.fromkeys(TreeId(row["tree"]) for row in found if row is not None))


def _observe(connection: Any, trace: Trace) -> None:
    connection.execute(
        "INSERT INTO observations (name, seconds, peak_memory) VALUES (?, ?, ?)",
        (trace.name, trace.seconds, trace.peak_memory_bytes),
    )
    connection.execute(
        "DELETE FROM observations WHERE name = ? AND id <= "
        "(SELECT id FROM observations WHERE name = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (trace.name, trace.name, _REMEMBERED),
    )


def _row(trace: Trace) -> tuple[object, ...]:
    outputs: dict[str, canonical.Json] = {
        name: {"size": output.size, "tree": output.tree} for name, output in trace.outputs.items()
    }
    return (
        trace.key,
        trace.name,
        canonical.encode(outputs).decode(),
        trace.builder,
        trace.started,
        trace.seconds,
        trace.peak_memory_bytes,
        trace.preimage,
    )


def _trace(row: tuple[Any, ...]) -> Trace:
    key, name, outputs, builder, started, seconds, memory, preimage = row
    return Trace(
        key=key,
        name=name,
        preimage=preimage,
        outputs={
            output: TraceOutput(TreeId(value["tree"]), value["size"]) for output, value in json.loads(outputs).items()
        },
        builder=builder,
        started=started,
        seconds=seconds,
        peak_memory_bytes=memory,
    )
