"""A Chromium without a window that tests drive: pages, keys, the mouse, pictures of the screen.

It is told what to do through a pair of pipes, by the protocol of its developer tools. Tests are
skipped where it is not installed.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

WAIT_S: Final = 60.0
_FLAGS: Final = (
    *("--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run"),
    *("--disable-extensions", "--disable-background-networking", "--disable-sync"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)
# The browser has its pipes at 3 and 4.
_BEGIN: Final = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4);"
    "os.execv(sys.argv[3], sys.argv[3:])"
)
# Key codes of keys that are no letters.
_CODES: Final = {
    **{"PageUp": 33, "PageDown": 34, "End": 35, "Home": 36},
    **{"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40},
    **{"Escape": 27, "Enter": 13, "Tab": 9},
}
LIGHTS: Final = ("light", "dark")


class Browser:
    """A browser with one page.

    Parameters
    ----------
    folder
        Where it keeps its profile.

    Attributes
    ----------
    faults
        What the page that was opened last wrote to the console as an error, and errors that no
        script caught.
    asked
        The addresses that it asked for.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None:
            pytest.skip("needs Chromium")
        theirs_in, self._out = _pipe()
        self._in, theirs_out = _pipe()
        begin = [sys.executable, "-Sc", _BEGIN, str(theirs_in), str(theirs_out)]
        self._process = subprocess.Popen(
            [*begin, program, *_FLAGS, f"--user-data-dir={folder / 'profile'}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
        )
        os.close(theirs_in), os.close(theirs_out)
        self._number, self._held, self._session = 0, b"", ""
        self.faults: list[str] = []
        self.asked: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        with contextlib.suppress(OSError):
            os.close(self._out)
        self._process.wait(WAIT_S)
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command, and return its result."""
        self._number += 1
        message: dict[str, Any] = {
            "id": self._number,
            "method": method,
            "params": parameters,
            **({"sessionId": self._session} if self._session else {}),
        }
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (found := self._received()).get("id") != self._number:
            self._noticed(found)
        assert "error" not in found, (method, found["error"])
        result: dict[str, Any] = found["result"]
        return result

    def _received(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            part = os.read(self._in, 1 << 16)
            assert part, "the browser has ended"
            self._held += part
        message, _, self._held = self._held.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _noticed(self, event: dict[str, Any]) -> None:
        facts = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.faults.append(str(facts["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if facts["type"] in ("error", "assert"):
                self.faults.append(str(facts["args"]))
            case "Log.entryAdded" if facts["entry"]["level"] == "error":
                self.faults.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.asked.append(facts["request"]["url"])

    def open(self, address: str) -> None:
        """Open an address, and wait until its document is there."""
        self.call("Page.navigate", url="about:blank")
        self.faults, self.asked = [], []
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript gives, as plain values; a promise is awaited."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str, wait_s: float = WAIT_S) -> Any:
        """Wait until an expression gives something true, and return it."""
        return _until(lambda: self.value(expression), expression, wait_s)

    def key(self, name: str) -> None:
        """Press a key: a letter, or a name such as "ArrowDown"."""
        code = _CODES.get(name, ord(name[0].upper()))
        facts = {"key": name, "windowsVirtualKeyCode": code}
        text = {"text": name} if len(name) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **facts, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the left button at a place, move to another, and let it go: a click if equal."""
        facts = {"button": "left", "buttons": 1, "clickCount": 1}
        for kind, (x, y) in (
            ("mousePressed", start),
            *((("mouseMoved", end),) if end != start else ()),
            ("mouseReleased", end),
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **facts)

    def wheel(self, place: tuple[float, float], down: float) -> None:
        """Turn the wheel over a place."""
        x, y = place
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down)

    def size(self, width: int, height: int, *, is_phone: bool = False, light: str = "") -> None:
        """Give the screen a size in pixels, and choose "light" or "dark"."""
        ratio = 2 if is_phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": is_phone},
        )
        features = [{"name": "prefers-color-scheme", "value": light}] if light else []
        self.call("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of the screen, or of the whole page, as PNG."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def axe(self) -> list[str]:
        """Return the serious faults that axe-core finds in the page, as it is now.

        The test is skipped unless DICOMDL_AXE names the file axe.min.js.
        """
        path = os.environ.get("DICOMDL_AXE", "")
        if not os.path.isfile(path):
            pytest.skip("needs axe.min.js of axe-core (DICOMDL_AXE)")
        self.value(f"{Path(path).read_text()}; 0")
        faults: list[str] = self.value(
            "axe.run(document).then(r => r.violations.filter(v => ['serious', 'critical']"
            ".includes(v.impact)).map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' ')))"
        )
        return faults


def _pipe() -> tuple[int, int]:
    """Return the ends of a pipe, above the numbers that the browser expects its own at."""
    pair = os.pipe()
    import fcntl  # which Windows lacks; the fixture is loaded there, too

    high = tuple(fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in pair)
    for each in pair:
        os.close(each)
    return high[0], high[1]


def _until(ask: Callable[[], Any], what: str, wait_s: float) -> Any:
    end = time.monotonic() + wait_s
    while not (found := ask()):
        assert time.monotonic() < end, f"never true: {what}"
        time.sleep(0.02)
    return found
