"""Labels at the ends of lines: in their colour, inside the figure, none on another."""

import itertools
import math

import pytest

from anthology import lab
from anthology.lab.labels import parted

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        lab.use_style()
        yield
    plt.close("all")


def boxes(figure, labels):
    figure.draw_without_rendering()
    return [label.get_window_extent() for label in labels]


@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
@pytest.mark.parametrize(
    "ends",
    [[1, 2, 3], [1, 1, 1, 1, 1], [3, 2.99, 1, 1.01, 2.98], [1e-6, 1, 1e6], [5]],
)
def test_labels_do_not_touch_and_stay_inside(ends, scale):
    figure, axes = plt.subplots()
    for i, end in enumerate(ends):
        axes.plot([0, 1], [1, end], label=f"line {i}")
    axes.set_yscale(scale)
    labels = lab.label_lines(axes)
    found = boxes(figure, labels)
    assert len(found) == len(ends)
    for one, other in itertools.combinations(found, 2):
        assert not one.overlaps(other)
    width, height = figure.bbox.width, figure.bbox.height
    for box in found:
        assert 0 <= box.x0 and box.x1 <= width and -1 <= box.y0 and box.y1 <= height + 1


def test_labels_stand_at_their_ends_in_order():
    figure, axes = plt.subplots()
    for end in (3, 1, 2):
        axes.plot([0, 1], [0, end], label=str(end))
    labels = lab.label_lines(axes)
    assert [label.get_text() for label in labels] == ["1", "2", "3"]
    for label, box in zip(labels, boxes(figure, labels), strict=True):
        x, y = axes.transData.transform((1, float(label.get_text())))
        assert x < box.x0 < x + 20 and box.y0 < y < box.y1


def test_a_ruler_colours_its_label_and_others_are_ink():
    _, axes = plt.subplots()
    axes.plot([0, 1], [0, 1], **lab.style("linf", label="a"))
    axes.plot([0, 1], [0, 2], **lab.style(1, label="b"))
    axes.plot([0, 1], [0, 3], color="0.7", label="c")
    seen = [label.get_color() for label in lab.label_lines(axes)]
    ink = lab.STYLES["ink"].color
    assert seen == [lab.STYLES["linf"].color, ink, ink]


def test_a_line_is_labelled_once_and_where_it_is_last_inside():
    figure, axes = plt.subplots()
    for _ in range(2):
        axes.plot([0, 1, 2, 3], [0, 1, math.nan, 1e9], label="same")
    axes.set(ylim=(0, 2), xlim=(0, 4))
    (label,) = lab.label_lines(axes)
    (box,) = boxes(figure, [label])
    assert abs(box.x0 - axes.transData.transform((1, 1))[0]) < 20


def test_a_line_without_a_point_has_no_label():
    _, axes = plt.subplots()
    axes.plot([0, 1], [1, 2], label="seen")
    axes.plot([0, 1], [math.nan, math.inf], label="never")
    assert [label.get_text() for label in lab.label_lines(axes)] == ["seen"]


def test_a_label_at_some_x_is_on_its_side_of_the_line():
    figure, axes = plt.subplots()
    (line,) = axes.plot([1, 100], [1, 100])
    axes.set(xscale="log", yscale="log")
    for above in (True, False):
        label = lab.label_line(line, "here", at=10, above=above)
        (box,) = boxes(figure, [label])
        x, y = axes.transData.transform((10, 10))
        assert box.x0 < x < box.x1 and (box.y0 > y if above else box.y1 < y)


def test_what_cannot_be_labelled_is_said():
    _, axes = plt.subplots()
    with pytest.raises(ValueError, match="name the axes"):
        lab.label_lines()
    with pytest.raises(ValueError, match="no line here has a label"):
        lab.label_lines(axes)
    (line,) = axes.plot([0, 1], [0, 1])
    with pytest.raises(ValueError, match="give a text"):
        lab.label_line(line)
    with pytest.raises(ValueError, match="no point at x = 7"):
        lab.label_line(line, "far", at=7)
    (empty,) = axes.plot([math.nan], [1.0])
    with pytest.raises(ValueError, match="no point of the line"):
        lab.label_line(empty, "nowhere")


@pytest.mark.parametrize(
    ("wanted", "placed"),
    [
        ([], []),
        ([5], [5]),
        ([0, 20], [0, 20]),
        ([10, 10], [5, 15]),
        ([0, 0, 0], [-10, 0, 10]),
        ([0, 9, 100], [-0.5, 9.5, 100]),
        ([0, 0, 8], [-7.333, 2.667, 12.667]),
    ],
)
def test_boxes_part_as_little_as_they_can(wanted, placed):
    assert parted(wanted, [10] * len(wanted)) == pytest.approx(placed, abs=1e-3)
