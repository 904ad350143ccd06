"""Arguments from files through the real server: what it makes of each case that the Python readers are tested with."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.ape.arguments.plain import expand, parse_plain
from tests.support.built import server_program

CASES: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parents[1] / "support/args_cases.json").read_text())
FILES = {"plain": "mmojo-server-args", "yaml": "mmojo-server-args.yaml"}
Answer = subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program lies; its files with arguments are put beside it."""
    folder = tmp_path_factory.mktemp("arguments")
    shutil.copy(server_program(), folder / "mmojo-server")
    return folder


def ask(program: Path, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Answer:
    more = {name: value.encode() for name, value in (environment or {}).items()}
    # No shell's variables, and none of a case before.
    given = {b"PATH": os.environb[b"PATH"], **{name.encode(): value for name, value in more.items()}}
    return subprocess.run([program, *arguments], env=given, capture_output=True, timeout=60, check=False)


def printed(answer: Answer) -> list[bytes]:
    """The arguments that `--print-args` said, which is in the plain form itself."""
    assert answer.returncode == 0, answer.stderr
    found = expand(parse_plain(answer.stdout, "printed"), {}, "printed")
    assert None not in found
    return [word for word in found if word is not None]


def clear(folder: Path) -> None:
    shutil.rmtree(folder / "mmojo-server-support", ignore_errors=True)
    for name in FILES.values():
        (folder / name).unlink(missing_ok=True)


def content(case: Mapping[str, Any]) -> bytes:
    return bytes.fromhex(case["bytes"]) if "bytes" in case else case["text"].encode()


def as_bytes(token: str | Mapping[str, str]) -> bytes:
    return token.encode() if isinstance(token, str) else bytes.fromhex(token["bytes"])


@pytest.mark.parametrize("form", FILES)
def test_a_file_is_read_as_the_table_says(folder: Path, form: str) -> None:
    for case in CASES[form]:
        clear(folder)
        (folder / FILES[form]).write_bytes(content(case))
        answer = ask(folder / "mmojo-server", ["--print-args"], case.get("env"))
        if "error" in case:
            message = rf"error\[args-{case['error']['why']}\]: .*/{FILES[form]}:{case['error']['line']}: ."
            assert answer.returncode != 0, case["name"]
            assert re.match(message, answer.stderr.decode()), (case["name"], answer.stderr)
        else:
            expected = [as_bytes(token) for token in case["tokens"] if token is not None]
            assert printed(answer) == expected, case["name"]


@pytest.mark.parametrize("case", CASES["order"], ids=lambda case: str(case["name"]))
def test_the_nearer_place_comes_later(tmp_path: Path, case: Mapping[str, Any]) -> None:
    program = tmp_path / "mmojo-server"
    shutil.copy(server_program(), program)
    (tmp_path / "mmojo-server-support").mkdir()
    for place, files in case["files"].items():
        for form, text in files.items():
            if place == "zip":
                with zipfile.ZipFile(program, "a", zipfile.ZIP_DEFLATED) as archive:
                    archive.writestr(FILES[form], text)
            else:
                (tmp_path / ("mmojo-server-support" if place == "support" else ".") / FILES[form]).write_text(text)
    answer = ask(program, [*case["argv"], "--print-args"])
    assert printed(answer) == [word.encode() for word in case["result"]]


def test_it_says_where_each_argument_was_written(folder: Path) -> None:
    clear(folder)
    (folder / "mmojo-server-args").write_text("# note\n--host ::1 --port 1\n--alias 'a b'")
    lines = ask(folder / "mmojo-server", ["--port", "2", "--print-args"]).stdout.decode().splitlines()
    place = f"{folder}/mmojo-server-args"
    assert [line.split("  ")[0] + "|" + line.rpartition("# ")[2] for line in lines[1:]] == [
        f"--host ::1|{place}:2",
        f"--port 1|{place}:2",
        f'--alias "a b"|{place}:3',
        "--port 2|command line",
    ]


def test_an_unknown_option_is_named_with_its_file_and_line(folder: Path) -> None:
    clear(folder)
    (folder / "mmojo-server-args").write_text("--port 1\n--no-such-thing\n")
    answer = ask(folder / "mmojo-server", [])
    assert answer.returncode == 1
    assert f"--no-such-thing ({folder}/mmojo-server-args:2)" in answer.stderr.decode()


def test_a_wrong_value_is_named_with_its_file_and_line(folder: Path) -> None:
    clear(folder)
    (folder / "mmojo-server-args.yaml").write_text("ctx-size-max: -4\n")
    answer = ask(folder / "mmojo-server", [])
    assert answer.returncode == 1
    assert f'"--ctx-size-max" ({folder}/mmojo-server-args.yaml:1): it cannot be negative' in answer.stderr.decode()


def test_a_folder_in_the_place_of_the_file_is_an_error(folder: Path) -> None:
    clear(folder)
    (folder / "mmojo-server-args").mkdir()
    try:
        answer = ask(folder / "mmojo-server", ["--print-args"])
    finally:
        (folder / "mmojo-server-args").rmdir()
    assert answer.returncode == 1
    assert "mmojo-server-args: " in answer.stderr.decode()


def test_a_file_that_is_too_large_is_an_error(folder: Path) -> None:
    clear(folder)
    (folder / "mmojo-server-args").write_bytes(b"#" * (1 << 20) + b"\n")
    answer = ask(folder / "mmojo-server", ["--print-args"])
    assert answer.returncode == 1
    assert "1 MiB" in answer.stderr.decode()


def test_a_file_that_anybody_may_write_to_is_left_alone(folder: Path) -> None:
    """In /tmp anybody can put one beside the program, and arguments say what code is loaded."""
    clear(folder)
    file = folder / "mmojo-server-args"
    file.write_text("--x")
    file.chmod(0o666)
    answer = ask(folder / "mmojo-server", ["--print-args"])
    assert printed(answer) == []
    assert f"the arguments in {file} are not used: anybody may write to it" in answer.stderr.decode()
    file.chmod(0o664)
    assert printed(ask(folder / "mmojo-server", ["--print-args"])) == [b"--x"]
    file.unlink()


def test_support_names_a_file_in_the_support_folder(folder: Path) -> None:
    clear(folder)
    (folder / "mmojo-server-support").mkdir()
    (folder / "mmojo-server-support" / "here.txt").touch()
    (folder / "mmojo-server-args").write_text("--x /support/here.txt --y /support/not-here.txt")
    found = printed(ask(folder / "mmojo-server", ["--print-args"]))
    assert found[1].decode() == f"{folder}/mmojo-server-support/here.txt"
    assert found[3] == b"/support/not-here.txt"


def test_the_version_names_both(folder: Path) -> None:
    clear(folder)
    said = ask(folder / "mmojo-server", ["--version"]).stderr.decode()
    assert said.startswith("mmojo-server")
    assert "version: 0.5.0-dev" in said
