"""The hero of the front page as a reader meets it: labels, keys, screens."""

# ruff: noqa: F811 - fixtures of the other file
import gzip
import itertools
import re

import pytest

from anthology import optim
from tests.book.test_hero import (  # noqa: F401 - fixtures
    NAMES,
    NORMS,
    SIZES,
    STARTS,
    figure,
    opened,
    page,
    state,
)
from tools import address, hero

LABELS = """() => [...document.querySelectorAll(".an-hero svg")]
  .filter(s => s.getBoundingClientRect().width)
  .map(s => { const box = r => [r.left, r.top, r.right, r.bottom];
    return { frame: box(s.getBoundingClientRect()), labels:
      [...s.querySelectorAll("text")].map(t => ({ text: t.textContent,
        box: box(t.getBoundingClientRect()),
        size: parseFloat(getComputedStyle(t).fontSize) * s.getScreenCTM().a }))}})"""


def faults(drawing):
    """What is wrong with the labels of one picture."""
    frame, labels = drawing["frame"], drawing["labels"]
    for label in labels:
        left, top, right, bottom = label["box"]
        inside = left >= frame[0] and top >= frame[1]
        if not inside or right > frame[2] or bottom > frame[3]:
            yield f"{label['text']!r} leaves the picture"
        if label["size"] < 11:
            yield f"{label['text']!r} is {label['size']:.1f} px high"
    for one, two in itertools.combinations(labels, 2):
        a, b = one["box"], two["box"]
        across = min(a[2], b[2]) - max(a[0], b[0])
        down = min(a[3], b[3]) - max(a[1], b[1])
        if across > 1 and down > 3:  # a box has air above and below its letters
            yield f"{one['text']!r} lies on {two['text']!r}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_labels_keep_their_distance_and_stay_inside(opened, figure, size, scheme):
    page = opened(figure, size=size, scheme=scheme)
    wrong = []
    for picture, name, w in itertools.product(("way", "step"), NAMES, [None, *STARTS]):
        if w is None:
            page.check(f".rulers input[value={name}]", force=True)
        else:
            state(page, name, w)
        if size[0] < 640:
            page.check(f"input[value={picture}]", force=True)
        for drawing in page.evaluate(LABELS):
            assert drawing["labels"]
            wrong += [f"{name} {w}: {fault}" for fault in faults(drawing)]
    assert wrong == []


@pytest.mark.parametrize("name", NAMES)
def test_one_screen_of_a_phone_holds_it(opened, figure, name):
    page = opened(figure, size=SIZES[1])
    page.check(f"input[value={name}]", force=True)
    for picture in ("way", "step"):
        page.check(f"input[value={picture}]", force=True)
        box = page.locator(".an-hero").bounding_box()
        assert box["height"] <= 844
        assert page.locator(f".pics .{picture}").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_keys_fingers_and_the_way_back(page):
    page.focus("input[value=Adam]")
    page.keyboard.press("ArrowRight")
    assert page.is_checked("input[value=Lion]")
    assert page.inner_text(".say").startswith("Lion ")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Adam"  # a link
    page.keyboard.press("Tab")
    handle = page.get_by_role("slider")
    assert handle.evaluate("e => e === document.activeElement")
    page.keyboard.press("ArrowUp")
    assert handle.get_attribute("aria-valuetext") == "x 0.80, y 0.52"
    assert handle.get_attribute("aria-valuenow") == "0.80"
    page.keyboard.press("ArrowDown")
    before = handle.bounding_box()
    x, y = before["x"] + before["width"] / 2, before["y"] + before["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 50, y + 30, steps=4)
    page.mouse.up()
    after = handle.bounding_box()
    assert after["x"] - before["x"] == pytest.approx(50, abs=1)
    assert after["y"] - before["y"] == pytest.approx(30, abs=1)
    page.get_by_role("button", name="Back to the first start").click()
    assert handle.get_attribute("aria-valuetext") == "x 0.80, y 0.50"


def test_what_a_screen_reader_is_told(page):
    assert page.get_by_role("radiogroup", name="Optimizer").count() == 1
    assert page.get_by_role("radio", name="Muon").count() == 1
    assert page.get_by_role("slider", name="Start of the way").count() == 1
    assert page.get_by_role("img").count() == 2
    assert page.get_attribute(".say", "aria-live") == "polite"
    for name in NAMES:
        page.check(f"input[value={name}]", force=True)
        said = page.inner_text(".say")
        assert said == f"{name} {getattr(optim, name).card.answer}"
        to = page.get_attribute(".say a", "href")
        source = [address.ROOT / to.replace(".html", end) for end in (".ipynb", ".md")]
        assert hero.read(name) == to and any(path.exists() for path in source)


def test_it_moves_and_arrives_where_it_stands_without_motion(opened, figure):
    still, moving = opened(figure), opened(figure, motion="no-preference")
    for each in (still, moving):
        each.check("input[value=Muon]", force=True)
    moving.wait_for_timeout(700)
    assert moving.inner_html(".pics") == still.inner_html(".pics")


def test_between_two_rulers_every_length_is_a_number(page):
    """The balls on the way from one ruler to the next, however near to one."""
    shares = [0.0, 1e-9, 1e-4, 0.01, 0.3, 0.5, 0.9, 1.0]
    for x, y in [(0.6, 0.8), (1.0, 0.0), (-1e-3, 0.5), (0.0, 0.0)]:
        got = page.evaluate(
            "([v, ts]) => ts.map(t => document.querySelector('.an-hero').hero.length(v, t))",
            [[x, y], shares],
        )
        W = hero.weights(x, y)
        for k, norm in ((0, "linf"), (5, "l2"), (7, "spectral")):
            assert got[k] == pytest.approx(float(NORMS[norm].norm(W)), abs=1e-12)
        assert got[1] == pytest.approx(got[0], abs=1e-6)
        assert all(value >= got[0] for value in got)


def test_nothing_is_drawn_that_is_no_number(page):
    for name, w in itertools.product(NAMES, [(1.25, 0.75), (1.0, 0.0), (0.0, 0.0)]):
        state(page, name, w)
        assert not re.search(
            "NaN|undefined|Infinity", page.inner_html(".an-hero .pics")
        )


def test_two_figures_do_not_meet(opened, figure):
    page = opened(figure + figure)
    page.locator("input[value=Muon]").first.check(force=True)
    assert page.locator("input[value=Adam]").nth(1).is_checked()


def test_without_scripts_it_is_a_picture(opened, figure):
    page = opened(figure, scripts=False)
    text = page.inner_text("body")
    assert all(f"{name} {getattr(optim, name).card.answer}" in text for name in NAMES)
    assert page.locator("noscript svg[role=img] path").count() > 6
    assert not page.locator(".rulers").is_visible()


def test_the_figure_is_small_and_alone(figure):
    assert len(gzip.compress(figure.encode())) <= 16 * 1024
    assert not re.search(
        r'\sid="|https?://(?!www\.w3\.org/2000/svg)|@import|src=', figure
    )
    assert "{{" not in figure and "\n\n" not in figure
