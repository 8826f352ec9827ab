"""Firefox by WebDriver BiDi and WebKit by WebDriver, as far as a test of the page needs them: open an address, run a script."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from websockets.sync.client import connect

MINI_BROWSER = "/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser"
LONGEST_S = 180.0
MOST_BYTES = 64 * 1024 * 1024


class Browser(NamedTuple):
    """`go` opens an address; `run` is given the body of an async JavaScript function, and gives what it returns."""

    go: Callable[[str], object]
    run: Callable[[str], Any]


def needed(*programs: str) -> None:
    """Skip a test on a machine without them."""
    if missing := [p for p in programs if not shutil.which(p)]:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install firefox-esr webkit2gtk-driver xvfb")


@contextlib.contextmanager
def process(log: Path, *command: str) -> Iterator[None]:
    """A program that is stopped at the end with all that it started, and what it prints in a file."""
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True) as running:
        try:
            yield
        finally:
            os.killpg(running.pid, signal.SIGTERM)


@contextlib.contextmanager
def firefox(folder: Path) -> Iterator[Browser]:
    """Debian's Firefox without a window, with a new profile in `folder`."""
    needed("firefox-esr")
    folder.mkdir()
    log = folder / "log"

    def address() -> str:
        """Where it listens; an error while it has not said so."""
        return re.findall(r"BiDi listening on (ws://\S+)", log.read_text())[0]

    command = ("firefox-esr", "--headless", "--no-remote", "--profile", str(folder), "--remote-debugging-port", "0")
    with process(log, *command), connect(f"{patiently(address)}/session", max_size=MOST_BYTES, open_timeout=30) as session:
        numbers = itertools.count(1)

        def ask(method: str, **params: Any) -> dict[str, Any]:
            number = next(numbers)
            session.send(json.dumps({"id": number, "method": method, "params": params}))
            while (answer := json.loads(session.recv(LONGEST_S))).get("id") != number:
                pass
            assert answer["type"] == "success", answer
            result: dict[str, Any] = answer["result"]
            return result

        ask("session.new", capabilities={})
        page = ask("browsingContext.getTree")["contexts"][0]["context"]

        def run(body: str) -> Any:
            """The result crosses as JSON: BiDi's own form of values is nested."""
            expression = f"(async () => JSON.stringify((await (async () => {{ {body} }})()) ?? null))()"
            result = ask("script.evaluate", expression=expression, target={"context": page}, awaitPromise=True)
            assert result["type"] == "success", result["exceptionDetails"]["text"]
            return json.loads(result["result"]["value"])

        yield Browser(lambda url: ask("browsingContext.navigate", context=page, url=url, wait="complete"), run)
        ask("browser.close")


@contextlib.contextmanager
def webkit(folder: Path) -> Iterator[Browser]:
    """WebKitGTK's small browser, the engine of Safari, on a screen that nobody sees; it keeps nothing from one visit to the next."""
    needed("WebKitWebDriver", "Xvfb", "xvfb-run")
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with process(folder / "log", "xvfb-run", "-a", "WebKitWebDriver", f"--port={port}"):

        def ask(path: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}/session{path}", data, method=method)
            try:
                with urllib.request.urlopen(request, timeout=LONGEST_S) as answer:
                    return json.load(answer)["value"]
            except urllib.error.HTTPError as error:
                raise AssertionError(error.read().decode()) from error

        wanted = {"webkitgtk:browserOptions": {"binary": MINI_BROWSER, "args": ["--automation"]}}
        session = patiently(lambda: ask("", {"capabilities": {"alwaysMatch": wanted}}))["sessionId"]
        ask(f"/{session}/timeouts", {"script": 1000 * LONGEST_S})

        def run(body: str) -> Any:
            script = (
                f"const done = arguments[0]; (async () => {{ {body} }})()"
                ".then((value) => done({ value: value ?? null }), (error) => done({ error: String(error) }))"
            )
            answer = ask(f"/{session}/execute/async", {"script": script, "args": []})
            assert "error" not in answer, answer["error"]
            return answer["value"]

        yield Browser(lambda url: ask(f"/{session}/url", {"url": url}), run)
        ask(f"/{session}", None, "DELETE")


def patiently(what: Callable[[], Any], within_s: float = 30.0) -> Any:
    """Again until the browser or its driver listens."""
    until = time.monotonic() + within_s
    while True:
        try:
            return what()
        except (urllib.error.URLError, OSError, LookupError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
