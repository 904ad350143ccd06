"""The pages of a packaged server in a real browser: load, type, generate, stop. out/screenshots keeps what was seen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import KEYS, Browser, BrowserError, missing
from tests.support.built import REPOSITORY, tiny_model
from tests.support.packed import ARGUMENTS, Running, package, running, start_of, the_server

pytestmark = [pytest.mark.browser, pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}")]
SCREENSHOTS = REPOSITORY / "out" / "screenshots"
ANSWER = "document.querySelector('main, body').innerText.length"
STOP = "button[aria-label='Stop'], form button.bg-transparent"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "my-args").write_text(ARGUMENTS)
    shutil.copy(tiny_model(), folder / "tiny.gguf")
    out = folder / "hello.ape"
    package(the_server(), out, "--model", folder / "tiny.gguf", "--args", folder / "my-args")
    with running(start_of(out), folder / "log", environment={"XDG_CACHE_HOME": str(folder / "cache")}) as server:
        yield server


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as browser:
        yield browser


def keep(browser: Browser, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.screenshot(SCREENSHOTS / f"{name}.png")


def type_when_ready(browser: Browser, text: str) -> None:
    """Types into the page's text field, which is not to be had while the page is being put together."""

    def typed() -> bool:
        try:
            browser.type("textarea", text)
        except BrowserError:
            return False
        return True

    browser.wait(typed)


def failures(browser: Browser) -> list[str]:
    """What the browser could not load or run. That the server offers no tools to the page is no failure."""
    return [line for line in browser.log() if line.startswith("SEVERE") and "/tools " not in line]


def labels(browser: Browser) -> list[str]:
    return list(browser.script("return [...document.querySelectorAll('button')].map(b => b.ariaLabel || b.innerText)"))


@pytest.mark.parametrize("place", ["/", "/ui/chat/"])
def test_chat(server: Running, browser: Browser, place: str) -> None:
    browser.open(server.address + place)
    type_when_ready(browser, "Tell me about ferries")
    browser.type("textarea", KEYS["enter"])
    browser.wait(lambda: "Stop" in labels(browser))
    before = browser.script(f"return {ANSWER}")
    browser.wait(lambda: browser.script(f"return {ANSWER}") > before + 20)
    keep(browser, "chat" if place == "/" else "chat-below")
    browser.script(
        "[...document.querySelectorAll('button')].findLast(b => (b.ariaLabel || b.innerText) === 'Stop').click()"
    )
    browser.wait(lambda: "Stop" not in labels(browser))
    assert "Regenerate" in labels(browser)
    assert failures(browser) == []


def test_completion(server: Running, browser: Browser) -> None:
    browser.open(f"{server.address}/ui/complete/")
    type_when_ready(browser, "Once upon a time there was a ferry that")
    browser.type("textarea", KEYS["ctrl"] + KEYS["enter"])
    browser.wait(lambda: len(browser.value("textarea")) > 60)
    keep(browser, "complete")
    assert browser.value("textarea").startswith("Once upon a time there was a ferry that")
    assert failures(browser) == []
