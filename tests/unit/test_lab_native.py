"""Figures as SVG: the page's ink and rulers, the same bytes, nothing of the maker."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from anthology import lab
from anthology.lab.native import svg
from anthology.lab.palette import PAPER
from tests.kernel import cell, kernel  # noqa: F401

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

PAGE = PAPER["page"]["light"]


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        lab.use_style()
        yield
    plt.close("all")


def drawn(*plots, **axes):
    figure, ax = plt.subplots()
    for x, y, look in plots:
        ax.plot(x, y, **look)
    ax.set(**axes)
    return svg(figure)


def colors(text):
    return set(re.findall(r'(?:fill|stroke)="([^"]*)"', text)) - {"none"}


@pytest.mark.parametrize("ruler", ["l1", "l2", "linf", "spectral", "learned"])
def test_a_ruler_is_the_page_s_colour_and_the_rest_its_ink(ruler):
    text = drawn(([0, 1], [0, 1], lab.style(ruler, marker="o")), xlabel="x")
    entry = lab.STYLES[ruler]
    assert colors(text) == {
        "currentColor",
        f"var(--fig-{ruler},{entry.color})",
        f"var(--fig-paper,{PAGE})",
    }


def test_greys_are_thinned_ink_and_white_is_the_page():
    text = drawn(
        ([0, 1], [0, 1], {"color": "0.6", "alpha": 0.5}),
        ([0, 1], [1, 0], {"color": "k"}),
        ([0, 1], [1, 1], {"color": "white"}),
    )
    assert colors(text) == {
        "currentColor",
        f"var(--fig-page,{PAGE})",
        f"var(--fig-paper,{PAGE})",
    }
    assert 'stroke-opacity="0.2"' in text  # half of the 40 % that 0.6 is of white


def test_the_bytes_depend_on_the_figure_alone():
    program = (
        "import matplotlib; matplotlib.use('agg')\n"
        "import matplotlib.pyplot as plt, numpy as np\n"
        "from anthology import lab; from anthology.lab.native import svg\n"
        "lab.use_style(); figure, ax = plt.subplots(1, 2)\n"
        "ax[0].imshow(np.eye(3)); ax[1].contour(np.eye(4), colors='k')\n"
        "ax[1].plot([0, 1], clip_path=plt.Circle((0, 0), 1)); print(svg(figure))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ".", "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    (text,) = runs
    assert not re.search(
        r"matplotlib|\d{4}-\d\d-\d\d|<metadata|<!--|<\?xml", text, re.IGNORECASE
    )


def test_no_other_figure_has_its_ids_and_each_name_is_there():
    one = drawn(([0, 1], [0, 1], {}), title="one")
    two = drawn(([0, 1], [0, 1], {}), title="two")
    ids = [set(re.findall(r' id="([^"]*)"', text)) for text in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    for text, known in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([\w-]+)', text)) <= known
        assert len(re.findall(r' id="', text)) == len(known)


def test_nothing_in_it_reaches_the_rest_of_a_page():
    text = drawn(([0, 1], [0, 1], {}), title="a < b & c")
    assert (
        "<style" not in text
        and "<script" not in text
        and "http:" not in (text.replace("http://www.w3.org/2000/svg", ""))
    )
    assert ElementTree.fromstring(text).tag.endswith("svg")


def test_words_stay_words_in_the_font_of_the_page():
    text = drawn(([0, 1], [0, 1], {}), title="size of $\\eta^k$", xlabel="<x> & y")
    root = ElementTree.fromstring(text)
    words = ["".join(t.itertext()) for t in root.iter() if t.tag.endswith("}text")]
    assert "<x> & y" in words and any("η" in word for word in words)
    assert "DejaVu" not in text and "font-family" in root.attrib
    assert 'font-style="oblique"' in text or 'font-style="italic"' in text


def test_a_dense_artist_may_be_a_picture():
    figure, ax = plt.subplots()
    ax.scatter(*np.random.default_rng(0).random((2, 5000)), rasterized=True)
    text = svg(figure)
    assert text.count("<image") == 1 and len(text) < 150_000


def test_numbers_have_two_digits_at_most():
    x = np.linspace(0, 1, 500)
    text = drawn((x, np.sin(9 * x), {}))
    assert not re.search(r"\d\.\d{3,}", re.sub(r"<image.*?>", "", text))
    assert len(text) < 25_000


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [0, np.inf], [1e300, -1e300]])
def test_odd_data_still_draws(values):
    text = drawn((range(len(values)), values, {}))
    assert ElementTree.fromstring(text) is not None


def test_a_wide_figure_says_where_it_may_be_cut():
    def cuts(*panels, width, **more):
        figure, _ = plt.subplots(*panels, figsize=(width, 3), squeeze=False, **more)
        return re.findall(r'data-cut="([^"]*)"', svg(figure))

    assert cuts(1, 1, width=5) == cuts(1, 1, width=9) == cuts(1, 2, width=5) == []
    (two,) = cuts(1, 2, width=10)
    assert 300 < float(two) < 420
    assert len(cuts(2, 3, width=15)[0].split()) == 2
    figure, _ = plt.subplots(1, 2, figsize=(10, 3))
    figure.suptitle("over both")
    assert "data-cut" not in svg(figure)


def test_a_notebook_shows_svg_and_no_png(kernel):  # noqa: F811
    plot = (
        "import matplotlib.pyplot as plt\nfig, ax = plt.subplots(); ax.plot([1, 2])\n"
    )
    plain = cell(kernel, plot)["data"]
    assert any("image/png" in d for d in plain)  # as long as nobody asks for the style
    first = cell(
        kernel, f"from anthology import lab\nlab.use_style()\n{plot}plt.show()"
    )
    later = cell(kernel, plot + "fig")
    for shown in (first, later):
        pictures = [d for d in shown["data"] if "image/svg+xml" in d]
        assert shown["error"] is None and pictures
        assert not any("image/png" in d for d in shown["data"])
        assert pictures[0]["image/svg+xml"].startswith('<svg class="an-figure"')


def test_a_notebook_that_sets_the_style_first_shows_svg_too(kernel):  # noqa: F811
    source = (
        "from anthology import lab\nlab.use_style()\nimport matplotlib.pyplot as plt\n"
        "plt.subplots()"
    )
    shown = [d for d in cell(kernel, source)["data"] if "text/plain" in d]
    kinds = {kind for d in shown for kind in d}
    assert "image/svg+xml" in kinds and "image/png" not in kinds
