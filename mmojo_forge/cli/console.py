"""How commands print: quantities for people, tables, the results of a run, and the progress of long work.

Results go to stdout: aligned on a terminal, tab-separated in a pipe, so that both people and awk can read them.
Progress and remarks go to stderr.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

import click

from mmojo_forge.engine.realise.run import Result


def format_size(count: float) -> str:
    """Bytes in decimal units, as disks and downloads are sold: `94 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def format_duration(seconds: float) -> str:
    """A time span: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def plural(count: int, noun: str) -> str:
    """`1 build`, `2 builds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_age(seconds: float) -> str:
    """How long ago: `today`, `3 days ago`."""
    days = int(seconds // 86400)
    return "today" if days < 1 else f"{plural(days, 'day')} ago"


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the rows, on a terminal below their header.

    Control characters are escaped: names and texts come from other people's files, and a terminal would obey them.
    """
    rows = [[_printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (tuple(title.upper() for title in header), *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _printable(cell: str) -> str:
    if cell.isprintable():
        return cell
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cell)


def show_results(results: Iterable[Result], *, as_json: bool) -> None:
    """Print the paths, one per line, or one JSON object."""
    if as_json:
        rows = [
            {"target": row.target, "path": str(row.path), "tree": row.tree, "label": row.label.to_json()}
            for row in results
        ]
        click.echo(json.dumps({"schema": 1, "results": rows}))
    else:
        click.echo("\n".join(str(row.path) for row in results))


def tell_skipped(names: Sequence[str]) -> None:
    """Print on stderr what a push or an export skipped, and how to include it."""
    if names:
        click.echo(f"skipped (not redistributable): {', '.join(names)}; include with --not-redistributable", err=True)


_TERMINAL_SECONDS = 0.1
_PLAIN_SECONDS = 10.0


class Meter:
    """Shows the progress of long work in one line: redrawn on a terminal, printed every ten seconds elsewhere.

    Work that ends before the first interval shows nothing.
    """

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what = what
        self._stream = stream
        self._terminal = stream.isatty()
        self._last = time.monotonic()
        self._drawn = False

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def __call__(self, done: int, total: int) -> None:
        """Show `done` of `total` bytes."""
        percent = f"{100 * done // total} %" if total else ""
        self._say(f"{self._what}: {format_size(done)} of {format_size(total)} {percent}")

    def count(self, done: int) -> None:
        """Show `done` bytes where nobody knows the total."""
        self._say(f"{self._what}: {format_size(done)}")

    def wait(self, seconds: float) -> None:
        """Show that another process maintains the store; `seconds` is how long this one has waited."""
        if seconds > 1:
            self._say(f"{self._what}: waiting for another process that maintains the store")

    def _say(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last < (_TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS):
            return
        self._last = now
        if self._terminal:
            self._drawn = True
            self._stream.write(f"\r\033[K{text}")
        else:
            self._stream.write(f"forge: {text}\n")
        self._stream.flush()
