"""Motions of steps with memory and with decay, by the package's own optimizers."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp

from anthology.motion import counter_terms, discretization_error, flow
from anthology.optim import SGD, Adam, SteepestDescent

CHEAP = {"rtol": 1e-9, "atol": 1e-11}
START = torch.tensor([0.8, 0.6, 0.2], dtype=torch.float64)


def loss(w: Tensor) -> Tensor:
    s = w[0] - w[1] + w[2]
    return w @ w / 2 + s * s * s / 3 + (w * w * w * w).sum() / 4


gradient = grad(loss)


def curve(w: Tensor, v: Tensor) -> Tensor:
    """The Hessian along a direction."""
    return jvp(gradient, (w,), (v,))[1]


def walk(optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    (w,) = optimizer.param_groups[0]["params"]
    for _ in range(steps):
        w.grad = gradient(w.detach())
        optimizer.step()
    return w.detach()


def order(errors: list[float]) -> float:
    return math.log2(errors[0] / errors[1])


def weight(at: Tensor = START) -> Tensor:
    return at.clone().requires_grad_()


@pytest.mark.claim("counter-term", tol=0.02, trials=3)
def test_local_constants_to_two_per_cent(claim) -> None:
    """η^(N+1)·ξ_{N−1}, extrapolated from two step sizes."""
    exact = counter_terms(gradient, START, claim.trials)
    for n in range(1, claim.trials + 1):
        found = [
            discretization_error(gradient, START, lr, 1, n, rtol=1e-13, atol=1e-15)
            / lr ** (n + 1)
            for lr in (0.01, 0.005)
        ]
        gap = 2 * found[1] - found[0] - exact[n - 1]
        assert gap.norm() < claim.tol * exact[n - 1].norm()


@pytest.mark.claim("motion-of-momentum", tol=0.35)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_momentum_follows_its_field_and_not_a_rescaled_flow(claim, beta, nesterov):
    """From the shifted start, at which a buffer of zero is on the slow manifold."""
    factor = (1 - beta + 2 * beta**2) if nesterov else (1 + beta)
    plain, better, unshifted = [], [], []
    unit = (1 - beta) ** 2
    for lr in (0.04 * unit, 0.02 * unit):
        steps = round(0.4 * (1 - beta) / lr)

        def field(w: Tensor, lr=lr) -> Tensor:
            g = gradient(w)
            return -g / (1 - beta) - lr * factor / (2 * (1 - beta) ** 3) * curve(w, g)

        w = weight()
        end = walk(SGD([w], lr, momentum=beta, nesterov=nesterov), steps)
        share = beta**2 if nesterov else beta
        start = START + lr * share / (1 - beta) ** 2 * gradient(START)
        better.append(float((flow(field, start, lr * steps, **CHEAP) - end).norm()))
        unshifted.append(float((flow(field, START, lr * steps, **CHEAP) - end).norm()))
        still = flow(lambda w: -gradient(w) / (1 - beta), START, lr * steps, **CHEAP)
        plain.append(float((still - end).norm()))
    assert abs(order(better) - 2) < claim.tol
    assert abs(order(unshifted) - 1) < claim.tol
    assert abs(order(plain) - 1) < claim.tol


def settled(optimizer: torch.optim.Optimizer, lr: float, time: float) -> Tensor:
    """A point with a history as long as its averages are."""
    return walk(optimizer, round(time / lr)).clone()


@pytest.mark.claim("motion-of-averages", tol=0.35)
@pytest.mark.parametrize(("nesterov", "factor"), [(False, 3.0), (True, 2.0)])
def test_a_normalised_average_descends_a_modified_loss(claim, nesterov, factor):
    """f + (η/2)·factor·‖∇f‖: (1+β)/(1−β), or 1 + 2β²/(1−β) with the look-ahead."""
    beta, plain, better = 0.5, [], []
    for lr in (0.01, 0.005):
        modified = grad(lambda w, lr=lr: loss(w) + lr / 2 * factor * gradient(w).norm())
        w = weight()
        optimizer = SteepestDescent([w], lr, beta, nesterov, norm="L2()")
        start = settled(optimizer, lr, 0.3)
        end = walk(optimizer, round(0.2 / lr))
        for field, errors in ((gradient, plain), (modified, better)):
            velocity = lambda w, field=field: -field(w) / field(w).norm()
            errors.append(float((flow(velocity, start, 0.2, **CHEAP) - end).norm()))
    assert abs(order(better) - 2) < claim.tol
    assert abs(order(plain) - 1) < claim.tol


@pytest.mark.claim("motion-of-averages", tol=0.35)
@pytest.mark.parametrize("betas", [(0.0, 0.7), (0.5, 0.7), (0.6, 0.3)])
def test_the_two_averages_of_adam_pull_in_opposite_directions(claim, betas) -> None:
    """(1+β₁)/(1−β₁) − (1+β₂)/(1−β₂)·|g|/(|g|+ε) times η/2, with ε outside the root."""
    eps, plain, better = 0.3, [], []
    first, second = ((1 + beta) / (1 - beta) for beta in betas)
    for lr in (0.002, 0.001):

        def field(w: Tensor, lr=lr) -> Tensor:
            g = gradient(w)
            s = g.abs() + eps
            pull = first - second + second * eps / s
            return -(g + lr / 2 * pull * curve(w, g / s)) / s

        optimizer = Adam([weight()], lr, betas, eps)
        start = settled(optimizer, lr, 0.1)
        end = walk(optimizer, round(0.1 / lr))
        better.append(float((flow(field, start, 0.1, **CHEAP) - end).norm()))
        soft = lambda w: -gradient(w) / (gradient(w).abs() + eps)
        plain.append(float((flow(soft, start, 0.1, **CHEAP) - end).norm()))
    assert abs(order(better) - 2) < claim.tol
    assert abs(order(plain) - 1) < claim.tol


@pytest.mark.claim("scale-invariant-steps", tol=1e-12, trials=50)
def test_norm_of_a_scale_invariant_weight(claim) -> None:
    """‖w′‖² = (1−ηκ)²‖w‖² + η²‖g‖², because w·g = 0."""
    for _ in range(claim.trials):
        a, b = torch.randn(2, 6, dtype=torch.float64)
        invariant = grad(lambda w, a=a, b=b: (a @ w / w.norm()) ** 3 + b @ w / w.norm())
        w = weight(torch.randn(6, dtype=torch.float64))
        optimizer = SGD([w], 0.3, weight_decay=0.2)
        for _ in range(5):
            before, w.grad = w.detach().clone(), invariant(w.detach())
            assert abs(before @ w.grad) < claim.tol * 1e2
            optimizer.step()
            wanted = (1 - 0.3 * 0.2) ** 2 * before @ before + 0.09 * w.grad @ w.grad
            assert abs(w.detach() @ w.detach() / wanted - 1) < claim.tol


@pytest.mark.claim("scale-invariant-steps", tol=1e-6)
@pytest.mark.parametrize("product", [0.005, 0.05, 0.25])
def test_at_equilibrium_the_weight_turns_by_a_fixed_angle(claim, product) -> None:
    """arccos(1 − ηκ) a step at ‖w‖⁴ = η²Ĝ²/(1 − (1−ηκ)²), on a loss like an angle."""
    w, slope, lr = weight(torch.tensor([1.0, 0.5], dtype=torch.float64)), 3.0, 0.1
    optimizer = SGD([w], lr, weight_decay=product / lr)
    for _ in range(round(12 / product)):
        before = w.detach().clone()
        turned = torch.stack([-before[1], before[0]])
        w.grad = slope * turned / (before @ before)
        optimizer.step()
    after = w.detach()
    angle = torch.arccos(before @ after / (before.norm() * after.norm()))
    assert abs(angle / math.acos(1 - product) - 1) < claim.tol
    level = (lr * slope) ** 2 / (1 - (1 - product) ** 2)
    assert abs(after.norm() ** 4 / level - 1) < claim.tol


@pytest.mark.claim("translation-invariant-steps", tol=1e-12, trials=100)
def test_decay_alone_moves_a_translation_invariant_mean(claim) -> None:
    """(1−ηκ)ᵏ exactly: the loss does not see a constant added to the logits."""
    target = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    w = weight(torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64))
    optimizer, start = SGD([w], 0.5, weight_decay=0.1), w.detach().mean()
    for k in range(1, claim.trials + 1):
        w.grad = torch.softmax(w.detach(), 0) - target
        optimizer.step()
        wanted = start * (1 - 0.05) ** k
        assert abs(w.detach().mean() - wanted) < claim.tol
