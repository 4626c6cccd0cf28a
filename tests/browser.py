"""A headless Chromium, driven over its DevTools protocol; a test that needs it is skipped without.

``open_browser()`` gives a page: ``go``, ``evaluate`` JavaScript, ``press`` keys, ``click``,
``screenshot``.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
STARTED_S = 120
ANSWERED_S = 240
KEYS = {"Backspace": 8, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}


class Page:
    """One tab."""

    def __init__(self, socket):
        self._socket, self._number, self.errors = socket, 0, []

    def call(self, method, **parameters):
        found = self._ask(method, **parameters)
        assert "error" not in found, found
        return found["result"]

    def _ask(self, method, **parameters):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            found = self._next()
            if found.get("id") == self._number:
                return found

    def _next(self):
        found = json.loads(self._socket.recv(timeout=ANSWERED_S))
        if found.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.errors.append(found["params"])
        return found

    def go(self, url, *, width=1280, height=900):
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        with self.loading():
            self.call("Page.navigate", url=url)

    @contextmanager
    def loading(self):
        """What happens in the block leads to a new page; returns when it is loaded."""
        self.evaluate("window.isOld = true")
        yield
        deadline = time.monotonic() + ANSWERED_S
        while not self._is_new_and_loaded():
            assert time.monotonic() < deadline, "no new page was loaded"
            time.sleep(0.05)

    def _is_new_and_loaded(self):
        # Between two pages there is nothing that could be asked.
        code = "!window.isOld && document.readyState === 'complete'"
        found = self._ask("Runtime.evaluate", expression=code, returnByValue=True)
        return found.get("result", {}).get("result", {}).get("value") is True

    def evaluate(self, code):
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key):
        text = {"text": "\r"} if key == "Enter" else {} if key in KEYS else {"text": key}
        code = KEYS.get(key, ord(key[0]))
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text
            )
            text = {}

    def type(self, text):
        self.call("Input.insertText", text=text)

    def click(self, selector):
        place = self.evaluate(
            f"(() => {{const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                button="left",
                clickCount=1,
            )

    def screenshot(self, path):
        found = self.call("Page.captureScreenshot", captureBeyondViewport=False)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def is_wider_than_its_window(self):
        return self.evaluate("document.documentElement.scrollWidth > innerWidth")


@contextmanager
def open_browser():
    """A page of a browser with a profile of its own."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(PROGRAMS)} is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-dev-shm-usage", "--hide-scrollbars", "--disable-extensions"),
                *("--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with connect(_address(process, Path(profile)), max_size=None) as socket:
                page = Page(_attached(socket))
                for domain in ("Page", "Runtime", "Log"):
                    page.call(f"{domain}.enable")
                yield page
        finally:
            process.terminate()
            process.wait(30)


def _address(process, profile):
    deadline = time.monotonic() + STARTED_S
    announced = profile / "DevToolsActivePort"
    while not announced.exists() or len(announced.read_text().splitlines()) < 2:
        assert process.poll() is None, f"the browser ended with {process.returncode}"
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.05)
    port, path = announced.read_text().splitlines()
    return f"ws://127.0.0.1:{port}{path}"


def _attached(socket):
    """The browser's socket, spoken to as to its first tab."""

    def ask(number, method, **parameters):
        socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            found = json.loads(socket.recv(timeout=ANSWERED_S))
            if found.get("id") == number:
                return found["result"]

    targets = ask(-1, "Target.getTargets")["targetInfos"]
    target = next(each for each in targets if each["type"] == "page")
    session = ask(-2, "Target.attachToTarget", targetId=target["targetId"], flatten=True)
    return _Session(socket, session["sessionId"])


class _Session:
    """One tab's share of the browser's socket."""

    def __init__(self, socket, session):
        self._socket, self._session = socket, session

    def send(self, text):
        self._socket.send(json.dumps({**json.loads(text), "sessionId": self._session}))

    def recv(self, timeout):
        while True:
            text = self._socket.recv(timeout=timeout)
            if json.loads(text).get("sessionId") == self._session:
                return text
