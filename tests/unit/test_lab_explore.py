"""The live cell: plain without a kernel, sliders under one, wrong ranges refused."""

import ast
import inspect
import math
import sys

import pytest
import torch

from anthology import lab
from anthology.lab.explore import controls_of
from tests.kernel import cell, kernel  # noqa: F401


def one(given, default=inspect.Parameter.empty):
    """The control for one range of a function with this default."""

    def function(x):
        pass

    function.__signature__ = inspect.Signature(
        [
            inspect.Parameter(
                "x", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default
            )
        ]
    )
    return controls_of(function, {"x": given})["x"]


@pytest.mark.parametrize(
    ("given", "kind", "first"),
    [
        ((1, 9), "IntSlider", 1),
        ((1, 9, 2), "IntSlider", 1),
        ((0.5, 2), "FloatSlider", 0.5),
        ((0, 1, 0.25), "FloatSlider", 0),
        ((-1e-9, 1e-9), "FloatSlider", -1e-9),
        (["sign", "norm"], "Dropdown", "sign"),
        ([torch.zeros(2), torch.ones(2)], "Dropdown", None),
        (True, "Checkbox", True),
        (3, "IntText", 3),
        (0.1, "FloatText", 0.1),
        ("f(a) = a", "Text", "f(a) = a"),
    ],
)
def test_each_kind_of_range_has_its_control_and_first_value(given, kind, first):
    control = one(given)
    assert control.kind == kind
    read = control.read(control.first)
    assert read is given[0] if first is None else read == first


def test_a_slider_moves_by_ones_or_hundredths_and_shows_its_digits():
    assert one((1, 9)).settings["step"] == 1
    fine = one((0.0, 0.01)).settings
    assert fine["step"] == pytest.approx(1e-4)
    shown = format(fine["step"], fine["readout_format"])
    assert float(shown) == pytest.approx(fine["step"])


def test_the_function_s_default_comes_first():
    assert one((0.0, 1.0), 0.25).first == 0.25
    assert one((0, 10), 4).kind == "IntSlider"
    assert one((0, 10), 0.5).kind == "FloatSlider"
    choices = one(["a", "b"], "b")
    assert choices.read(choices.first) == "b"
    mine = torch.ones(2)
    chosen = one([torch.ones(2), mine], mine)
    assert chosen.first == 1


def test_choices_are_called_by_their_names():
    options = one([torch.sign, lab.Line, "text", 2]).settings["options"]
    assert [said for said, _ in options] == ["sign", "Line", "text", "2"]
    assert one([1, True, 1.0], True).first == 1  # 1 == True, yet another choice


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {"a": 1},
        (),
        (1,),
        (1, 2, 3, 4),
        ("a", "b"),
        (0, True),
        (torch.tensor(0.0), torch.tensor(1.0)),
        1j,
        {1, 2},
        range(3),
    ],
)
def test_what_is_no_range_is_refused_with_what_is_one(wrong):
    with pytest.raises(TypeError, match=r"x=.* is no range; give \(low, high\)"):
        one(wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((1, 1), "low before high"),
        ((2, 1), "low before high"),
        ((0.0, math.inf), "finite numbers"),
        ((math.nan, 1.0), "finite numbers"),
        ((0, 1, math.nan), "finite numbers"),
        ((0, 1, 0), "above 0 and at most high - low"),
        ((0, 1, -0.1), "above 0 and at most high - low"),
        ((0, 1, 2), "above 0 and at most high - low"),
        ([], "no choice"),
    ],
)
def test_an_empty_range_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        one(wrong)


@pytest.mark.parametrize("given", [(0.0, 1.0), [1, 2]])
@pytest.mark.parametrize("default", [5.0, "text", None, math.nan])
def test_a_default_outside_is_refused(given, default):
    with pytest.raises(ValueError, match=r"default .*; (widen|add)"):
        one(given, default)


def test_arguments_must_be_the_function_s():
    def draw(a, b=1.0):
        raise AssertionError("never called")

    with pytest.raises(TypeError, match=r"takes \(a, b\), the ranges are for \(c\)"):
        lab.explore(draw, c=(0, 1))
    with pytest.raises(TypeError, match=r"missing .*'a'; .*takes \(a, b\)"):
        lab.explore(draw, b=(0, 1))


def test_without_a_kernel_it_is_one_call_with_the_first_values():
    calls = []

    def draw(a, b=2, **more):
        calls.append((a, b, more))

    assert lab.explore(draw, a=(0.5, 1.0), b=[1, 2], c="text") is None
    assert calls == [(0.5, 2, {"c": "text"})]
    with pytest.raises(ZeroDivisionError):
        lab.explore(lambda a: 1 / a, a=(0, 1))


