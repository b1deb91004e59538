"""A page of the built site in a browser, and everything it complains about."""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.book.sitefiles import ROOT, SITE

REQUIRED = os.environ.get("ANTHOLOGY_REQUIRE_BROWSER") == "1"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = (
    Path(os.environ.get("ANTHOLOGY_MODULES", ROOT / "node_modules"))
    / "axe-core/axe.min.js"
)


def missing(what: str) -> None:
    if REQUIRED:
        pytest.fail(f"{what}, and this run requires the browser layer")
    pytest.skip(what)


@contextmanager
def launched() -> Iterator[object]:
    """Chromium, from the system or from Playwright."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        missing("playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        except Error as error:
            missing(f"no Chromium could be started ({error.message.splitlines()[0]})")
        yield chromium
        chromium.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Requests are counted by the browser, not printed."""


@contextmanager
def served() -> Iterator[str]:
    """Address of a local server of the built site, on a port that was free."""
    if not (SITE / "_static" / "mathjax").is_dir():
        missing("the book was built without MathJax of its own (no Node.js)")
    if not AXE.exists():
        missing("axe-core is not installed (npm ci was not run)")
    handler = functools.partial(Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


class Visit:
    """A page in the browser, and everything it complained about."""

    def __init__(self, browser, url: str, scheme: str = "light", width: int = 1280):
        self.problems: list[str] = []
        self.outside: list[str] = []
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}
        )
        self.page = context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda e: self.problems.append(f"script: {e}"))
        self.page.on("request", lambda r: self._request(r.url, url))
        self.page.on("requestfailed", lambda r: self.problems.append(f"failed {r.url}"))
        self.page.goto(url, wait_until="load")
        self.page.evaluate(
            "() => window.MathJax?.startup?.promise ?? document.fonts.ready"
        )

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _request(self, asked: str, url: str) -> None:
        home = "file:" if url.startswith("file:") else "/".join(url.split("/", 3)[:3])
        if not asked.startswith((home, "data:", "blob:")):
            self.outside.append(asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.page.context.close()


SIDEWAYS = """() => document.documentElement.scrollWidth
  - document.documentElement.clientWidth"""
