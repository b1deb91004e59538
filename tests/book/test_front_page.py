"""The front page is read from the cards and the chapters, and says what they say."""

import re
from html import unescape

import pytest

from anthology.lab.palette import STYLES
from tests.book.sitefiles import ROOT, SITE, soup
from tools import cards, contents, front_page, look

CARDS = cards.carded()
CHAPTERS = contents.chapters()


def rows(name: str, page: str = "index.html"):
    """The rows of the one table of a class on a built page."""
    (table,) = soup(page).find("article").find_all("table", class_=name)
    return table.find("tbody").find_all("tr")


def words(tag) -> str:
    return " ".join(unescape(tag.get_text(" ")).split())


def test_cards_answer_in_one_plain_sentence() -> None:
    for name, card in CARDS.items():
        assert re.fullmatch(r"(is|has|\w+s) [^.$\\`]+\.", card.answer), name
        assert len(card.answer) <= 150, name
        assert card.ruler in (*STYLES, "any") and "$" in card.update, name
        assert card.dual, name
    assert len({card.answer for card in CARDS.values()}) == len(CARDS)


@pytest.mark.parametrize(
    ("norm", "update", "ruler"),
    [
        (r"$\ell_2$ of all weights", "", "l2"),
        (r"$\ell_\infty$ (largest entry)", "", "linf"),
        (r"$\ell_\infty$ (largest entry)", "$d$ learned", "learned"),
        ("spectral", "", "spectral"),
        (r"$\sqrt{\sum_i S_i\,\Delta w_i^2}$, learned", "", "learned"),
        ("any; by default RMS", "", "any"),
    ],
)
def test_a_card_wears_the_colour_of_its_ruler(norm, update, ruler) -> None:
    card = cards.Card("is it.", update, "", norm, "", "", "")
    assert card.ruler == ruler and card.dual


def test_the_answers_name_those_who_are_asked_for_and_link_the_rest() -> None:
    shown = [row.find("code").get_text() for row in rows("answers")]
    assert shown == list(front_page.ASKED)
    for row, name in zip(rows("answers"), front_page.ASKED, strict=True):
        assert CARDS[name].answer.replace("'", "’") in words(row).replace("'", "’")
        assert row.find(class_=f"ruler-{CARDS[name].ruler}")
    (others,) = soup("index.html").find_all(class_="others")
    named = {code.get_text() for code in others.find_all("code")}
    assert named == set(CARDS) - set(front_page.ASKED)


def test_a_chapter_is_linked_where_there_is_one() -> None:
    stems = {chapter.path.rpartition("/")[2] for chapter in CHAPTERS}
    written = {name: name.lower() for name in CARDS if name.lower() in stems}
    written["RootFreeRMSProp"] = "root-free"
    assert {"SGD", "Adam"} <= set(written)
    for row, name in zip(rows("answers"), front_page.ASKED, strict=True):
        links = [a["href"] for a in row.find_all("td")[-1].find_all("a")]
        wanted = written.get(name)
        assert len(links) == (wanted is not None), name
        assert wanted is None or links[0].endswith(f"{wanted}.html")


def test_the_map_has_every_chapter_with_its_first_sentence() -> None:
    found = [words(row) for row in rows("map")]
    assert len(found) == len(CHAPTERS)
    for chapter, said in zip(CHAPTERS, found, strict=True):
        assert f"{chapter.number}. {chapter.title}" in said
        assert chapter.claim.split(",")[0][:30] in said.replace("’", "'")


def test_the_lengths_are_added_up_from_the_chapters() -> None:
    text = words(soup("index.html").find("article"))
    assert f"{len(CHAPTERS)} chapters, {sum(c.minutes for c in CHAPTERS)} min" in text
    assert f"{CHAPTERS[0].minutes + CHAPTERS[1].minutes} minutes" in text


def test_the_hero_comes_first_and_then_the_sentence() -> None:
    section = soup("index.html").find("article").find("section")
    order = [tag for tag in section.children if getattr(tag, "name", None)]
    assert [tag.name for tag in order[:3]] == ["h1", "figure", "p"]
    assert "an-hero" in order[1]["class"]
    assert words(order[2]).startswith("Every optimizer answers the question")
    (said,) = soup("index.html").head.find_all("meta", attrs={"name": "description"})
    assert said["content"].startswith("Every optimizer answers the question")


def test_the_table_of_optimizers_has_a_card_for_every_class() -> None:
    page = "chapters/reference/optimizers.html"
    shown = [row.find("code").get_text() for row in rows("cards", page)]
    assert shown == list(CARDS)


def test_claims_that_were_false_are_not_made_again() -> None:
    for name in ("intro.md", "README.md"):
        text = " ".join((ROOT / name).read_text(encoding="utf-8").split()).lower()
        for said in (
            "each adds a penalty",
            "every chapter is a module",
            "each chapter ends in a module",
            "one symbol means one thing",
            "each figure in the prose is asserted",
        ):
            assert said not in text, f"{name}: {said}"


def test_the_site_is_dressed_with_palette_and_fonts() -> None:
    style = (SITE / "_static/book.css").read_text(encoding="utf-8")
    for ruler in ("l1", "l2", "linf", "spectral", "learned"):
        entry = STYLES[ruler]
        assert f"--fig-{ruler}:{entry.color};" in style
        assert f"--fig-{ruler}:{entry.dark};" in style
    assert style.endswith((ROOT / "_static/book.css").read_text(encoding="utf-8"))
    if not look.fonts_installed():
        pytest.skip("the fonts were not installed (no Node.js)")
    fonts = SITE / "_static" / "fonts"
    files = {name for family in look.FAMILIES for _, _, name in family.files()}
    assert {path.name for path in fonts.glob("*.woff2")} == files
    assert set(re.findall(r'url\("fonts/([^"]+)"\)', style)) == files
    assert sum((fonts / name).stat().st_size for name in files) < 250_000
    for family in look.FAMILIES:
        licence = (fonts / f"{family.package}-LICENSE.txt").read_text(encoding="utf-8")
        assert "SIL OPEN FONT LICENSE" in licence.upper()


def test_without_fonts_the_style_stands(tmp_path) -> None:
    (tmp_path / "_static").mkdir()
    source = tmp_path / "_static" / "book.css"
    source.write_text("p{color:red}\n", encoding="utf-8")
    built = tmp_path / "built"
    built.mkdir()
    look.dress(built, tmp_path)
    style = (built / "book.css").read_text(encoding="utf-8")
    assert "@font-face" not in style and style.endswith("p{color:red}\n")
    assert "--fig-spectral:" in style and not (built / "fonts").exists()


def test_a_chapter_without_its_minutes_is_refused(tmp_path) -> None:
    import nbformat

    cell = nbformat.v4.new_markdown_cell("# Title: sub\n\nA claim.\n\nNo table.")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "c.ipynb")
    with pytest.raises(ValueError, match="minutes to read"):
        contents.read(1, "c", "Part", tmp_path)
