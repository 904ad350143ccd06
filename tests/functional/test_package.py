"""`forge package` and `forge ape …` as processes, and a packaged program started on each system that is at hand."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, realize
from tests.functional.conftest import Forge
from tests.support.ape_samples.modules import make_hosts, make_module
from tests.support.ape_samples.packages import (
    files_below,
    files_in,
    make_folder,
    make_model,
    make_server,
    write,
)
from tests.support.wine import WINE


@pytest.fixture
def server(forge: Forge) -> Path:
    return make_server(forge.root / "given")


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_program_that_is_here_is_packaged_outside_of_any_workspace(forge: Forge, server: Path) -> None:
    model = make_model(forge.root / "m.gguf")
    (forge.root / "forge.lock").unlink()
    done = forge.run(
        "package", str(server), "--model", str(model), "-o", "hello.ape", "--format", "ape", "--format", "exe"
    )
    assert [line.split("\t")[0::2] for line in done.stdout.splitlines()] == [["ape", "hello.ape"], ["exe", "hello.exe"]]
    assert "start it: ./hello.ape" in done.stderr
    assert files_in(forge.root / "hello.ape")["m.gguf"] == model.read_bytes()
    again = answer(forge.run("package", "./hello.ape", "--name", "hello", "-o", "hello.ape", "--json"))
    assert again["written"] and again["models"]["m.gguf"]["architecture"] == "llama"
    assert again["products"][0]["size"] == (forge.root / "hello.ape").stat().st_size


def test_modules_are_realised_with_the_programs_that_load_them(forge: Forge, server: Path) -> None:
    copy = 'return sh("x", "cp -r /forge/files /forge/out/out", inputs={{"files": Files("files")}})'
    line = f'@recipe("{{0}}")\ndef f():\n    {copy}\n'
    make_module(forge.recipe("ggml-test", line.format("ggml-test")).with_name("files"), "ggml-test")
    make_hosts(forge.recipe("mmojo-server", line.format("mmojo-server.hosts")).with_name("files"))
    forge.run("package", str(server), "--module", "ggml-test", "-o", "out.ape", "--no-sbom")
    found = [name for name in files_in(forge.root / "out.ape") if name.startswith("modules/")]
    assert "modules/linux-x86_64/ggml-test/libggml-test.so" in found
    assert "modules/linux-x86_64/host/mmojo-server-v3" in found
    notices = files_in(forge.root / "out.ape")["NOTICES.txt"].decode()
    again = answer(forge.run("package", "./out.ape", "--module", "ggml-test", "-o", "again.ape", "--no-sbom", "--json"))
    assert files_in(forge.root / "again.ape")["NOTICES.txt"].decode() == notices
    assert [notices.count(f"Third-party notices of {name}") for name in ("ggml-test", "mmojo-server.hosts")] == [1, 1]
    assert not [one for one in again["warnings"] if "licence texts" in one]
    refused = forge.run("package", str(server), "--module", "ggml-none", "-o", "two.ape", expect=2)
    assert "ggml-none" in refused.stderr
    assert not (forge.root / "two.ape").exists()


def test_options_of_modules_are_set_and_told(forge: Forge, server: Path) -> None:
    copy = "mkdir /forge/out/out; cp /forge/files/* /forge/out/out"
    files = 'inputs={"files": Files("files")}'
    text = f'def f(*, word: str = "a"):\n    return sh("x", f"{copy}; echo {{word}} > /forge/out/out/word", {files})\n'
    make_module(forge.recipe("ggml-test", f'@recipe("ggml-test")\n{text}').with_name("files"), "ggml-test")
    hosts = f'@recipe("mmojo-server.hosts")\ndef f():\n    return sh("x", "{copy}", {files})\n'
    make_hosts(forge.recipe("mmojo-server", hosts).with_name("files"))
    command = ["package", str(server), "--module", "ggml-test", "-o", "out.ape"]
    done = answer(forge.run(*command, "--set", "ggml-test:word=b", "--sbom", "--json"))
    assert files_in(forge.root / "out.ape")["modules/linux-x86_64/ggml-test/word"] == b"b\n"
    statement = json.loads((forge.root / done["products"][0]["provenance"]).read_text())
    told = json.loads(base64.b64decode(statement["payload"]))["predicate"]["buildDefinition"]["externalParameters"]
    assert told["options"] == {"ggml-test": {"word": "b"}}
    forge.run(*command, "--set", "word=c")
    assert files_in(forge.root / "out.ape")["modules/linux-x86_64/ggml-test/word"] == b"c\n"


@pytest.mark.parametrize(
    ("given", "settings", "reason"),
    [
        ((), ("word=b",), "bad-setting"),
        (("--module", "ggml-test"), ("ggml-tset:word=b",), "unused-setting"),
        (("--module", "ggml-test"), ("ward=b",), "no-such-option"),
    ],
)
def test_an_option_of_nothing_in_the_package_is_refused_before_anything_is_built(
    forge: Forge, server: Path, given: tuple[str, ...], settings: tuple[str, ...], reason: str
) -> None:
    forge.recipe("ggml-test", '@recipe("ggml-test")\ndef f(*, word: str = "a"):\n    return sh("x", "exit 1")\n')
    sets = [word for one in settings for word in ("--set", one)]
    assert forge.error("package", str(server), *given, *sets, "-o", "x.ape")["reason"] == reason
    assert not (forge.root / "x.ape").exists()


def test_for_an_image_alone_no_module_is_built(forge: Forge, server: Path) -> None:
    forge.recipe("ggml-test", '@recipe("ggml-test")\ndef f():\n    return sh("ggml-test", "exit 1")\n')
    done = answer(
        forge.run("package", str(server), "--module", "ggml-test", "-o", "x.ape", "--format", "oci", "--json")
    )
    assert [one for one in done["warnings"] if "--module is ignored" in one]
    command = ["package", str(server), "--module", "ggml-test", "-o", "x.ape", "--format", "oci", "--format", "ape"]
    assert "mmojo-server.hosts" in forge.run(*command, expect=2).stderr  # which would load it


def test_of_a_module_that_is_a_folder_it_is_told_that_nothing_is_known_of_it(forge: Forge, server: Path) -> None:
    make_module(forge.root / "ggml-test", "ggml-test")
    make_hosts(forge.root / "host")
    command = ["package", str(server), "--module", "./ggml-test", "--module", "./host", "-o", "x.ape", "--json"]
    warned = [one for one in answer(forge.run(*command))["warnings"] if "no licence texts" in one]
    assert [one.partition(":")[0] for one in warned] == ["module ./ggml-test", "module ./host"]
    (forge.root / "texts").write_text("theirs\n")
    quiet = answer(forge.run(*command, "--file", "texts=NOTICES.txt"))
    assert not [one for one in quiet["warnings"] if "no licence texts" in one]


def test_a_target_is_realised_first(forge: Forge, server: Path) -> None:
    recipe = forge.recipe(
        "server",
        '@recipe("server.ape")\ndef f():\n    return sh("server", "cp /forge/file /forge/out/out",'
        ' inputs={"file": Files("server.ape")})\n',
    )
    shutil.copy(server, recipe.with_name("server.ape"))
    model = make_model(forge.root / "m.gguf")
    first = forge.run("package", "server.ape", "--model", "m.gguf", "-o", "one.ape")
    assert "build server" in first.stderr
    assert (forge.root / "out" / "server.ape").is_symlink()
    forge.run("package", "server.ape", "--model", str(model), "-o", "two.ape")
    assert (forge.root / "one.ape").read_bytes() == (forge.root / "two.ape").read_bytes()
    assert os.access(forge.root / "one.ape", os.X_OK)
    assert forge.error("package", "serve.ape", "-o", "x")["reason"] == "unknown-target"


def test_a_target_comes_with_its_bill_and_notices_and_what_was_made_is_signed(forge: Forge, server: Path) -> None:
    recipe = forge.recipe(
        "server",
        '@recipe("server.ape")\ndef f():\n    return sh("server", "cp /forge/file /forge/out/out",'
        ' inputs={"file": Files("server.ape")})\n',
    )
    shutil.copy(server, recipe.with_name("server.ape"))
    make_model(forge.root / "m.gguf")
    arguments = ("package", "server.ape", "--model", "m.gguf")
    told = answer(forge.run(*arguments, "--sbom", "--sign", "-o", "one.ape", "--json"))
    (product,) = told["products"]
    assert product["signature"] == "one.ape.minisig"
    found = files_in(forge.root / "one.ape")
    assert "m.gguf" in {one["name"] for one in json.loads(found["sbom.cdx.json"])["components"]}
    # What the small recipe is made of is not all in the store unpacked, or it has texts: never both.
    assert ("NOTICES.txt" in found) != any("no licence texts" in warning for warning in told["warnings"])
    forge.run("verify", "one.ape")
    assert json.loads((forge.root / product["sbom"]).read_bytes())["bomFormat"] == "CycloneDX"
    forge.run(*arguments, "-o", "two.ape")
    assert (forge.root / "one.ape").read_bytes() == (forge.root / "two.ape").read_bytes()
    forge.run(*arguments, "--no-sbom", "--no-notices", "-o", "bare.ape")
    assert not {"sbom.cdx.json", "NOTICES.txt"} & set(files_in(forge.root / "bare.ape"))
    assert forge.run(*arguments, "--sign", "--format", "folder", "-o", "x", expect=2).stderr


def test_an_image_is_made(forge: Forge, server: Path) -> None:
    make_model(forge.root / "m.gguf")
    done = forge.run("package", str(server), "--model", "m.gguf", "--format", "oci", "-o", "image")
    assert "image sha256:" in done.stderr
    assert (forge.root / "image" / "oci-layout").is_file()


def test_bad_input_ends_before_anything_is_realised_and_leaves_the_old_file(forge: Forge, server: Path) -> None:
    old = write(forge.root / "x.ape", "old")
    write(forge.root / "args", "--alias 'x\n")
    error = forge.error("package", "no-such-target", "--args", "args", "-o", "x.ape")
    assert (error["reason"], error["message"].split(" ")[0]) == ("ape-arguments", "args:1:")
    for reason, arguments in {
        "ape-input": ("--model", "missing.gguf"),
        "ape-certificate": ("--cert", "args"),
        "ape-folder": ("--ui", "./given"),
        "ape-no-entry": ("--ui", "chess"),
        "ape-name": ("--file", "args=../args"),
        "ape-output": ("--format", "folder"),
    }.items():
        assert forge.error("package", str(server), *arguments, "-o", "x.ape")["reason"] == reason
    assert old.read_text() == "old"
    assert forge.run("package", str(server), expect=2).stderr


def test_a_dry_run_says_what_would_be_in_it_and_writes_nothing(forge: Forge, server: Path) -> None:
    make_model(forge.root / "m.gguf")
    make_folder(forge.root / "page", "index.html")
    before = sorted(os.listdir(forge.root))
    arguments = ("package", str(server), "--model", "m.gguf", "--ui", "page", "--file", "given", "--format", "folder")
    rows = [line.split("\t") for line in forge.run(*arguments, "-o", "x", "-n").stdout.splitlines()]
    where = {name: place for place, name, _ in rows}
    assert where["m.gguf"] == where["ui/custom/index.html"] == "mmojo-server-support"
    assert where["ui/chat/index.html"] == "x"
    told = answer(forge.run(*arguments, "-o", "x", "--dry-run", "--json"))
    assert told["written"] is False
    assert sorted(os.listdir(forge.root)) == before


def test_arguments_are_shown_and_changed(forge: Forge, server: Path) -> None:
    make_model(forge.root / "m.gguf")
    write(forge.root / "one", "--port 1\n")
    write(forge.root / "two.yaml", "port: 2\n")
    write(forge.root / "bad", "'")
    forge.run("package", str(server), "--model", "m.gguf", "--args", "one", "-o", "x.ape")
    shown = forge.run("ape", "args", "x.ape").stdout
    assert shown.splitlines()[1] == "--model /zip/m.gguf"
    assert shown.endswith("--port 1\n")
    forge.run("ape", "args", "x.ape", "--set", "two.yaml")
    files = answer(forge.run("ape", "args", "x.ape", "--json"))["files"]
    assert [(one["name"], one["arguments"]) for one in files] == [
        ("mmojo-server-args", ["--model", "/zip/m.gguf"]),
        ("mmojo-server-args.yaml", ["--port", "2"]),
    ]
    before = (forge.root / "x.ape").read_bytes()
    assert forge.error("ape", "args", "x.ape", "--set", "bad")["reason"] == "ape-arguments"
    assert (forge.root / "x.ape").read_bytes() == before
    forge.run("ape", "args", "x.ape", "--set", "one", "-o", "y.ape")
    assert (forge.root / "x.ape").read_bytes() == before
    forge.run("ape", "args", "x.ape", "--clear")
    assert "port" not in forge.run("ape", "args", "x.ape").stdout
    (forge.root / "link.ape").symlink_to("x.ape")
    assert forge.error("ape", "args", "link.ape", "--clear")["reason"] == "ape-output"
    assert forge.run("ape", "args", "x.ape", "--clear", "--edit", expect=2)
    assert "contains no arguments" in forge.run("ape", "args", str(server)).stderr


def test_arguments_are_edited(forge: Forge, server: Path) -> None:
    write(forge.root / "one", "--port 1\n")
    forge.run("package", str(server), "--args", "one", "-o", "x.ape")
    forge.environment["EDITOR"] = "sed -i s/1/77/"
    forge.run("ape", "args", "x.ape", "--edit")
    assert files_in(forge.root / "x.ape")["mmojo-server-args"] == b"--port 77\n"
    forge.environment["EDITOR"] = "true"
    assert "nothing changed" in forge.run("ape", "args", "x.ape", "--edit").stderr
    forge.environment["EDITOR"] = 'sed -i s/77/"\'"/'
    forge.environment["TMPDIR"] = str(forge.root)
    done = forge.run("ape", "args", "x.ape", "--edit", expect=2)
    (kept,) = forge.root.glob("forge-args-*/mmojo-server-args")
    assert str(kept) in done.stderr
    assert kept.read_text() == "--port '\n"
    assert files_in(forge.root / "x.ape")["mmojo-server-args"] == b"--port 77\n"


def test_what_is_in_a_file_is_told_and_taken_out(forge: Forge, server: Path) -> None:
    make_model(forge.root / "m.gguf")
    forge.run("package", str(server), "--model", "m.gguf", "-o", "x.ape")
    told = answer(forge.run("ape", "inspect", "x.ape", "--json"))
    assert told["verified"] and told["models"][0]["facts"]["quantization"] == "Q8_0"
    assert "m.gguf" in forge.run("ape", "inspect", "x.ape").stdout
    forge.run("ape", "extract", "x.ape", "m.gguf", "copy.gguf")
    assert (forge.root / "copy.gguf").read_bytes() == (forge.root / "m.gguf").read_bytes()
    forge.run("ape", "extract", "x.ape", "--all", "all")
    assert files_below(forge.root / "all")["m.gguf"] == (forge.root / "m.gguf").read_bytes()
    assert forge.error("ape", "extract", "x.ape", "--all", "all")["reason"] == "ape-output"
    for bad in (("x.ape",), ("x.ape", "m.gguf"), ("x.ape", "m.gguf", "--all", "b")):
        forge.run("ape", "extract", *bad, expect=2)


def test_native_copies_are_made(forge: Forge, server: Path) -> None:
    make_model(forge.root / "m.gguf")
    forge.run("package", str(server), "--model", "m.gguf", "-o", "x.ape")
    assert "linux-x86_64-v3" in forge.run("ape", "assimilate", "x.ape", "native", "--level", "v3").stderr
    assert "m.gguf" in files_in(forge.root / "native")
    told = forge.run("ape", "assimilate", "x.ape", "mac", "--system", "macos-aarch64").stderr
    assert "mmojo-server-support" in told
    forge.run("ape", "assimilate", "x.ape", "header", "--in-header")
    assert answer(forge.run("ape", "inspect", "header", "--json"))["assimilated"] == "linux-x86_64"
    forge.run("ape", "assimilate", "x.ape", "y", "--in-header", "--level", "v3", expect=2)
    assert forge.error("ape", "assimilate", "x.ape", "y", "--system", "beos")["reason"] == "ape-no-entry"


def test_a_source_can_be_brought_by_hand(forge: Forge) -> None:
    forge.recipe(
        "own",
        '@recipe("own")\ndef f():\n    return sh("own", "cp /forge/m /forge/out/out", inputs={"m": File("m.bin")})\n',
    )
    recipe = forge.root / "recipes" / "own" / "recipe.py"
    recipe.write_text(recipe.read_text().replace("import Files", "import File, Files"))
    assert forge.error("realize", "own")["reason"] == "pin-missing"
    assert "add-source --pin" in forge.run("lock", expect=2).stderr
    write(forge.root / "m.bin", "the file")
    assert "m.bin" in forge.run("store", "add-source", "--pin", "m.bin").stdout
    assert forge.realize("own")[0].read_text() == "the file"
    forge.run("lock")
    assert forge.run("lock", "--check").returncode == 0
    forge.environment["FORGE_STORE"] = str(forge.root / "other")
    assert forge.error("realize", "own")["reason"] == "source-by-hand"
    write(forge.root / "n", "another")
    assert forge.error("store", "add-source", "n")["reason"] == "source-unknown"
    forge.run("store", "add-source", "m.bin")
    assert forge.realize("own")[0].read_text() == "the file"


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hello programs with a model behind them, in every format."""
    folder = tmp_path_factory.mktemp("hello")
    make_model(folder / "m.gguf")
    command = [sys.executable, "-m", "mmojo_forge", "package", str(realize("hello.ape")[0]), "--model", "m.gguf"]
    formats = [word for one in ("ape", "exe", "folder", "zip") for word in ("--format", one)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([*command, *formats, "-o", "hello.ape"], cwd=folder, env=environment, check=True, timeout=120)
    return folder


def started(command: list[str | Path], **more: str) -> list[str]:
    environment = {**os.environ, "WINEDEBUG": "-all", **more}
    words = [str(word) for word in command]
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=240, check=True
    ).stdout.splitlines()


