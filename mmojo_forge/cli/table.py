"""Plain tables on stdout: aligned on a terminal, tab-separated in a pipe, so that both people and awk can read them."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the rows below their header; nothing but the header if there are none.

    What cannot be printed is escaped: names and texts come from files of others, and a terminal obeys them.
    """
    rows = [[_printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (tuple(title.upper() for title in header), *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _printable(cell: str) -> str:
    if cell.isprintable():
        return cell
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in cell)
