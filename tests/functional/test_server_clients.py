"""A packaged server asked by the client that most of its users have, natively, on another CPU and on another system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from mmojo_forge.ape.read.extract import extract
from tests.support.built import tiny_model
from tests.support.packed import ARGUMENTS, Running, package, running, start_of, the_server
from tests.support.wine import WINE

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64") or ""
KEY = "secret"
SYSTEMS = {
    "linux-x86_64": "",
    "linux-aarch64": "" if QEMU else "needs qemu-user",
    "windows-x86_64": "",
}


@dataclass(frozen=True)
class Client:
    """The openai package, set to a server of ours."""

    server: Running
    api: openai.OpenAI


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "my-args").write_text(ARGUMENTS + f"--api-key {KEY} --alias tiny --seed 1\n")
    shutil.copy(tiny_model(), folder / "tiny.gguf")
    package(the_server(), folder / "hello.exe", "--model", folder / "tiny.gguf", "--args", folder / "my-args")
    return folder


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    system: str = request.param
    if SYSTEMS[system]:
        pytest.skip(SYSTEMS[system])
    return system


@contextmanager
def client_of(system: str, folder: Path, *more: str) -> Iterator[Client]:
    command, environment = command_of(system, folder)
    with running([*command, *more], folder / f"{system}.log", environment=environment) as server:
        yield Client(server, openai.OpenAI(base_url=f"{server.address}/v1", api_key=KEY, max_retries=0, timeout=300))


@pytest.fixture(scope="module")
def client(system: str, folder: Path) -> Iterator[Client]:
    with client_of(system, folder) as client:
        yield client


def command_of(system: str, folder: Path) -> tuple[list[str | Path], Mapping[str, str]]:
    """The command that starts the same file as on `system`, and its environment."""
    file = folder / "hello.exe"
    if system != "linux-x86_64" and start_of(file)[0] != "sh":
        pytest.skip("mmojo-server.ape is not built")
    if system == "windows-x86_64":
        prefix = folder / "wine"
        environment = {"WINEPREFIX": str(prefix), "HOME": str(folder), "WINEDEBUG": "-all", "DISPLAY": ""}
        environment["WINEDLLOVERRIDES"] = "mscoree,mshtml="
        if not prefix.exists():
            # Its output is nobody's: Wine's own server would keep a pipe open.
            quiet, init = subprocess.DEVNULL, [WINE, "wineboot", "--init"]
            subprocess.run(init, env={**os.environ, **environment}, stdout=quiet, stderr=quiet, check=True, timeout=300)
        return [WINE, file], environment
    if system == "linux-aarch64":
        # qemu-user starts one program for another CPU, not the shell that would unpack it.
        program = folder / "mmojo-server.aarch64"
        if not program.exists():
            extract(file, "linux-aarch64-v80", program)
            program.chmod(0o755)
        return [QEMU, program], {"APE_FILE": str(file)}
    return start_of(file), {"XDG_CACHE_HOME": str(folder / "cache")}


def test_chat(client: Client) -> None:
    answer = client.api.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert answer.model == "tiny"


def test_streamed_chat(client: Client) -> None:
    stream = client.api.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": True},
    )
    parts = list(stream)
    assert sum(bool(part.choices and part.choices[0].delta.content) for part in parts) >= 1
    assert parts[-1].usage is not None
    assert parts[-1].usage.completion_tokens == 4


def test_completion(client: Client) -> None:
    answer = client.api.completions.create(model="tiny", prompt="Once upon a time", max_tokens=4, temperature=0)
    again = client.api.completions.create(model="tiny", prompt="Once upon a time", max_tokens=4, temperature=0)
    assert answer.choices[0].text == again.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


def test_embeddings(system: str, folder: Path) -> None:
    with client_of(system, folder, "--embeddings", "--pooling", "mean") as client:
        answer = client.api.embeddings.create(model="tiny", input=["one", "two"])
        assert [len(one.embedding) for one in answer.data] == [256, 256]
        assert answer.data[0].embedding != answer.data[1].embedding


def test_models(client: Client) -> None:
    assert [model.id for model in client.api.models.list()] == ["tiny"]


def test_a_wrong_key_is_refused(client: Client) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.api.with_options(api_key="wrong").completions.create(model="tiny", prompt="a", max_tokens=1)


def test_a_prompt_that_is_too_long_is_refused(client: Client) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.api.completions.create(model="tiny", prompt="a b c d e f g h " * 200, max_tokens=1)
    assert "context" in str(caught.value)


def test_a_wrong_request_is_refused(client: Client) -> None:
    with pytest.raises(openai.BadRequestError):
        client.api.chat.completions.create(model="tiny", messages="no list", max_tokens=1)  # type: ignore[arg-type]


def test_the_page_is_there_too(client: Client) -> None:
    status, content, _ = client.server.ask("/")
    assert status == 200
    assert b"<html" in content


def test_curl_streams(client: Client) -> None:
    body = {"prompt": "a", "n_predict": 3, "stream": True}
    command = ["curl", "-sSN", f"{client.server.address}/completion", "-H", f"Authorization: Bearer {KEY}"]
    command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    events = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert events[-1]["stop"] is True, done.stderr
    assert events[-1]["tokens_predicted"] == 3
