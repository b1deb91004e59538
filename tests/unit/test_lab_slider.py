"""The slider figure's text: stable bytes, safe labels, honest gaps."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch

from anthology import lab
from anthology.lab.palette import PAPER
from anthology.lab.svg import draw, tick_text

PLAIN = lab.Panel(lab.Axis("x", 0, 1), lab.Axis("y", 0, 1), height=100)
WIDTH = 2800  # of the plotting area, in tenths of a pixel


def figure(*marks, panel=PLAIN, frames=2, **options):
    made = [lab.Frame(f"k = {k}", f"Frame {k}.", [list(marks)]) for k in range(frames)]
    return lab.slider_figure("A title", [panel], made, label="k", **options)


def html(*marks, **options):
    return figure(*marks, **options)._repr_html_()


def path(*marks, panel=PLAIN):
    return re.findall(r'd="([^"]*)"', draw(panel, marks))


def data(text):
    return json.loads(re.search(r'application/json">(.*?)</script>', text)[1])


class Balance(HTMLParser):
    """Collects ids and checks that each element is closed in order."""

    VOID = frozenset({"input"})

    def __init__(self):
        super().__init__()
        self.open, self.names, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_balanced_without_ids_or_addresses():
    text = html(lab.Line([0, 1], [0, 1], name="up"), lab.Arrow((0, 0), (1, 1)))
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert not [a for a in parser.attributes if a[1] in ("id", "href", "src")]
    assert not re.search(r"https?:|url\(|@import", text)


def test_only_html_and_a_constant_text():
    shown = figure()
    assert repr(shown) == "<slider figure>"
    assert [n for n in dir(shown) if n.startswith("_repr_")] == ["_repr_html_"]


def test_it_says_what_it_shows_without_the_picture():
    text = html(lab.Line([0, 1], [0, 1]), start=1)
    assert '<svg role="img"' in text
    assert "<title>A title</title><desc>Frame 1.</desc>" in text
    assert '<label>k <input type="range" min="0" max="1" step="1" value="1"' in text
    assert '<output aria-live="polite"><b>k = 1</b> <span>Frame 1.</span>' in text
    assert "<noscript>" in text


def test_the_first_frame_is_drawn_without_scripts():
    mark = lab.Line([0, 1], [0, 1])
    before_scripts = html(mark).split("<script")[0]
    assert draw(PLAIN, [mark]) in before_scripts


def test_coordinates_are_tenths_of_pixels_in_relative_moves():
    assert path(lab.Line([0, 0.5, 1], [0, 0.5, 0])) == ["M0 1000l1400 -500 1400 500"]


def test_marks_take_lists_tensors_and_arrays():
    import numpy as np

    x, y = [0.0, 1.0], [1.0, 0.0]
    assert path(lab.Line(x, y)) == path(lab.Line(torch.tensor(x), np.array(y)))
    assert path(lab.Arrow(torch.tensor(x), y)) == path(lab.Arrow(x, np.array(y)))


def test_last_bits_do_not_change_the_bytes():
    x = torch.linspace(0, 1, 1401, dtype=torch.float64)  # halves of a tenth occur
    noise = 1e-14 * torch.randn(1401, dtype=torch.float64)
    assert path(lab.Line(x, x)) == path(lab.Line(x + noise, x - noise))


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf])
def test_a_value_with_no_place_leaves_a_gap(hole):
    assert path(lab.Line([0, 0.5, 0.5, 1, 1], [0, 0, hole, 0, 1])) == [
        "M0 1000l1400 0M2800 1000l0 -1000"
    ]
    assert draw(PLAIN, [lab.Points([0, 1], [hole, hole])]) == ""
    assert draw(PLAIN, [lab.Arrow((0, 0), (hole, 1))]) == ""
    assert draw(PLAIN, [lab.Note(0, hole, "nowhere")]) == ""
    assert draw(PLAIN, [lab.Region([0, 1], [hole, hole])]) == ""


def test_nothing_to_draw_draws_nothing():
    assert draw(PLAIN, []) == "" and draw(PLAIN, [lab.Line([], [])]) == ""
    text = html()
    assert data(text)[0] == ["k = 0", "Frame 0.", [""]]


def test_huge_numbers_stay_short_and_in_direction():
    (far,) = path(lab.Line([0, 0.5], [0, 1e300]))
    assert far == "M0 1000l1400 -1001000"
    (near,) = path(lab.Line([0, 1e-300], [0, 0]))
    assert near == "M0 1000l0 0"


def test_a_log_axis_places_powers_evenly_and_has_no_zero():
    panel = lab.Panel(lab.Axis("x", 1e-3, 1, log=True), lab.Axis("y", 0, 1), height=100)
    moves = path(lab.Line([1e-3, 1e-2, 1e-1, 1, 0, -1], [0] * 6), panel=panel)
    assert moves == ["M0 1000l933 0 934 0 933 0"]
    assert panel.x.chosen_ticks() == pytest.approx([1e-3, 1e-2, 1e-1, 1])


def test_labels_are_escaped_and_cannot_end_the_script():
    nasty = '</script><b onclick="x">&'
    panel = lab.Panel(lab.Axis(nasty, 0, 1), lab.Axis(nasty, 0, 1), title=nasty)
    marks = [lab.Note(0, 0, nasty), lab.Line([0], [0], name=nasty)]
    frames = [lab.Frame(nasty, nasty, [marks]) for _ in range(2)]
    text = lab.slider_figure(nasty, [panel], frames, label=nasty)._repr_html_()
    assert nasty not in text and "<b onclick" not in text
    assert text.count("</script>") == 2
    assert data(text)[0][:2] == [nasty, nasty]
    parser = Balance()
    parser.feed(text)
    assert parser.open == []


def test_one_frame_has_no_slider_and_no_script():
    text = html(lab.Line([0, 1], [0, 1]), frames=1)
    assert "<input" not in text and "<script" not in text and "Frame 0." in text


def test_the_legend_names_each_mark_once_in_order():
    text = html(
        lab.Line([0], [0], name="b"),
        lab.Region([0], [0], name="a"),
        lab.Points([0], [0], name="b"),
        lab.Arrow((0, 0), (1, 1), name="c"),
        lab.Line([0], [0]),
    )
    key = re.search(r'<div class="an-key">(.*?)</div>', text)[1]
    assert re.findall(r"</svg>([^<]*)</span>", key) == ["b", "a", "c"]
    assert "an-key" not in re.sub("<style>.*</style>", "", html(lab.Line([0], [0])))


def test_line_styles_differ_in_more_than_colour():
    drawn = {draw(PLAIN, [lab.Line([0, 1], [0, 1], style=s)]) for s in range(5)}
    dashes = {re.findall(r'dasharray="([^"]*)"', d)[:1].__str__() for d in drawn}
    assert len(dashes) == 5


def test_short_arrows_are_dots_and_long_ones_have_heads():
    assert path(lab.Arrow((0, 0), (0, 0))) == ["M0 1000h0"]
    shaft, head = path(lab.Arrow((0, 0), (1, 0)))
    assert shaft == "M0 1000l2710 0"
    assert head.startswith(f"M{WIDTH} 1000l") and head.endswith("z")


def test_a_note_is_in_the_colour_of_the_text_and_its_sign_in_the_style_s():
    plain = draw(PLAIN, [lab.Note(0, 0, "here", anchor="end")])
    assert plain.endswith('text-anchor="end">here</text>') and "fill" not in plain
    styled = draw(PLAIN, [lab.Note(0, 0, "here", 1)])
    assert f'<tspan fill="{lab.STYLES[1].css}">■ </tspan>here</text>' in styled


def test_equal_axes_have_equal_units():
    panel = lab.Panel(lab.Axis("a", -1, 3), lab.Axis("b", 0, 2), equal=True)
    width, height = panel.inner
    assert width / 4 == pytest.approx(height / 2)


@pytest.mark.parametrize(
    ("value", "log", "text"),
    [
        (-0.0, False, "0"),
        (-1.5, False, "−1.5"),
        (0.30000000000000004, False, "0.3"),
        (1e-3, True, "10⁻³"),
        (10.0, True, "10"),
        (1.0, True, "1"),
        (1e12, True, "10¹²"),
        (3e-5, False, "3·10⁻⁵"),
        (-2e20, False, "−2·10²⁰"),
    ],
)
def test_tick_texts(value, log, text):
    assert tick_text(value, log) == text


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 3), (0.2, 0.9), (0, 1e9), (-7, 120)]
)
def test_ticks_are_few_round_and_inside(low, high):
    ticks = lab.Axis("x", low, high).chosen_ticks()
    assert 3 <= len(ticks) <= 7
    assert all(low - 1e-9 * high <= t <= high * (1 + 1e-9) for t in ticks)


@pytest.mark.parametrize(("low", "high"), [(1e-12, 1), (0.5, 20), (1e-300, 1e300)])
def test_log_ticks_are_few_and_inside(low, high):
    ticks = lab.Axis("x", low, high, log=True).chosen_ticks()
    assert 1 <= len(ticks) <= 7 and all(low <= t <= high * 1.001 for t in ticks)


def test_wrong_figures_are_refused():
    frame = lab.Frame("1", "one", [[]])
    for panels, frames in (([], [frame]), ([PLAIN], [])):
        with pytest.raises(ValueError, match="at least one panel and one frame"):
            lab.slider_figure("t", panels, frames, label="k")
    with pytest.raises(ValueError, match="1 lists of marks for 2 panels"):
        lab.slider_figure("t", [PLAIN, PLAIN], [frame], label="k")
    with pytest.raises(ValueError, match=r"frames 0 … 0"):
        lab.slider_figure("t", [PLAIN], [frame], label="k", start=1)
    with pytest.raises(ValueError, match="2 values of x and 3 of y"):
        figure(lab.Line([0, 1], [0, 1, 2]))


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [
        (1, 1, False),
        (2, 1, False),
        (0, 1, True),
        (math.nan, 1, False),
        (0, math.inf, False),
    ],
)
def test_wrong_axes_are_refused(low, high, log):
    with pytest.raises(ValueError, match="axis 'x'"):
        lab.Axis("x", low, high, log=log)


def test_the_style_sets_the_page_s_paper_and_differing_lines():
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context():
        lab.use_style()
        settings = matplotlib.rcParams
        page = PAPER["page"]["light"]
        assert settings["figure.facecolor"] == settings["axes.facecolor"] == page
        cycle = list(settings["axes.prop_cycle"])
        assert len({str(entry["linestyle"]) for entry in cycle}) == len(cycle) >= 5
        assert lab.style(1, linewidth=3)["color"] == cycle[1]["color"]
        assert lab.style(0, color="red") == {"color": "red", "linestyle": "-"}
