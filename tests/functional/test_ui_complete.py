"""The completion page in a real browser: against a real llama-server, and against one that misbehaves on purpose."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.browser import KEYS, Browser, missing, wait
from tests.support.built import built
from tests.support.serve import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "recipes" / "ui-complete" / "page"
LARGEST = 64 * 1024
CONTEXT = 512
BEGINNING = "Once upon a time there was a ferry that"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

needs_browser = pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}")


# What needs no browser


def test_the_page_is_small_and_asks_nobody_else() -> None:
    files = [file for file in PAGE.iterdir() if file.suffix in TYPES]
    assert sum(file.stat().st_size for file in files) <= LARGEST
    for file in files:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|[\"'(]//|url\(|@import", text), file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), file
    page = (PAGE / "index.html").read_text()
    assert "default-src 'none'" in page
    assert "unsafe" not in page
    assert not re.search(r"<style|<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=", page)
    assert not re.search(r"(?:src|href)=\"/", page)


# Servers


@contextmanager
def llama_server(*more: str, folder: Path = PAGE) -> Iterator[str]:
    """A real server with the page; its address."""
    program = built("mmojo-server.linux-x86_64-v3", "FORGE_TEST_SERVER")
    program = program / "bin" / "mmojo-server" if program.is_dir() else program
    model = built("bench-model.tiny", "FORGE_TEST_MODEL")
    port = free_port()
    command = [str(program), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--path", str(folder)]
    command += ["-c", str(CONTEXT), "-np", "1", "-t", "2", "--no-warmup", *more]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        prefix = more[more.index("--api-prefix") + 1] if "--api-prefix" in more else ""
        address = f"http://127.0.0.1:{port}{prefix}/"

        def ready() -> bool:
            assert process.poll() is None, "the server ended"
            try:
                with urlopen(f"{address}health", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        try:
            wait(ready, 240)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    with llama_server() as address:
        yield address


class Handler(BaseHTTPRequestHandler):
    """The interface at /, the page at /write/."""

    fake: Fake

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        name = path.removeprefix("/write/") or "index.html"
        if path.startswith("/write/") and (PAGE / name).is_file():
            self.answer(200, (PAGE / name).read_bytes(), TYPES[Path(name).suffix])
        elif path != "/props":
            self.refuse(404, "not_found_error")
        elif self.allowed():
            self.json(200, {"model_path": "/m/a <b>.gguf", "default_generation_settings": {"n_ctx": CONTEXT}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        if self.path == "/tokenize":
            self.json(200, {"tokens": body["content"].split()})
        elif self.path == "/completion":
            self.fake.asked.append(body)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                self.fake.stream(self.send)
            except OSError:
                self.fake.left.set()
        else:
            self.refuse(404, "not_found_error")

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def allowed(self) -> bool:
        if self.fake.loading:
            self.refuse(503, "unavailable_error")
        elif self.fake.key and self.headers.get("Authorization") != f"Bearer {self.fake.key}":
            self.refuse(401, "authentication_error")
        else:
            return True
        return False

    def refuse(self, status: int, kind: str) -> None:
        self.json(status, {"error": {"code": status, "message": "no", "type": kind}})

    def json(self, status: int, document: Any) -> None:
        self.answer(status, json.dumps(document).encode(), "application/json")

    def answer(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Fake:
    """A server with the page in a folder of its own whose answers a test chooses."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.loading = False
        self.stream: Callable[[Callable[[bytes], None]], None] = lambda send: send(event("", stop=True))
        self.asked: list[dict[str, Any]] = []
        self.left = threading.Event()  # the browser hung up during a stream
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"fake": self}))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/write/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def event(content: str, **more: Any) -> bytes:
    document = {"content": content, "stop": False, "tokens_predicted": 1, "tokens_evaluated": 9, **more}
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n".encode()


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


# The page as a test sees it


