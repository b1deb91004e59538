"""The claims of the chapter on the counter term: forward differences, and costs."""

import decimal
import itertools
import json
from pathlib import Path

import pytest
import torch

from anthology.lab.problems import two_weights
from anthology.motion import (
    counter_field,
    discretization_error,
    equation_of_motion,
    flow,
    generator,
    motion_terms,
)
from tests.counter_term_problems import (
    PROBLEMS,
    QUARTIC,
    descend,
    network,
    quartic_gradient,
    slope,
)

BOTH = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


@pytest.mark.claim("forward-differences", tol=0.15, trials=5)
@BOTH
def test_the_two_ways_agree_to_their_order(claim, problem):
    """Their difference at a point falls as η^N; its first term is known."""
    gradient, w0 = problem
    for order in range(1, claim.trials + 1):
        gaps = []
        for lr in (0.01, 0.005):
            step = lambda w, lr=lr: w - lr * gradient(w)
            by_steps = generator(step, w0, order, lr)
            by_series = counter_field(gradient, w0, order, lr)
            gaps.append(float((by_steps - by_series).norm()))
        if order == 1:  # both are exactly −g
            assert max(gaps) < 1e-12
        else:
            assert abs(slope(gaps)[0] - order) < claim.tol


@pytest.mark.claim("forward-differences", tol=1e-10, trials=50)
def test_forward_differences_are_exact_on_short_polynomials(claim):
    """If the iterates lie on a polynomial in t of degree N, so is its velocity."""
    g = torch.Generator().manual_seed(0)
    for trial in range(claim.trials):
        order, lr = 1 + trial % 6, 0.1
        c = torch.randn(order + 1, generator=g, dtype=torch.float64)
        powers = torch.arange(order + 1, dtype=torch.float64)

        def step(z, c=c, powers=powers, lr=lr):  # the point holds time and value
            t = z[0] + lr
            return torch.stack([t, (c * t**powers).sum()])

        start = torch.stack([torch.zeros_like(c[0]), c[0]])
        assert abs(float(generator(step, start, order, lr)[1] - c[1])) < claim.tol


@pytest.mark.claim("forward-differences", tol=0.15, trials=3)
def test_the_two_ways_agree_to_their_order_on_a_network(claim):
    gradient, w0 = network()
    for order in range(2, claim.trials + 1):
        gaps = []
        for lr in (0.1, 0.05):
            step = lambda w, lr=lr: w - lr * gradient(w)
            by_series = counter_field(gradient, w0, order, lr)
            gaps.append(float((generator(step, w0, order, lr) - by_series).norm()))
        assert abs(slope(gaps)[0] - order) < claim.tol


def exact_differences(w, order, lr):
    """The same sum on the two-weight network, with fifty digits."""
    points = [w]
    for _ in range(order):
        a, b = points[-1]
        r = a * b - 1
        points.append((a - lr * r * b, b - lr * r * a))
    total = [decimal.Decimal(0)] * 2
    for n in range(1, order + 1):
        points = [
            tuple(y - x for x, y in zip(p, q, strict=True))
            for p, q in itertools.pairwise(points)
        ]
        for i in range(2):
            total[i] += (-1) ** (n - 1) * points[0][i] / (n * lr)
    return torch.tensor([float(x) for x in total], dtype=torch.float64)


@pytest.mark.claim("rounding-of-differences", trials=12)
@pytest.mark.parametrize("lr", ["0.1", "0.01", "0.001"])
def test_the_rounding_of_differences_stays_below_its_bound(claim, lr):
    decimal.getcontext().prec = 50
    w, eta = two_weights.start(), float(lr)
    exactly = [decimal.Decimal(x) for x in w.tolist()]
    step = lambda v: v - eta * two_weights.gradient(v)
    for order in range(1, claim.trials + 1):
        found = generator(step, w, order, eta)
        # the step size as it is stored, not as it is written
        exact = exact_differences(exactly, order, decimal.Decimal(eta))
        bound = 2**order * 2.0**-52 * float(w.norm()) / (order * eta)
        assert float((found - exact).norm()) < bound


@pytest.mark.claim("cost-of-the-two-ways", trials=8)
def test_what_a_velocity_costs(claim):
    """Calls counted now; times as stored by experiments/counter_term_cost.py."""
    path = Path(__file__).parents[2] / "experiments/results/counter_term_cost.json"
    stored = json.loads(path.read_text(encoding="utf-8"))["results"]["digits"]
    for order in range(1, claim.trials + 1):
        for way, expected in (("series", 2 ** (order - 1)), ("differences", order)):
            calls = []

            def counted(w, calls=calls):
                calls.append(1)
                return two_weights.gradient(w)

            equation_of_motion(counted, order, 0.05, way)(two_weights.start())
            assert len(calls) == expected == stored[way]["calls"][order - 1]
        if order > 1:
            assert stored["series"]["time"][order - 1] > 3 ** (order - 1)
        assert stored["differences"]["time"][order - 1] < 1.5 * order


@pytest.mark.claim("float32-hides", trials=4)
def test_float32_hides_what_the_later_terms_repair(claim):
    gradient, w0 = QUARTIC
    lr, steps = 0.005, 200
    exact = descend(gradient, w0, lr, steps)
    gap = (descend(gradient, w0.float(), lr, steps).double() - exact).norm()
    relative = float(gap / exact.norm())
    assert 1e-8 < relative < 1e-5
    error = discretization_error(gradient, w0, lr, steps, claim.trials)
    assert error.norm() < gap


def smoothed_sign(w):
    g = quartic_gradient(w)
    return -g / (g * g + 0.5).sqrt()


@pytest.mark.claim("motion-of-any-step", tol=0.15, trials=3)
def test_a_step_that_is_no_gradient_step_has_its_motion_too(claim):
    """Smoothed sign descent: the terms of its map, and the differences."""
    w0 = QUARTIC[1]
    for order in range(1, claim.trials + 1):
        terms = motion_terms(smoothed_sign, w0, order)
        errors, gaps = [], []
        for steps in (16, 32):
            lr = 0.25 / steps

            def step(w, lr=lr):
                return w + lr * smoothed_sign(w)

            def field(w, step=step, order=order, lr=lr):
                return generator(step, w, order, lr)

            w = w0
            for _ in range(steps):
                w = step(w)
            errors.append(float((flow(field, w0, 0.25) - w).norm()))
            series = sum(t * lr**k for k, t in enumerate(terms))
            gaps.append(float((field(w0) - series).norm()))
        assert abs(slope(errors)[0] - order) < claim.tol
        assert order == 1 or abs(slope(gaps)[0] - order) < claim.tol
