"""Signum and Lion are steepest descent in the max norm, with memories."""

import pytest
import torch
from torch import Tensor

from anthology.norms import LInf
from anthology.optim import Lion, Signum, SteepestDescent


def together(first, second, steps: int) -> tuple[Tensor, Tensor]:
    """Where two optimizers end that are shown the same gradients."""
    a = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
    b = a.detach().clone().requires_grad_()
    one, other = first([a]), second([b])
    for _ in range(steps):
        a.grad = torch.randn(4, 3, dtype=torch.float64)
        b.grad = a.grad.clone()
        one.step()
        other.step()
    return a.detach(), b.detach()


@pytest.mark.claim("signum-is-steepest", tol=1e-12, trials=200)
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_signum_is_steepest_descent_in_the_max_norm(claim, momentum, nesterov, decay):
    options = {
        "momentum": momentum,
        "nesterov": nesterov and momentum > 0,
        "weight_decay": decay,
    }
    a, b = together(
        lambda p: Signum(p, 0.1, **options),
        lambda p: SteepestDescent(p, 0.1, norm=LInf(), **options),
        claim.trials,
    )
    assert float((a - b).abs().max()) < claim.tol


@pytest.mark.claim("lion-without-averages", tol=1e-12, trials=200)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lion_without_averages_is_sign_descent(claim, decay):
    a, b = together(
        lambda p: Lion(p, 0.1, betas=(0.0, 0.0), weight_decay=decay),
        lambda p: SteepestDescent(p, 0.1, norm=LInf(), weight_decay=decay),
        claim.trials,
    )
    assert float((a - b).abs().max()) < claim.tol


@pytest.mark.claim("lion-without-averages", tol=1e-12, trials=200)
def test_lion_with_equal_coefficients_is_signum(claim):
    for beta in (0.0, 0.3, 0.9, 0.99):
        a, b = together(
            lambda p, beta=beta: Lion(p, 0.1, betas=(beta, beta), weight_decay=0.1),
            lambda p, beta=beta: Signum(p, 0.1, beta, weight_decay=0.1),
            claim.trials,
        )
        assert float((a - b).abs().max()) < claim.tol


def test_with_averages_lion_may_step_up_the_gradient():
    """Why equality with memoryless descent needs betas=(0, 0): a counterexample."""
    p = torch.zeros(1, dtype=torch.float64).requires_grad_()
    optimizer = Lion([p], lr=1.0)
    p.grad = torch.tensor([1.0], dtype=torch.float64)
    optimizer.step()
    p.grad = torch.tensor([-0.05], dtype=torch.float64)
    before = p.detach().clone()
    optimizer.step()
    assert float((p.detach() - before) * p.grad) > 0


@pytest.mark.claim("lion-box", tol=1e-12, trials=200)
def test_decay_confines_the_weights_to_a_box(claim):
    """w ← (1−ηκ)w − η·sign: from |w| ≤ 1/κ it never leaves |w| ≤ 1/κ."""
    for kind in (Lion, Signum):
        p = torch.full((50,), 2.0, dtype=torch.float64).requires_grad_()
        optimizer = kind([p], lr=0.1, weight_decay=0.5)
        drift = torch.randn(50, dtype=torch.float64) * 3
        for _ in range(claim.trials):
            p.grad = torch.randn(50, dtype=torch.float64) + drift
            optimizer.step()
            assert float(p.detach().abs().max()) <= 2.0 + claim.tol
        assert float(p.detach().abs().max()) > 1.9
