"""Figures set into a page, in a browser: its colours, its two widths, its words."""

import itertools

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import pytest

from _ext.book_figures import inline
from anthology import lab
from anthology.lab.native import svg
from anthology.lab.palette import PAPER, css
from tests.book.sitefiles import ROOT

RULERS = ("l1", "l2", "linf")
WORDS = """() => [...document.querySelectorAll('svg.an-figure')].map(s => {
  const box = s.getBoundingClientRect();
  return [...s.querySelectorAll(':scope text')].map(t => {
    const r = t.getBoundingClientRect(), unit = box.width / s.viewBox.baseVal.width;
    return {text: t.textContent, size: parseFloat(getComputedStyle(t).fontSize) * unit,
      box: [r.left, r.top, r.right, r.bottom],
      of: [box.left, box.top, box.right, box.bottom]}; })})"""


def page(panels: int) -> str:
    """A figure of so many panels, on a page with nothing else."""
    with mpl.rc_context():
        lab.use_style()
        figure, axes = plt.subplots(1, panels, figsize=(5 * panels, 3), squeeze=False)
        for panel in axes[0]:
            for i, ruler in enumerate(RULERS):
                panel.plot([0, 1], [0, 1 + i / 50], **lab.style(ruler, label=ruler))
            panel.set(xlabel="across", ylabel="up")
            lab.label_lines(panel)
        drawing = inline(svg(figure), "three lines that rise")
        plt.close(figure)
    schemes = "".join(
        f'html[data-theme="{s}"]{{--pst-color-background:{PAPER["page"][s]};{css(s)}}}'
        for s in ("light", "dark")
    )
    sheet = (ROOT / "_static/figures.css").read_text()
    return (
        '<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>t</title><style>{sheet}{schemes}body{{margin:24px;max-width:688px;"
        "background:var(--pst-color-background);color:var(--fig-ink)}</style>"
        f"<main>{drawing}</main>"
    )


@pytest.fixture
def opened(browser):
    pages = []

    def do(panels: int, width: int):
        shown = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(shown)
        shown.set_content(page(panels))
        return shown

    yield do
    for shown in pages:
        shown.close()


def rgb(color: str) -> str:
    return "rgb({}, {}, {})".format(*(int(color[i : i + 2], 16) for i in (1, 3, 5)))


def test_colours_follow_the_switch_of_the_page(opened) -> None:
    shown = opened(1, 800)
    for scheme in ("light", "dark"):
        shown.evaluate("s => document.documentElement.dataset.theme = s", scheme)
        strokes = shown.evaluate(
            "() => [...document.querySelectorAll('svg path, svg use')]"
            ".map(p => getComputedStyle(p).stroke)"
        )
        wanted = {
            rgb(e.color if scheme == "light" else e.dark)
            for e in (lab.STYLES[n] for n in (*RULERS, "ink"))
        }
        assert set(strokes) - {"none"} == wanted


@pytest.mark.parametrize("width", [390, 800, 1280])
@pytest.mark.parametrize("panels", [1, 2])
def test_words_are_large_inside_and_apart(opened, panels: int, width: int) -> None:
    shown = opened(panels, width)
    overflow = "() => document.documentElement.scrollWidth > innerWidth"
    assert not shown.evaluate(overflow)
    drawn = shown.evaluate(WORDS)
    assert len(drawn) == panels and drawn[0]
    words = [word for picture in drawn for word in picture]
    first = words[
        : len(words) // panels
    ]  # of the first panel; the rest is cut away there
    assert min(word["size"] for word in words) >= 11
    for word in first:
        assert (
            word["of"][0] - 1 <= word["box"][0] and word["box"][2] <= word["of"][2] + 1
        )
        assert (
            word["of"][1] - 1 <= word["box"][1] and word["box"][3] <= word["of"][3] + 1
        )
    for one, other in itertools.combinations(first, 2):
        a, b = one["box"], other["box"]
        apart = (
            a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 2 or b[3] <= a[1] + 2
        )
        assert apart, (one["text"], other["text"])


def test_panels_stand_side_by_side_or_under_each_other_at_one_scale(opened) -> None:
    boxes = (
        "() => [...document.querySelectorAll('svg.an-figure')].map(s => {"
        "const r = s.getBoundingClientRect();"
        "return [r.left, r.top, r.width / s.viewBox.baseVal.width]})"
    )
    (wide, narrow) = (opened(2, width).evaluate(boxes) for width in (1280, 390))
    assert wide[0][1] == pytest.approx(wide[1][1], abs=1) and wide[0][0] < wide[1][0]
    assert wide[0][2] == pytest.approx(wide[1][2], rel=0.02)
    assert narrow[0][0] == narrow[1][0] and narrow[0][1] < narrow[1][1]