class Page:
    def __init__(self, browser: Browser, address: str) -> None:
        self.browser = browser
        self.address = address

    def open(self) -> None:
        self.browser.open(self.address)
        self.browser.wait(lambda: self.browser.shown("#text"))

    def ready(self) -> Page:
        self.open()
        self.browser.wait(lambda: self.browser.shown("#meter"))
        return self

    @property
    def text(self) -> str:
        value: str = self.browser.value("#text")
        return value

    @property
    def marked(self) -> str:
        text: str = self.browser.script("return document.getElementById('made').textContent")
        return text

    @property
    def reason(self) -> str:
        reason: str = self.browser.script("return document.getElementById('status').dataset.reason ?? ''")
        return reason

    def write(self, text: str) -> None:
        """Text as if it was pasted over all that is there."""
        self.browser.script(
            "const t = document.getElementById('text'); t.value = arguments[0];"
            "t.dispatchEvent(new InputEvent('input', {bubbles: true}))",
            text,
        )

    def set(self, **settings: Any) -> None:
        for key, value in settings.items():
            self.browser.script(
                "const i = document.getElementById('set-' + arguments[0]); i.value = arguments[1];"
                "i.dispatchEvent(new Event('change'))",
                key,
                value,
            )

    def run(self, button: str = "#continue") -> str:
        """Press a button and wait until the model has written; the reason it ended for."""
        self.browser.click(button)
        return self.ended()

    def ended(self) -> str:
        return self.browser.wait(lambda: self.reason if self.browser.shown("#continue") else "", 240)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as window:
        yield window


@pytest.fixture
def page(browser: Browser, real: str) -> Page:
    page = Page(browser, real).ready()
    page.set(n_predict=12, seed=7)
    return page


@pytest.fixture
def odd(browser: Browser, fake: Fake) -> Page:
    """The page of the server that misbehaves."""
    return Page(browser, fake.address)


# Against a real server


@needs_browser
def test_the_model_continues_and_undo_redo_retry_go_back_and_forth(page: Page) -> None:
    browser = page.browser
    browser.type("#text", BEGINNING)
    assert page.run() == "done"
    first = page.text.removeprefix(BEGINNING)
    assert first
    assert page.marked == first
    assert page.run() == "done"
    second = page.text.removeprefix(BEGINNING + first)
    assert page.marked == second
    browser.click("#undo")
    assert page.text == BEGINNING + first
    browser.click("#undo")
    assert page.text == BEGINNING
    browser.click("#redo")
    assert page.text == BEGINNING + first
    page.set(seed=8)
    assert page.run("#retry") == "done"
    anew = page.text.removeprefix(BEGINNING)
    assert anew not in ("", first)
    browser.click("#undo")
    assert page.text == BEGINNING + first
    browser.click("#redo")
    assert page.text == BEGINNING + anew
    browser.click("#keep")
    assert page.marked == ""
    assert page.text == BEGINNING + anew


@needs_browser
def test_nothing_is_refused_by_the_policy_and_nobody_else_is_asked(page: Page) -> None:
    browser = page.browser
    page.write(BEGINNING)
    page.run()
    browser.click("#open-settings")
    browser.click("#settings .close")
    assert browser.log() == []
    asked = browser.script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert asked
    assert all(name.startswith(page.address) for name in asked)


@needs_browser
def test_text_is_never_html(page: Page) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> & &amp; "
    page.write(evil)
    assert page.run() == "done"
    assert page.text.startswith(evil)
    assert page.browser.script("return document.querySelectorAll('main img, main script').length") == 0
    page.browser.click("#open-texts")
    page.browser.script("document.getElementById('name').value = arguments[0]", evil[:100])
    page.browser.click("#save-form button")
    assert page.browser.script("return document.querySelectorAll('dialog img, dialog script').length") == 0
    assert page.browser.script("return document.title") == "Complete"


@needs_browser
def test_keys_continue_and_stop(page: Page) -> None:
    page.set(n_predict=400, temperature=2)
    page.browser.type("#text", BEGINNING + KEYS["ctrl"] + KEYS["enter"])
    page.browser.wait(lambda: len(page.marked) > 3)
    page.browser.type("#text", KEYS["escape"])
    assert page.ended() in ("stopped", "done")
    text = page.text
    time.sleep(0.3)
    assert page.text == text
    assert text.endswith(page.marked)


@needs_browser
def test_editing_what_the_model_wrote_makes_it_the_writers_own(page: Page) -> None:
    page.write(BEGINNING)
    page.run()
    text, marked = page.text, page.marked
    page.write("So: " + text)
    assert page.marked == marked
    page.write("So: " + text + " and")
    assert page.marked == marked
    page.browser.click("#undo")
    assert page.text == "So: " + BEGINNING + " and"
    page.browser.click("#redo")
    assert page.text == "So: " + text + " and"
    assert page.marked == marked
    page.write("So: " + text[:-2] + "##" + text[-2:] + " and")
    assert page.marked == ""
    page.browser.click("#undo")
    assert page.text == "So: " + BEGINNING + " and"
    page.browser.click("#redo")
    page.write(
        "And so" + text[len(BEGINNING) + 2 : -2] + "##" + text[-2:] + " and"
    )  # over the edge: the beginning of both
    page.browser.click("#undo")
    assert page.text == "And so and"