def test_a_packaged_program_starts_in_every_form(hello: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(hello / "hello.zip", tmp_path)
    for program in (hello / "hello.ape", hello / "hello" / "hello", tmp_path / "hello" / "hello"):
        assert started(["sh", program], HOME=str(tmp_path))[:2] == ["hello from linux-x86_64", f"container {program}"]


def test_its_twin_starts_on_windows(hello: Path, tmp_path: Path) -> None:
    for program in (hello / "hello.exe", hello / "hello" / "hello.exe"):
        assert started([WINE, program], WINEPREFIX=str(tmp_path))[0] == "hello from windows-x86_64"


def test_native_copies_start(hello: Path, tmp_path: Path) -> None:
    for system, start in {
        "linux-x86_64": [],
        "linux-aarch64": ["qemu-aarch64-static"],
        "windows-x86_64": [WINE],
    }.items():
        out = tmp_path / f"{system}.exe"
        command = [sys.executable, "-m", "mmojo_forge", "ape", "assimilate", str(hello / "hello.ape"), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        subprocess.run([*command, "--system", system], env=environment, check=True, timeout=60)
        assert started([*start, out], WINEPREFIX=str(tmp_path / "wine"))[0] == f"hello from {system}"
        assert "m.gguf" in files_in(out)


RECIPE = """
from mmojo_forge.recipe import Files, Package, Spec, package_server, recipe

@recipe("packed.ape", variants={"folder": {"form": "folder"}})
def packed(userland: Package, *, form: str = "ape") -> Spec:
    return package_server(
        "packed", userland=userland, program=Package("hello.ape"), server="packed", form=form,
        models={"m.gguf": Files("m.gguf")}, args="--alias 'it is'\\n", ui=Files("page"),
    )
"""


def test_a_recipe_makes_the_bytes_that_the_command_makes(tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    for name in ("recipes", "toolchains"):
        shutil.copytree(REPOSITORY / name, root / name)
    shutil.copy(REPOSITORY / "forge.lock", root)
    recipe = write(root / "recipes" / "packed" / "recipe.py", RECIPE)
    model, page = make_model(recipe.with_name("m.gguf")), make_folder(recipe.with_name("page"), "index.html", "a/b.js")
    args = write(tmp_path / "args", "--alias 'it is'\n")
    environment = {"FORGE_STORE": str(REPOSITORY / "store"), **os.environ, "PYTHONPATH": str(REPOSITORY)}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "mmojo_forge", *words]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    made, folder = (
        Path(line) for line in run("realize", "--no-link", "-q", "packed.ape", "packed.folder").splitlines()
    )
    by_hand = ("--model", str(model), "--args", str(args), "--ui", str(page), "--name", "packed")
    run(
        "package",
        "hello.ape",
        *by_hand,
        "--no-sbom",
        "--no-notices",
        "--format",
        "ape",
        "--format",
        "folder",
        "-o",
        "x.ape",
    )
    assert (root / "x.ape").read_bytes() == made.read_bytes()
    assert files_below(root / "x") == files_below(folder)
    assert os.access(made, os.X_OK)
