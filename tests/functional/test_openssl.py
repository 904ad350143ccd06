"""OpenSSL: what CMake links with it does TLS on each system, and the libraries know nothing of where they were made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmojo_forge.model.lockfile import Lock
from tests.conftest import REPOSITORY
from tests.support.wine import WINE

pytestmark = pytest.mark.toolchain

VERSION = "OpenSSL 3.0.22"

SOURCES = {
    "CMakeLists.txt": """
cmake_minimum_required(VERSION 3.20)
project(tls C)
find_package(OpenSSL REQUIRED)
find_package(Threads REQUIRED)
message(STATUS "found ${OPENSSL_VERSION}")
add_executable(tls tls.c)
target_link_libraries(tls OpenSSL::SSL OpenSSL::Crypto Threads::Threads)
""",
    # A client and a server in one process, which talk through memory; the client trusts just the server's certificate.
    "tls.c": r"""
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void need(int good, const char *what) {
    if (good) return;
    fprintf(stderr, "%s failed\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}
static X509 *certificate(EVP_PKEY *key) {
    X509 *made = X509_new();
    X509_NAME *name = X509_get_subject_name(made);
    ASN1_INTEGER_set(X509_get_serialNumber(made), 1);
    X509_gmtime_adj(X509_getm_notBefore(made), -3600);
    X509_gmtime_adj(X509_getm_notAfter(made), 3600);
    X509_set_pubkey(made, key);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *) "here", -1, -1, 0);
    X509_set_issuer_name(made, name);
    need(X509_sign(made, key, EVP_sha256()) > 0, "signing");
    return made;
}
int main(void) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    need(key != NULL, "making a key");
    X509 *cert = certificate(key);
    SSL_CTX *server_side = SSL_CTX_new(TLS_server_method()), *client_side = SSL_CTX_new(TLS_client_method());
    need(server_side && client_side, "SSL_CTX_new");
    need(SSL_CTX_use_certificate(server_side, cert) && SSL_CTX_use_PrivateKey(server_side, key), "the certificate");
    need(X509_STORE_add_cert(SSL_CTX_get_cert_store(client_side), cert), "trusting");
    SSL_CTX_set_verify(client_side, SSL_VERIFY_PEER, NULL);
    need(SSL_CTX_set_default_verify_paths(client_side), "the default paths");
    SSL *server = SSL_new(server_side), *client = SSL_new(client_side);
    BIO *left, *right;
    need(BIO_new_bio_pair(&left, 0, &right, 0), "a pair");
    SSL_set_bio(server, left, left);
    SSL_set_bio(client, right, right);
    SSL_set_accept_state(server);
    SSL_set_connect_state(client);
    for (int i = 0; i < 20 && !(SSL_is_init_finished(client) && SSL_is_init_finished(server)); ++i) {
        SSL_do_handshake(client);
        SSL_do_handshake(server);
    }
    need(SSL_is_init_finished(client) && SSL_is_init_finished(server), "the handshake");
    need(SSL_get_verify_result(client) == X509_V_OK, "verifying");
    char text[16] = "";
    need(SSL_write(client, "hello", 5) == 5 && SSL_read(server, text, sizeof text) == 5, "talking");
    printf("%s\n%s %s\n", OpenSSL_version(OPENSSL_VERSION), SSL_get_version(client), text);
    printf("%s\n%s\n", X509_get_default_cert_file(), X509_get_default_cert_dir());
    printf("%s\n%s\n", OpenSSL_version(OPENSSL_CPU_INFO), OpenSSL_version(OPENSSL_CFLAGS));
    return 0;
}
""",
}

RECIPE = r"""
from mmojo_forge.recipe import Files, Package, Spec, build, quote, recipe

SYSTEMS = {
    "linux-x86_64": ("x86_64-linux-musl", "Linux", "x86_64"),
    "linux-aarch64": ("aarch64-linux-musl", "Linux", "aarch64"),
    "windows-x86_64": ("x86_64-windows-gnu", "Windows", "x86_64"),
    "macos-aarch64": ("aarch64-macos.13.0", "Darwin", "arm64"),
}
TOOLS = '''
mkdir -p /build/home /build/bin
printf '#!/bin/sh\\nexec /forge/zig/zig cc -target %s -g0 -s "$@"\\n' "$ZIG_TARGET" > /build/bin/cc
for tool in ar ranlib rc; do printf '#!/bin/sh\\nexec /forge/zig/zig %s "$@"\\n' $tool > /build/bin/$tool; done
chmod 755 /build/bin/*
'''

def run_cmake(*flags):
    words = ("-S /forge/source -B /build/b -G Ninja -DCMAKE_MAKE_PROGRAM=/forge/ninja/ninja -DCMAKE_BUILD_TYPE=Release",
             "-DOPENSSL_ROOT_DIR=/forge/openssl -DOPENSSL_USE_STATIC_LIBS=ON", *(quote(flag) for flag in flags))
    return "\n".join((f"/forge/cmake/bin/cmake {' '.join(words)}", "/forge/cmake/bin/cmake --build /build/b",
                      "mkdir /forge/out/out", "cp /build/b/tls* /forge/out/out"))

