"""What `inspect` says of a packaged program, and what is wrong with it."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.ape.packaging.order import PackageOrder
from mmojo_forge.ape.read.container import read_container
from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.package.inspect import PackageReport, report_on
from mmojo_forge.engine.package.modules import described
from mmojo_forge.engine.package.packaging import check_inputs, find_program
from mmojo_forge.errors import ForgeError
from tests.support.ape_samples.gguf import make_gguf
from tests.support.ape_samples.modules import make_elf
from tests.support.ape_samples.packages import make_folder, make_model, make_server, named, package, write
from tests.unit.engine.package.test_certificates import NOW, make_certificate, make_key, pem


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return make_server(tmp_path / "server")


def report(path: Path) -> PackageReport:
    found = report_on(path, read_container(path).entries, NOW.timestamp())
    json.dumps(found.to_json())
    return found


def test_arguments_models_pages_and_the_certificate_are_told(server: Path, tmp_path: Path) -> None:
    key = make_key()
    made = package(
        server,
        tmp_path / "x.ape",
        models=(named(make_model(tmp_path / "m.gguf")),),
        args=named(write(tmp_path / "args", '--api-key $KEY --alias "a ${B:-c}" ... --x \'\\n\' "\\xc3\\xa4"')),
        ui=make_folder(tmp_path / "page", "index.html"),
        cert=write(tmp_path / "c", make_certificate(key)),
        key=write(tmp_path / "k", pem(key)),
    )[0].path
    found = report(made)
    assert found.faults == ()
    assert found.pages == ("chat", "complete", "custom")
    assert found.certificate is not None and found.certificate.names == ("server.example", "::1")
    (model,) = found.models
    assert (model.name, model.mappable, model.facts and model.facts.architecture) == ("m.gguf", True, "llama")
    words = found.arguments[0].words
    assert words[:2] == ("--model", "/zip/m.gguf")
    assert words[-7:] == ("${KEY}", "--alias", "a ${B:-c}", "...", "--x", "\\n", "ä")


def test_a_bare_program_has_nothing(server: Path) -> None:
    found = report(package(server, server, remove=("ui",))[0].path)
    assert (found.arguments, found.models, found.pages, found.certificate, found.faults) == ((), (), (), None, ())


def test_faults_are_part_of_the_report(server: Path) -> None:
    key = make_key()
    with zipfile.ZipFile(server, "a") as archive:
        archive.writestr("packed.gguf", make_gguf(), zipfile.ZIP_DEFLATED)
        archive.writestr("askew.gguf", make_gguf())
        archive.writestr("broken.gguf", b"GGUF")
        archive.writestr("mmojo-server-args", "--alias 'x")
        archive.writestr("mmojo-server-args.yaml", "a b\n")
        archive.writestr("certs/server.crt", make_certificate(key, days=(-20, -10)))
    found = report(server)
    told = "\n".join(found.faults)
    for words in ("packed.gguf: it is compressed", "askew.gguf: its data is at 0x", "broken.gguf: ", "args:1: ",
                  "args.yaml:1: ", "certs/server.key is missing"):  # fmt: skip
        assert words in told
    assert [(one.name, one.facts is not None, one.mappable) for one in found.models] == [
        ("packed.gguf", False, False),
        ("askew.gguf", True, False),
        ("broken.gguf", False, False),
    ]
    with zipfile.ZipFile(server, "a") as archive:
        archive.writestr("certs/server.key", pem(key))
    assert "expired" in "\n".join(report(server).faults)


ABOUT = {
    "backend": "cuda",
    "needs": "libcuda.so.1",
    "driver": 13010,
    "ggml": {"version": "1.2.3", "abi": "abc"},
    "architectures": ["75", "90-virtual"],
}


def about(facts: object) -> list[tuple[str, str]]:
    """What is told of modules in a program for ggml `abc`, one of which says `facts` of itself."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_server(Path(folder), info='{"ggml": {"abi": "abc"}}')
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("modules/linux-x86_64/ggml-cuda/libggml-cuda.so", "module")
            archive.writestr("modules/linux-x86_64/ggml-cuda/module.json", json.dumps(facts))
            archive.writestr("modules/linux-x86_64/ggml-own/libggml-own.so", "module")
            archive.writestr("modules/linux-x86_64/host/mmojo-server-v3", "program")
            archive.writestr("modules/linux-x86_64/host/SHA256SUMS", "")
        found = report(path)
        assert found.to_json()["modules"][0]["name"] == "ggml-cuda"
        return [*((one.name, described(one)) for one in found.modules), *(("fault", one) for one in found.faults)]


