"""The built site as a reader meets it: in a browser, light and dark, on a phone.

Runs in Chromium over a local server; skips where there is none, and fails
instead when ``ANTHOLOGY_REQUIRE_BROWSER=1``.
"""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.book.sitefiles import PAGES, ROOT, SITE

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
# What the theme's own search button has; it is not ours to mend.
THEME = {"label-content-name-mismatch"}
SCHEMES = ("light", "dark")

each_page = pytest.mark.parametrize("page", PAGES)


def missing(what: str) -> None:
    if REQUIRED:
        pytest.fail(f"{what}, and this run requires the browser layer")
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser():
    """Chromium, from the system or from Playwright."""
    if not (SITE / "_static" / "mathjax").is_dir():
        missing("the book was built without MathJax of its own (no Node.js)")
    if not AXE.exists():
        missing("axe-core is not installed (npm ci was not run)")
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


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """Address of a local server of the built site."""
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


# Text nodes that a reader sees and MathJax has left alone.
VISIBLE_DOLLARS = """() => {
  const seen = [];
  const walk = document.createTreeWalker(
    document.querySelector("article"), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode;
    if (node.data.includes("$") &&
        !node.parentElement.closest("pre, code, script, style, mjx-container"))
      seen.push(node.data.trim().slice(0, 80));
  }
  return seen;
}"""
SIDEWAYS = """() => document.documentElement.scrollWidth
  - document.documentElement.clientWidth"""
# Elements that reach beyond the screen and stand in no box that scrolls.
TOO_WIDE = """() => [...document.querySelectorAll("article *")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .filter(e => { for (let p = e; p; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== "visible") return false;
    return true; })
  .slice(0, 5).map(e => e.outerHTML.slice(0, 120))"""


@each_page
@pytest.mark.parametrize("scheme", SCHEMES)
def test_page_is_quiet_and_accessible(browser, base, page: str, scheme: str) -> None:
    with Visit(browser, base + page, scheme) as visit:
        assert visit.page.evaluate("document.documentElement.dataset.theme") == scheme
        assert visit.page.locator("mjx-merror").count() == 0
        assert visit.page.evaluate(VISIBLE_DOLLARS) == []
        # before the audit, which injects a script of its own
        problems, outside = list(visit.problems), list(visit.outside)
        visit.page.add_script_tag(path=str(AXE))
        result = visit.page.evaluate(
            "() => axe.run(document, {resultTypes: ['violations']})"
        )
        serious = [
            (rule["id"], [node["html"][:200] for node in rule["nodes"]][:3])
            for rule in result["violations"]
            if rule["impact"] in ("critical", "serious") and rule["id"] not in THEME
        ]
    assert serious == []
    assert problems == []
    assert outside == []


@each_page
def test_phone_needs_no_sideways_scroll(browser, base, page: str) -> None:
    with Visit(browser, base + page, width=360) as visit:
        assert visit.page.evaluate(SIDEWAYS) == 0
        assert visit.page.evaluate(TOO_WIDE) == []


@each_page
def test_sliders_move_by_arrow_keys(browser, base, page: str) -> None:
    with Visit(browser, base + page) as visit:
        sliders = visit.page.locator("article input[type=range]")
        for index in range(sliders.count()):
            slider = sliders.nth(index)
            figure = slider.locator("xpath=ancestor::figure[1]")
            drawing = figure.locator("svg").first
            slider.focus()
            slider.press("Home")
            value, spoken = slider.input_value(), figure.locator("output").inner_text()
            drawn = drawing.inner_html()
            slider.press("ArrowRight")
            assert slider.input_value() != value
            assert figure.locator("output").inner_text() != spoken
            assert drawing.inner_html() != drawn
            slider.press("ArrowLeft")
            assert slider.input_value() == value
            assert drawing.inner_html() == drawn
        assert visit.problems == []


def test_some_page_has_a_slider() -> None:
    text = "".join((SITE / page).read_text(encoding="utf-8") for page in PAGES)
    assert 'type="range"' in text


def test_pages_open_from_the_file_system(browser) -> None:
    """The README says which file to open: it must work without a server."""
    for page in ("index.html", next(page for page in PAGES if "norms" in page)):
        with Visit(browser, (SITE / page).as_uri()) as visit:
            assert visit.page.locator("article h1").count() == 1
            assert visit.problems == []
            assert visit.outside == []


@pytest.mark.parametrize("place", ["server", "folder"])
def test_search_finds_a_chapter(browser, base, place: str) -> None:
    home = base if place == "server" else f"{SITE.as_uri()}/"
    with Visit(browser, home + "search.html?q=steepest") as visit:
        found = visit.page.locator("#search-results li a")
        found.first.wait_for(timeout=10_000)
        visit.page.get_by_text("Search finished").wait_for(timeout=30_000)
        assert any("Steepest descent" in text for text in found.all_inner_texts())
        assert visit.problems == []
        assert visit.outside == []


def test_the_missing_page_leads_home(browser, base) -> None:
    with Visit(browser, base + "404.html") as visit:
        assert visit.page.locator("h1").count() == 1
        assert visit.outside == []
