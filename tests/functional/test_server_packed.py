"""A packaged server as its users start it: no arguments, a model, pages and certificates in the one file."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mmojo_forge.ape.write.entry_writer import EntryWriter
from mmojo_forge.ape.write.spec import Asset
from tests.support.built import built, server_program, tiny_model
from tests.support.packed import ARGUMENTS, Running, make_certificate, package, running, start_of, the_server

COMPLETION = {"prompt": "Once upon a time", "n_predict": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    (folder / "my-args").write_text(ARGUMENTS)
    shutil.copy(tiny_model(), folder / "tiny.gguf")
    return folder


@pytest.fixture(scope="module")
def cache(folder: Path) -> dict[str, str]:
    """Where the slices are unpacked: not among the user's own files."""
    return {"XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)}


@pytest.fixture(scope="module")
def hello(folder: Path) -> Path:
    out = folder / "hello.ape"
    package(the_server(), out, "--model", folder / "tiny.gguf", "--args", folder / "my-args")
    return out


@pytest.fixture(scope="module")
def server(hello: Path, folder: Path, cache: dict[str, str]) -> Iterator[Running]:
    with running(start_of(hello), folder / "hello.log", environment=cache) as server:
        yield server


def completes(server: Running) -> None:
    status, content, _ = server.ask("/completion", COMPLETION)
    assert status == 200, content
    assert json.loads(content)["tokens_predicted"] == 4


def test_it_starts_without_an_argument_and_completes(server: Running) -> None:
    completes(server)
    status, content, _ = server.ask("/props")
    assert status == 200
    assert json.loads(content)["model_path"] == "/zip/tiny.gguf"


def test_the_model_is_mapped_where_it_lies(server: Running, hello: Path) -> None:
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    mapped = [line.split() for line in maps.splitlines() if line.endswith(str(hello)) and " r--s " in line]
    size = sum(int(end, 16) - int(begin, 16) for begin, end in (line[0].split("-") for line in mapped))
    # What stands in front of the weights is unmapped when they are in use.
    assert 0.9 * tiny_model().stat().st_size < size < tiny_model().stat().st_size + 65536, maps


@pytest.mark.parametrize("page", ["/", "/ui/chat/", "/ui/complete/"])
def test_pages_are_served_and_asked_for_again(server: Running, page: str) -> None:
    status, content, headers = server.ask(page)
    assert status == 200
    assert b"<!doctype html>" in content[:1000].lower()
    assert headers["Cache-Control"] == "no-cache"
    assert server.ask(page, headers={"If-None-Match": headers["ETag"]})[0] == 304


def test_what_never_changes_is_kept_by_browsers(server: Running) -> None:
    found = re.search(rb"_app/immutable/[\w./-]+\.js", server.ask("/")[1])
    assert found is not None
    status, _, headers = server.ask("/" + found[0].decode())
    assert status == 200
    assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert headers["Content-Type"].startswith("text/javascript")


def test_an_unknown_file_of_a_page_is_not_found(server: Running) -> None:
    assert server.ask("/ui/chat/no-such-file.js")[0] == 404
    assert server.ask("/ui/../mmojo-server-args")[0] == 404
    assert server.ask("/mmojo-server-args")[0] == 404


def test_pages_need_no_api_key_and_all_else_does(hello: Path, folder: Path, cache: dict[str, str]) -> None:
    with running([*start_of(hello), "--api-key", "secret"], folder / "key.log", environment=cache) as server:
        assert server.ask("/")[0] == 200
        assert server.ask("/ui/complete/main.js")[0] == 200
        assert server.ask("/props")[0] == 401
        assert server.ask("/props", headers={"Authorization": "Bearer secret"})[0] == 200


def test_another_page_can_be_chosen(hello: Path, folder: Path, cache: dict[str, str]) -> None:
    with running([*start_of(hello), "--ui-page", "complete"], folder / "page.log", environment=cache) as server:
        assert server.ask("/")[1] == server.ask("/ui/complete/")[1]
    with running([*start_of(hello), "--no-ui"], folder / "none.log", environment=cache) as server:
        assert server.ask("/")[0] == 404


def test_the_context_is_capped(hello: Path, folder: Path, cache: dict[str, str]) -> None:
    arguments = ["--ctx-size", "0", "--ctx-size-max", "256", "--batch-sleep-ms", "1"]
    with running([*start_of(hello), *arguments], folder / "context.log", environment=cache) as server:
        assert json.loads(server.ask("/slots")[1])[0]["n_ctx"] == 256
        completes(server)


def test_https_from_certificates_inside(folder: Path, cache: dict[str, str]) -> None:
    certificate, key = make_certificate(folder)
    out = folder / "secure.ape"
    more: list[str | Path] = [
        "--model",
        folder / "tiny.gguf",
        "--args",
        folder / "my-args",
        "--cert",
        certificate,
        "--key",
        key,
    ]
    package(the_server(), out, *more)
    with running(start_of(out), folder / "secure.log", environment=cache, certificate=certificate) as server:
        completes(server)
        port = server.address.rpartition(":")[2]
        # curl brings a TLS of its own.
        command = ["curl", "-sS", "--cacert", str(certificate), f"https://localhost:{port}/health"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert json.loads(done.stdout) == {"status": "ok"}, done.stderr
        refused = subprocess.run(["curl", "-sS", command[-1]], capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 60  # the peer cannot be verified


BAD = {
    "certificate without a key": (["--ssl-cert-file", "a.crt"], "--ssl-key-file is missing"),
    "a key of another certificate": (["--ssl-cert-file", "a.crt", "--ssl-key-file", "b.key"], "do not go together"),
    "no such certificate": (["--ssl-cert-file", "/zip/x", "--ssl-key-file", "a.key"], "no such file inside"),
    "no certificate": (["--ssl-cert-file", "my-args", "--ssl-key-file", "a.key"], "not in PEM form"),
    "an encrypted key": (["--ssl-cert-file", "a.crt", "--ssl-key-file", "c.key"], "protected by a password"),
    "no such page": (["--ui-page", "x"], "no such page; it has: chat, complete"),
    "no such folder": (["--path", "/zip/x"], "no such folder inside"),
    "no such model": (["--model", "/zip/x.gguf"], "failed to open GGUF file '/zip/x.gguf'"),
    "no such template": (["--chat-template-file", "/zip/x"], "no such file inside"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_there_ends_the_start(hello: Path, folder: Path, cache: dict[str, str], case: str) -> None:
    for name in ("a", "b"):
        if not (folder / f"{name}.key").exists():
            make_certificate(folder, name)
    command = ["openssl", "pkey", "-aes128", "-passout", "pass:abcd", "-in", "a.key", "-out", "c.key"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    arguments, message = BAD[case]
    done = subprocess.run(
        [*start_of(hello), *arguments],
        cwd=folder,
        env={**os.environ, **cache},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr.decode() + done.stdout.decode()


def test_a_deflated_model_is_refused(folder: Path, tmp_path: Path) -> None:
    import zipfile

    program = tmp_path / "mmojo-server"
    shutil.copy(server_program(), program)
    with zipfile.ZipFile(program, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "tiny.gguf", "tiny.gguf")
    done = subprocess.run([program, "--port", "0"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"/zip/tiny.gguf: deflated, so it cannot be mapped" in done.stderr + done.stdout


def test_an_unaligned_model_is_refused_for_mapping_and_read_otherwise(folder: Path, tmp_path: Path) -> None:
    import zipfile

    program = tmp_path / "mmojo-server"
    shutil.copy(server_program(), program)
    with zipfile.ZipFile(program, "a", zipfile.ZIP_STORED) as archive:
        archive.write(folder / "tiny.gguf", "tiny.gguf")
        archive.write(folder / "my-args", "mmojo-server-args")
    done = subprocess.run([program, "--port", "0"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"does not begin at a multiple of 64 KiB" in done.stderr + done.stdout
    with running([program, "--load-mode", "none"], tmp_path / "log") as server:
        completes(server)


def test_two_entries_of_one_name_are_refused(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "mmojo-server"
    shutil.copy(server_program(), program)
    with zipfile.ZipFile(program, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("a", "1")
        archive.writestr("a", "2")
    done = subprocess.run([program, "--print-args"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"two entries named a" in done.stderr


def test_a_file_that_was_cut_short_says_so(hello: Path, tmp_path: Path, cache: dict[str, str]) -> None:
    if start_of(hello)[0] != "sh":
        pytest.skip("a native program does not know that something was at its end")
    cut = tmp_path / "cut.ape"
    shutil.copy(hello, cut)
    os.truncate(cut, cut.stat().st_size - 5000)
    done = subprocess.run(start_of(cut), env={**os.environ, **cache}, capture_output=True, timeout=60, check=False)
    assert done.returncode != 0
    assert b"cut short" in done.stderr or b"truncated" in done.stderr


def test_a_model_beside_the_program_is_found(folder: Path, tmp_path: Path) -> None:
    shutil.copy(server_program(), tmp_path / "mmojo-server")
    (tmp_path / "mmojo-server-args").write_text(ARGUMENTS)
    (tmp_path / "mmojo-server-support").mkdir()
    shutil.copy(folder / "tiny.gguf", tmp_path / "mmojo-server-support" / "a.gguf")
    with running([tmp_path / "mmojo-server"], tmp_path / "log") as server:
        assert json.loads(server.ask("/props")[1])["model_path"].endswith("/mmojo-server-support/a.gguf")
    for name in ("b.gguf", "c.gguf", "a-mmproj.gguf"):
        shutil.copy(folder / "tiny.gguf", tmp_path / name)
    with running([tmp_path / "mmojo-server"], tmp_path / "log") as server:
        assert json.loads(server.ask("/props")[1])["model_path"].endswith("/b.gguf")


def test_split_models_are_mapped_inside(folder: Path, tmp_path: Path) -> None:
    split = server_program().with_name("llama-gguf-split")
    if not split.exists():
        split = built("llama-gguf-split.linux-x86_64-v2") / "bin" / "llama-gguf-split"
    command: list[str | Path] = [split, "--split", "--split-max-tensors", "8", folder / "tiny.gguf", tmp_path / "tiny"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    parts = sorted(tmp_path.glob("tiny-*.gguf"))
    assert len(parts) > 1
    out = tmp_path / "split"
    package(server_program(), out, "--model", parts[0], "--args", folder / "my-args")
    with running([out], tmp_path / "log") as server:
        completes(server)
        maps = Path(f"/proc/{server.pid}/maps").read_text().splitlines()
        assert len([line for line in maps if line.endswith(str(out)) and " r--s " in line]) == len(parts)


def test_packaging_twice_gives_the_same_bytes(hello: Path, folder: Path) -> None:
    again = folder / "again.ape"
    package(the_server(), again, "--model", folder / "tiny.gguf", "--args", folder / "my-args")
    assert again.read_bytes() == hello.read_bytes()


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """A web server that hands out `folder` over https, with a certificate that only it trusts; its address."""
    certificate, key = make_certificate(folder, "files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_model_is_fetched_over_https_that_is_verified(folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(folder / "tiny.gguf", site / "fetched.gguf")
    program, models = tmp_path / "mmojo-server", tmp_path / "models"
    shutil.copy(server_program(), program)
    (tmp_path / "mmojo-server-args").write_text(ARGUMENTS)
    environment = {"LLAMA_CACHE": str(models)}
    with file_server(site) as address:
        command: list[str | Path] = [program, "--model-url", f"{address}/fetched.gguf"]
        given = {**os.environ, **environment}
        refused = subprocess.run(command, env=given, capture_output=True, timeout=120, check=False)
        assert refused.returncode == 1
        assert b"failed to download model" in refused.stderr
        assert not list(models.rglob("*.gguf"))
        environment["SSL_CERT_FILE"] = str(site / "files.crt")
        with running(command, tmp_path / "log", environment=environment) as server:
            completes(server)


def test_a_model_beyond_four_gigabytes_is_mapped(folder: Path, tmp_path: Path) -> None:
    """The file is sparse: nothing but its end takes room, and both offsets need the zip's 64-bit fields."""
    program = tmp_path / "mmojo-server"
    shutil.copy(server_program(), program)
    with program.open("r+b") as stream:
        stream.truncate(5 << 30)
        stream.seek(0, os.SEEK_END)
        writer = EntryWriter(stream, [])
        writer.add_asset(Asset("tiny.gguf", folder / "tiny.gguf", mapped=True))
        writer.add_asset(Asset("mmojo-server-args", folder / "my-args", mapped=False))
        writer.finish()
    if program.stat().st_blocks * 512 > 1 << 30:
        pytest.skip("this file system has no sparse files")
    with running([program], tmp_path / "log") as server:
        completes(server)
        maps = Path(f"/proc/{server.pid}/maps").read_text().splitlines()
        offsets = [int(line.split()[2], 16) for line in maps if line.endswith(str(program)) and " r--s " in line]
        assert min(offsets) >= 5 << 30