def test_of_gpu_modules_it_is_told_what_they_need() -> None:
    assert about(ABOUT) == [
        ("ggml-cuda", "cuda, ggml 1.2.3, needs libcuda.so.1 13.1 or later, code for 75 90-virtual"),
        ("ggml-own", "no description"),
        ("host", "host programs: mmojo-server-v3"),
    ]


def test_a_module_for_another_ggml_is_told() -> None:
    told = dict(about({**ABOUT, "ggml": {"abi": "other"}}))
    assert "it is for ggml other, but the program has ggml abc" in told["fault"]


@pytest.mark.parametrize(
    "facts",
    [
        [],
        "x",
        {"ggml": 7, "needs": [], "driver": "x", "architectures": {}},
        {"ggml": {}, "driver": True},
        {"backend": "\ud800"},
        {"backend": "\x1b[2J", "needs": "a\nb", "architectures": ["\t", 7, "x" * 101]},
        {"backend": "x" * 101, "architectures": ["75"] * 101},
        {"driver": 10**9, "backend": float("nan")},
        {"backend": "cuda", "more": "x" * 70000},
    ],
)
def test_nobody_has_checked_what_a_module_says_of_itself(facts: object) -> None:
    assert about(facts)[0] == ("ggml-cuda", "no description")


def test_a_program_for_glibc_says_itself_which_ggml_it_is_made_of(tmp_path: Path) -> None:
    program = make_elf(tmp_path / "server", "ggml=abc\nneeds=\n")
    with zipfile.ZipFile(program, "a") as archive:
        archive.writestr("modules/linux-x86_64/ggml-cuda/module.json", json.dumps({"ggml": {"abi": "other"}}))
    assert "it is for ggml other, but the program has ggml abc" in report(program).faults[0]


def test_another_certificates_key_is_told(server: Path) -> None:
    with zipfile.ZipFile(server, "a") as archive:
        archive.writestr("certs/server.crt", make_certificate(make_key()))
        archive.writestr("certs/server.key", pem(make_key()))
    assert "not the key of the certificate" in report(server).faults[0]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"cert": "c", "key": "other"}, "key-mismatch"),
        ({"cert": "c", "key": "locked"}, "ape-certificate"),
        ({"cert": "broken", "key": "k"}, "certificate-unreadable"),
        ({"cert": "c"}, "ape-certificate"),
    ],
)
def test_certificates_are_looked_at_before_anything_is_realised(
    tmp_path: Path, what: dict[str, str], reason: str
) -> None:
    key = make_key()
    write(tmp_path / "c", make_certificate(key))
    write(tmp_path / "k", pem(key))
    write(tmp_path / "other", pem(make_key()))
    write(tmp_path / "locked", pem(key, b"password"))
    write(tmp_path / "broken", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    order: dict[str, Any] = {name: tmp_path / file for name, file in what.items()}
    with pytest.raises(ForgeError) as caught:
        check_inputs(PackageOrder(tmp_path, **order), NOW.timestamp())
    assert caught.value.reason == reason
    assert check_inputs(PackageOrder(tmp_path, cert=tmp_path / "c", key=tmp_path / "k"), NOW.timestamp()) == []


def test_the_program_of_a_target_is_the_file_or_the_one_in_bin(tmp_path: Path) -> None:
    file = write(tmp_path / "file", b"")
    assert find_program(file, "x.ape") == file
    one = write(tmp_path / "one" / "bin" / "anything", b"").parent.parent
    assert find_program(one, "x.native").name == "anything"
    two = make_folder(tmp_path / "two", "bin/server", "bin/tool")
    assert find_program(two, "server.native^out").name == "server"
    windows = make_folder(tmp_path / "windows", "bin/server.exe", "bin/tool.exe")
    assert find_program(windows, "server.windows").name == "server.exe"
    for bad in (two, make_folder(tmp_path / "none", "lib/x")):
        with pytest.raises(EngineError) as caught:
            find_program(bad, "x.native")
        assert caught.value.reason == "no-program"
