"""Files of arguments: the table that every reader of them must agree with, and what packaging writes into them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmojo_forge.ape.arguments import head, plain, yaml
from mmojo_forge.ape.errors import ArgumentFault, ArgumentsError

CASES: dict[str, Any] = json.loads((Path(__file__).parents[3] / "support/args_cases.json").read_text())
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


def content(case: dict[str, Any]) -> bytes:
    return bytes.fromhex(case["bytes"]) if "bytes" in case else case["text"].encode()


def token(value: Any) -> bytes | None:
    if isinstance(value, dict):
        return bytes.fromhex(value["bytes"])
    return None if value is None else str(value).encode()


def read_plain(data: bytes, environment: dict[str, str]) -> Sequence[bytes | None]:
    return plain.expand(plain.parse_plain(data, "args"), environment, "args")


def join(files: Sequence[Sequence[bytes | None]], command_line: Sequence[bytes]) -> list[bytes | None]:
    """All arguments, weakest first: docs/args.md's rule. `files` stand nearest first; None is the mark `...`."""
    joined: list[bytes | None] = [*command_line]
    for arguments in files:
        at = arguments.index(None) if None in arguments else len(arguments)
        joined = [*arguments[:at], *joined, *arguments[at + 1 :]]
    return joined


def names(cases: list[dict[str, Any]]) -> list[str]:
    return [case["name"] for case in cases]


@pytest.mark.parametrize("case", CASES["plain"], ids=names(CASES["plain"]))
def test_the_plain_form_reads_as_the_table_says(case: dict[str, Any]) -> None:
    if "error" not in case:
        assert read_plain(content(case), case.get("env", {})) == [token(value) for value in case["tokens"]]
        return
    with pytest.raises(ArgumentsError) as caught:
        read_plain(content(case), case.get("env", {}))
    error = caught.value
    assert (error.line, error.fault, error.reason) == (case["error"]["line"], case["error"]["why"], "ape-arguments")
    assert error.message.startswith(f"args:{error.line}: ")


@pytest.mark.parametrize("case", CASES["yaml"], ids=names(CASES["yaml"]))
def test_the_yaml_form_reads_as_the_table_says(case: dict[str, Any]) -> None:
    if "error" not in case:
        assert yaml.parse_yaml(content(case), "args") == [token(value) for value in case["tokens"]]
        return
    with pytest.raises(ArgumentsError) as caught:
        yaml.parse_yaml(content(case), "args")
    assert (caught.value.line, caught.value.fault) == (case["error"]["line"], case["error"]["why"])


@pytest.mark.parametrize("case", CASES["order"], ids=names(CASES["order"]))
def test_places_are_joined_as_the_table_says(case: dict[str, Any]) -> None:
    files: list[Sequence[bytes | None]] = []
    for place in ("beside", "support", "zip"):
        forms = case["files"].get(place, {})
        files.append(yaml.parse_yaml(forms.get("yaml", "").encode(), place))
        files.append(read_plain(forms.get("plain", "").encode(), {}))
    assert join(files, [word.encode() for word in case["argv"]]) == [word.encode() for word in case["result"]]


def test_the_table_is_large_and_its_names_are_unique() -> None:
    assert len(CASES["plain"]) >= 40
    assert len(CASES["yaml"]) >= 25
    for cases in (CASES["plain"], CASES["yaml"], CASES["order"]):
        assert len(set(names(cases))) == len(cases)


@pytest.mark.parametrize("read", [plain.parse_plain, yaml.parse_yaml], ids=["plain", "yaml"])
def test_a_file_of_more_than_a_mebibyte_is_none(read: Any) -> None:
    read(b"#" * (1 << 20), "args")
    with pytest.raises(ArgumentsError) as caught:
        read(b"#" * ((1 << 20) + 1), "args")
    assert caught.value.fault is ArgumentFault.SIZE


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_what_is_quoted_reads_back_as_itself(text: str) -> None:
    assert read_plain(f"a {plain.quote(text)}\n".encode(), {}) == [b"a", text.encode()]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([b"", b"'", b'"\\', b"${", b"a: ", b"a:\n- "]))
def test_any_bytes_are_arguments_or_an_error_with_a_line(data: bytes, start: bytes) -> None:
    readers: list[Callable[[bytes], object]] = [
        lambda data: read_plain(data, {}),
        lambda data: yaml.parse_yaml(data, "args"),
    ]
    for read in readers:
        try:
            read(start + data)
        except ArgumentsError as error:
            assert 1 <= error.line <= (start + data).count(b"\n") + 1


def test_what_packaging_writes_stands_before_what_was_given_and_is_told_from_it() -> None:
    options = [("--model", "/zip/my 'model'.gguf"), ("--ui-page", "custom")]
    data = head.encode_head(options, b"\xef\xbb\xbf--port 1\r\n")
    assert read_plain(data, {}) == [b"--model", b"/zip/my 'model'.gguf", b"--ui-page", b"custom", b"--port", b"1"]
    assert head.split_head(data) == (dict(options), b"--port 1\r\n")
    assert head.split_head(head.encode_head(options)) == (dict(options), b"")
    assert head.split_head(b"--port 1\n") == ({}, b"--port 1\n")
    assert head.encode_head([], b"--port 1\n") == b"--port 1\n"
    assert head.encode_head([]) == b""
