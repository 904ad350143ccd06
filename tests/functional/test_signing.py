"""Signed files: by Authenticode, by Apple's ad-hoc signature in the macOS slice, by minisign's detached one.

apt-get install osslsigncode unzip wine64 minisign openssl
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmojo_forge.ape.format.pe import check_signed_headers, parse_pe
from mmojo_forge.ape.read.container import read_container
from mmojo_forge.ape.read.extract import extract
from mmojo_forge.ape.write.edit import append
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import Asset, LinkSpec
from mmojo_forge.errors import ForgeError
from tests.functional.conftest import Forge
from tests.support.ape_programs import Compiler, build_order
from tests.support.built import built, tiny_model
from tests.support.packed import package, running
from tests.support.wine import WINE


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")


def run(*command: str | Path, expect: int = 0, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def order(zig: Path, tmp_path_factory: pytest.TempPathFactory) -> LinkSpec:
    base = tmp_path_factory.getbasetemp()
    return build_order(Compiler(zig, base / "zig-cache"), base / "ape-build")


@pytest.fixture(scope="session")
def ape(order: LinkSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model of 20 MB, so that a signature must cover more than headers and slices."""
    folder = tmp_path_factory.mktemp("ape")
    path = link(order, folder / "hello.ape").path
    (folder / "model").write_bytes(os.urandom(1 << 20) * 20)
    append(path, [Asset("model.gguf", folder / "model", mapped=True)])
    return path


# Authenticode


@dataclass(frozen=True, slots=True)
class Certificate:
    """A throw-away certificate for signing code, signed by nobody but itself."""

    path: Path
    key: Path

    def sign(self, source: Path, out: Path, *more: str) -> Path:
        options = ("-h", "sha256", "-n", "Hello", "-time", "1700000000", *more)
        run("osslsigncode", "sign", "-certs", self.path, "-key", self.key, *options, "-in", source, "-out", out)
        out.chmod(0o755)
        return out


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificate")
    found = Certificate(folder / "certificate.pem", folder / "key.pem")
    subject = ("-subj", "/CN=Throw Away", "-addext", "extendedKeyUsage=codeSigning")
    kind = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "20000")
    run("openssl", "req", *kind, "-keyout", found.key, "-out", found.path, *subject)
    return found


