"""The built site as a reader meets it: in a browser, light and dark, on a phone.

Runs in Chromium over a local server; skips where there is none, and fails
instead when ``ANTHOLOGY_REQUIRE_BROWSER=1``. The tests of one page come one after
another and share two visits, on a laptop and on a phone, because loading a page with
its formulas is what takes time; none of them relies on another.
"""

from collections.abc import Iterator

import pytest

from tests.book import surfaces
from tests.book.sitefiles import PAGES, SITE
from tests.book.visits import AXE, SIDEWAYS, Visit
from tools import contents

# What the theme's own search button has; it is not ours to mend.
THEME = {"label-content-name-mismatch"}
# What may be otherwise in the dark: colours, and pictures drawn for it.
IN_THE_DARK = ("color-contrast", "link-in-text-block")
IN_THE_DARK += ("image-alt", "svg-img-alt", "role-img-alt", "object-alt")
THEME_NOW = "document.documentElement.dataset.theme"
ARRIVED = "() => Promise.all(document.getAnimations().map(a => a.finished))"
FORMULAS = {"index.html", *(f"{c.path}.html" for c in contents.chapters())}


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    """Each page in its turn, with all tests that ask for it."""
    return request.param


@pytest.fixture(scope="module")
def laptop(browser, base, page: str) -> Iterator[Visit]:
    with Visit(browser, base + page) as visit:
        yield visit


@pytest.fixture(scope="module")
def phone(browser, base, page: str) -> Iterator[Visit]:
    with Visit(browser, base + page, width=390) as visit:
        yield visit


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
# Elements that reach beyond the screen and stand in no box that scrolls.
TOO_WIDE = """() => [...document.querySelectorAll("article *")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .filter(e => { for (let p = e; p; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== "visible") return false;
    return true; })
  .slice(0, 5).map(e => e.outerHTML.slice(0, 120))"""
# Every slider to a place between 0 and 1, as a reader would drag it.
MOVE = """at => document.querySelectorAll("article input[type=range]").forEach(s => {
  const low = +s.min || 0, high = +(s.max || 100), step = +s.step || 1;
  s.value = low + Math.round(at * (high - low) / step) * step;
  s.dispatchEvent(new Event("input", {bubbles: true})); })"""
OPEN = "() => document.querySelectorAll('article details').forEach(d => d.open = true)"


def serious(visit: Visit, *rules: str) -> list[object]:
    """What the audit calls serious, by all rules or by some."""
    if not visit.page.evaluate("() => 'axe' in window"):
        visit.page.add_script_tag(path=str(AXE))
    only = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    result = visit.page.evaluate(
        "only => axe.run(document, {resultTypes: ['violations'], ...only})", only
    )
    return [
        (rule["id"], [node["html"][:200] for node in rule["nodes"]][:3])
        for rule in result["violations"]
        if rule["impact"] in ("critical", "serious") and rule["id"] not in THEME
    ]


def faults(visit: Visit) -> dict[str, list[str]]:
    found = {name: visit.page.evaluate(ask) for name, ask in surfaces.ALL.items()}
    return {name: what for name, what in found.items() if what}


def test_the_page_is_quiet(laptop: Visit) -> None:
    assert laptop.page.evaluate(THEME_NOW) == "light"
    assert laptop.page.locator("mjx-merror").count() == 0
    assert laptop.page.evaluate(VISIBLE_DOLLARS) == []
    assert laptop.problems == []
    assert laptop.outside == []


def test_its_formulas_are_set(laptop: Visit, page: str) -> None:
    formulas = laptop.page.locator("article mjx-container").count()
    assert page not in FORMULAS or formulas > 10


def test_a_slider_is_few_tabs_away(laptop: Visit) -> None:
    """What the tab key visits in the text before the first slider."""
    stops = laptop.page.evaluate(
        """() => { const first = document.querySelector(
            "article input[type=range], article [role=slider]");
          if (!first) return [];
          return [...document.querySelectorAll("article *")].filter(e =>
            e.tabIndex >= 0 && e.getClientRects().length
            && e.compareDocumentPosition(first) & 4).map(e => e.tagName); }"""
    )
    assert stops.count("MJX-CONTAINER") == 0
    assert len(stops) <= 40


def test_the_page_is_accessible(laptop: Visit) -> None:
    assert serious(laptop) == []


def test_so_it_is_in_the_dark(laptop: Visit) -> None:
    """A page follows the reader's system, without being loaded anew."""
    laptop.page.emulate_media(color_scheme="dark")
    try:
        laptop.page.wait_for_function(f"() => {THEME_NOW} === 'dark'")
        laptop.page.evaluate(ARRIVED)  # some colours fade from one to the other
        assert serious(laptop, *IN_THE_DARK) == []
    finally:
        laptop.page.emulate_media(color_scheme="light")
        laptop.page.wait_for_function(f"() => {THEME_NOW} === 'light'")


def test_sliders_move_by_arrow_keys(laptop: Visit) -> None:
    visit, before = laptop, len(laptop.problems)
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
    assert visit.problems[before:] == []


def opened(visit: Visit) -> None:
    """With all that is folded unfolded, and its formulas fitted anew."""
    visit.page.evaluate(OPEN)
    # a window that changes its width asks the page to fit its formulas anew
    visit.page.evaluate("() => dispatchEvent(new Event('resize'))")
    visit.page.wait_for_timeout(100)


def whole(visit: Visit) -> None:
    """Nothing is cut, covered or torn: as it is loaded, unfolded, and moved."""
    assert faults(visit) == {}
    opened(visit)
    assert faults(visit) == {}
    for at in (0, 0.25, 0.75, 1):
        visit.page.evaluate(MOVE, at)
        assert visit.page.evaluate(surfaces.LABELS) == [], f"sliders at {at}"


def test_nothing_is_cut_covered_or_torn(laptop: Visit) -> None:
    whole(laptop)


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_needs_no_sideways_scroll(phone: Visit, width: int) -> None:
    phone.page.set_viewport_size({"width": width, "height": 900})
    assert phone.page.evaluate(SIDEWAYS) == 0
    assert phone.page.evaluate(TOO_WIDE) == []


def test_nor_is_anything_cut_there(phone: Visit) -> None:
    whole(phone)


def test_some_page_has_a_slider() -> None:
    text = "".join((SITE / page).read_text(encoding="utf-8") for page in PAGES)
    assert 'type="range"' in text


def test_pages_open_from_the_file_system(browser, base) -> None:
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
