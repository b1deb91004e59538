"""Figures of a probe: what is drawn is what was recorded."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from anthology import lab
from anthology.motion import Probe, find_symmetries

pytestmark = pytest.mark.filterwarnings("ignore:at step:RuntimeWarning")


@pytest.fixture(scope="module")
def records():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.LayerNorm(6), nn.Linear(6, 3))
    x, y = torch.randn(8, 4), torch.randint(3, (8,))

    def loss(f):
        return nn.functional.cross_entropy(f(x), y)

    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    found = find_symmetries(net, loss)
    every = {"turn": 1, "penalty": 1, "sharpness": 4}
    with Probe(net, optimizer, loss, symmetries=found, every=every) as probe:
        for _ in range(6):
            optimizer.zero_grad()
            loss(net).backward()
            optimizer.step()
    return probe.records


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_curves_are_the_records(records):
    figure = lab.probe_curves(records)
    labels = [panel.get_ylabel() for panel in figure.axes]
    assert labels[:2] == ["loss on the batch", "overshoot"] and len(labels) == 5
    drawn = figure.axes[0].lines[0].get_xydata()
    assert drawn.tolist() == [[r["step"], r["loss"]] for r in records]
    product = figure.axes[3]
    assert product.lines[0].get_xdata().tolist() == [1, 5]
    assert [line.get_label() for line in product.lines[1:]] == ["limit", "stable"]
    marks = [line.get_ydata()[0] for line in figure.axes[1].lines[1:]]
    assert marks == [1.0, 2.0]
    (panel,) = lab.probe_curves(records, ["gain"]).axes
    assert panel.get_ylabel() == "promised fall"
    figure.canvas.draw()


@pytest.mark.parametrize("name, most", [("overshoot", 2.0), ("error", None)])
def test_layers_are_the_records(records, name, most):
    figure = lab.probe_layers(records, name)
    panel = figure.axes[0]
    image = panel.images[0]
    layers = [text.get_text() for text in panel.get_yticklabels()]
    assert layers == list(records[0]["layers"])
    for row, layer in enumerate(layers):
        for column, record in enumerate(records):
            value = record["layers"][layer][name]
            shown = float(image.get_array().filled(math.nan)[row][column])
            assert shown == pytest.approx(value, nan_ok=True)
    assert most is None or image.get_clim() == (0.0, most)
    assert (
        lab.probe_layers(records, name, most=0.5).axes[0].images[0].get_clim()[1] == 0.5
    )
    figure.canvas.draw()


def test_symmetries_are_the_records(records):
    figure = lab.probe_symmetries(records)
    names = list(records[0]["symmetries"])
    titles = [panel.get_title() or panel.get_title("left") for panel in figure.axes]
    assert [title.replace("\n", " ") for title in titles] == names
    for panel, name in zip(figure.axes, names, strict=True):
        for line, key in zip(panel.lines, ("measured", "predicted"), strict=True):
            values = [record["symmetries"][name][key] for record in records]
            assert line.get_ydata().tolist() == values and line.get_label() == key
    figure.canvas.draw()


def test_what_is_not_there_is_named(records):
    with pytest.raises(ValueError, match="no 'los'; there are .*loss"):
        lab.probe_curves(records, ["los"])
    with pytest.raises(ValueError, match="no 'los'"):
        lab.probe_layers(records, "los")
    with pytest.raises(ValueError, match="there are none"):
        lab.probe_curves([])
    with pytest.raises(ValueError, match="no symmetries"):
        lab.probe_symmetries([{"step": 1, "layers": {}}])