@needs_browser
def test_the_browsers_own_undo_stays_in_step(page: Page) -> None:
    page.browser.type("#text", BEGINNING)
    page.run()
    page.browser.type("#text", "abc" + KEYS["ctrl"] + "z")
    page.browser.script("dispatchEvent(new Event('pagehide'))")
    assert page.browser.script("return localStorage['mmojo.complete.draft']") == page.text


@needs_browser
def test_steps_within_steps_come_back_to_their_places(fake: Fake, odd: Page) -> None:
    said = iter(["[abcd]", "(x)"])
    fake.stream = lambda send: send(event(next(said)) + event("", stop=True))
    odd.ready()
    odd.set(where="cursor")
    odd.write("A text")
    odd.run()
    odd.browser.script("document.getElementById('text').setSelectionRange(9, 9)")
    odd.run()
    whole = "A text[ab(x)cd]"
    assert odd.text == whole
    for button, text in (("undo", "A text[abcd]"), ("undo", "A text"), ("redo", "A text[abcd]"), ("redo", whole)):
        odd.browser.click(f"#{button}")
        assert odd.text == text


@needs_browser
@pytest.mark.parametrize(
    "text", ["A text", "One\nTwo", "\n\nOne\n\n", "One\n\n\nTwo\n", "word " * 300 + "\n" + "word " * 60]
)
def test_the_marking_lies_under_its_text(fake: Fake, odd: Page, text: str) -> None:
    """The copy that carries the marking is as high as the text."""
    fake.stream = lambda send: send(event(" and\nso on") + event("", stop=True))
    odd.ready()
    odd.browser.devtools("Emulation.setDeviceMetricsOverride", width=390, height=330, deviceScaleFactor=1, mobile=True)
    odd.write(text)
    odd.run()
    odd.write(odd.text + "\n" * 30 + "end")  # the area is higher than its window, and the copy ends with a letter
    assert odd.marked == " and\nso on"
    padding = "2 * parseFloat(getComputedStyle(document.getElementById('text')).paddingTop)"
    heights = odd.browser.script(
        "return [document.getElementById('text').scrollHeight,"
        f" document.getElementById('ink').getBoundingClientRect().height + {padding}]"
    )
    assert abs(heights[0] - heights[1]) <= 2


@needs_browser
def test_at_the_cursor(page: Page) -> None:
    page.write("First part. Last part.")
    page.set(where="cursor")
    page.browser.script("document.getElementById('text').setSelectionRange(11, 11)")
    page.run()
    made = page.marked
    assert made
    assert page.text == f"First part.{made} Last part."
    page.browser.click("#undo")
    assert page.text == "First part. Last part."


@needs_browser
def test_a_reload_while_the_model_writes_loses_nothing(page: Page) -> None:
    page.set(n_predict=400)
    page.write(BEGINNING)
    page.browser.click("#continue")
    page.browser.wait(lambda: len(page.marked) > 10)
    text = page.text
    page.browser.reload()
    page.browser.wait(lambda: page.browser.shown("#meter"))
    assert page.text.startswith(text)
    assert page.browser.value("#set-n_predict") == "400"


@needs_browser
def test_settings_stay_within_their_limits(page: Page) -> None:
    page.set(temperature="99", top_k="-3", n_predict="x", seed="")
    values = [page.browser.value(f"#set-{name}") for name in ("temperature", "top_k", "n_predict", "seed")]
    assert values == ["2", "0", "128", ""]


@needs_browser
def test_a_text_that_is_too_long_is_told_or_cut(page: Page) -> None:
    long = "word " * 1500
    page.set(long="refuse")
    page.write(long)
    assert page.run() == "context"
    assert page.text == long
    page.set(long="trim")
    assert page.run() == "done"
    assert page.text == long + page.marked
    assert page.marked


@needs_browser
def test_a_full_context_is_told_and_the_end_of_the_text_continued(page: Page) -> None:
    page.set(n_predict=2 * CONTEXT, temperature=2, long="refuse")
    page.write(BEGINNING)
    while page.run() == "done":  # a random model may end its text by itself
        assert page.marked
    assert page.reason == "context"
    text = page.text
    page.set(n_predict=12, long="trim")
    assert page.run() == "done"
    assert page.text == text + page.marked
    assert page.marked


