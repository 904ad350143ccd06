"""Tables on a terminal and in a pipe."""

from __future__ import annotations

import pytest

from mmojo_forge.cli import console


def test_what_a_terminal_would_obey_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_table(("name", "what"), [("a\x1b[2J", "one\ntwo\tthree"), ("\ud800", "ä — 日本")])
    assert capsys.readouterr().out == "a\\x1b[2J\tone\\ntwo\\tthree\n\\ud800\tä — 日本\n"