@pytest.fixture(scope="session")
def signed(ape: Path, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate.sign(ape, tmp_path_factory.mktemp("signed") / "hello.exe")


signing = needs("osslsigncode", "openssl")


@signing
def test_a_signature_covers_the_whole_file_and_changes_three_fields(
    signed: Path, ape: Path, certificate: Certificate, tmp_path: Path
) -> None:
    verify = ("osslsigncode", "verify", "-CAfile", certificate.path, "-in")
    said = run(*verify, signed)
    assert "Signature verification: ok" in said or "Succeeded" in said
    before, after = ape.read_bytes(), signed.read_bytes()
    # PE/COFF: the checksum, and the certificate table's offset and size, 64 bytes behind the file's start.
    checksum, table = 64 + 24 + 64, 64 + 24 + 112 + 4 * 8
    unsigned = bytearray(after[: len(before)])
    unsigned[table : table + 8] = unsigned[checksum : checksum + 4] = b""
    without = bytearray(before)
    without[table : table + 8] = without[checksum : checksum + 4] = b""
    assert unsigned == without
    offset, size = struct.unpack_from("<II", after, table)
    assert (offset, offset + size) == (-(-len(before) // 8) * 8, len(after))
    # The model's bytes, the last but the directory's, count as well.
    entry = next(one for one in read_container(ape).entries if one.name == "model.gguf")
    data = bytearray(after)
    data[entry.offset + entry.size - 1] ^= 1
    (tmp_path / "bad.exe").write_bytes(data)
    run(*verify, tmp_path / "bad.exe", expect=1)


@signing
def test_the_zip_of_a_signed_file_stays_readable(signed: Path, ape: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(signed) as archive, zipfile.ZipFile(ape) as unsigned:
        assert archive.testzip() is None
        assert archive.namelist() == unsigned.namelist()
    for verify in (False, True):
        assert read_container(signed, verify=verify).entries == read_container(ape).entries
    assert extract(signed, "model.gguf", tmp_path / "model").sha256 == extract(ape, "model.gguf", tmp_path / "m").sha256


@signing
@needs("unzip")
def test_unzip_lists_and_tests_a_signed_file(signed: Path, ape: Path) -> None:
    # 1: "some warning", which is that there are bytes it does not know.
    done = subprocess.run(["unzip", "-t", signed], capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    assert "No errors detected" in done.stdout
    assert all(f"testing: {entry.name}" in done.stdout for entry in read_container(ape).entries)


@signing
@pytest.mark.parametrize("shell", [["dash"], ["bash"], ["zsh"], ["busybox", "sh"]], ids=lambda one: one[0])
def test_a_signed_file_starts_under_each_shell(signed: Path, tmp_path: Path, shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    said = run(*shell, signed, "exit", "0", environment={"HOME": str(tmp_path)})
    assert f"file={signed}" in said.splitlines()


@signing
def test_a_signed_file_starts_on_windows(signed: Path, tmp_path: Path) -> None:
    environment = {"WINEPREFIX": str(tmp_path / "wine"), "HOME": str(tmp_path), "WINEDEBUG": "-all", "DISPLAY": ""}
    environment |= {"WINEDLLOVERRIDES": "mscoree,mshtml=", "LC_ALL": "C.UTF-8"}
    run(WINE, "wineboot", "--init", environment=environment)
    said = run(WINE, signed, "exit", "42", expect=42, environment=environment)
    assert "slice=windows-x86_64-v1" in said


@signing
def test_what_is_signed_takes_nothing_in(signed: Path, ape: Path, tmp_path: Path) -> None:
    """Anything that is added voids the signature, so signing comes last."""
    copy = Path(shutil.copy(signed, tmp_path / "copy.exe"))
    with pytest.raises(ForgeError) as caught:
        append(copy, [Asset("more", ape)])
    assert caught.value.reason == "ape-signed"
    assert copy.read_bytes() == signed.read_bytes()


@signing
def test_signing_twice_at_one_time_gives_the_same_bytes(
    signed: Path, ape: Path, certificate: Certificate, tmp_path: Path
) -> None:
    """RSA with PKCS #1 v1.5 has no random numbers in it; what differs is the time, which can be given."""
    assert certificate.sign(ape, tmp_path / "again.exe").read_bytes() == signed.read_bytes()


@signing
def test_a_quote_that_signing_wrote_is_told_and_can_be_mended(
    signed: Path, certificate: Certificate, tmp_path: Path
) -> None:
    """The checksum depends on the signature, so one file in a hundred has one; here it is put there."""
    path = Path(shutil.copy(signed, tmp_path / "quote.exe"))
    data = bytearray(path.read_bytes())
    data[152] = 0x27
    path.write_bytes(data)
    home = {"HOME": str(tmp_path)}
    assert subprocess.run(["dash", path, "exit", "0"], env=home, capture_output=True, check=False).returncode != 0
    image = parse_pe(bytes(data[:4096]), str(path))
    with pytest.raises(ForgeError) as caught:
        check_signed_headers(image, str(path))
    assert caught.value.reason == "ape-pe-quote"
    command = caught.value.detail.partition(": ")[2].replace("FILE", f"'{path}'")
    run("sh", "-c", command)
    run("osslsigncode", "verify", "-CAfile", certificate.path, "-in", path)
    assert f"file={path}" in run("dash", path, "exit", "0", environment=home).splitlines()


@pytest.mark.slow
@signing
def test_a_signed_server_serves_the_model_in_it(certificate: Certificate, tmp_path: Path) -> None:
    program = built("mmojo-server.ape", "FORGE_TEST_APE")
    if not any(entry.name.startswith("ui/chat/") for entry in read_container(program).entries):
        pytest.skip("this server is older than models in its file")
    arguments = tmp_path / "args"
    arguments.write_text("--host 127.0.0.1 --port ${TEST_PORT:-8080} --ctx-size 256 --threads 2 --no-warmup\n")
    package(program, tmp_path / "hello.ape", "--model", tiny_model(), "--args", arguments)
    path = certificate.sign(tmp_path / "hello.ape", tmp_path / "signed.exe")
    with running(["sh", path], tmp_path / "log", environment={"HOME": str(tmp_path)}) as server:
        status, content, _ = server.ask("/completion", {"prompt": "Once", "n_predict": 4, "ignore_eos": True})
        assert (status, json.loads(content)["tokens_predicted"]) == (200, 4)


# Apple

_CODE_SIGNATURE = 0x1D
_SUPER_BLOB = 0xFADE0CC0
_CODE_DIRECTORY = 0xFADE0C02
_AD_HOC = 2
_SHA256 = 2


def check_code_directory(data: bytes) -> int:
    """Checks every page of a Mach-O against its CodeDirectory; how many pages there are.

    Formats: <mach-o/loader.h> for the load commands, <kern/cs_blobs.h> for the signature, which is big endian.
    """
    _, _, _, _, count, _, _, _ = struct.unpack_from("<IIIIIIII", data)
    at, found = 32, None
    for _ in range(count):
        command, size = struct.unpack_from("<II", data, at)
        if command == _CODE_SIGNATURE:
            found = struct.unpack_from("<II", data, at + 8)
        at += size
    assert found is not None, "no LC_CODE_SIGNATURE"
    start, size = found
    assert start + size == len(data)
    magic, _, blobs = struct.unpack_from(">III", data, start)
    assert magic == _SUPER_BLOB
    offsets = [struct.unpack_from(">II", data, start + 12 + 8 * index)[1] for index in range(blobs)]
    directory = next(
        start + one for one in offsets if struct.unpack_from(">I", data, start + one)[0] == _CODE_DIRECTORY
    )
    _, _, _, flags, hashes, _, _, slots, limit = struct.unpack_from(">IIIIIIIII", data, directory)
    width, kind, _, page_bits = struct.unpack_from(">BBBB", data, directory + 36)
    assert (width, kind, limit) == (32, _SHA256, start)
    assert flags & _AD_HOC
    assert slots == -(-limit // (1 << page_bits))
    for slot in range(slots):
        page = data[slot << page_bits : min((slot + 1) << page_bits, limit)]
        at = directory + hashes + slot * width
        assert hashlib.sha256(page).digest() == data[at : at + width], f"page {slot} is not what was signed"
    return int(slots)


def test_the_macos_slice_keeps_its_ad_hoc_signature(ape: Path, order: LinkSpec, tmp_path: Path) -> None:
    """Apple silicon starts no program without one; the slice is unpacked byte for byte, so it holds."""
    record = next(one for one in read_container(ape).slices if one.system == "macos-aarch64")
    data = extract(ape, record.name, tmp_path / "slice").path.read_bytes()
    assert data == next(one.path for one in order.slices if one.name == record.name).read_bytes()
    assert check_code_directory(data) > 0
    assert check_code_directory(ape.read_bytes()[record.offset : record.offset + record.size]) > 0
    for at in (40, len(data) // 3):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(AssertionError):
            check_code_directory(bytes(damaged))


@signing
def test_the_macos_slice_holds_in_a_signed_file_too(signed: Path, tmp_path: Path) -> None:
    record = next(one for one in read_container(signed).slices if one.system == "macos-aarch64")
    assert check_code_directory(extract(signed, record.name, tmp_path / "slice").path.read_bytes()) > 0


# minisign, on the command line


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "hello.ape"
    path.write_bytes(b"MZqFpD='" + bytes(1000))
    return path


def test_forge_signs_and_verifies_outside_of_any_workspace(program: Path, tmp_path: Path) -> None:
    forge = Forge(tmp_path)
    done = forge.run("sign", str(program))
    assert Path(done.stdout.strip()) == program.with_name("hello.ape.minisig")
    assert "minisign -V -P RW" in done.stderr
    said = forge.run("verify", str(program)).stdout
    assert "signed by builder-" in said
    assert "file:hello.ape" in said
    table = json.loads(forge.run("verify", "--json", str(program)).stdout)
    assert (table["schema"], [one["comment"] for one in table["verified"]]) == (1, ["file:hello.ape\thashed"])
    program.write_bytes(b"other")
    assert forge.error("verify", str(program))["reason"] == "bad-signature"


def test_others_verify_with_the_public_key_alone(program: Path, tmp_path: Path) -> None:
    (tmp_path / "alice").mkdir()
    (tmp_path / "bob").mkdir()
    alice, bob = Forge(tmp_path / "alice"), Forge(tmp_path / "bob")
    alice.run("sign", str(program), "--comment", "release 7")
    assert bob.error("verify", str(program))["reason"] == "unknown-signer"
    assert not (tmp_path / "bob" / "home" / ".config").exists()
    text = alice.run("sign", "--public-key").stdout
    assert "release 7" in bob.run("verify", "--key", text.splitlines()[1], str(program)).stdout
    (tmp_path / "key.pub").write_text(text)
    assert "release 7" in bob.run("verify", "--key", str(tmp_path / "key.pub"), str(program)).stdout
    table = json.loads(alice.run("sign", "--json", str(program)).stdout)
    assert table["key"] == text.splitlines()[1]


def test_a_workspaces_keys_are_believed_until_they_are_revoked(program: Path, tmp_path: Path) -> None:
    (tmp_path / "alice").mkdir()
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "forge.lock").touch()
    alice, team = Forge(tmp_path / "alice"), Forge(tmp_path / "team")
    (tmp_path / "alice" / "forge.lock").touch()
    alice.run("sign", str(program))
    key = json.loads(alice.run("cache", "key", "show", "--json").stdout)["own"]
    team.run("cache", "key", "trust", key)
    assert key.partition(":")[0] in team.run("verify", str(program)).stdout
    team.run("cache", "key", "revoke", key.partition(":")[0], "--reason", "lost")
    assert team.error("verify", str(program))["reason"] == "key-revoked"
    assert team.error("verify", str(program), "--key", key)["reason"] == "key-revoked"


def test_another_key_and_another_place(program: Path, tmp_path: Path) -> None:
    forge = Forge(tmp_path)
    forge.run("sign", str(program))
    key = tmp_path / "home" / ".config" / "mmojo-forge" / "builder.key"
    elsewhere = tmp_path / "release.key"
    elsewhere.write_text(key.read_text())
    key.unlink()
    (tmp_path / "hello.ape.minisig").unlink()
    forge.run("sign", "--key", str(elsewhere), "-o", str(tmp_path / "signature"), str(program))
    assert not key.exists()
    assert forge.error("verify", str(program))["reason"] == "signature-missing"
    assert forge.error("verify", "--signature", str(tmp_path / "signature"), str(program))["reason"] == "unknown-signer"


def test_usage(program: Path, tmp_path: Path) -> None:
    forge = Forge(tmp_path)
    for words in (["sign"], ["verify"], ["sign", "-o", "x", "a", "b"], ["verify", "--signature", "x", "a", "b"]):
        assert "Usage" in forge.run(*words, expect=2).stderr
    assert forge.error("sign", str(tmp_path / "none"))["reason"] == "file-missing"
    assert forge.error("verify", "--key", "nonsense", str(program))["reason"] == "bad-key"


@needs("minisign")
def test_the_stock_program_verifies_what_forge_signed(program: Path, tmp_path: Path) -> None:
    forge = Forge(tmp_path)
    hint = forge.run("sign", str(program)).stderr
    words = hint.removeprefix("verify with: ").partition(" -m FILE")[0].split()
    assert "verified" in run(*words, "-m", program)
    program.write_bytes(b"other")
    run(*words, "-m", program, expect=1)