@needs_browser
def test_a_megabyte_is_continued_and_edited(page: Page) -> None:
    long = "The quick brown fox jumps over the lazy dog.\n" * 23302
    page.write(long)
    assert page.run() == "done"
    assert page.marked
    page.browser.type("#text", "!")
    assert len(page.text) == len(long) + len(page.marked) + 1
    page.browser.click("#undo")
    assert page.text == long + "!"
    page.browser.reload()
    page.browser.wait(lambda: page.browser.shown("#meter"))
    assert page.text == long + "!"


@needs_browser
def test_texts_are_saved_opened_renamed_deleted_and_brought_back(page: Page) -> None:
    browser = page.browser

    def names() -> Any:
        return browser.script("return [...document.querySelectorAll('#list b')].map(b => b.textContent)")

    def save(name: str) -> None:
        browser.script("document.getElementById('name').value = ''")
        browser.type("#name", name)
        browser.click("#save-form button")

    page.write("The first text")
    browser.click("#open-texts")
    save("One")
    browser.click("#new")
    assert page.text == ""
    page.write("Another text")
    browser.click("#open-texts")
    save("One")
    assert names() == ["One"]
    save("Two")
    assert sorted(names()) == ["One", "Two"]
    browser.click("button[aria-label='Rename One']")
    browser.script("document.activeElement.value = 'Uno'")
    browser.type("#list input", KEYS["enter"])
    uno = "Uno"
    assert sorted(names()) == ["Two", uno]
    browser.click(f"button[aria-label='Export {uno}']")
    exported = browser.downloads / f"{uno}.txt"
    browser.wait(exported.exists)
    assert exported.read_text() == "The first text"
    browser.click(f"button[aria-label='Delete {uno}']")
    assert names() == ["Two"]
    browser.click("#said button")
    assert uno in names()
    browser.click(f"button[aria-label='Delete {uno}']")
    browser.type("#file", str(exported))
    browser.wait(lambda: page.text == "The first text")
    browser.click("#undo")
    assert page.text == "Another text"
    browser.reload()
    browser.wait(lambda: browser.shown("#meter"))
    assert page.text == "Another text"


@needs_browser
def test_under_a_path_prefix(browser: Browser) -> None:
    with llama_server("--api-prefix", "/deep/er") as address:
        page = Page(browser, address).ready()
        page.write(BEGINNING)
        assert page.run() == "done"
        assert page.marked


@needs_browser
def test_without_its_files_the_page_says_why(browser: Browser) -> None:
    """This llama-server hands out index.html to everybody, and what it loads only to who has the key."""
    with llama_server("--api-key", "secret") as address:
        browser.open(address)
        browser.wait(lambda: browser.shown("#bare"))
        assert not browser.shown("#app")


# Against a server that misbehaves


@needs_browser
def test_a_key_is_asked_for_and_forgotten_with_the_tab(fake: Fake, odd: Page) -> None:
    fake.key = "secret"
    fake.stream = lambda send: send(event(" yes") + event("", stop=True))
    odd.open()
    browser = odd.browser
    browser.wait(lambda: browser.shown("#key") and odd.reason == "key")
    browser.type("#key", "wrong" + KEYS["enter"])
    browser.wait(lambda: browser.value("#key") == "" and odd.reason == "key")
    browser.type("#key", "secret" + KEYS["enter"])
    browser.wait(lambda: not browser.shown("#key"))
    odd.write("Is it?")
    assert odd.run() == "done"
    assert odd.text == "Is it? yes"
    assert "secret" not in browser.script("return JSON.stringify(localStorage)")
    browser.reload()
    browser.wait(lambda: browser.shown("#meter"))


@needs_browser
def test_a_model_that_loads_is_waited_for(fake: Fake, odd: Page) -> None:
    fake.loading = True
    odd.open()
    odd.browser.wait(lambda: odd.reason == "loading")
    odd.write("A text")
    assert odd.run() == "loading"
    assert odd.text == "A text"
    fake.loading = False
    odd.browser.wait(lambda: odd.browser.shown("#meter"))
    assert odd.reason == ""


@needs_browser
def test_a_broken_stream_keeps_what_had_come(fake: Fake, odd: Page) -> None:
    fake.stream = lambda send: send(event(" half") + b'data: {"content": " of a')
    odd.ready()
    odd.write("A text")
    assert odd.run() == "broken"
    assert odd.text == "A text half"
    odd.browser.click("#undo")
    assert odd.text == "A text"


@needs_browser
def test_an_error_within_the_stream_is_told(fake: Fake, odd: Page) -> None:
    error = {"error": {"code": 400, "type": "exceed_context_size_error", "message": "too long"}}
    fake.stream = lambda send: send(event(" some") + f"data: {json.dumps(error)}\n\n".encode())
    odd.ready()
    odd.write("A text")
    assert odd.run() == "context"
    assert odd.text == "A text some"


