"""A browser to test pages in: Chromium, driven over the W3C WebDriver protocol by the standard library alone."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.support.serve import free_port

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {
    "ctrl": "\ue009",
    "enter": "\ue007",
    "escape": "\ue00c",
    "backspace": "\ue003",
    "home": "\ue011",
    "end": "\ue010",
}
PATIENCE = 30.0
T = TypeVar("T")


def missing() -> str | None:
    """The first program that is needed and not there."""
    return next((name for name in ("chromium", "chromedriver") if shutil.which(name) is None), None)


class BrowserError(Exception):
    """What the driver refused."""


class Browser:
    """One headless window with a profile of its own; a context manager."""

    def __init__(self, folder: Path, width: int = 1280, height: int = 800) -> None:
        self._port = free_port()
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
        self._log = (folder / "chromedriver.log").open("wb")
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={self._port}"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environment,
        )
        try:
            self._await_driver()
            arguments = [
                *("--headless=new", f"--window-size={width},{height}", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--no-proxy-server", "--lang=en-US", f"--user-data-dir={folder / 'profile'}"),
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
            ]
            capabilities = {
                "browserName": "chrome",
                "unhandledPromptBehavior": "accept",
                "goog:chromeOptions": {"args": arguments, "binary": shutil.which("chromium")},
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
            self._session = f"/session/{answer['sessionId']}"
            self.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        except BaseException:
            self._end_driver()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("DELETE", self._session)
        finally:
            self._end_driver()

    def open(self, url: str) -> None:
        self._tell("/url", {"url": url})

    def reload(self) -> None:
        self._tell("/refresh", {})

    def script(self, text: str, *arguments: Any) -> Any:
        """What the body of a function returns, run in the page."""
        return self._tell("/execute/sync", {"script": text, "args": list(arguments)})

    def click(self, css: str) -> None:
        self._tell(f"/element/{self._find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Real key presses into an element; `KEYS` has the ones without a character."""
        self._tell(f"/element/{self._find(css)}/value", {"text": text})

    def text(self, css: str) -> str:
        """The text of an element as it is shown."""
        answer: str = self._ask("GET", f"{self._session}/element/{self._find(css)}/text")
        return answer

    def value(self, css: str) -> Any:
        return self.script("return document.querySelector(arguments[0]).value", css)

    def shown(self, css: str) -> bool:
        return bool(self.script("return document.querySelector(arguments[0])?.checkVisibility() ?? false", css))

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the Chrome DevTools protocol."""
        return self._tell("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self) -> list[str]:
        """What the console said since the last call, policy violations among it."""
        entries = self._tell("/se/log", {"type": "browser"})
        return [f"{entry['level']} {entry['message']}" for entry in entries]

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._ask("GET", f"{self._session}/screenshot")))

    def wait(self, what: Callable[[], T], patience: float = PATIENCE) -> T:
        """The first true value that `what` returns."""
        return wait(what, patience)

    def _find(self, css: str) -> str:
        found: str = self._tell("/element", {"using": "css selector", "value": css})[ELEMENT]
        return found

    def _tell(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", self._session + path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = json.load(connection.getresponse())["value"]
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer and "stacktrace" in answer:
            raise BrowserError(f"{path}: {answer['error']}: {answer['message']}")
        return answer

    def _await_driver(self) -> None:
        def ready() -> bool:
            try:
                return bool(self._ask("GET", "/status")["ready"])
            except OSError:
                return False

        wait(ready)

    def _end_driver(self) -> None:
        self._driver.terminate()
        self._driver.wait(timeout=20)
        self._log.close()


def wait(what: Callable[[], T], patience: float = PATIENCE) -> T:
    """The first true value that `what` returns; an assertion error if there is none in time."""
    deadline = time.monotonic() + patience
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {patience} s"
        time.sleep(0.05)
