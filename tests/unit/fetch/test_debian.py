"""Debian: whose archives count, what apt resolves in a room of its own, and pins that leave the mirror."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.errors import ExitCode
from mmojo_forge.fetch.debian_mirrors import (
    AptSource,
    DebianMirrors,
    archive_of_release,
    list_file_name,
    paragraphs,
    read_apt_sources,
)
from mmojo_forge.fetch.fetcher import Fetcher
from mmojo_forge.fetch.locator import Archive
from mmojo_forge.model.digest import Sha256
from mmojo_forge.net.client import HttpClient
from tests.support.http_server import CONTENT, Server, closed_port, server_fixture
from tests.unit.fetch.test_download import destination_fixture, failure_of, fetcher_for, settings_for, source_of

FIXTURES = (destination_fixture, server_fixture)
POOL = "pool/main/b/bash/bash_5.2-1_amd64.deb"

ONE_LINE = """
# comment
deb http://mirror.example/debian bookworm main contrib # trailing
deb-src [ signed-by=/usr/share/keyrings/a.gpg arch=amd64,arm64 ] https://me:hidden@mirror.example/debian/ bookworm main
deb\thttp://flat.example ./
#deb http://off.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
rpm http://rpm.example x y
deb [trusted=yes] http://vendor.example/apt stable main
"""

DEB822 = """
# Debian
Types: deb deb-src
URIs: http://mirror.example/debian http://second.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc: def

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm

