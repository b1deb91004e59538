"""What the runs of the chapter on gradient flow have shown, and parts of them again."""

import math
import runpy
import sys
from statistics import mean

import pytest
import torch
from torch.func import grad

from anthology.lab.problems import two_weights
from tools import address

sys.path.append(str(address.ROOT / "experiments"))
WILD = runpy.run_path(str(address.ROOT / "experiments/gradient_flow.py"))
RUNS = WILD["stored"]()
SEEDS, RATES = WILD["SEEDS"], WILD["RATES"]


def descend(gradient, w, lr, steps):
    for _ in range(steps):
        w = w - lr * gradient(w)
    return w


def test_the_gradient_in_closed_form_and_products_by_differences():
    (f, w), g = WILD["problem"](2), WILD["slope"]()
    assert (grad(f)(w) - g(w)).abs().max() < 1e-12
    d = torch.ones_like(w)
    exact = torch.func.jvp(g, (w,), (d,))[1]
    assert (WILD["along"](g, w, d) - exact).norm() < 1e-7 * exact.norm()
    edge = WILD["Edge"](g, w)
    bent = lambda h: torch.func.jvp(g, (w + h * edge.v,), (edge.v,))[1]
    rise = (bent(1e-4) - bent(-1e-4)) / 2e-4
    assert (edge.rise(w) - rise).norm() < 1e-4 * rise.norm()
    assert abs(edge.look(w) / WILD["ends"](g, w)[0] - 1) < 1e-4


@pytest.mark.claim("rate-bounds-on-a-network", trials=3)
def test_what_the_bounds_allow_and_what_holds(claim):
    for seed in range(claim.trials):
        row = RUNS[f"bound/{seed}"][3]
        assert row["time"] == 8
        one, fact = 0.01 * row["travelled"], WILD["followed"](row, 0.01)
        assert -59 < math.log10(one) - row["constants"] < -52
        assert math.log10(fact) - (math.log10(one) - row["constants"]) > 50
        assert 8 < fact / (one / row["norm"]) < 27
        assert 0.003 < one / row["norm"] * 1.1 < 0.02
        assert 0.07 < fact < 0.145
        assert 0.6 < fact / (2 / row["sharpness"]) < 1.2
        assert 1 < fact * row["sharpness"]  # past the last flow
        for each in RUNS[f"bound/{seed}"]:
            assert abs(each["leading"] / 64 / each["errors"][3] - 1) < 0.03


@pytest.mark.claim("rate-bounds-on-a-network", tol=1e-3, trials=1)
def test_one_of_the_errors_again(claim):
    w0, g = WILD["problem"](claim.trials)[1], WILD["slope"]()
    flowing = w0
    for _ in range(64):
        flowing = WILD["runge_kutta"](lambda w: -g(w), flowing, 1 / 64)
    row = RUNS[f"bound/{claim.trials}"][0]
    for rate, error in zip(RATES, row["errors"], strict=True):
        gap = (flowing - descend(g, w0, rate, round(1 / rate))).norm()
        assert abs(float(gap) / error - 1) < claim.tol


@pytest.mark.claim("where-training-breaks", trials=3)
def test_training_breaks_near_the_edge_of_its_start(claim):
    found = []
    for seed in range(claim.trials):
        part = RUNS[f"breaks/{seed}"]
        rates = {x["rate"]: x for x in part["runs"]}
        found.append(WILD["broken"](part) * part["sharpness"] / 2)
        # the loss rises from 0.1 on and training goes on
        assert all((x["rises"] > 0) == (rate > 0.09) for rate, x in rates.items())
        assert all(x["end"] < part["start"] for r, x in rates.items() if r < 0.34)
    assert [round(x, 2) for x in sorted(found)] == [1.12, 1.18, 1.25]


@pytest.mark.claim("where-training-breaks", tol=1e-9, trials=1)
def test_two_weights_stand_larger_steps(claim):
    w0 = two_weights.start()
    end = descend(two_weights.gradient, w0, 0.8, 20_000)
    top = torch.linalg.eigvalsh(two_weights.hessian(w0))[-1]
    assert two_weights(end) < claim.tol
    assert 0.8 * top / 2 > 1.6
    assert not two_weights(descend(two_weights.gradient, w0, 0.95, 200)) < 1


@pytest.mark.claim("central-flow-on-a-network", trials=3)
@pytest.mark.parametrize(
    ("part", "over", "late", "near", "variance"),
    [("central", 0.23, 0.082, 4, 0.2), ("shaken", 0.105, 0.0132, 9, 0.06)],
)
def test_descent_past_the_edge(claim, part, over, late, near, variance):
    for seed in range(claim.trials):
        run = RUNS[f"{part}/{seed}"]
        rows = run["rows"]
        after = [row for row in rows if row["step"] > 500]
        assert max(r["sharpness"][0] for r in rows) < 20 * (1 + over)
        assert max(abs(r["sharpness"][0] / 20 - 1) for r in after) < late
        assert max(r["sharpness"][2] for r in rows) < 20.01
        assert max(r["sharpness"][1] for r in rows) > 26
        assert rows[-1]["to flow"] > near * rows[-1]["to central"]
        seen, needed = (mean(r["variance"][i] for r in after) for i in (0, 1))
        assert abs(seen / needed - 1) < variance
        # the mean loss is that of the central flow and the cost of the zigzag
        told = mean(r["loss"][2] + r["variance"][1] / 0.1 for r in after)
        assert abs(mean(run["losses"][501:]) / told - 1) < 0.03


@pytest.mark.claim("central-flow-on-a-network", tol=1e-3, trials=100)
def test_its_first_steps_again(claim):
    """Before the zigzag, which grows from rounding errors."""
    w, g = WILD["problem"](0)[1], WILD["slope"]()
    middle, edge = w, WILD["Edge"](g, w)
    for _ in range(claim.trials):
        w = w - 0.1 * g(w)
        for _ in range(4):
            middle, variance = WILD["central_step"](edge, middle, 0.1, 0.025)
    row = RUNS["central/0"]["rows"][claim.trials // 20]
    assert variance == 0
    assert abs(edge.look(middle, 20) / row["sharpness"][2] - 1) < claim.tol
    mean_of_three = w  # no zigzag yet, so the iterate itself is as good
    gap = float((mean_of_three - middle).norm())
    assert abs(gap / row["to central"] - 1) < 0.02
