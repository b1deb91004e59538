"""KrADagrad bounds an inverse from above, and is Shampoo where the bound is tight."""

import pytest
import torch
from torch import Tensor

from anthology.norms import Spectral
from anthology.optim import KrADagrad
from anthology.optim.kradagrad import BOUNDS
from anthology.optim.parts.kronecker.bounds import dominated

DOUBLE = torch.float64


def definite(d: int, spread: float = 1.0) -> Tensor:
    """A random positive definite matrix with eigenvalues over some decades."""
    turn = torch.linalg.qr(torch.randn(d, d, dtype=DOUBLE))[0]
    return turn * torch.logspace(-spread, spread, d, dtype=DOUBLE) @ turn.mT


def smallest(x: Tensor) -> float:
    """The smallest eigenvalue."""
    return float(torch.linalg.eigvalsh((x + x.mT) / 2)[0])


def move(optimizer: torch.optim.Optimizer, g: Tensor) -> Tensor:
    """What one step does."""
    p = optimizer.param_groups[0]["params"][0]
    before = p.detach().clone()
    p.grad = g.clone()
    optimizer.step()
    return p.detach() - before


@pytest.mark.claim("krad-domination", tol=1e-9, trials=200)
@pytest.mark.parametrize("bound", BOUNDS)
def test_it_dominates_the_inverse_and_stays_semi_definite(claim, bound):
    for trial in range(claim.trials):
        d, rank = 2 + trial % 5, 1 + trial % 4
        factor = definite(d)
        g = torch.randn(d, rank, dtype=DOUBLE) * 10 ** (trial % 5 - 3)
        inverse = torch.linalg.inv(torch.linalg.inv(factor) + g @ g.mT)
        bounded = dominated(factor, g @ g.mT, bound)
        scale = float(factor.abs().max())
        assert smallest(bounded - inverse) > -claim.tol * scale
        assert smallest(bounded) > -claim.tol * scale
        assert smallest(factor - bounded) > -claim.tol * scale


@pytest.mark.claim("krad-rank-one", tol=1e-9, trials=200)
def test_for_rank_one_the_trace_bound_is_exact(claim):
    for trial in range(claim.trials):
        d = 2 + trial % 5
        factor, g = definite(d), torch.randn(d, 1, dtype=DOUBLE)
        inverse = torch.linalg.inv(torch.linalg.inv(factor) + g @ g.mT)
        assert float((dominated(factor, g @ g.mT, "trace") - inverse).abs().max()) < (
            claim.tol
        )


def test_for_a_higher_rank_it_is_not():
    factor, g = definite(4), torch.randn(4, 3, dtype=DOUBLE)
    inverse = torch.linalg.inv(torch.linalg.inv(factor) + g @ g.mT)
    for bound in BOUNDS:
        assert float((dominated(factor, g @ g.mT, bound) - inverse).abs().max()) > 0.05


@pytest.mark.claim("krad-above-shampoo", tol=1e-9, trials=60)
@pytest.mark.parametrize("bound", BOUNDS)
def test_over_a_run_its_factors_stay_above_those_of_shampoo(claim, bound):
    p = torch.zeros(5, 3, dtype=DOUBLE).requires_grad_()
    optimizer = KrADagrad(
        [p], lr=1.0, momentum=0.0, nesterov=False, eps=0.0, bound=bound
    )
    left, right = torch.eye(5, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE)
    for _ in range(claim.trials):
        g = torch.randn(5, 3, dtype=DOUBLE)
        left, right = left + g @ g.mT, right + g.mT @ g
        u = -move(optimizer, g)
        state = optimizer.state[p]
        roots = []
        for kept, total in ((state["factor_0"], left), (state["factor_1"], right)):
            assert smallest(kept - torch.linalg.inv(total)) > -claim.tol
            assert smallest(kept) > 0
            values, vectors = torch.linalg.eigh(total)
            roots.append(vectors * values**-0.25 @ vectors.mT)
        shampoo = roots[0] @ g @ roots[1]
        assert float((g * u).sum()) > float((g * shampoo).sum()) - claim.tol


@pytest.mark.claim("krad-limit", tol=1e-5, trials=50)
def test_for_rank_one_a_first_step_is_spectral_descent(claim):
    """From factors of 10⁶ and more, so that 1/initial is as small as the tolerance."""
    for _ in range(claim.trials):
        g = torch.outer(torch.randn(5, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE))
        g = g / torch.linalg.matrix_norm(g, 2)
        p = torch.zeros(5, 3, dtype=DOUBLE).requires_grad_()
        optimizer = KrADagrad(
            [p],
            lr=1.0,
            momentum=0.0,
            nesterov=False,
            initial=1e6,
            bound="trace",
        )
        step = move(optimizer, g)
        assert float((step + Spectral().dualize(g)).abs().max()) < claim.tol


def test_for_a_higher_rank_it_is_not_spectral_descent():
    """Why there is no such limit: the bound leaves most of ``initial`` standing in
    every direction but the largest, so the step grows with it."""
    g = torch.diag(torch.tensor([1.0, 0.5, 0.25], dtype=DOUBLE))
    sizes = []
    for initial in (1e2, 1e4, 1e6):
        p = torch.zeros(3, 3, dtype=DOUBLE).requires_grad_()
        optimizer = KrADagrad(
            [p], lr=1.0, momentum=0.0, nesterov=False, initial=initial
        )
        sizes.append(float(torch.linalg.matrix_norm(move(optimizer, g), 2)))
    assert sizes[1] > 5 * sizes[0]
    assert sizes[2] > 5 * sizes[1]