Types: deb
URIs: mirror+file:/etc/apt/mirrors/debian.list
Suites: bookworm-security
Components: main
"""


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_both_formats_of_apts_sources_are_read_in_apts_order(tmp_path: Path) -> None:
    put(tmp_path / "etc/apt/sources.list", ONE_LINE)
    put(tmp_path / "etc/apt/sources.list.d/a.sources", DEB822)
    put(tmp_path / "etc/apt/sources.list.d/b.list.disabled", "deb http://off.example/debian bookworm main\n")
    put(tmp_path / "etc/apt/mirrors/debian.list", "# mirrors\nhttp://third.example/security\tpriority:1\n")
    assert read_apt_sources(tmp_path) == [
        AptSource("http://mirror.example/debian/", "bookworm"),
        AptSource("https://me:hidden@mirror.example/debian/", "bookworm"),
        AptSource("http://vendor.example/apt/", "stable"),
        AptSource("http://mirror.example/debian/", "bookworm-updates"),
        AptSource("http://second.example/debian/", "bookworm"),
        AptSource("http://second.example/debian/", "bookworm-updates"),
        AptSource("http://third.example/security/", "bookworm-security"),
    ]


def test_a_machine_without_apt_has_no_sources(tmp_path: Path) -> None:
    assert read_apt_sources(tmp_path) == []


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://mirror.example/debian/dists/x/InRelease", "mirror.example_debian_dists_x_InRelease"),
        ("https://me:hidden@mirror.example:8080/a_b/", "mirror.example:8080_a%5fb_"),
        ("file:///srv/debian/", "_srv_debian_"),
        ("file:/srv/debian/", "_srv_debian_"),
    ],
)
def test_lists_are_named_as_apt_names_them(url: str, name: str) -> None:
    assert list_file_name(url) == name


def release(origin: str, label: str) -> str:
    head = f"Origin: {origin}\nLabel: {label}\nSuite: oldstable\n"
    return f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{head}MD5Sum:\n {'0' * 32} 1 main/Contents\n"


@pytest.mark.parametrize(
    ("origin", "label", "archive"),
    [
        ("Debian", "Debian", Archive.DEBIAN),
        ("Debian", "Debian-Security", Archive.SECURITY),
        ("Debian Backports", "Debian Backports", None),
        ("Ubuntu", "Ubuntu", None),
        ("Vendor", "Debian", None),
        ("Debian", "Debian-Ports", None),
    ],
)
def test_a_release_file_says_whose_archive_it_is(origin: str, label: str, archive: Archive | None) -> None:
    assert archive_of_release(release(origin, label).encode()) is archive


def test_what_is_no_release_file_is_nobodys() -> None:
    for head in (b"", b"<html>", b"\xff\xfe\0", b"Label: Debian\n"):
        assert archive_of_release(head) is None


def test_paragraphs_keep_continuation_lines() -> None:
    text = "A: 1\n# comment\nB:\n  two\n\tthree\n\n\nC: x: y\nnonsense\n lost\n"
    assert list(paragraphs(text.splitlines())) == [{"a": "1", "b": "\ntwo\nthree"}, {"c": "x: y"}]


def mirrors_for(tmp_path: Path, environment: dict[str, str] | None = None) -> DebianMirrors:
    settings = settings_for(tmp_path, environment)
    return DebianMirrors(settings, HttpClient(settings.http))


def add_list(tmp_path: Path, base: str, suite: str, origin: str, label: str) -> None:
    name = list_file_name(f"{base}dists/{suite}/InRelease")
    put(tmp_path / "machine/var/lib/apt/lists" / name, release(origin, label))


def test_only_debians_own_archives_count(tmp_path: Path) -> None:
    sources = (
        "deb http://vendor.example/node nodistro main\n"
        "deb http://mirror.example/debian bookworm main\n"
        "deb http://mirror.example/debian bookworm-backports main\n"
        "deb http://mirror.example/sec bookworm-security main\n"
        "deb http://ubuntu.example/ubuntu noble main\n"
    )
    put(tmp_path / "machine/etc/apt/sources.list", sources)
    add_list(tmp_path, "http://vendor.example/node/", "nodistro", "Node", "Node")
    add_list(tmp_path, "http://mirror.example/debian/", "bookworm", "Debian", "Debian")
    add_list(tmp_path, "http://mirror.example/debian/", "bookworm-backports", "Debian Backports", "Debian Backports")
    add_list(tmp_path, "http://mirror.example/sec/", "bookworm-security", "Debian", "Debian-Security")
    add_list(tmp_path, "http://ubuntu.example/ubuntu/", "noble", "Ubuntu", "Ubuntu")
    mirrors = mirrors_for(tmp_path)
    assert mirrors.bases(Archive.DEBIAN) == ("http://mirror.example/debian/",)
    assert mirrors.bases(Archive.SECURITY) == ("http://mirror.example/sec/",)


def test_archives_that_apt_has_no_lists_of_are_asked(server: Server, tmp_path: Path) -> None:
    server.root = tmp_path / "served"
    put(server.root / "vendor/dists/stable/InRelease", release("Vendor", "Vendor"))
    put(server.root / "debian/dists/bookworm/InRelease", release("Debian", "Debian"))
    put(server.root / "debian-security/dists/bookworm-security/InRelease", release("Debian", "Debian-Security"))
    lines = f"deb {server.url('/vendor')} stable main\ndeb {server.url('/debian')} bookworm main\n"
    put(tmp_path / "machine/etc/apt/sources.list", lines)
    mirrors = mirrors_for(tmp_path)
    assert mirrors.bases(Archive.DEBIAN) == (server.url("/debian/"),)
    # apt names no security archive here: it is found beside the other.
    assert mirrors.bases(Archive.SECURITY) == (server.url("/debian-security/"),)


def test_the_users_mirror_comes_first(tmp_path: Path) -> None:
    put(tmp_path / "machine/etc/apt/sources.list", "deb http://mirror.example/debian bookworm main\n")
    add_list(tmp_path, "http://mirror.example/debian/", "bookworm", "Debian", "Debian")
    mirrors = mirrors_for(tmp_path, {"FORGE_DEBIAN_MIRROR": "https://snapshot.example/debian"})
    assert mirrors.bases(Archive.DEBIAN) == ("https://snapshot.example/debian/", "http://mirror.example/debian/")


def test_a_mirror_setting_that_is_no_url_is_an_error(tmp_path: Path) -> None:
    mirrors = mirrors_for(tmp_path, {"FORGE_DEBIAN_MIRROR": "snapshot.example/debian"})
    assert failure_of(lambda: mirrors.bases(Archive.DEBIAN)).reason == "debian-mirror-invalid"


TEMPLATE = """ChangelogURI: https://changelogs.example/%s

