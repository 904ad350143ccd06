"""llama.cpp's web page as it is built from source: served as plain files, at the root of a site and below it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mmojo_forge.model.lockfile import Lock
from mmojo_forge.recipe.loader import run_recipe_file
from tests.support.browser import Browser, missing
from tests.support.built import REPOSITORY, built

needs_browser = pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}")


@pytest.fixture(scope="module")
def site() -> Path:
    return built("llama-ui", "FORGE_TEST_UI")


@pytest.fixture(scope="module")
def licences() -> Path:
    return built("llama-ui^licences")


# The recipe


def test_the_page_is_built_from_the_sources_that_the_server_is_built_from() -> None:
    for recipe in ("llama-ui", "llama-cpp"):
        text = (REPOSITORY / "recipes" / recipe / "recipe.py").read_text()
        assert 'Pypi("llama_cpp_python", PYPI_VERSION, f"{SDIST}.tar.gz")' in text


def test_every_package_is_pinned_with_the_hash_that_the_project_gives() -> None:
    packages = Lock.parse((REPOSITORY / "forge.lock").read_text()).npm["llama-ui"].packages()
    assert len(packages) > 500
    assert {"node_modules/svelte", "node_modules/vite"} <= {one.path for one in packages}
    assert not [one.path for one in packages if re.search(r"musl|darwin|win32|playwright|storybook", one.path)]


# The files


def test_all_that_the_page_asks_for_is_there(site: Path) -> None:
    index = (site / "index.html").read_text()
    wanted = set(re.findall(r'(?:href|src)="([^"]+)"', index)) | set(re.findall(r'import\("([^"]+)"\)', index))
    worker = (site / "sw.js").read_text()
    wanted |= set(re.findall(r'url:"([^"]+)"', worker))
    wanted |= {f"{name}.js" for name in re.findall(r'define\(\["\./(workbox-[^"]+)"\]', worker)}
    wanted |= {icon["src"] for icon in json.loads((site / "manifest.webmanifest").read_text())["icons"]}
    wanted |= {"build.json", "_app/version.json", "favicon-dark.ico", "favicon-dark.svg"}
    assert len(wanted) > 60
    missing_files = sorted(name for name in wanted if name != "./" and not (site / name).is_file())
    assert missing_files == []


def test_no_address_is_absolute_and_nothing_is_compressed(site: Path) -> None:
    """So that any folder of any server will do."""
    index = (site / "index.html").read_text()
    assert not re.search(r'(?:href|src)="(?:/|https?:)', index)
    assert 'import("./_app/immutable/bundle.' in index
    assert not [path for path in site.rglob("*") if path.suffix in {".gz", ".br", ".zst", ".map"}]


def test_the_version_is_no_time(site: Path) -> None:
    version = json.loads((site / "_app" / "version.json").read_text())["version"]
    assert re.fullmatch(r"[0-9a-f]{16}", version)
    facts = run_recipe_file(REPOSITORY / "recipes" / "lib" / "llama_cpp.py")
    assert json.loads((site / "build.json").read_text()) == {"version": facts["VERSION"]}


def test_what_is_in_the_page_is_listed_with_its_licences(licences: Path) -> None:
    packages = json.loads((licences / "LICENSES.json").read_text())["packages"]
    found = {(one["name"], one["version"]): one for one in packages}
    names = {name for name, _ in found}
    assert {"svelte", "mermaid", "katex", "workbox-core", "nerdamer-prime"} <= names
    assert not names & {"esbuild", "rollup", "sass", "sharp", "typescript"}
    locked = Lock.parse((REPOSITORY / "forge.lock").read_text()).npm["llama-ui"].packages()
    for one in locked:
        if (one.name, one.version) in found:
            row = found[one.name, one.version]
            assert (row["integrity"], row["licence"]) == (one.integrity, one.licence)
    text = (licences / "LICENSES.txt").read_text()
    assert all(f"{one['name']} {one['version']}".strip() in text for one in packages)
    assert text.count("MIT License") > 20


# In a browser


class _Handler(SimpleHTTPRequestHandler):
    """Plain files, and of the server's interface only as much as the page needs to start."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        last = self.path.rpartition("/")[2].partition("?")[0]
        if last == "props":
            self._answer({"default_generation_settings": {"n_ctx": 512, "params": {}}, "model_path": "tiny.gguf"})
        elif self.path.partition("?")[0].endswith(("/v1/models", "/models")):
            self._answer({"object": "list", "data": [{"id": "tiny.gguf", "object": "model"}], "models": []})
        elif last == "tools":
            self._answer([])
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self._answer([])

    def _answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of plain files, and what it is asked for."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@needs_browser
@pytest.mark.parametrize("below", ["/", "/ui/chat/"])
def test_the_page_starts_from_plain_files(site: Path, tmp_path: Path, below: str) -> None:
    """Below a folder, too: there it asks for the interface in that folder, which the server has to hand on."""
    root = tmp_path / "site"
    root.joinpath(below.strip("/")).parent.mkdir(parents=True, exist_ok=True)
    root.joinpath(below.strip("/")).symlink_to(site) if below != "/" else root.symlink_to(site)
    with served(root) as (address, asked), Browser(tmp_path / "browser") as browser:
        browser.open(address + below)
        browser.wait(lambda: browser.shown("textarea, [contenteditable=true]"), 60)
        assert [line for line in browser.log() if line.startswith("SEVERE")] == []
        assert f"{below}props" in {path.partition("?")[0] for path in asked}
        outside = [path for path in asked if not path.startswith(below)]
        assert [path for path in outside if path != "/favicon.ico"] == []
