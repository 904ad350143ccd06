"""The plain form: words with quotes, escapes, comments and variables (docs/args.md).

`decode_text` is for both forms.

Reading and replacing variables are apart: a file can be checked where it is packaged, and its variables are those of
the machine where the server starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mmojo_forge.ape.errors import ArgumentFault, ArgumentsError

MAX_SIZE: Final = 1 << 20
BOM: Final = b"\xef\xbb\xbf"
MARK: Final = "..."
_BLANK: Final = " \t\n\r\v\f"
_BETWEEN: Final = re.compile(rf"(?:[{_BLANK}]|\\\r?\n|#[^\n]*)*")
_RUN: Final = re.compile(rf"[^{_BLANK}'\"\\$]+")
_QUOTED_RUN: Final = re.compile(r'[^"\\$]+')
_JOINED: Final = re.compile(r"\\\r?\n")
_VARIABLE: Final = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}\n]*))?\})")
_ESCAPE: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|([abefnrtv\\\"'?$]))")
_NAMED: Final = MappingProxyType(dict(zip("abefnrtv", b"\a\b\x1b\f\n\r\t\v", strict=True)))
_SAFE: Final = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def decode_text(data: bytes, file: str) -> str:
    """The characters of `data` without a byte order mark at their start; raises ArgumentsError."""
    if len(data) > MAX_SIZE:
        raise ArgumentsError(file, 1, ArgumentFault.SIZE, "larger than 1 MiB: that is no file of arguments")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ArgumentsError(file, line, ArgumentFault.ENCODING, "not UTF-8; save the file as UTF-8") from error
    if "\0" in text:
        raise ArgumentsError(file, text.count("\n", 0, text.index("\0")) + 1, ArgumentFault.NUL, "a NUL byte")
    return text.removeprefix("\ufeff")


@dataclass(frozen=True, slots=True)
class Variable:
    """`$NAME`, or `${NAME:-default}`; `line` is where it stands."""

    name: str
    default: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Word:
    """One argument as it was written; `mark` says that it is the `...` that stands for others."""

    parts: tuple[bytes | Variable, ...]
    mark: bool = False


def parse_plain(data: bytes, file: str) -> tuple[Word, ...]:
    """The words of a file; raises ArgumentsError, which calls it `file`."""
    return tuple(_Parser(decode_text(data, file), file).words())


def expand(words: Sequence[Word], environment: Mapping[str, str], file: str) -> list[bytes | None]:
    """The arguments that `words` come to, None for the mark; raises ArgumentsError for a variable that is not set."""
    return [None if word.mark else b"".join(_expand(part, environment, file) for part in word.parts) for word in words]


def _expand(part: bytes | Variable, environment: Mapping[str, str], file: str) -> bytes:
    if isinstance(part, bytes):
        return part
    value = environment.get(part.name)
    if part.default is not None and not value:
        value = part.default
    if value is None:
        cause = f"${part.name} is not set; ${{{part.name}:-}} is empty then"
        raise ArgumentsError(file, part.line, ArgumentFault.VARIABLE, cause)
    return value.encode("utf-8", "surrogateescape")


def show(word: Word) -> str:
    """The argument that `word` is, with its variables as they are written."""
    if word.mark:
        return MARK
    return b"".join(_show(part) for part in word.parts).decode("utf-8", "replace")


def _show(part: bytes | Variable) -> bytes:
    if isinstance(part, bytes):
        return part
    return (f"${{{part.name}}}" if part.default is None else f"${{{part.name}:-{part.default}}}").encode()


def quote(argument: str) -> str:
    """`argument` as one word of the plain form."""
    if _SAFE.fullmatch(argument) and argument != MARK:
        return argument
    if "'" not in argument:
        return f"'{argument}'"
    return '"' + re.sub(r'["\\$]', r"\\\g<0>", argument) + '"'


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._at = 0
        self._parts: list[bytes | Variable] = []

    def words(self) -> Iterator[Word]:
        marked = False
        while True:
            self._at = self._match(_BETWEEN).end()
            if self._at == len(self._text):
                return
            word = self._word()
            if word.mark and marked:
                raise self._error(ArgumentFault.MARKER, "a second `...`", self._at - len(MARK))
            marked = marked or word.mark
            yield word

    def _word(self) -> Word:
        start = self._at
        self._parts = []
        while self._at < len(self._text) and self._text[self._at] not in _BLANK:
            match self._text[self._at]:
                case "'":
                    self._read_single()
                case '"':
                    self._read_double()
                case "\\":
                    self._read_backslash()
                case "$":
                    self._read_variable()
                case _:
                    self._add(self._take(_RUN))
        return Word(tuple(self._parts), mark=self._text[start : self._at] == MARK)

    def _read_single(self) -> None:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise self._error(ArgumentFault.QUOTE, "the quote that begins here is never closed", self._at)
        self._add(self._text[self._at + 1 : end])
        self._at = end + 1

    def _read_double(self) -> None:
        start = self._at
        self._at += 1
        while self._text[self._at : self._at + 1] != '"':
            if self._at >= len(self._text) or self._text[self._at :] == "\\":
                raise self._error(ArgumentFault.QUOTE, "the quote that begins here is never closed", start)
            match self._text[self._at]:
                case "\\":
                    self._read_escape()
                case "$":
                    self._read_variable()
                case _:
                    self._add(self._take(_QUOTED_RUN))
        self._at += 1

    def _read_backslash(self) -> None:
        if joined := _JOINED.match(self._text, self._at):
            self._at = joined.end()
            return
        following = self._text[self._at + 1 : self._at + 2]
        if not following:
            raise self._error(ArgumentFault.ESCAPE, "a backslash with nothing behind it", self._at)
        if following.isascii() and following.isalnum():
            cause = f"\\{following} means nothing outside quotes; write a path with / or in '…'"
            raise self._error(ArgumentFault.ESCAPE, cause, self._at)
        self._add(following)
        self._at += 2

    def _read_escape(self) -> None:
        if joined := _JOINED.match(self._text, self._at):
            self._at = joined.end()
            return
        found = _ESCAPE.match(self._text, self._at)
        if found is None:
            shown = self._text[self._at : self._at + 2]
            raise self._error(ArgumentFault.ESCAPE, f"{shown!r} is no escape; write \\\\ for a backslash", self._at)
        digits, base = (found[1], 16) if found[1] else (found[2], 8)
        value = int(digits, base) if digits else _NAMED.get(found[3], ord(found[3]))
        if value > 0xFF:
            raise self._error(ArgumentFault.ESCAPE, f"\\{found[2]} is more than a byte", self._at)
        if value == 0:
            raise self._error(ArgumentFault.NUL, "no argument can hold a NUL byte", self._at)
        self._parts.append(bytes([value]))
        self._at = found.end()

    def _read_variable(self) -> None:
        found = _VARIABLE.match(self._text, self._at)
        if found is None:
            if self._text.startswith("${", self._at):
                raise self._error(ArgumentFault.VARIABLE, "neither ${NAME} nor ${NAME:-text}", self._at)
            self._add("$")
            self._at += 1
            return
        self._parts.append(Variable(found[1] or found[2], found[3], self._line(self._at)))
        self._at = found.end()

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = self._match(pattern)
        self._at = found.end()
        return found[0]

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        assert found is not None
        return found

    def _add(self, text: str) -> None:
        self._parts.append(text.encode())

    def _line(self, at: int) -> int:
        return self._text.count("\n", 0, at) + 1

    def _error(self, fault: ArgumentFault, cause: str, at: int) -> ArgumentsError:
        return ArgumentsError(self._file, self._line(at), fault, cause)