Suite: {series}
BaseURI: https://template.example/debian/
MatchURI: template\\.example

Suite: {series}
BaseURI: https://older.example/debian/

Suite: {series}-security
BaseURI: https://security.example/
ParentSuite: {series}

Suite: {series}/updates
BaseURI: https://no.example/
"""


def test_where_apt_has_no_debian_the_template_of_python_apt_counts(tmp_path: Path) -> None:
    put(tmp_path / "machine/etc/apt/sources.list", "deb http://ubuntu.example/ubuntu noble main\n")
    add_list(tmp_path, "http://ubuntu.example/ubuntu/", "noble", "Ubuntu", "Ubuntu")
    put(tmp_path / "machine/usr/share/python-apt/templates/Debian.info", TEMPLATE)
    mirrors = mirrors_for(tmp_path)
    assert mirrors.bases(Archive.DEBIAN) == ("https://template.example/debian/",)
    assert mirrors.bases(Archive.SECURITY) == ("https://security.example/",)


@pytest.mark.parametrize("place", ["share/debootstrap/scripts/bookworm", "sbin/debootstrap"])
def test_or_else_the_default_of_debootstrap_if_it_is_debians(server: Server, tmp_path: Path, place: str) -> None:
    server.root = tmp_path / "served"
    put(server.root / "debian/dists/bookworm/InRelease", release("Debian", "Debian"))
    put(tmp_path / "machine/usr" / place, f'mirror_style release\nDEF_MIRROR="{server.url("/debian")}"\n')
    assert mirrors_for(tmp_path).bases(Archive.DEBIAN) == (server.url("/debian/"),)
    put(server.root / "debian/dists/bookworm/InRelease", release("Vendor", "Vendor"))
    error = failure_of(lambda: mirrors_for(tmp_path).bases(Archive.DEBIAN))
    assert error.reason == "debian-mirror-unknown"
    assert error.exit_code is ExitCode.ENVIRONMENT_ERROR


def test_a_machine_that_knows_no_mirror_says_what_to_do(tmp_path: Path) -> None:
    error = failure_of(lambda: mirrors_for(tmp_path).bases(Archive.SECURITY))
    assert error.reason == "debian-mirror-unknown"
    assert "FORGE_DEBIAN_SECURITY_MIRROR" in error.detail


def test_mirrors_that_do_not_answer_are_a_dead_network(tmp_path: Path) -> None:
    put(tmp_path / "machine/etc/apt/sources.list", f"deb http://127.0.0.1:{closed_port()}/debian bookworm main\n")
    assert failure_of(lambda: mirrors_for(tmp_path).bases(Archive.DEBIAN)).reason == "network-unreachable"


def environment_of(server: Server) -> dict[str, str]:
    return {
        "FORGE_DEBIAN_MIRROR": server.url("/debian"),
        "FORGE_DEBIAN_SECURITY_MIRROR": server.url("/debian-security"),
        "NO_PROXY": "127.0.0.1",
    }


def test_a_pin_that_has_left_the_mirror_says_so(server: Server, tmp_path: Path, destination: Path) -> None:
    server.root = tmp_path / "served"
    fetcher = fetcher_for(tmp_path, environment_of(server))
    error = failure_of(lambda: fetcher.fetch(source_of(f"debian:{POOL}"), destination))
    assert error.reason == "pin-left-mirror"
    assert [url for url, _ in error.attempts] == [server.url(f"/debian/{POOL}")]
    for way_out in ("forge lock --update thing", "FORGE_DEBIAN_MIRROR", "cache"):
        assert way_out in error.detail


def test_a_security_fix_is_found_where_point_releases_move_it(
    server: Server, tmp_path: Path, destination: Path
) -> None:
    server.root = tmp_path / "served"
    (server.root / "debian" / POOL).parent.mkdir(parents=True)
    (server.root / "debian" / POOL).write_bytes(CONTENT)
    fetcher = fetcher_for(tmp_path, environment_of(server))
    fetcher.fetch(source_of(f"debian-security:{POOL.replace('pool/', 'pool/updates/')}"), destination)
    assert destination.read_bytes() == CONTENT


@dataclass(slots=True)
class Repository:
    """A small Debian repository: archives with suites of packages that `dpkg-deb` made."""

    root: Path
    packages: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    sources: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, name: str, version: str, *, suite: str = "bookworm", **fields: str) -> Path:
        archive = "debian-security" if suite.endswith("-security") else "debian"
        architecture = fields.pop("architecture", "amd64")
        tree = self.root.parent / "build" / f"{name}-{version}".replace(":", "%3a")
        lines = {"Package": name, "Version": version, "Architecture": architecture, "Maintainer": "forge <a@b.example>"}
        lines |= {"Description": "test"} | {key.replace("_", "-").title(): value for key, value in fields.items()}
        control = "".join(f"{key}: {value}\n" for key, value in lines.items())
        put(tree / "DEBIAN" / "control", control)
        plain = version.partition(":")[2] or version
        path = f"pool/main/{name[0]}/{name}/{name}_{plain}_{architecture}.deb"
        file = self.root / archive / path
        file.parent.mkdir(parents=True, exist_ok=True)
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(file)]
        subprocess.run(command, check=True, capture_output=True)
        record = f"{control}Filename: {path}\n{checksums(file)}\n"
        self.packages.setdefault((archive, suite), []).append(record)
        return file

    def add_source(self, name: str, file: str, content: bytes, *, suite: str = "bookworm") -> Path:
        directory = f"pool/main/{name[0]}/{name}"
        path = self.root / "debian" / directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        dsc = f" {'1' * 64} 3 {name}.dsc\n"
        record = (
            f"Package: {name}\nBinary: {name}\nVersion: 1\nFormat: 3.0 (quilt)\nDirectory: {directory}\n"
            f"Files:\n {'0' * 32} 3 {name}.dsc\n {'0' * 32} {len(content)} {file}\n"
            f"Checksums-Sha256:\n{dsc} {digest} {len(content)} {file}\n\n"
        )
        self.sources.setdefault(("debian", suite), []).append(record)
        return path

    def write(self) -> None:
        for archive, suites in (
            ("debian", ("bookworm", "bookworm-updates")),
            ("debian-security", ("bookworm-security",)),
        ):
            for suite in suites:
                self._write_suite(archive, suite)

    def _write_suite(self, archive: str, suite: str) -> None:
        folder = self.root / archive / "dists" / suite
        put(folder / "main/binary-amd64/Packages", "".join(self.packages.get((archive, suite), [])))
        put(folder / "main/source/Sources", "".join(self.sources.get((archive, suite), [])))
        label = "Debian-Security" if archive == "debian-security" else "Debian"
        lines = [
            f"Origin: Debian\nLabel: {label}\nSuite: {suite}\nCodename: {suite}\nDate: Sat, 01 Jan 2022 00:00:00 UTC"
        ]
        lines += ["Architectures: amd64\nComponents: main\nSHA256:"]
        for path in sorted((folder / "main").rglob("*")):
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                lines.append(f" {digest} {path.stat().st_size} {path.relative_to(folder)}")
        put(folder / "Release", "\n".join(lines) + "\n")


def checksums(file: Path) -> str:
    content = file.read_bytes()
    return f"Size: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"


@pytest.fixture(name="repository")
def _repository(server: Server, tmp_path: Path) -> Repository:
    server.root = tmp_path / "served"
    return Repository(server.root)


def archives_for(server: Server, tmp_path: Path, **overrides: Any) -> Fetcher:
    return fetcher_for(tmp_path, environment_of(server), trust_unsigned_debian=True, **overrides)


def fill(repository: Repository) -> Mapping[str, Path]:
    files = {
        "app": repository.add("app", "1:2.0+b1", depends="lib (>= 2), common", recommends="extra", pre_depends="base"),
        "base": repository.add("base", "1.0~rc1"),
        "common": repository.add("common", "3", architecture="all", depends="one | two"),
        "extra": repository.add("extra", "1"),
        "lib-old": repository.add("lib", "2.0-1"),
        "lib": repository.add("lib", "2.0-1+deb12u1", suite="bookworm-security"),
        "one": repository.add("one", "1"),
        "one-new": repository.add("one", "1.1", suite="bookworm-updates"),
        "two": repository.add("two", "1"),
        "broken": repository.add("broken", "1", depends="nowhere"),
    }
    repository.write()
    return files


def test_a_closure_is_what_apt_resolves_without_recommendations(
    server: Server, tmp_path: Path, repository: Repository
) -> None:
    files = fill(repository)
    closure = archives_for(server, tmp_path).debian.closure("bookworm", "amd64", ("app",))
    assert [(package.name, package.version, package.architecture) for package in closure] == [
        ("app", "1:2.0+b1", "amd64"),
        ("base", "1.0~rc1", "amd64"),
        ("common", "3", "all"),
        ("lib", "2.0-1+deb12u1", "amd64"),
        ("one", "1.1", "amd64"),
    ]
    assert [str(package.locator) for package in closure] == [
        "debian:pool/main/a/app/app_2.0+b1_amd64.deb",
        "debian:pool/main/b/base/base_1.0~rc1_amd64.deb",
        "debian:pool/main/c/common/common_3_all.deb",
        "debian-security:pool/main/l/lib/lib_2.0-1+deb12u1_amd64.deb",
        "debian:pool/main/o/one/one_1.1_amd64.deb",
    ]
    content = files["app"].read_bytes()
    assert (closure[0].sha256, closure[0].size) == (Sha256(hashlib.sha256(content).hexdigest()), len(content))


def test_a_closure_does_not_depend_on_the_order_of_the_question_or_on_the_host(
    server: Server, tmp_path: Path, repository: Repository
) -> None:
    fill(repository)
    first = archives_for(server, tmp_path).debian.closure("bookworm", "amd64", ("two", "app"))
    second = archives_for(server, tmp_path, state=tmp_path / "another state").debian.closure(
        "bookworm", "amd64", ("app", "two", "app")
    )
    assert first == second
    assert "one" not in {package.name for package in first}


def test_a_userland_is_pinned_package_by_package(server: Server, tmp_path: Path, repository: Repository) -> None:
    files = fill(repository)
    fetcher = archives_for(server, tmp_path)
    userland = fetcher.resolve_userland("base", "bookworm", "amd64", ("app",))
    assert (userland.suite, userland.architecture, userland.packages) == ("bookworm", "amd64", ("app",))
    assert list(userland.closure) == ["app", "base", "common", "lib", "one"]
    expected = source_of("", files["app"].read_bytes())
    pin = userland.closure["app"]
    assert (pin.sha256, pin.blake3, pin.size, pin.version) == (
        expected.sha256,
        expected.digest,
        expected.size,
        "1:2.0+b1",
    )
    fetcher.fetch(source_of(pin.locator, files["app"].read_bytes()), tmp_path / "app.deb")
    assert (tmp_path / "app.deb").read_bytes() == files["app"].read_bytes()
    assert list((tmp_path / "state" / "userland").iterdir()) == []


def test_the_packages_of_a_userland_are_handed_over_with_their_pins(
    server: Server, tmp_path: Path, repository: Repository
) -> None:
    files = fill(repository)
    kept: dict[str, bytes] = {}
    userland = archives_for(server, tmp_path).resolve_userland(
        "base", "bookworm", "amd64", ("app",), lambda pin, content: kept.update({pin.name: content.read_bytes()})
    )
    assert kept.keys() == userland.closure.keys()
    assert kept["app"] == files["app"].read_bytes()
    assert list((tmp_path / "state" / "userland").iterdir()) == []


def test_a_package_whose_bytes_are_not_the_indexs_is_not_pinned(
    server: Server, tmp_path: Path, repository: Repository
) -> None:
    fill(repository)["base"].write_bytes(b"x" * 10)
    fetcher = archives_for(server, tmp_path)
    assert failure_of(lambda: fetcher.resolve_userland("b", "bookworm", "amd64", ("base",))).reason == "hash-mismatch"


@pytest.mark.parametrize(
    ("packages", "reason"),
    [
        (("nothing-like-it",), "debian-package-unknown"),
        (("broken",), "debian-unsatisfiable"),
        (("--allow-unauthenticated",), "debian-bad-name"),
        (("app/sid",), "debian-bad-name"),
    ],
)
def test_questions_without_an_answer_are_errors(
    server: Server, tmp_path: Path, repository: Repository, packages: tuple[str, ...], reason: str
) -> None:
    fill(repository)
    debian = archives_for(server, tmp_path).debian
    assert failure_of(lambda: debian.closure("bookworm", "amd64", packages)).reason == reason


def test_an_index_that_is_not_what_the_release_file_says_is_refused(
    server: Server, tmp_path: Path, repository: Repository
) -> None:
    fill(repository)
    packages = repository.root / "debian/dists/bookworm/main/binary-amd64/Packages"
    packages.write_text(packages.read_text().replace("Version: 3\n", "Version: 4\n"))
    debian = archives_for(server, tmp_path).debian
    assert failure_of(lambda: debian.closure("bookworm", "amd64", ("app",))).reason == "debian-index-unavailable"


def test_an_unsigned_repository_is_refused(server: Server, tmp_path: Path, repository: Repository) -> None:
    fill(repository)
    debian = fetcher_for(tmp_path, environment_of(server)).debian
    assert failure_of(lambda: debian.closure("bookworm", "amd64", ("app",))).reason == "debian-keyring-missing"
    keyring = tmp_path / "machine/usr/share/keyrings/debian-archive-keyring.gpg"
    keyring.parent.mkdir(parents=True)
    keyring.write_bytes(b"")
    assert failure_of(lambda: debian.closure("bookworm", "amd64", ("app",))).reason == "debian-index-unavailable"


def test_without_apt_get_the_closure_is_an_error_that_says_so(server: Server, tmp_path: Path) -> None:
    environment = {**environment_of(server), "PATH": str(tmp_path)}
    debian = fetcher_for(tmp_path, environment, trust_unsigned_debian=True).debian
    assert failure_of(lambda: debian.closure("bookworm", "amd64", ("app",))).reason == "apt-missing"


def test_files_of_source_packages_are_found_by_name_and_checked(
    server: Server, tmp_path: Path, repository: Repository, destination: Path
) -> None:
    repository.add_source("openssl", "openssl_3.0.orig.tar.gz", CONTENT)
    fill(repository)
    fetcher = archives_for(server, tmp_path)
    locator = fetcher.debian.find_source("bookworm", "openssl_3.0.orig.tar.gz")
    assert str(locator) == "debian:pool/main/o/openssl/openssl_3.0.orig.tar.gz"
    pin = fetcher.resolve("openssl", str(locator), (), destination)
    assert pin.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert failure_of(lambda: fetcher.debian.find_source("bookworm", "no.orig.tar.gz")).reason == "not-found"
    deb = "debian:pool/main/a/app/app_2.0+b1_amd64.deb"
    assert fetcher.resolve("app", deb, (), destination).size == destination.stat().st_size
    gone = "debian:pool/main/a/app/app_9_amd64.deb"
    assert failure_of(lambda: fetcher.resolve("app", gone, (), destination)).reason == "not-found"
