"""Who asks the search what a thing is gets the thing first, and can read why."""

import re

import pytest

from tests.book.sitefiles import SITE
from tests.book.visits import Visit
from tools import contents, reference

WAIT = 60_000


def results(browser, url: str) -> list[tuple[str, str, str]]:
    """Title, page and excerpt of each result."""
    with Visit(browser, url) as visit:
        visit.page.get_by_text("Search finished").wait_for(timeout=WAIT)
        visit.page.wait_for_load_state("networkidle")
        visit.page.wait_for_timeout(300)
        items = visit.page.locator("#search-results li").all()
        found = []
        for item in items[:12]:
            link = item.locator("a").first
            excerpt = item.locator("p.context")
            said = excerpt.first.inner_text() if excerpt.count() else ""
            found.append((link.inner_text(), link.get_attribute("href") or "", said))
        assert visit.problems == []
    return found


CHAPTERS = {chapter.path.rpartition("/")[2]: chapter for chapter in contents.chapters()}


def readable(found: list[tuple[str, str, str]]) -> None:
    """Excerpts are text, and the API's entries come after the pages to read."""
    for title, _, said in found:
        assert "Repository" not in said, title
        assert not re.search(r"\\[a-z(]|\$", said), (title, said)
    api = [k for k, (_, page, _) in enumerate(found) if "#anthology." in page]
    text = [k for k, (_, page, _) in enumerate(found) if "#anthology." not in page]
    assert not api or max(text) < min(api), found
    assert any(said for _, _, said in found)


@pytest.mark.parametrize("asked", ["KrADagrad"])
def test_an_optimizer_without_a_chapter_leads(browser, base, asked: str) -> None:
    assert asked.lower() not in CHAPTERS, "it has one: see the next test"
    found = results(browser, f"{base}search.html?q={asked}")
    title, page, _ = found[0]
    assert title.lower() == asked.lower()
    assert page.split("#")[0].endswith(f"reference/optim/{asked.lower()}.html")
    readable(found)


@pytest.mark.parametrize(
    "asked",
    [
        *("sgd", "adam", "lion", "shampoo", "newton-schulz", "muon", "soap"),
        *("scion", "prodigy"),
    ],
)
def test_a_chapter_comes_before_the_class_of_its_name(
    browser,
    base,
    asked: str,
) -> None:
    found = results(browser, f"{base}search.html?q={asked}")
    title, page, _ = found[0]
    assert page.split("#")[0].endswith(f"{CHAPTERS[asked].path}.html"), found
    assert CHAPTERS[asked].title in title
    classes = {name.lower(): name for name in reference.optimizers()}
    assert asked not in classes or classes[asked] in [title for title, _, _ in found]
    readable(found)


def test_every_optimizer_can_be_asked_for() -> None:
    """Its name is the title of a page, so that the index of the search knows it."""
    index = (SITE / "searchindex.js").read_text(encoding="utf-8")
    for name in reference.optimizers():
        assert f'"{name}"' in index


def test_an_old_address_leads_to_the_new_page(browser, base) -> None:
    old = "chapters/reference/api-optim.html#anthology.optim.Muon.step"
    with Visit(browser, base + old) as visit:
        visit.page.wait_for_url("**/optim/muon.html#anthology.optim.Muon.step")
        # leaving the old page early ends its requests, which is no fault
        assert not [what for what in visit.problems if what.startswith("script")]
