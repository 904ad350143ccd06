"""Python and npm packages: the client's own configuration, the index's word, and the bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.npm import find_registry, read_configuration
from mmojo_forge.fetch.pypi import PipSettings, read_pip_settings
from tests.support.http_server import (
    CONTENT,
    Exchange,
    Server,
    closed_port,
    serve,
    server_fixture,
    status,
)
from tests.unit.fetch.test_download import destination_fixture, failure_of, fetcher_for, settings_for, source_of

FIXTURES = (destination_fixture, server_fixture)
FILE = "thing-1.0-py3-none-any.whl"
LOCATOR = f"pypi:thing==1.0/{FILE}"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def pip_settings(tmp_path: Path, **environment: str) -> PipSettings:
    settings = settings_for(tmp_path, {"PIP_CONFIG_FILE": "", "VIRTUAL_ENV": str(tmp_path / "venv"), **environment})
    return read_pip_settings(settings)


def test_without_configuration_pip_uses_its_default(tmp_path: Path) -> None:
    assert pip_settings(tmp_path) == PipSettings((PYPI_SIMPLE_ENDPOINT,))


def test_pips_files_and_variables_override_each_other_in_pips_order(tmp_path: Path) -> None:
    put(
        tmp_path / "machine/etc/pip.conf", "[global]\nindex-url = https://machine.example/simple\ncert = /machine.pem\n"
    )
    assert pip_settings(tmp_path) == PipSettings(("https://machine.example/simple",), "/machine.pem")
    put(tmp_path / ".config/pip/pip.conf", "[global]\nindex-url = https://user.example/simple\n")
    assert pip_settings(tmp_path).indexes == ("https://user.example/simple",)
    put(tmp_path / "venv/pip.conf", "[global]\nextra-index-url =\n  https://a.example/simple\n  file:///b/simple\n")
    assert pip_settings(tmp_path).indexes == (
        "https://user.example/simple",
        "https://a.example/simple",
        "file:///b/simple",
    )
    put(
        tmp_path / "chosen.conf",
        "[download]\nindex-url = https://chosen.example\n[global]\nindex-url = https://no.example\n",
    )
    chosen = str(tmp_path / "chosen.conf")
    assert pip_settings(tmp_path, PIP_CONFIG_FILE=chosen).indexes[0] == "https://chosen.example"
    found = pip_settings(tmp_path, PIP_INDEX_URL="https://variable.example", PIP_EXTRA_INDEX_URL="https://b.example")
    assert found == PipSettings(("https://variable.example", "https://b.example"), "/machine.pem")
    assert pip_settings(tmp_path, PIP_CONFIG_FILE=os.devnull) == PipSettings((PYPI_SIMPLE_ENDPOINT,))


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PIP_NO_INDEX": "1"}, "pypi-no-index"),
        ({"PIP_INDEX_URL": "http://mirror.example/simple"}, "pypi-insecure-index"),
        ({"PIP_INDEX_URL": "ftp://mirror.example/simple"}, "pypi-insecure-index"),
    ],
)
def test_settings_that_leave_no_index_are_errors(tmp_path: Path, environment: dict[str, str], reason: str) -> None:
    assert failure_of(lambda: pip_settings(tmp_path, **environment)).reason == reason


def test_an_index_without_tls_needs_pips_trust(tmp_path: Path) -> None:
    environment = {"PIP_INDEX_URL": "http://mirror.example/simple", "PIP_TRUSTED_HOST": "a.example mirror.example"}
    assert pip_settings(tmp_path, **environment).indexes == ("http://mirror.example/simple",)


def test_a_broken_pip_configuration_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "machine/etc/pip.conf", "index-url without section")
    assert failure_of(lambda: pip_settings(tmp_path)).reason == "pip-configuration"


def add_page(server: Server, *, digest: str = SHA256, index: str = "/simple", as_json: bool = True) -> None:
    """An index that lists the file, and the file."""
    if as_json:
        hashes = {"sha256": digest} if digest else {}
        file = {"filename": FILE, "url": f"..{index}-files/{FILE}", "hashes": hashes}
        page = json.dumps({"meta": {"api-version": "1.1"}, "name": "thing", "files": [file], "versions": ["1.0"]})
        kind = "application/vnd.pypi.simple.v1+json"
    else:
        fragment = f"#sha256={digest}" if digest else ""
        page, kind = f'<a href="..{index}-files/{FILE}{fragment}">{FILE}</a>', "text/html; charset=utf-8"
    server.routes[f"{index}/thing/"] = serve(page.encode(), headers={"Content-Type": kind})
    server.routes[f"{index}{index}-files/{FILE}"] = serve(CONTENT)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_release_file_is_resolved_and_fetched(
    server: Server, tmp_path: Path, destination: Path, as_json: bool
) -> None:
    add_page(server, as_json=as_json)
    fetcher = fetcher_for(tmp_path, {"PIP_INDEX_URL": server.url("/simple")})
    pin = fetcher.resolve(FILE, LOCATOR, (), destination)
    assert (pin.sha256, pin.size, pin.version, pin.locator) == (SHA256, len(CONTENT), "1.0", LOCATOR)
    destination.unlink()
    fetcher.fetch(source_of(LOCATOR), destination)
    assert destination.read_bytes() == CONTENT


def test_an_index_can_be_a_folder(tmp_path: Path, destination: Path) -> None:
    put(tmp_path / "index/simple/thing/index.html", f'<a href="../../files/{FILE}#sha256={SHA256}">{FILE}</a>')
    (tmp_path / "index/files").mkdir()
    (tmp_path / "index/files" / FILE).write_bytes(CONTENT)
    fetcher = fetcher_for(tmp_path, {"PIP_INDEX_URL": f"file://{tmp_path}/index/simple"}, plain_schemes=frozenset())
    assert fetcher.resolve(FILE, LOCATOR, (), destination).sha256 == SHA256


def test_an_extra_index_has_what_the_main_one_lacks(server: Server, tmp_path: Path, destination: Path) -> None:
    add_page(server, index="/extra")
    environment = {"PIP_INDEX_URL": server.url("/simple"), "PIP_EXTRA_INDEX_URL": server.url("/extra")}
    assert fetcher_for(tmp_path, environment).resolve(FILE, LOCATOR, (), destination).sha256 == SHA256


def test_an_extra_index_is_not_believed_where_the_main_one_does_not_answer(
    server: Server, tmp_path: Path, destination: Path
) -> None:
    add_page(server, index="/extra")
    server.routes["/simple/thing/"] = status(500)
    environment = {"PIP_INDEX_URL": server.url("/simple"), "PIP_EXTRA_INDEX_URL": server.url("/extra")}
    fetcher = fetcher_for(tmp_path, environment)
    assert failure_of(lambda: fetcher.resolve(FILE, LOCATOR, (), destination)).reason == "server-error"
    # A pin has its digest already, so any index may give the bytes.
    fetcher.fetch(source_of(LOCATOR), destination)
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("digest", "reason"), [("", "pypi-no-digest"), ("0" * 64, "hash-mismatch")], ids=["no digest", "another digest"]
)
def test_the_indexs_digest_is_checked(
    server: Server, tmp_path: Path, destination: Path, digest: str, reason: str
) -> None:
    add_page(server, digest=digest)
    fetcher = fetcher_for(tmp_path, {"PIP_INDEX_URL": server.url("/simple")})
    assert failure_of(lambda: fetcher.resolve(FILE, LOCATOR, (), destination)).reason == reason
    assert not destination.exists()


def test_a_pin_that_the_index_has_with_another_digest_is_not_even_downloaded(
    server: Server, tmp_path: Path, destination: Path
) -> None:
    add_page(server, digest="0" * 64)
    fetcher = fetcher_for(tmp_path, {"PIP_INDEX_URL": server.url("/simple")})
    assert failure_of(lambda: fetcher.fetch(source_of(LOCATOR), destination)).reason == "hash-mismatch"
    assert [path for path, _ in server.asked] == ["/simple/thing/"]


@pytest.mark.parametrize("page", [b"{", b"[]", b'{"files": 3}', b'{"meta": {"api-version": "9.0"}, "files": []}'])
def test_a_page_that_is_none_is_an_error(server: Server, tmp_path: Path, destination: Path, page: bytes) -> None:
    server.routes["/simple/thing/"] = serve(page, headers={"Content-Type": "application/vnd.pypi.simple.v1+json"})
    fetcher = fetcher_for(tmp_path, {"PIP_INDEX_URL": server.url("/simple")})
    assert failure_of(lambda: fetcher.resolve(FILE, LOCATOR, (), destination)).reason == "request-refused"


def test_a_file_that_no_index_lists_is_not_found(server: Server, tmp_path: Path, destination: Path) -> None:
    add_page(server)
    fetcher = fetcher_for(tmp_path, {"PIP_INDEX_URL": server.url("/simple")})
    other = "pypi:thing==1.0/thing-1.0.tar.gz"
    assert failure_of(lambda: fetcher.resolve("x", other, (), destination)).reason == "not-found"
    assert failure_of(lambda: fetcher.fetch(source_of(other), destination)).reason == "not-found"


def test_a_dead_index_is_a_dead_network(tmp_path: Path, destination: Path) -> None:
    fetcher = fetcher_for(tmp_path, {"PIP_INDEX_URL": f"http://127.0.0.1:{closed_port()}/simple"})
    assert failure_of(lambda: fetcher.fetch(source_of(LOCATOR), destination)).reason == "network-unreachable"


NPM_LOCATOR = "npm:@scope/thing@1.2.3"


def add_npm(
    server: Server, *, integrity: str | None = None, tarball: str = "/npm/@scope/thing/-/thing-1.2.3.tgz"
) -> None:
    sha512 = "sha512-" + base64.b64encode(hashlib.sha512(CONTENT).digest()).decode()
    dist: dict[str, Any] = {"tarball": server.url(tarball), "integrity": sha512 if integrity is None else integrity}
    page = json.dumps({"name": "@scope/thing", "versions": {"1.2.3": {"dist": dist}}})
    server.routes["/npm/@scope%2Fthing"] = serve(page.encode(), headers={"Content-Type": "application/json"})
    server.routes[tarball] = serve(CONTENT)


def without_npm(tmp_path: Path, server: Server) -> dict[str, str]:
    put(tmp_path / ".npmrc", f"; comment\nregistry=https://no.example/\n@scope:registry={server.url('/npm')}\n")
    return {"PATH": str(tmp_path)}


def test_an_npm_tarball_is_resolved_and_fetched(server: Server, tmp_path: Path, destination: Path) -> None:
    add_npm(server)
    fetcher = fetcher_for(tmp_path, without_npm(tmp_path, server))
    pin = fetcher.resolve("thing", NPM_LOCATOR, (), destination)
    assert (pin.sha256, pin.version) == (SHA256, "1.2.3")
    fetcher.fetch(source_of(NPM_LOCATOR), destination)
    assert destination.read_bytes() == CONTENT


def test_a_registry_that_keeps_tarballs_elsewhere_is_asked_where(
    server: Server, tmp_path: Path, destination: Path
) -> None:
    add_npm(server, tarball="/elsewhere")
    fetcher_for(tmp_path, without_npm(tmp_path, server)).fetch(source_of(NPM_LOCATOR), destination)
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("integrity", "reason"),
    [
        ("", "npm-no-digest"),
        ("sha1-AAAA", "npm-no-digest"),
        ("sha512-" + base64.b64encode(bytes(64)).decode(), "hash-mismatch"),
        ("sha512-!", "request-refused"),
    ],
)
def test_the_registrys_integrity_is_checked(
    server: Server, tmp_path: Path, destination: Path, integrity: str, reason: str
) -> None:
    add_npm(server, integrity=integrity)
    fetcher = fetcher_for(tmp_path, without_npm(tmp_path, server))
    assert failure_of(lambda: fetcher.resolve("thing", NPM_LOCATOR, (), destination)).reason == reason
    assert not destination.exists()


def test_tarballs_of_a_package_lock_are_pinned_by_its_hashes_without_asking_the_registry(
    server: Server, tmp_path: Path
) -> None:
    wanted = {}
    for number in range(20):
        content = f"content {number}".encode()
        server.routes[f"/npm/@scope/thing/-/thing-1.0.{number}.tgz"] = serve(content)
        digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
        wanted[f"npm:@scope/thing@1.0.{number}"] = f"sha512-{digest}"
    kept: dict[str, bytes] = {}
    heard: list[str] = []
    pins = fetcher_for(tmp_path, without_npm(tmp_path, server)).resolve_npm(
        wanted, lambda pin, path: kept.update({pin.locator: path.read_bytes()}), lambda pin: heard.append(pin.locator)
    )
    assert list(pins) == list(wanted)
    assert kept == {f"npm:@scope/thing@1.0.{number}": f"content {number}".encode() for number in range(20)}
    assert sorted(heard) == sorted(wanted)
    assert all(pins[locator].size == len(kept[locator]) for locator in wanted)


def test_a_tarball_that_is_not_what_the_package_lock_says_is_refused(server: Server, tmp_path: Path) -> None:
    add_npm(server)
    kept: list[str] = []
    fetcher = fetcher_for(tmp_path, without_npm(tmp_path, server))
    integrity = "sha512-" + base64.b64encode(bytes(64)).decode()
    error = failure_of(
        lambda: fetcher.resolve_npm({NPM_LOCATOR: integrity}, lambda pin, _path: kept.append(pin.locator))
    )
    assert (error.reason, kept) == ("hash-mismatch", [])


def test_a_version_that_the_registry_lacks_is_not_found(server: Server, tmp_path: Path, destination: Path) -> None:
    add_npm(server)
    fetcher = fetcher_for(tmp_path, without_npm(tmp_path, server))
    other = "npm:@scope/thing@9.9.9"
    assert failure_of(lambda: fetcher.resolve("thing", other, (), destination)).reason == "not-found"
    assert failure_of(lambda: fetcher.fetch(source_of(other), destination)).reason == "not-found"


def test_a_machine_that_knows_no_registry_says_so(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, {"PATH": str(tmp_path)})
    assert failure_of(lambda: find_registry(read_configuration(settings))).reason == "npm-registry-unknown"
    named = settings_for(tmp_path, {"PATH": str(tmp_path), "NPM_CONFIG_REGISTRY": "https://npm.example/"})
    assert find_registry(read_configuration(named), "@scope") == "https://npm.example/"


def test_npm_itself_is_asked_where_it_is_installed(tmp_path: Path) -> None:
    npm = tmp_path / "bin" / "npm"
    told = json.dumps({"registry": "https://npm.example/", "@scope:registry": "https://scope.example/", "audit": False})
    put(npm, f"#!/bin/sh\n[ \"$*\" = 'config list --json' ] && echo '{told}'\n")
    npm.chmod(0o755)
    configuration = read_configuration(settings_for(tmp_path, {"PATH": str(npm.parent)}))
    assert find_registry(configuration, "@scope") == "https://scope.example/"
    assert find_registry(configuration, "@other") == find_registry(configuration) == "https://npm.example/"
    assert shutil.which("npm", path=str(npm.parent)) is not None


def test_where_npm_does_not_answer_its_files_are_read(tmp_path: Path) -> None:
    npm = tmp_path / "bin" / "npm"
    put(npm, "#!/bin/sh\necho not json\n")
    npm.chmod(0o755)
    put(tmp_path / ".npmrc", "registry=https://first.example/\nregistry = 'https://last.example/'\n")
    configuration = read_configuration(settings_for(tmp_path, {"PATH": str(npm.parent), "HOME": str(tmp_path)}))
    assert find_registry(configuration) == "https://last.example/"


def test_errors_of_indexes_are_fetch_errors(server: Server, tmp_path: Path, destination: Path) -> None:
    def loop(exchange: Exchange) -> None:
        exchange.answer(302, {"Location": exchange.path, "Content-Length": "0"})

    server.routes["/simple/thing/"] = loop
    fetcher = fetcher_for(tmp_path, {"PIP_INDEX_URL": server.url("/simple")})
    error = failure_of(lambda: fetcher.resolve(FILE, LOCATOR, (), destination))
    assert isinstance(error, FetchError) and error.reason == "too-many-redirects"
