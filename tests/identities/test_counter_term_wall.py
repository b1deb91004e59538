"""The claims of the chapter on the counter term about the wall at ηλ = 1."""

import math
from itertools import pairwise

import pytest
import torch
from torch.func import jacfwd

from anthology import lab
from anthology.lab.problems import two_weights
from anthology.motion import counter_field, counter_terms, equation_of_motion, flow


@pytest.mark.claim("quadratic-motion", tol=1e-9, trials=50)
def test_on_a_quadratic_the_motion_is_a_logarithm(claim):
    g = torch.Generator().manual_seed(0)
    w = torch.ones((), dtype=torch.float64)
    for _ in range(claim.trials):
        h = 5 * torch.rand((), generator=g, dtype=torch.float64) + 0.1
        for k, term in enumerate(counter_terms(lambda v, h=h: h * v, w, 4)):
            assert lab.gap(term / h ** (k + 2), 1 / (k + 2)) < claim.tol
        # ηh up to 0.6, where 30 terms are exact to rounding
        lr = float(0.6 * torch.rand((), generator=g, dtype=torch.float64) / h)
        velocity = equation_of_motion(lambda v, h=h: h * v, 30, lr, "differences")
        exact = math.log1p(-lr * float(h)) / lr
        assert abs(float(velocity(w)) - exact) < claim.tol * abs(exact) * 1e3
        # and its flow is where gradient descent is
        end = w * math.exp(7 * lr * exact)
        assert lab.gap(end, (1 - lr * h) ** 7) < claim.tol


@pytest.mark.claim("quadratic-motion", trials=40)
def test_on_a_quadratic_the_series_diverges_where_the_step_overshoots(claim):
    w = torch.ones(1, dtype=torch.float64)
    for lr in (1.0, 1.1, 1.5, 1.9):  # h = 1
        rates = []
        for order in range(1, claim.trials + 1):
            rates.append(sum(lr**n / n for n in range(1, order + 1)))
            if order <= 5:
                field = counter_field(lambda v: v, w, order, lr)
                assert lab.gap(lr * field, -rates[-1] * w) < 1e-12
        # the multiplier exp(−rate) of the motion falls towards 0 with each
        # term, while the descent multiplies by 1 − η ≤ 0
        assert all(a < b for a, b in pairwise(rates))
        assert rates[-1] > 4
        assert 1 - lr <= 0


@pytest.mark.claim("quadratic-motion", tol=1e-3, trials=8)
def test_multipliers_beyond_the_wall(claim):
    """At ηh = 1.1 a motion multiplies by 0.333, 0.182, 0.117, 0.081, … and
    descent by −0.1."""
    found, w = [], torch.ones(1, dtype=torch.float64)
    for order in range(1, claim.trials + 1):
        velocity = equation_of_motion(lambda v: v, order, 1.1, "differences")
        found.append(float(flow(velocity, w, 1.1)))
    for value, expected in zip(found, (0.333, 0.182, 0.117, 0.081), strict=False):
        assert abs(value - expected) < claim.tol
    assert all(a > b > 0 for a, b in pairwise(found))


@pytest.mark.claim("no-real-motion", tol=1e-9, trials=10)
def test_a_flow_preserves_orientation(claim):
    """det Dφ = exp ∫ div F, so it is positive; checked on random fields."""
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        A = torch.randn(2, 2, generator=g, dtype=torch.float64)
        b = torch.randn(2, generator=g, dtype=torch.float64)

        def field(w, A=A, b=b):
            return torch.tanh(A @ w + b) - 0.5 * w

        def extended(z, field=field):
            w, D = z[:2], z[2:6].reshape(2, 2)
            J = jacfwd(field)(w)
            return torch.cat([field(w), (J @ D).reshape(-1), J.trace()[None]])

        eye = torch.eye(2, dtype=torch.float64).reshape(-1)
        w = torch.randn(2, generator=g, dtype=torch.float64)
        end = flow(extended, torch.cat([w, eye, w.new_zeros(1)]), 1.0)
        D, divergence = end[2:6].reshape(2, 2), end[6]
        assert lab.gap(torch.linalg.det(D), divergence.exp()) < claim.tol
        assert torch.linalg.det(D) > 0


@pytest.mark.claim("no-real-motion", tol=1e-9, trials=50)
def test_a_step_across_the_valley_reverses_orientation(claim):
    """On the hyperbola det(I − ηH) = 1 − ηλ, negative where 1/λ < η < 2/λ."""
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        a = 0.3 + 2 * torch.rand((), generator=g, dtype=torch.float64)
        w = two_weights.minimum(a)
        share = 1 + torch.rand((), generator=g, dtype=torch.float64)
        lr = float(share / two_weights.sharpness(w))
        step = lambda w, lr=lr: w - lr * two_weights.gradient(w)
        D = jacfwd(step)(w)
        assert lab.gap(torch.linalg.det(D), 1 - share) < claim.tol
        assert torch.linalg.eigvals(D).abs().max() <= 1 + claim.tol


@pytest.mark.claim("no-real-motion", tol=1e-9, trials=10)
def test_two_equal_directions_can_overshoot_together_on_a_real_flow(claim):
    """The exception: a half turn carries both across, though the series does not."""
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        lr = float(1.1 + 0.8 * torch.rand((), generator=g, dtype=torch.float64))
        R = torch.tensor([[0.0, -math.pi], [math.pi, 0.0]], dtype=torch.float64)
        A = (math.log(lr - 1) * torch.eye(2, dtype=torch.float64) + R) / lr
        w = torch.randn(2, generator=g, dtype=torch.float64)
        assert lab.gap(flow(lambda w, A=A: A @ w, w, lr), (1 - lr) * w) < claim.tol
