"""Patches in the sandbox, through `forge lock` and `forge realize`, with Debian's patch and python."""

from __future__ import annotations

import functools
import io
import os
import shutil
import ssl
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mmojo_forge.model.lockfile import Lock
from tests.conftest import REPOSITORY
from tests.support.authority import Authority

pytestmark = pytest.mark.toolchain

RECIPE = """
from mmojo_forge.recipe import Package, Url, apply_patches, recipe, unpack

VERSION = "1"

@recipe("thing")
def thing(userland: Package):
    return apply_patches("thing", Package("thing.upstream"), userland=userland)

@recipe("thing.upstream")
def upstream():
    return unpack("thing-upstream", Url(f"https://127.0.0.1:{PORT}/thing-{VERSION}.tar"))
"""
PATCH = """Subject: greet the user
Why: nobody else does
Upstream: was asked

--- a/hello.txt
+++ b/hello.txt
@@ -1,3 +1,3 @@
 one
-two
+hello
 three
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Maintainer:
    """Someone with a workspace, whose upstream is a folder behind HTTP."""

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.text = RECIPE.replace("{PORT}", str(port))
        shutil.copytree(REPOSITORY / "toolchains/userland", root / "toolchains/userland")
        self.folder = root / "recipes/thing"
        (self.folder / "patches/files/sub").mkdir(parents=True)
        (self.folder / "patches/0001-greet.patch").write_text(PATCH)
        (self.folder / "patches/files/sub/new.txt").write_text("new\n")
        (self.folder / "recipe.py").write_text(self.text)
        lock = Lock.parse((REPOSITORY / "forge.lock").read_text())
        (root / "forge.lock").write_text(Lock(userlands={"base": lock.userlands["base"]}).dump())

    def release(self, version: str, text: str) -> None:
        """Upstream has a new version, and the recipe asks for it."""
        with tarfile.open(self.root / f"www/thing-{version}.tar", "w") as tar:
            member = tarfile.TarInfo("hello.txt")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        (self.folder / "recipe.py").write_text(self.text.replace('VERSION = "1"', f'VERSION = "{version}"'))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "FORGE_STORE": os.environ.get("FORGE_STORE", str(REPOSITORY / "store")),
            "REQUESTS_CA_BUNDLE": str(self.root / "authority.pem"),
            "no_proxy": "127.0.0.1",
        }
        command = [sys.executable, "-m", "mmojo_forge", "-C", str(self.root), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)

    def realize(self, target: str) -> Path:
        done = self.run("realize", "--quiet", "--no-link", target)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())


@pytest.fixture
def maintainer(tmp_path: Path) -> Iterator[Maintainer]:
    (tmp_path / "www").mkdir()
    authority = Authority(tmp_path, "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "www")) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Maintainer(tmp_path, server.server_port)
        server.shutdown()


def test_a_new_version_is_locked_its_patch_mended_and_the_tree_built(maintainer: Maintainer) -> None:
    maintainer.release("1", "one\ntwo\nthree\n")
    done = maintainer.run("lock")
    assert done.returncode == 0, done.stderr
    tree = maintainer.realize("thing")
    assert (tree / "hello.txt").read_text() == "one\nhello\nthree\n"
    assert (tree / "sub/new.txt").read_text() == "new\n"
    assert sorted(path.name for path in tree.rglob("*")) == ["hello.txt", "new.txt", "sub"]

    maintainer.release("2", "one\n2\nthree\n")
    done = maintainer.run("lock", "--json")
    assert done.returncode == 1, done.stderr
    assert '"reason": "patches-do-not-apply"' in done.stderr
    assert "0001-greet.patch (greet the user)" in done.stderr
    assert "hello.txt: hunk 1 of 1" in done.stderr
    assert "thing-2.tar" in (maintainer.root / "forge.lock").read_text()

    # What the error says: look at the new source, mend, realise.
    assert (maintainer.realize("thing.upstream") / "hello.txt").read_text() == "one\n2\nthree\n"
    failed = maintainer.run("realize", "--no-link", "thing")
    assert failed.returncode == 1
    assert "hello.txt: hunk 1 of 1" in failed.stderr
    (maintainer.folder / "patches/0001-greet.patch").write_text(PATCH.replace("-two", "-2"))
    assert (maintainer.realize("thing") / "hello.txt").read_text() == "one\nhello\nthree\n"
    assert maintainer.run("lock", "--update", "thing").returncode == 0
