"""No page cuts, covers or tears anything, on a laptop and on a phone."""

import pytest

from tests.book import surfaces
from tests.book.sitefiles import PAGES
from tests.book.test_browser import Visit, base, browser  # noqa: F401 - fixtures

WIDTHS = (1280, 390)
# Every slider to a place between 0 and 1, as a reader would drag it.
MOVE = """at => document.querySelectorAll("article input[type=range]").forEach(s => {
  const low = +s.min || 0, high = +(s.max || 100), step = +s.step || 1;
  s.value = low + Math.round(at * (high - low) / step) * step;
  s.dispatchEvent(new Event("input", {bubbles: true})); })"""
OPEN = "() => document.querySelectorAll('article details').forEach(d => d.open = true)"


def faults(page) -> dict[str, list[str]]:
    found = {name: page.evaluate(script) for name, script in surfaces.ALL.items()}
    return {name: what for name, what in found.items() if what}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_cut_covered_or_torn(browser, base, page: str, width: int) -> None:  # noqa: F811
    with Visit(browser, base + page, width=width) as visit:
        visit.page.evaluate(OPEN)
        # a window that changes its width asks the page to fit its formulas anew
        visit.page.evaluate("() => dispatchEvent(new Event('resize'))")
        visit.page.wait_for_timeout(100)
        assert faults(visit.page) == {}
        for at in (0, 0.25, 0.75, 1):
            visit.page.evaluate(MOVE, at)
            assert visit.page.evaluate(surfaces.LABELS) == [], f"sliders at {at}"


@pytest.mark.parametrize("page", PAGES)
def test_a_slider_is_few_tabs_away(browser, base, page: str) -> None:  # noqa: F811
    """What the tab key visits in the text before the first slider."""
    with Visit(browser, base + page) as visit:
        stops = visit.page.evaluate(
            """() => { const first = document.querySelector(
                "article input[type=range], article [role=slider]");
              if (!first) return [];
              return [...document.querySelectorAll("article *")].filter(e =>
                e.tabIndex >= 0 && e.getClientRects().length
                && e.compareDocumentPosition(first) & 4).map(e => e.tagName); }"""
        )
    assert stops.count("MJX-CONTAINER") == 0
    assert len(stops) <= 40


ILL = {
    "a formula wider than its box": (
        '<div class="math" style="width:90px;overflow:hidden"><mjx-container display>'
        '<mjx-math style="display:inline-block;width:300px">xxx</mjx-math>'
        "</mjx-container></div>"
    ),
    "a table with hidden columns and no cue": (
        '<div style="width:90px;overflow-x:auto"><table><tr>'
        '<td style="min-width:300px">wide</td></tr></table></div>'
    ),
    "a cover in another colour than its box": (
        '<div style="background:rgb(9, 9, 9)"><div class="math" style="background:'
        'linear-gradient(to right, rgb(1, 2, 3), transparent)">x</div></div>'
    ),
    "punctuation torn from its formula": (
        '<p style="width:60px"><mjx-container style="display:inline-block;width:58px">'
        "x</mjx-container>, and</p>"
    ),
    "a formula that the tab key visits": (
        '<p><mjx-container tabindex="0">x</mjx-container></p>'
    ),
    "signs of TeX in a caption": "<figure><figcaption>size of η^k F_k</figcaption></figure>",
    "a label out of its figure or on another": (
        '<svg width="200" height="60" viewBox="0 0 200 60"><text x="180" y="30">b on b'
        "</text></svg>"
    ),
}
SOUND = (
    '<div class="math" style="width:90px;overflow-x:auto;background:'
    'linear-gradient(red,blue)" tabindex="0"><mjx-container display>'
    '<mjx-math style="display:inline-block;width:300px">x</mjx-math></mjx-container>'
    "</div><p><mjx-container>x</mjx-container>, and</p>"
    "<figure><figcaption>size of <code>a_b</code></figcaption></figure>"
    '<svg width="200" height="60" viewBox="0 0 200 60"><text x="10" y="20">one</text>'
    '<text x="10" y="40">two</text><text x="300" y="20">cut away</text></svg>'
)


def shown(browser, body: str) -> dict[str, list[str]]:  # noqa: F811
    page = browser.new_page()
    page.set_content(f"<!doctype html><article>{body}</article>")
    try:
        return faults(page)
    finally:
        page.close()


@pytest.mark.parametrize("fault", ILL)
def test_each_question_notices_its_fault_alone(browser, fault: str) -> None:  # noqa: F811
    assert list(shown(browser, ILL[fault])) == [fault]
    assert shown(browser, SOUND) == {}


def test_two_labels_on_each_other_are_noticed(browser) -> None:  # noqa: F811
    body = (
        '<svg width="200" height="60" viewBox="0 0 200 60"><text x="10" y="20">one</text>'
        '<text x="14" y="24">two</text></svg>'
    )
    assert shown(browser, body) == {
        "a label out of its figure or on another": ["on each other: one | two"]
    }