def test_only_what_ipywidgets_7_and_8_both_have():
    """Every name that is asked of the module, and every setting of a control."""
    names = {"Output", "VBox", "Dropdown", "Checkbox", "Text", "IntText", "FloatText"}
    names |= {"IntSlider", "FloatSlider"}
    asked = {one(given).kind for given in ((0, 1), (0.0, 1.0), [1], True, 1, 1.0, "")}
    module = sys.modules["anthology.lab.explore"]  # lab.explore is the function
    tree = ast.parse(inspect.getsource(module))
    asked |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "widgets"
    }
    assert asked == names
    # what the two versions take, by their sources
    common = {"min", "max", "step", "continuous_update", "readout_format", "options"}
    given = ((0, 1), (0.0, 1.0), [1], True, 1, 1.0, "")
    assert {key for x in given for key in one(x).settings} <= common


SET_UP = """
import matplotlib.pyplot as plt
from anthology import lab
lab.use_style()
seen = []
def draw(slope=1.0, shape="line", dots=True):
    if slope > 2:
        raise ValueError(f"too steep: {slope}")
    seen.append((slope, shape, dots))
    print("slope", slope)
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, slope])
play = lab.explore(draw, slope=(0.0, 3.0, 0.5), shape=["line", "curve"], dots=True)
def shown():
    for out in play.output.outputs:
        print(out.get("text", "").strip(), *sorted(out.get("data", {})),
              out.get("ename", ""), out.get("evalue", ""))
"""


def test_a_slider_moved_in_a_kernel_changes_the_figure(kernel):  # noqa: F811
    assert cell(kernel, SET_UP)["error"] is None
    box = cell(kernel, "play")
    assert "application/vnd.jupyter.widget-view+json" in box["data"][0]
    print_state = "print(play.values, seen[-1], plt.get_fignums())"
    assert cell(kernel, print_state)["text"] == (
        "{'slope': 1.0, 'shape': 'line', 'dots': True} (1.0, 'line', True) []\n"
    )
    moved = cell(kernel, "play.controls['slope'].value = 2.0")
    assert moved["error"] is None
    drawings = [d for d in moved["data"] if "image/svg+xml" in d]
    assert moved["text"] == "slope 2.0\n" and len(drawings) == 1
    again = cell(kernel, "play.controls['slope'].value = 0.5")
    other = [d for d in again["data"] if "image/svg+xml" in d]
    assert other[0]["image/svg+xml"] != drawings[0]["image/svg+xml"]
    cell(
        kernel, "play.controls['shape'].value = 1; play.controls['dots'].value = False"
    )
    assert cell(kernel, print_state)["text"].endswith("(0.5, 'curve', False) []\n")


def test_an_error_is_shown_and_the_next_move_recovers(kernel):  # noqa: F811
    cell(kernel, SET_UP)
    failed = cell(kernel, "play.controls['slope'].value = 3.0")
    assert failed["error"] == ("ValueError", "too steep: 3.0")
    fine = cell(kernel, "play.controls['slope'].value = 2.0")
    assert fine["error"] is None and fine["text"] == "slope 2.0\n"


def test_the_first_error_is_the_cell_s_own(kernel):  # noqa: F811
    cell(kernel, SET_UP)
    wrong = cell(kernel, "lab.explore(draw, slope=(3.0, 4.0), shape='a')")
    assert wrong["error"][0] == "ValueError"
    assert "does not hold the function's default 1.0" in wrong["error"][1]
    steep = cell(kernel, "lab.explore(lambda a: 1 / a, a=(0, 1)); print('after')")
    assert steep["error"] == ("ZeroDivisionError", "division by zero")
    assert "after" not in steep["text"]


def test_a_returned_figure_is_shown_once_and_other_results_too(kernel):  # noqa: F811
    cell(kernel, SET_UP)
    figure = cell(
        kernel,
        "def f(n):\n    fig, ax = plt.subplots()\n    return fig\n"
        "_ = lab.explore(f, n=(1, 3))",
    )
    assert sum("image/svg+xml" in d for d in figure["data"]) == 1
    text = cell(kernel, "_ = lab.explore(lambda n: n * 'x', n=(2, 3))")
    assert {"text/plain": "'xx'"} in text["data"]
    mine = "fig, ax = plt.subplots(); _ = lab.explore(lambda n: None, n=(1, 2)); 1"
    kept = cell(kernel, mine)  # a figure open before is not the function's
    assert sum("image/svg+xml" in d for d in kept["data"]) == 1


def test_without_ipywidgets_a_kernel_calls_plainly(kernel):  # noqa: F811
    hidden = "import sys; sys.modules['ipywidgets'] = None\n"
    plain = cell(kernel, hidden + SET_UP.split("def shown")[0] + "print(play)")
    assert plain["error"] is None and plain["text"] == "slope 1.0\nNone\n"
    assert sum("image/svg+xml" in d for d in plain["data"]) == 1
