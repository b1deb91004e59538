"""The statements of the chapter optimizers/prodigy that no other file tests."""

import math
from itertools import pairwise

import cvxpy
import pytest
import torch
from torch import Tensor

from anthology.norms import from_spec
from anthology.optim import FreeSteepestDescent, Prodigy, SteepestDescent
from anthology.optim.parts.param_norm import as_points

NORMS = ["L1()", "L2()", "LInf()", "Lp(3.0)", "Spectral()", "Nuclear()", "RMSToRMS()"]


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


def stepped(g: Tensor, loss: float, norm: str) -> Tensor:
    p = torch.zeros_like(g).requires_grad_()
    p.grad = g.clone()
    optimizer = SteepestDescent([p], 1e9, norm=norm, step="polyak")
    optimizer.step(lambda: loss)
    return p.detach()


def measured(x: Tensor, norm: str) -> Tensor:
    kind = from_spec(norm)
    return kind.norm(as_points(x, kind))


@pytest.mark.claim("polyak-any-norm", tol=1e-10, trials=50)
@pytest.mark.parametrize("norm", NORMS)
def test_polyaks_step_is_the_shortest_to_the_best_value(claim, norm):
    for _ in range(claim.trials):
        g, gap = torch.randn(4, 3, dtype=torch.float64), 2.5
        step = stepped(g, gap, norm)
        assert abs(float(gap + (g * step).sum())) < claim.tol
        long = float(measured(step, norm))
        for size in (0.01, 0.3, 3.0):
            rival = step + size * torch.randn_like(step)
            slope = float((g * rival).sum())
            if slope < 0:  # stretched until it is allowed as well
                rival = rival * (-gap / slope)
                assert float(measured(rival, norm)) >= long * (1 - claim.tol)


@pytest.mark.claim("polyak-any-norm", tol=1e-5, trials=3)
@pytest.mark.parametrize(
    ("norm", "as_cvxpy"),
    [
        ("L1()", lambda t: cvxpy.norm(cvxpy.vec(t, order="C"), 1)),
        ("LInf()", lambda t: cvxpy.norm(cvxpy.vec(t, order="C"), "inf")),
        ("Spectral()", cvxpy.sigma_max),
        ("Nuclear()", cvxpy.normNuc),
    ],
)
def test_a_convex_solver_finds_the_same_length(claim, norm, as_cvxpy):
    for _ in range(claim.trials):
        g, gap = torch.randn(4, 3, dtype=torch.float64), 1.5
        t = cvxpy.Variable((4, 3))
        model = gap + cvxpy.sum(cvxpy.multiply(g.numpy(), t))
        shortest = cvxpy.Problem(cvxpy.Minimize(as_cvxpy(t)), [model <= 0]).solve()
        assert abs(float(measured(stepped(g, gap, norm), norm)) - shortest) < claim.tol


def convex(kind: int):
    a = torch.randn(9, 12, dtype=torch.float64)
    end = torch.randn(4, 3, dtype=torch.float64)

    def loss(p: Tensor) -> Tensor:
        rest = a @ (p - end).reshape(-1)
        return (rest.square(), rest.abs(), rest.abs() ** 1.5)[kind].sum()

    return loss, end, torch.linalg.svd(a)[2][9:]


@pytest.mark.claim("polyak-any-norm", tol=1e-9, trials=30)
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_no_longer_than_the_way_to_any_minimum(claim, norm):
    for trial in range(claim.trials):
        loss, end, silent = convex(trial % 3)
        p = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
        value = loss(p)
        (g,) = torch.autograd.grad(value, p)
        long = float(measured(stepped(g, value.item(), norm), norm))
        for size in (0.0, 0.1, 1.0):  # along directions that the loss does not see
            other = end + size * (torch.randn(3).double() @ silent).reshape(4, 3)
            assert abs(float(loss(other))) < 1e-9
            assert long <= float(measured(p.detach() - other, norm)) * (1 + claim.tol)


@pytest.mark.claim("polyak-any-norm", tol=1e-9, trials=30)
def test_the_distance_falls_under_the_euclidean_norm_and_not_under_others(claim):
    for trial in range(claim.trials):
        loss, end, _ = convex(trial % 3)
        p = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
        for _ in range(20):
            value = loss(p)
            (p.grad,) = torch.autograd.grad(value, p)
            far = (p.detach() - end).square().sum()
            SteepestDescent([p], 1e9, norm="L2()", step="polyak").step(
                lambda value=value: value.detach()
            )
            gain = value.detach() ** 2 / p.grad.square().sum()
            near = (p.detach() - end).square().sum()
            assert near <= far - gain + claim.tol * far
    w, end = (
        torch.tensor([1.0, 0.0]).double(),
        torch.tensor([-0.1, 1.0], dtype=torch.float64),
    )
    new = w + stepped(torch.tensor([1.0, 0.1], dtype=torch.float64), 1.0, "LInf()")
    assert abs(float((w - end).abs().max()) - 1.1) < claim.tol
    assert round(float((new - end).abs().max()), 3) == 1.909


@pytest.mark.claim("polyak-descent", tol=1e-9, trials=200)
@pytest.mark.parametrize("share", [1.0, 2 / 7, 0.5])
def test_a_bound_of_the_loss_after_the_step(claim, share):
    """½(w₁² + 6w₂²) in the max norm: λ = 7, ν = 1."""
    curve = torch.tensor([1.0, 6.0], dtype=torch.float64)
    bound, worst = 1 - share + share**2 * 7 / 4, 0.0
    starts = [torch.tensor([1.0, 1e-5]).double()]
    starts += list(torch.randn(claim.trials, 2, dtype=torch.float64))
    for w in starts:
        loss = float((curve * w * w).sum() / 2)
        new = w + stepped(curve * w, share * loss, "LInf()")
        worst = max(worst, float((curve * new * new).sum() / 2) / loss)
    assert worst <= bound * (1 + claim.tol)
    assert worst > 0.99 * bound
