"""A real browser without a window, driven over its DevTools protocol through two pipes: no port, no driver, no package.

The protocol is Chromium's (https://chromedevtools.github.io/devtools-protocol): JSON messages ended by a zero byte, in
on file descriptor 3, out on 4. The browser resolves no host name, so nothing a page asks for leaves the machine.
"""

import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_ANSWER_WITHIN_S = 60
_KEYS = {"Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39}
_KEYS |= {"ArrowDown": 40}


def installed() -> str | None:
    """The path of a Chromium on this machine, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def running(executable: str, profile: Path) -> Iterator["Browser"]:
    """A browser with an empty profile in the folder `profile`, ended on leaving."""
    commands, to_browser = _high(*os.pipe())
    from_browser, answers = _high(*os.pipe())
    quiet = [(os.POSIX_SPAWN_OPEN, one, os.devnull, os.O_RDWR, 0) for one in (0, 1, 2)]
    pipes = [(os.POSIX_SPAWN_DUP2, commands, 3), (os.POSIX_SPAWN_DUP2, answers, 4)]
    command = [executable, *_FLAGS, f"--user-data-dir={profile}"]
    process = os.posix_spawn(executable, command, os.environ, file_actions=[*quiet, *pipes], setpgroup=0)
    os.close(commands)
    os.close(answers)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        os.close(to_browser)
        os.close(from_browser)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _high(*pipe: int) -> tuple[int, int]:
    """The same pipe under numbers that the browser's own 3 and 4 cannot meet."""
    reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipe)
    for end in pipe:
        os.close(end)
    return reading, writing


class Browser:
    """Owns the two pipes, what has come through them unread, and one tab that shows page after page."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = to_browser, from_browser
        self._unread = b""
        self._last = 0
        self._tab: str | None = None
        self.events: list[dict[str, Any]] = []

    def open(self, address: str, *, bypass_policy: bool = False, width: int = 1280) -> "Page":
        """The document at `address`, loaded; `bypass_policy` lifts its content security policy."""
        self._tab = self._tab or self._new_tab()
        page = Page(self, self._tab)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call("Page.setBypassCSP", enabled=bypass_policy)
        page.call("Emulation.setEmulatedMedia", media="", features=[])
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        page.call("Page.navigate", url=address)
        self.wait_for("Page.loadEventFired")
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer to one command; raises `RuntimeError` when the browser refuses it."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        self._write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def wait_for(self, event: str) -> None:
        """Returns once an event of this name has come since the page was opened."""
        while not any(one["method"] == event for one in self.events):
            self._next()

    def _new_tab(self) -> str:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        return self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def _write(self, message: bytes) -> None:
        while message:
            message = message[os.write(self._out, message) :]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _ANSWER_WITHIN_S
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._in, 1 << 20) if ready else b""
            if not piece:
                raise RuntimeError("the browser gives no answer" if not ready else "the browser has ended")
            self._unread += piece
        message, self._unread = self._unread.split(b"\0", 1)
        found = json.loads(message)
        if "method" in found:
            self.events.append(found)
        return found


class Page:
    """What the tab shows, what it asked for, and a person's keys and words."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command about this tab."""
        return self._browser.call(method, self._session, **parameters)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to in the page; raises `RuntimeError` when it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['exception'].get('description')}")
        return answer["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """A key, pressed and let go, as a keyboard would."""
        code = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **code)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def write(self, text: str) -> None:
        """Text into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def wait_frames(self, count: int) -> None:
        """Returns once the page was drawn `count` times more."""
        self.value(
            f"new Promise((done) => {{ let left = {count};"
            "const step = () => (left-- > 0 ? requestAnimationFrame(step) : done()); step(); })"
        )

    def tab_to(self, expression: str, at_most: int = 60) -> None:
        """Presses Tab until the element with the focus is the one `expression` gives."""
        for _ in range(at_most):
            if self.value(f"document.activeElement === ({expression})"):
                return
            self.press("Tab")
        raise RuntimeError(f"{at_most} times Tab did not lead to {expression}")

    def requests(self) -> list[str]:
        """Every address the page asked for, its own first; blocked ones too, what lies within the page not."""
        asked = [one["request"]["url"] for one in self._events("Network.requestWillBeSent")]
        return [address for address in asked if not address.startswith("data:")]

    def complaints(self) -> list[str]:
        """What the browser wrote to its console about the page: errors thrown, things its policy refused."""
        thrown = [one["exceptionDetails"]["text"] for one in self._events("Runtime.exceptionThrown")]
        return thrown + [one["entry"]["text"] for one in self._events("Log.entryAdded")]

    def _events(self, name: str) -> list[dict[str, Any]]:
        # A round trip: whatever happened before it has been told by its answer.
        self.call("Runtime.evaluate", expression="0")
        return [one["params"] for one in self._browser.events if one["method"] == name]
