"""The statements of the chapter shelf/elra, and what it says of stored runs."""

import math
import sys
from statistics import mean

import pytest
import torch

from anthology import norms
from anthology.optim import FreeSteepestDescent
from tools import address

sys.path.append(str(address.ROOT / "experiments"))
import elra as study

READINGS = ("cosine", "secant")
CURVES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


def bowl(size: int):
    """A positive definite matrix and a point."""
    root = torch.randn(size, size, dtype=torch.float64)
    return root @ root.T + torch.eye(size), torch.randn(size, dtype=torch.float64)


@pytest.mark.claim("elra-orthogonal", tol=1e-8, trials=20)
@pytest.mark.parametrize("kind", ["gradient", "signs", "any"])
def test_the_product_is_the_slope_in_the_rate(claim, kind):
    """Of a network with tanh, by the derivative of its loss in the rate."""
    for _ in range(claim.trials):
        x, y = torch.randn(2, 9, 4, dtype=torch.float64)

        def loss(w, x=x, y=y):
            return (torch.tanh(x @ w) - y).square().mean()

        w = torch.randn(4, 4, dtype=torch.float64)
        g = torch.func.grad(loss)(w)
        t = {"gradient": g, "signs": g.sign(), "any": torch.randn_like(g)}[kind]
        rate = torch.tensor(0.3, dtype=torch.float64)
        slope = torch.func.grad(lambda r, w=w, t=t, loss=loss: loss(w - r * t))(rate)
        product = (t * torch.func.grad(loss)(w - rate * t)).sum()
        assert abs(float(slope + product)) < claim.tol


@pytest.mark.claim("elra-orthogonal", tol=1e-8, trials=20)
@pytest.mark.parametrize("rate", [1e-3, 0.1, 2.0])
def test_the_secant_is_exact_and_that_of_barzilai_and_borwein(claim, rate):
    for _ in range(claim.trials):
        H, w = bowl(7)
        g = H @ w
        later = g - rate * H @ g
        found = rate * (g @ g) / (g @ g - g @ later)
        exact = (g @ g) / (g @ H @ g)
        step = -rate * g
        late = (step @ step) / (step @ (later - g))
        assert abs(float(found / exact) - 1) < claim.tol
        assert abs(float(found / late) - 1) < claim.tol
        assert abs(float(g @ (g - exact * H @ g) / (g @ g))) < claim.tol


@pytest.mark.claim("elra-rotation", "elra-orthogonal", tol=1e-8, trials=5)
@pytest.mark.parametrize("rule", READINGS)
def test_a_turned_problem_has_the_turned_path(claim, rule):
    for _ in range(claim.trials):
        H, w = bowl(6)
        turn = torch.linalg.qr(torch.randn_like(H))[0]
        ends = []
        for A, start in ((H, w), (turn @ H @ turn.T, turn @ w)):
            p = torch.nn.Parameter(start.clone())
            step = study.OneRate([p], rule, 1e-3)
            for _ in range(15):
                p.grad = A @ p.detach()
                step.step()
            ends.append(p.detach())
        scale = float(ends[1].norm())
        assert float((turn @ ends[0] - ends[1]).norm()) < claim.tol * max(1.0, scale)


@pytest.mark.claim("elra-growth", tol=1e-9)
def test_growth_on_a_slope_against_escape_velocity(claim):
    slope = torch.randn(5, dtype=torch.float64)
    for rule, growth in (("cosine", 1.5), ("secant", 2.0)):
        p = torch.nn.Parameter(0 * slope)
        step, rates = study.OneRate([p], rule, 1e-9), []
        for _ in range(30):
            p.grad = slope.clone()
            step.step()
            rates.append(step.param_groups[0]["lr"])
        assert abs(rates[-1] / rates[-2] - growth) < claim.tol
    p = torch.nn.Parameter(0 * slope)
    escape, lengths = FreeSteepestDescent([p], 1.0, norm=norms.L2(), d0=1e-9), []
    for _ in range(60):
        p.grad = slope.clone()
        escape.step()
        lengths.append(escape.d)
    assert abs(lengths[-1] / lengths[-2] - (1 + math.sqrt(5)) / 2) < claim.tol


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def steps_until(delay: int, curves=CURVES, start=None, small=1e-10):
    """Steps of the line search's rate, held back, and the largest loss on the way."""
    w = list(start or [1.0] * len(curves))
    rates, losses = [], []
    while not losses or (losses[-1] > small * losses[0] and len(losses) < 1000):
        g = [h * x for h, x in zip(curves, w, strict=True)]
        losses.append(dot(w, g) / 2)
        rates.append(
            dot(g, g) / dot(g, [h * x for h, x in zip(curves, g, strict=True)])
        )
        rate = rates[max(0, len(rates) - 1 - delay)]
        w = [x - rate * y for x, y in zip(w, g, strict=True)]
    return len(losses) - 1, max(losses) / losses[0]


