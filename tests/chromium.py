"""A headless Chromium, spoken to by its own protocol over two pipes: no library and no port is needed.

with Chromium(tmp_path) as browser:
    seen = browser.open(page, width=390, dark=True)
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT = 60.0
"""Seconds for one answer."""

_START = """
import fcntl, os, sys
own = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]  # neither is 3 or 4 itself
for number, at in zip(own, (3, 4)):
    os.dup2(number, at)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads descriptor 3 and writes 4."""
_MEASURE = """
[...document.querySelectorAll('svg')].map(svg => ({
  name: svg.querySelector('title')?.textContent ?? '',
  box: [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height],
  marks: [...svg.querySelectorAll('path, text')].map(mark => {
    const box = mark.getBoundingClientRect(), style = getComputedStyle(mark);
    return {tag: mark.tagName, class: mark.getAttribute('class'), left: box.left, right: box.right,
            width: box.width, height: box.height, stroke: style.stroke, fill: style.fill,
            size: parseFloat(style.fontSize),
            shown: svg.getBoundingClientRect().width / svg.viewBox.baseVal.width};
  }),
}))
"""


class Seen(NamedTuple):
    """A page as it was drawn."""

    plots: list[dict[str, Any]]
    """Of each `<svg>`: its name, its size, and each mark's."""
    width: int
    """Of everything on the page: more than the screen has if it must be moved sideways."""
    colours: tuple[str, str]
    """Of paper and ink."""
    screenshot: bytes
    """PNG of the whole page."""


class Chromium:
    """One browser for as long as the block lasts."""

    def __init__(self, folder: Path) -> None:
        assert PROGRAM is not None, "no Chromium"
        self.requests: list[str] = []
        """Addresses that a page asked for, its own file not among them."""
        self.complaints: list[str] = []
        """What stood in the console."""
        command = [
            PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "about:blank",
        ]  # fmt: skip
        to_browser, own_out = os.pipe()
        own_in, from_browser = os.pipe()
        start = [sys.executable, "-c", _START, str(to_browser), str(from_browser), *command]
        with (folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(start, pass_fds=(to_browser, from_browser), stderr=log)
        os.close(to_browser)
        os.close(from_browser)
        self._in, self._out, self._rest, self._last = own_in, own_out, b"", 0
        self._page: str | None = None
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._page = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(TIMEOUT)
        os.close(self._in)
        os.close(self._out)

    def open(self, path: Path, *, width: int, dark: bool) -> Seen:
        """Open a file on a screen so many pixels wide, and look at it."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Emulation.setEmulatedMedia", media="screen", features=scheme)
        self._loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._until_loaded()
        whole = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": whole["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        body = "getComputedStyle(document.body)"
        return Seen(
            self._value(_MEASURE),
            self._value("document.documentElement.scrollWidth"),
            (self._value(f"{body}.backgroundColor"), self._value(f"{body}.color")),
            base64.b64decode(shot),
        )

    def pdf(self) -> bytes:
        """The page that is open, printed, on a screen that is dark."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
        self.call("Emulation.setEmulatedMedia", media="print", features=scheme)
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """Ask for one thing, and wait for its answer."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": values}
        if self._page is not None:
            message["sessionId"] = self._page
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._last:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        found: dict[str, Any] = answer["result"]
        return found

    def _value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def _until_loaded(self) -> None:
        while not self._loaded:
            self._note(self._message())

    def _note(self, event: dict[str, Any]) -> None:
        values = event.get("params", {})
        if event.get("method") == "Page.loadEventFired":
            self._loaded = True
        elif event.get("method") == "Network.requestWillBeSent":
            if values["type"] != "Document" and not values["request"]["url"].startswith("data:"):
                self.requests.append(values["request"]["url"])
        elif event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(values))

    def _message(self) -> dict[str, Any]:
        until = time.monotonic() + TIMEOUT
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            read = os.read(self._in, 1 << 20) if ready else b""
            assert read, "Chromium does not answer"
            self._rest += read
        text, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found