@needs_browser
def test_stop_ends_a_slow_stream_at_once(fake: Fake, odd: Page) -> None:
    def drip(send: Callable[[bytes], None]) -> None:
        send(event(" one"))
        for _ in range(600):
            time.sleep(0.1)
            send(b": still here\n\n")

    fake.stream = drip
    odd.ready()
    odd.write("A text")
    odd.browser.click("#continue")
    odd.browser.wait(lambda: odd.marked == " one")
    assert odd.run("#stop") == "stopped"
    assert odd.text == "A text one"
    assert fake.left.wait(20)


@needs_browser
def test_a_failed_retry_keeps_the_former_attempt(fake: Fake, odd: Page) -> None:
    fake.stream = lambda send: send(event(" one") + event("", stop=True))
    odd.ready()
    odd.write("A text")
    odd.run()
    fake.loading = True
    assert odd.run("#retry") == "loading"
    assert odd.text == "A text one"
    assert odd.marked == " one"


@needs_browser
def test_a_server_that_is_gone(fake: Fake, odd: Page) -> None:
    odd.ready()
    odd.write("A text")
    fake.close()
    assert odd.run() == "absent"
    assert odd.text == "A text"


@needs_browser
def test_characters_cut_in_two_and_line_ends(fake: Fake, odd: Page) -> None:
    data = event(" é€😀\r") + event("\nline\rend\r\n") + event("", stop=True)

    def bytewise(send: Callable[[bytes], None]) -> None:
        for at in range(len(data)):
            send(data[at : at + 1])
            time.sleep(0.001)

    fake.stream = bytewise
    odd.ready()
    odd.write("A text")
    assert odd.run() == "done"
    assert odd.text == "A text é€😀\nline\nend\n"
    assert odd.marked == " é€😀\nline\nend\n"
    odd.browser.click("#undo")
    assert odd.text == "A text"


@needs_browser
def test_what_is_sent(fake: Fake, odd: Page) -> None:
    odd.ready()
    odd.set(n_predict=5, temperature=0.3, top_k=7, top_p=0.5, min_p=0.1, repeat_penalty=1.2, seed=9, stop="\\n\\n\nEnd")
    odd.write("A text")
    assert odd.run() == "done"
    assert fake.asked == [
        {
            **{"prompt": "A text", "stream": True, "n_predict": 5, "temperature": 0.3, "top_k": 7, "top_p": 0.5},
            **{"min_p": 0.1, "repeat_penalty": 1.2, "seed": 9, "stop": ["\n\n", "End"]},
        }
    ]


@needs_browser
def test_on_a_phone(fake: Fake, odd: Page) -> None:
    browser = odd.browser
    fake.stream = lambda send: send(event(" and so on" * 200) + event("", stop=True))
    phone = {"width": 390, "deviceScaleFactor": 2, "mobile": True}
    browser.devtools("Emulation.setDeviceMetricsOverride", height=844, **phone)
    odd.ready()
    odd.write("A text")
    place = "const r = document.querySelector('main').getBoundingClientRect(); return [r.top, r.bottom]"
    bottom = "Math.round(document.getElementById('app').getBoundingClientRect().bottom)"
    before = browser.script(place)
    odd.run()
    assert browser.script(place) == before
    for height in (844, 430):  # without and with the on-screen keyboard
        browser.devtools("Emulation.setDeviceMetricsOverride", height=height, **phone)
        browser.wait(partial(browser.script, f"return {bottom} === {height}"))
        boxes = browser.script(
            "return [...document.querySelectorAll('#app button')].filter(b => b.checkVisibility())"
            ".map(b => b.getBoundingClientRect().toJSON())"
        )
        assert len(boxes) == 7
        assert all(box["width"] >= 44 and box["height"] >= 44 for box in boxes)
        assert all(box["left"] >= 0 and box["right"] <= 390 and box["bottom"] <= height for box in boxes)
    assert browser.script("return document.documentElement.scrollWidth") == 390


@needs_browser
def test_everything_to_press_or_fill_in_has_a_name(odd: Page) -> None:
    odd.ready()
    odd.browser.click("#open-settings")
    nameless = odd.browser.script(
        "return [...document.querySelectorAll('button, input, select, textarea')].filter(e =>"
        " !(e.textContent.trim() && e.tagName === 'BUTTON') && !e.ariaLabel && !e.labels?.length"
        " && e.id !== 'action').map(e => e.outerHTML)"
    )
    assert nameless == []
