"""The look in a browser: the first screen, the cards, and what may not be cut."""

import pytest

from tests.book.visits import AXE, SIDEWAYS, Visit
from tools import hero

SCHEMES = ("light", "dark")
OPTIMIZERS = "chapters/reference/optimizers.html"
# Tables and code whose content is wider than their box.
CUT = """s => [...document.querySelectorAll(s)]
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent.trim().slice(0, 60))"""
# Names of code that stand on more than one line without a place to break.
BROKEN = """() => [...document.querySelectorAll("table code .pre")]
  .filter(e => !/[\\s-]/.test(e.textContent.trim()) && e.getClientRects().length > 1)
  .map(e => e.textContent)"""
# Tables that hide columns and show no shade at the edge.
NO_CUE = """() => [...document.querySelectorAll(".pst-scrollable-table-container")]
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .filter(e => !getComputedStyle(e).backgroundImage.includes("gradient"))
  .map(e => e.textContent.trim().slice(0, 60))"""


def opened(browser, url, scheme="light", width=1280, height=720):
    visit = Visit(browser, url, scheme, width)
    visit.page.set_viewport_size({"width": width, "height": height})
    return visit


def test_the_hero_stands_above_the_fold(browser, base) -> None:
    with opened(browser, base) as visit:
        for name in hero.NAMES:
            visit.page.check(f".rulers input[value={name}]", force=True)
            box = visit.page.locator(".an-hero").bounding_box()
            assert box["y"] + box["height"] <= 720, name
            assert box["width"] >= 900
        assert visit.problems == []


def test_a_phone_shows_it_on_one_screen(browser, base) -> None:
    with opened(browser, base, width=390, height=844) as visit:
        for name in hero.NAMES:
            visit.page.check(f".rulers input[value={name}]", force=True)
            for picture in ("way", "step"):
                visit.page.check(f".which input[value={picture}]", force=True)
                box = visit.page.locator(".an-hero").bounding_box()
                assert box["height"] <= 780, (name, picture)
                assert visit.page.evaluate(SIDEWAYS) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_name_passes_the_audit(browser, base, scheme: str) -> None:
    with opened(browser, base, scheme) as visit:
        visit.page.add_script_tag(path=str(AXE))
        for name in hero.NAMES:
            visit.page.check(f".rulers input[value={name}]", force=True)
            visit.page.wait_for_timeout(500)
            result = visit.page.evaluate(
                "() => axe.run('.an-hero', {resultTypes: ['violations']})"
            )
            assert [rule["id"] for rule in result["violations"]] == [], name


def test_the_switch_of_the_page_changes_the_colours(browser, base) -> None:
    with opened(browser, base) as visit:
        seen = set()
        for scheme in SCHEMES:
            visit.page.evaluate(f"document.documentElement.dataset.theme = '{scheme}'")
            seen.add(
                visit.page.evaluate(
                    "getComputedStyle(document.querySelector('.an-hero input:checked "
                    "+ span')).borderBottomColor"
                )
            )
        assert len(seen) == 2


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_on_the_front_page_is_cut(browser, base, width: int) -> None:
    with opened(browser, base, width=width) as visit:
        assert visit.page.evaluate(CUT, ".highlight-sh pre, .an-hero pre") == []
        assert visit.page.evaluate(CUT, "table.optimizers td > p") == []
        assert visit.page.evaluate(SIDEWAYS) == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_optimizers_are_cards_and_wide_tables_say_so(browser, base, width) -> None:
    with opened(browser, base + OPTIMIZERS, width=width) as visit:
        assert visit.page.evaluate(CUT, "table.cards td > p") == []
        assert visit.page.evaluate(BROKEN) == []
        assert visit.page.evaluate(NO_CUE) == []
        assert visit.page.evaluate(SIDEWAYS) == 0


def test_the_magnifier_is_off_the_text(browser, base) -> None:
    with opened(browser, base + "search.html?q=muon") as visit:
        over = visit.page.evaluate(
            """() => [...document.querySelectorAll(".bd-search")].map(form => {
              const icon = form.querySelector("svg, i"), text = form.querySelector("input");
              if (!icon || !text || !text.getClientRects().length) return 0;
              const from = text.getBoundingClientRect().left
                + parseFloat(getComputedStyle(text).paddingLeft);
              return icon.getBoundingClientRect().right - from; })"""
        )
        assert over and max(over) <= 0
