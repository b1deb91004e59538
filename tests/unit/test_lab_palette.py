"""The palette: readable by day and by night, and a number is never a ruler."""

import itertools
import json
from pathlib import Path

import pytest

from anthology import lab
from anthology.lab import palette
from anthology.lab.svg import draw

PLAIN = lab.Panel(lab.Axis("x", 0, 1), lab.Axis("y", 0, 1), height=100)
RULERS = ("l1", "l2", "linf", "spectral", "learned")


def channels(color):
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in values]


def contrast(one, other):
    lights = [
        sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), channels(x), strict=True))
        for x in (one, other)
    ]
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def drawn(name, scheme):
    entry = lab.STYLES[name]
    return entry.color if scheme == "light" else entry.dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("paper", list(palette.PAPER))
@pytest.mark.parametrize("name", list(lab.STYLES))
def test_each_colour_is_visible_and_each_ruler_readable(name, paper, scheme):
    ground = palette.PAPER[paper][scheme]
    least = 4.5 if name in (*RULERS, "ink") else 3.0
    assert contrast(drawn(name, scheme), ground) >= least


# What colour the page gets for eyes that lack one kind of cone (Machado, Oliveira
# and Fernandes 2009, severity 1), row by row of a matrix on linear light.
CONES = {
    "protan": (0.152, 1.053, -0.205, 0.115, 0.786, 0.099, -0.004, -0.048, 1.052),
    "deutan": (0.367, 0.861, -0.228, 0.280, 0.673, 0.047, -0.012, 0.043, 0.969),
    "tritan": (1.256, -0.077, -0.179, -0.078, 0.931, 0.148, 0.005, 0.691, 0.304),
}
WHITE = (0.9505, 1.0, 1.089)
XYZ = (0.4124, 0.3576, 0.1805, 0.2126, 0.7152, 0.0722, 0.0193, 0.1192, 0.9505)


def times(matrix, vector):
    return [sum(matrix[3 * i + j] * vector[j] for j in range(3)) for i in range(3)]


def seen(color, cones):
    """CIELAB of a colour, for eyes with or without all cones."""
    light = channels(color)
    if cones:
        light = [min(max(c, 0.0), 1.0) for c in times(CONES[cones], light)]
    x, y, z = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116
        for t in (v / w for v, w in zip(times(XYZ, light), WHITE, strict=True))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("cones", [None, *CONES])
def test_rulers_differ_for_all_eyes(cones, scheme):
    for one, other in itertools.combinations((*RULERS, "ink"), 2):
        a, b = (seen(drawn(name, scheme), cones) for name in (one, other))
        far = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
        assert far > 10, (one, other)


def test_no_number_wears_the_colour_of_a_ruler():
    rulers = {lab.STYLES[name].color for name in RULERS}
    for index in range(-7, 20):
        assert lab.STYLES[index].name not in RULERS
        assert lab.style(index)["color"] not in rulers


def test_rulers_and_shades_differ_in_more_than_colour():
    for names in (RULERS, range(5)):
        assert len({lab.STYLES[n].dashes for n in names}) == 5
        assert len({lab.STYLES[n].marker for n in names}) == 5
        lines = {draw(PLAIN, [lab.Line([0, 1], [0, 1], style=n)]) for n in names}
        dots = {draw(PLAIN, [lab.Points([0], [0], style=n)]) for n in names}
        assert len(lines) == len(dots) == 5


def test_a_style_by_name_is_what_matplotlib_draws():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    (line,) = axes.plot([0, 1], [0, 1], **lab.style("linf", linewidth=3))
    assert line.get_color() == lab.STYLES["linf"].color
    assert line.get_linestyle() == "--"
    assert line.get_linewidth() == 3
    plt.close(figure)


@pytest.mark.parametrize("wrong", ["l0", "", "blue"])
def test_an_unknown_style_says_which_there_are(wrong):
    for ask in (lab.style, lab.STYLES.__getitem__):
        with pytest.raises(KeyError, match=f"no style '{wrong}'; there are l1, l2"):
            ask(wrong)


def test_the_style_sheet_gets_every_colour_of_a_scheme():
    read = json.loads(Path(palette.__file__).with_name("palette.json").read_text())
    for scheme in ("light", "dark"):
        declared = dict(part.split(":") for part in palette.css(scheme)[:-1].split(";"))
        given = {**read["rulers"], **read["inks"]}
        assert declared == {f"--fig-{n}": e[scheme] for n, e in given.items()}
    with pytest.raises(ValueError, match="'light' and 'dark', not 'sepia'"):
        palette.css("sepia")