@recipe("tls", variants={name: {"system": name} for name in SYSTEMS})
def tls(zig: Package, cmake: Package, ninja: Package, userland: Package, openssl: Package,
        *, system: str = "linux-x86_64") -> Spec:
    target, name, processor = SYSTEMS[system]
    return build("tls", userland=userland,
        inputs={"zig": zig, "cmake": cmake, "ninja": ninja, "source": Files("source"),
                "openssl": openssl.with_options(system=system)},
        env={"ZIG_GLOBAL_CACHE_DIR": "/build/zig-cache", "ZIG_LOCAL_CACHE_DIR": "/build/zig-cache",
             "ZIG_TARGET": target},
        phases={"tools": TOOLS, "build": run_cmake(
            f"-DCMAKE_SYSTEM_NAME={name}", f"-DCMAKE_SYSTEM_PROCESSOR={processor}",
            "-DCMAKE_C_COMPILER=/build/bin/cc", "-DCMAKE_AR=/build/bin/ar", "-DCMAKE_RANLIB=/build/bin/ranlib",
            "-DCMAKE_RC_COMPILER=/build/bin/rc", "-DCMAKE_OSX_SYSROOT=", "-DCMAKE_INSTALL_NAME_TOOL=/bin/true")})

@recipe("tls.gcc")
def with_gcc(gcc: Package, cmake: Package, ninja: Package, userland: Package) -> Spec:
    return build("tls-gcc", userland=userland,
        inputs={"gcc": gcc, "cmake": cmake, "ninja": ninja, "source": Files("source"),
                "openssl": Package("openssl.gcc")},
        env={"PATH": "/forge/gcc/bin:/usr/bin"},
        phases={"build": run_cmake("-DCMAKE_C_COMPILER=/forge/gcc/bin/gcc", "-DCMAKE_EXE_LINKER_FLAGS=-static")})
"""
Realize = Callable[[str], Path]


@pytest.fixture(scope="module")
def realize(tmp_path_factory: pytest.TempPathFactory) -> Realize:
    """A function that realises a target of a workspace with OpenSSL and a program that uses it, in the warm store."""
    root = tmp_path_factory.mktemp("openssl")
    for package in ("cmake", "gcc", "ninja", "userland", "zig"):
        shutil.copytree(REPOSITORY / "toolchains" / package, root / "toolchains" / package)
    for folder in ("recipes/openssl", "recipes/lib"):
        shutil.copytree(REPOSITORY / folder, root / folder)
    source = root / "recipes/tls/source"
    source.mkdir(parents=True)
    for name, text in SOURCES.items():
        (source / name).write_text(text)
    (source.parent / "recipe.py").write_text(RECIPE)
    lock = Lock.parse((REPOSITORY / "forge.lock").read_text())
    (root / "forge.lock").write_text(Lock(sources=lock.sources, userlands=lock.userlands).dump())

    def run(target: str) -> Path:
        command = [sys.executable, "-m", "mmojo_forge", "-C", str(root), "realize", "--no-link", "--quiet", target]
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "FORGE_STORE": os.environ.get("FORGE_STORE", str(REPOSITORY / "store")),
        }
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    return run


def test_a_program_that_cmake_linked_does_tls(realize: Realize) -> None:
    check_tls([realize("tls.linux-x86_64") / "tls"], "/etc/ssl", "OPENSSL_ia32cap")


def test_gcc_links_it_statically(realize: Realize) -> None:
    check_tls([realize("tls.gcc") / "tls"], "/etc/ssl", "OPENSSL_ia32cap")


def test_it_does_tls_on_arm(realize: Realize) -> None:
    check_tls(["qemu-aarch64-static", realize("tls.linux-aarch64") / "tls"], "/etc/ssl", "OPENSSL_armcap")


def test_it_does_tls_on_windows_and_trusts_no_folder_that_anybody_may_make(realize: Realize, tmp_path: Path) -> None:
    program = realize("tls.windows-x86_64") / "tls.exe"
    more = {"WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}
    check_tls([WINE, program], "C:/Program Files/Common Files/SSL", "OPENSSL_ia32cap", **more)


def test_it_links_for_macos(realize: Realize) -> None:
    program = (realize("tls.macos-aarch64") / "tls").read_bytes()
    assert program[:8] == bytes.fromhex("cffaedfe0c000001")  # a 64-bit Mach-O for arm64
    assert VERSION.encode() in program


def check_tls(command: list[str | Path], certificates: str, assembler: str, **more: str) -> None:
    """The program does what it must, though the environment names a configuration that no OpenSSL could use."""
    settings = {"OPENSSL_CONF": str(Path(__file__)), "HOME": "/nowhere", "PATH": os.environ["PATH"], **more}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    version, talked, file, folder, processor, flags = done.stdout.splitlines()
    assert version.startswith(VERSION)
    assert talked == "TLSv1.3 hello"
    assert (file, folder) == (f"{certificates}/cert.pem", f"{certificates}/certs")
    assert assembler in processor
    assert flags.startswith(("compiler: cc ", "compiler: gcc "))


@pytest.mark.parametrize("target", ["linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-aarch64", "gcc"])
def test_it_is_two_libraries_with_headers_and_knows_no_place(realize: Realize, target: str) -> None:
    openssl = realize(f"openssl.{target}")
    names = sorted(path.relative_to(openssl).as_posix() for path in openssl.rglob("*") if path.is_file())
    assert [name for name in names if not name.startswith("include/openssl/")] == [
        "LICENSE.txt",
        "lib/libcrypto.a",
        "lib/libssl.a",
    ]
    assert {"include/openssl/ssl.h", "include/openssl/configuration.h"} <= set(names)
    for name in names:
        content = (openssl / name).read_bytes()
        for place in (b"/forge/", b"/build/", b"/tmp/", b"/usr/C:"):
            assert place not in content, (name, place)
