"""The YAML form: keys that are options, and values that are texts (docs/args.md).

The part of YAML 1.2 that a flat list of options needs. What it leaves out is refused, so that no file means one thing
here and another to a YAML library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from mmojo_forge.ape.arguments.plain import decode_text
from mmojo_forge.ape.errors import ArgumentFault, ArgumentsError

_KEY: Final = re.compile(r"(-{0,2}[A-Za-z0-9][A-Za-z0-9_-]*):(?= |$)")
_ITEM: Final = re.compile(r"( *)-(?= |$)")
_START: Final = re.compile(r"---(?: +#.*| *)$")
_DOCUMENT: Final = re.compile(r"(?:---|\.\.\.)(?: |$)")
_REST: Final = re.compile(r"(?: +#.*| *)$")
_SINGLE: Final = re.compile(r"'((?:[^']|'')*+)'")
_DOUBLE: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_QUOTED: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"")
_CONTROL: Final = re.compile(r"[\x01-\x08\x0b-\x1f\x7f]")
_NAMED: Final = MappingProxyType(dict(zip('abefnrtv\\/"', '\a\b\x1b\f\n\r\t\v\\/"', strict=True)))
_NULLS: Final = frozenset({"", "null", "Null", "NULL", "~"})
_INDICATORS: Final = ",[]{}#&*!|>'\"%@`"


@dataclass(slots=True)
class _Parser:
    """What was read so far. `depth` is that of the list's items, None before the first."""

    file: str
    line: int = 0
    option: str = ""
    values: list[str | None] = field(default_factory=list)
    open: bool = False
    depth: int | None = None
    seen: set[str] = field(default_factory=set)
    arguments: list[str] = field(default_factory=list)

    def read(self, text: str) -> None:
        started = False
        for row in text.split("\n"):
            self.line += 1
            content = row.removesuffix("\r")
            self._check_characters(content)
            if _REST.fullmatch(content) or content.startswith("#"):
                continue
            if not started and _START.fullmatch(content):
                started = True
                continue
            started = True
            self._read_line(content)
        self._finish()

    def _check_characters(self, row: str) -> None:
        if _CONTROL.search(row):
            raise self._error(ArgumentFault.CONTROL, "a control character")
        outside = _QUOTED.sub("", row)
        comment = re.search(r"(?:^| )#", outside)
        if "\t" in (outside[: comment.start()] if comment else outside):
            raise self._error(ArgumentFault.TAB, "a tab; YAML wants blanks")

    def _read_line(self, row: str) -> None:
        if _DOCUMENT.match(row):
            raise self._error(ArgumentFault.DOCUMENT, "a second document; this file has one")
        item = _ITEM.match(row)
        if item:
            self._read_item(len(item[1]), row[item.end() :])
            return
        if row.startswith(" "):
            raise self._error(
                ArgumentFault.INDENT, "an indented line that is no item of a list; options stand at the start"
            )
        key = _KEY.match(row)
        if key is None:
            raise self._error(ArgumentFault.KEY, "not `option: value`")
        self._finish()
        self._begin(key[1])
        value, given = self._read_value(row[key.end() :])
        if given:
            self.values.append(value)
        self.open = not given

    def _read_item(self, depth: int, rest: str) -> None:
        if not self.option:
            raise self._error(ArgumentFault.KEY, "a list without an option")
        if not self.open or self.depth not in {None, depth}:
            raise self._error(
                ArgumentFault.INDENT, "an item that belongs to no list" if not self.open else "another depth"
            )
        self.depth = depth
        value, _ = self._read_value(rest)
        self.values.append(value)

    def _begin(self, key: str) -> None:
        self.option = key if key.startswith("-") else f"-{key}" if len(key) == 1 else f"--{key}"
        self.values, self.depth = [], None
        if self.option in self.seen:
            raise self._error(
                ArgumentFault.DUPLICATE, f"{self.option} a second time; a list gives an option more than once"
            )
        self.seen.add(self.option)

    def _finish(self) -> None:
        if not self.option:
            return
        for value in self.values or [None]:
            self.arguments += [self.option] if value is None else [self.option, value]

    def _read_value(self, rest: str) -> tuple[str | None, bool]:
        """The value, None for a bare option, and whether anything was written."""
        text = rest.lstrip(" ")
        if _REST.fullmatch(rest) or text.startswith("#"):
            return None, False
        if text[0] == "'":
            return self._read_quoted(_SINGLE, text).replace("''", "'"), True
        if text[0] == '"':
            return self._unescape(self._read_quoted(_DOUBLE, text)), True
        plain = re.split(r" +#", text, maxsplit=1)[0].rstrip(" ")
        if "\t" in plain:
            raise self._error(ArgumentFault.TAB, "a tab; YAML wants blanks")
        if plain[0] in _INDICATORS or re.match(r"[-?:](?: |$)", plain) or ": " in plain or plain.endswith(":"):
            raise self._error(
                ArgumentFault.VALUE, f"{plain!r} is more than a text; put it in quotes if it is meant as one"
            )
        return (None if plain in _NULLS else plain), True

    def _read_quoted(self, pattern: re.Pattern[str], text: str) -> str:
        found = pattern.match(text)
        if found is None:
            raise self._error(ArgumentFault.QUOTE, "a quote that is not closed on its line")
        if not _REST.fullmatch(text[found.end() :]):
            raise self._error(ArgumentFault.VALUE, "text behind the closing quote")
        return found[1]

    def _unescape(self, text: str) -> str:
        def character(found: re.Match[str]) -> str:
            digits = found[1] or found[2] or found[3]
            if not digits:
                if found[4] not in _NAMED:
                    raise self._error(ArgumentFault.ESCAPE, f"{found[0]!r} is no escape; write \\\\ for a backslash")
                return _NAMED[found[4]]
            code = int(digits, 16)
            if code == 0:
                raise self._error(ArgumentFault.NUL, "no argument can hold a NUL byte")
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise self._error(ArgumentFault.ESCAPE, f"{found[0]} is no character")
            return chr(code)

        return _ESCAPE.sub(character, text)

    def _error(self, fault: ArgumentFault, cause: str) -> ArgumentsError:
        return ArgumentsError(self.file, self.line, fault, cause)


def parse_yaml(data: bytes, file: str) -> list[bytes]:
    """The arguments that a file comes to; raises ArgumentsError, which calls it `file`."""
    parser = _Parser(file)
    parser.read(decode_text(data, file))
    return [argument.encode() for argument in parser.arguments]
