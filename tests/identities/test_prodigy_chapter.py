"""The statements of the chapter optimizers/prodigy that no other file tests."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from anthology.optim import FreeSteepestDescent, Prodigy


def grown(optimizer, p: Tensor, gradient, steps: int) -> list[float]:
    """How much the estimate grows in each step."""
    seen = [optimizer.d]
    for _ in range(steps):
        p.grad = gradient()
        optimizer.step()
        seen.append(optimizer.d)
    return [new / old for old, new in pairwise(seen)]


@pytest.mark.claim("escape-fibonacci", tol=1e-9)
@pytest.mark.parametrize("factor", [0.1, 0.25, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("norm", ["LInf()", "Spectral()"])
def test_a_factor_on_the_length_changes_the_growth(claim, norm, factor):
    p = torch.zeros(4, 3, dtype=torch.float64).requires_grad_()
    slope = torch.randn(4, 3, dtype=torch.float64)
    optimizer = FreeSteepestDescent([p], lr=factor, norm=norm, d0=1e-9)
    found = grown(optimizer, p, slope.clone, 200)
    assert abs(found[-1] - (1 + math.sqrt(1 + 4 * factor)) / 2) < claim.tol


@pytest.mark.claim("escape-fibonacci", tol=1e-12)
def test_the_new_estimate_used_at_once_would_double():
    estimate, gone, found = 1.0, 0.0, []
    for _ in range(20):
        estimate = max(estimate, gone)
        gone += estimate
        found.append(estimate)
    assert found[1:] == [2.0**k for k in range(19)]


def root(factor: float, beta1: float, beta2: float, beta3: float) -> float:
    """z of the proposition, by bisection."""
    low, high = 1 + 1e-12, 100.0
    for _ in range(200):
        z = (low + high) / 2
        gain = (1 - beta1) * math.sqrt(1 - beta2 / z**2)
        gain /= (1 - beta1 / z) * math.sqrt(1 - beta2)
        left = z * (z - 1) * (1 - beta3 / z**3)
        low, high = (low, z) if left > factor * gain * (1 - beta3 / z**2) else (z, high)
    return low


@pytest.mark.claim("prodigy-averages", tol=1e-6)
@pytest.mark.parametrize(
    ("factor", "betas", "beta3", "known"),
    [
        (1.0, (0.9, 0.999), None, 2.572),
        (1.0, (0.0, 0.0), 0.0, 1.618),
        (1.0, (0.0, 0.0), 0.999999999, 1.521),
        (0.3, (0.9, 0.99), None, None),
        (2.0, (0.5, 0.9), 0.7, None),
    ],
)
def test_the_averages_change_the_growth(claim, factor, betas, beta3, known):
    p = torch.zeros(5, dtype=torch.float64).requires_grad_()
    slope = torch.randn(5, dtype=torch.float64)
    options = {"lr": factor, "betas": betas, "beta3": beta3, "eps": 0.0}
    optimizer = Prodigy([p], d0=1e-60, **options)
    found = grown(optimizer, p, slope.clone, 100)
    z = root(factor, *betas, betas[1] ** 0.5 if beta3 is None else beta3)
    assert abs(found[-1] / z - 1) < claim.tol
    assert known is None or round(z, 3) == known


@pytest.mark.claim("prodigy-noise", tol=0.02)
@pytest.mark.parametrize("signal", [2.0, 1.0, 0.5])
@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_noise_acts_as_a_smaller_factor(claim, signal, factor):
    """Gaussian gradients with mean ±signal and variance one."""
    ends = torch.randn(20_000, dtype=torch.float64).sign() * signal
    p = torch.zeros_like(ends).requires_grad_()
    optimizer = FreeSteepestDescent([p], lr=factor, norm="LInf()", d0=1e-30)
    found = grown(optimizer, p, lambda: ends + torch.randn_like(ends), 120)[60:]
    agreement = math.erf(signal / math.sqrt(2))
    size = signal * agreement
    size += math.sqrt(2 / math.pi) * math.exp(-(signal**2) / 2)
    share = factor * agreement * signal / size
    z = (1 + math.sqrt(1 + 4 * share)) / 2
    assert abs(math.prod(found) ** (1 / len(found)) / z - 1) < claim.tol
