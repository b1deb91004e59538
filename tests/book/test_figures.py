"""Figures set into pages: said, cut between panels, their checks folded after them."""

import re
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document

from _ext.book_figures import fold_checks, inline, set_in
from anthology import lab
from anthology.lab.native import svg

APP = SimpleNamespace(builder=SimpleNamespace(format="html"))


def drawing(panels: int = 1, width: float = 5.0) -> str:
    with mpl.rc_context():
        lab.use_style()
        figure, _ = plt.subplots(1, panels, figsize=(width, 3))
        text = svg(figure)
        plt.close(figure)
    return text


def test_it_is_an_image_with_a_name_in_the_colours_of_the_page() -> None:
    html = inline(drawing(), 'a "sharp" <fall> & rise')
    soup = BeautifulSoup(html, "html.parser")
    (picture,) = soup.find_all("svg")
    assert picture["role"] == "img"
    assert picture["aria-label"] == 'a "sharp" <fall> & rise'
    assert not picture.has_attr("color") and picture["fill"] == "currentColor"
    assert soup.find("rect") is None or "--fig-paper" not in html
    assert not picture.has_attr("width")


def test_a_wide_one_is_cut_and_drawn_once() -> None:
    text = drawing(2, 10.0)
    soup = BeautifulSoup(inline(text, "two"), "html.parser")
    first, second = soup.find_all("svg")
    boxes = [[float(x) for x in s["viewbox"].split()] for s in (first, second)]
    assert boxes[0][0] == 0 and boxes[0][2] == boxes[1][0]
    assert boxes[1][0] + boxes[1][2] == 720
    assert first["aria-label"] == "two" and second["aria-hidden"] == "true"
    (use,) = second.find_all("use")
    assert use["href"] == "#" + first.find("g")["id"]
    ids = re.findall(r'\bid="([^"]*)"', str(soup))
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("other", ["", "<svg></svg>", "<svg class='an-figure'/>"])
def test_other_pictures_are_left_alone(other: str) -> None:
    assert inline(other, "x") is None


def page(*children: nodes.Node) -> nodes.document:
    document = new_document("page")
    output = nodes.container(classes=["cell_output"])
    output += children
    document += output
    return document


def printed(*lines: str) -> nodes.literal_block:
    text = "\n".join(lines)
    return nodes.literal_block(text, text, classes=["output", "stream"])


SLIDER = '<figure class="an-slider"></figure>'


@pytest.mark.parametrize(
    ("lines", "said"),
    [(["ok  a"], "1 check holds"), (["ok  a", "ok  b (c)"], "2 checks hold")],
)
@pytest.mark.parametrize("before", [True, False])
def test_checks_come_after_the_figure_in_one_line(lines, said, before) -> None:
    figure = nodes.raw("", SLIDER, format="html")
    children = [printed(*lines), figure] if before else [figure, printed(*lines)]
    document = page(*children)
    fold_checks(APP, document, "page")
    kinds = [type(node).__name__ for node in document[0]]
    assert kinds == ["raw", "raw", "literal_block", "raw"]
    assert f"<summary>{said}</summary>" in document[0][1].astext()
    assert document[0][3].astext() == "</details>"


def test_other_prints_and_cells_without_a_figure_stay() -> None:
    figure = nodes.raw("", SLIDER, format="html")
    for document in (page(printed("ok  a")), page(printed("ok  a", "7"), figure)):
        before = document.pformat()
        fold_checks(APP, document, "page")
        assert document.pformat() == before


def test_a_drawing_replaces_its_image_and_the_caption_stays(tmp_path) -> None:
    (tmp_path / "a.svg").write_text(drawing())
    figure = nodes.figure("", nodes.image(uri="a.svg", alt="said"), ids=["fig-a"])
    figure += nodes.caption("", "words")
    document = page(figure)
    app = SimpleNamespace(builder=APP.builder, srcdir=tmp_path)
    set_in(app, document, "page")
    assert (
        isinstance(figure[0], nodes.raw) and 'aria-label="said"' in figure[0].astext()
    )
    assert figure[1].astext() == "words" and figure["ids"] == ["fig-a"]
