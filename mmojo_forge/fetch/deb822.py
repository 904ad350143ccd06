"""Debian control files: paragraphs of `Field: value`, as sources, Release, Packages and Sources files have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Paragraph = dict[str, str]
"""Field names in lower case; continuation lines follow the first one, one per line, stripped."""


def paragraphs(lines: Iterable[str]) -> Iterator[Paragraph]:
    """The paragraphs of a file, one at a time; lines that start with `#` are comments."""
    current: Paragraph = {}
    field = ""
    for line in lines:
        if line.startswith("#"):
            continue
        if not line.strip():
            if current:
                yield current
            current, field = {}, ""
        elif line[0] in " \t":
            if field:
                current[field] += "\n" + line.strip()
        else:
            name, colon, value = line.partition(":")
            field = name.strip().lower() if colon else ""
            if field:
                current[field] = value.strip()
    if current:
        yield current