@pytest.mark.claim("elra-late", trials=20)
def test_one_step_late_takes_a_quarter_of_the_steps(claim):
    on_time, late = steps_until(0), steps_until(1)
    assert (on_time[0], late[0]) == (205, 50) and late[1] == 1.0
    assert round(steps_until(4)[1]) == 239_957
    for _ in range(claim.trials):  # and it is no luck of that start
        start = torch.randn(6, dtype=torch.float64).tolist()
        assert steps_until(1, start=start)[0] < 0.5 * steps_until(0, start=start)[0]
    # but from the worst start of two dimensions all rates are the same
    assert steps_until(0, (1.0, 50.0), (1.0, 0.02), 1e-3) == (
        steps_until(1, (1.0, 50.0), (1.0, 0.02), 1e-3)
    )


@pytest.mark.claim("elra-noise", tol=6.0, trials=200_000)
@pytest.mark.parametrize("size", [0.1, 5.0, 100.0])
def test_independent_batches_judge_the_expected_loss(claim, size):
    """The mean product in its own standard errors; at half the rate it is not zero."""
    H = torch.diag(torch.tensor(CURVES, dtype=torch.float64))
    slope = H @ torch.ones(6, dtype=torch.float64)
    noise = size * torch.randn(2, claim.trials, 6, dtype=torch.float64)
    g = slope + noise[0]
    covariance = size**2 * torch.eye(6, dtype=torch.float64)
    best = (slope @ slope) / (slope @ H @ slope + (H @ covariance).trace())
    for rate, zero in ((best, True), (best / 2, False)):
        products = (g * (slope - rate * g @ H + noise[1])).sum(1)
        error = float(products.std()) / claim.trials**0.5
        assert (abs(float(products.mean())) < claim.tol * error) is zero

    def expected(rate):  # above f(w), in closed form
        curve = slope @ H @ slope + (H @ covariance).trace()
        return float(-rate * slope @ slope + rate**2 / 2 * curve)

    assert expected(best) < min(expected(0.9 * best), expected(1.1 * best))


@pytest.fixture(scope="module")
def runs():
    return study.stored()


def average(runs, size, rule, what="loss"):
    return mean(study.came_of(runs, size, rule, what))


def test_the_stored_study_is_whole(runs):
    for size in study.SIZES:
        for rule in (*study.RULES, "SGD"):
            assert len(study.came_of(runs, size, rule)) == len(study.SEEDS)


@pytest.mark.claim("elra-tuning", tol=2.0, trials=5)
def test_with_all_digits_the_secant_needs_no_tuning(claim, runs):
    ours, tuned = average(runs, 1437, "secant"), average(runs, 1437, "SGD")
    assert ours < claim.tol * tuned
    lost = [x > 2.3 for x in study.came_of(runs, 1437, "cosine")]
    assert sum(lost) == 4
    assert sorted(study.came_of(runs, 1437, "cosine", "largest"))[1] > 50


@pytest.mark.claim("elra-tuning", trials=5)
@pytest.mark.parametrize("size", [64, 8])
def test_in_batches_both_readings_end_behind_sgd(claim, runs, size):
    worst = max(study.came_of(runs, size, "SGD"))
    for rule in READINGS:
        assert min(study.came_of(runs, size, rule)) > worst


def test_which_predictions_of_the_rate_came_true(runs):
    """Below a tenth of SGD's best: with 64 digits a step, and not with 8."""
    for size, holds in ((64, True), (8, False)):
        tenth = study.best(runs, size) / 10
        for rule in READINGS:
            assert (average(runs, size, rule, "last") < tenth) is holds


def test_escape_velocity_is_ahead_with_64_and_behind_otherwise(runs):
    ahead = {
        n: average(runs, n, "escape") < average(runs, n, "secant") for n in study.SIZES
    }
    assert ahead == {1437: False, 64: True, 8: False}


def test_one_run_again(runs):
    """The first forty steps of the secant find a rate that trains."""
    again = study.train(1437, "secant", study.START, 1, steps=60)
    assert again["loss"] < 1.0 and again["largest"] > 0.1
