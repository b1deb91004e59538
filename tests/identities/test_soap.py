"""SOAP without averages is spectral descent, if its ε is relative, and not if not."""

import pytest
import torch
from torch import Tensor

from anthology.norms import Spectral
from anthology.optim import SOAP, Adam, SteepestDescent

OFF = {"betas": (0.0, 0.0), "weight_decay": 0.0, "lr": 1.0, "basis_eps": 0.0}
# What rounding needs is left out, or a turn of the axes would be noticed.
PUBLISHED = {"eps": 1e-8, "relative_eps": False, "basis_eps": 0.0}


def gradient(rows: int, columns: int) -> Tensor:
    """Singular values from 1 to 1/2, so that ε costs at most twice itself."""
    u, _, vh = torch.linalg.svd(
        torch.randn(rows, columns, dtype=torch.float64), full_matrices=False
    )
    sizes = torch.linspace(1.0, 0.5, min(rows, columns), dtype=torch.float64)
    return u * sizes @ vh


def move(optimizer: torch.optim.Optimizer, g: Tensor) -> Tensor:
    """What one step does."""
    p = optimizer.param_groups[0]["params"][0]
    before = p.detach().clone()
    p.grad = g.clone()
    optimizer.step()
    return p.detach() - before


@pytest.mark.claim("soap-without-averages", tol=1e-6, trials=40)
@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 7), (1, 5)])
def test_without_averages_it_is_spectral_descent(claim, shape):
    """At the first step with ``skip_first=False``; published, at the second of two
    equal gradients, as the basis is that of the gradients before."""
    for _ in range(claim.trials):
        g = gradient(*shape)
        target = move(
            SteepestDescent(
                [torch.zeros(shape).double().requires_grad_()], 1.0, norm=Spectral()
            ),
            g,
        )
        p = torch.zeros(shape, dtype=torch.float64).requires_grad_()
        at_once = SOAP([p], eps=1e-8, skip_first=False, **OFF)
        assert float((move(at_once, g) - target).abs().max()) < claim.tol
        published = SOAP([p], eps=1e-8, **OFF)
        assert float(move(published, 3 * g).abs().max()) == 0
        assert float((move(published, g) - target).abs().max()) < claim.tol


@pytest.mark.claim("soap-absolute-epsilon", trials=40)
def test_with_an_absolute_epsilon_it_divides_rounding_by_rounding(claim):
    """ε → 0 with entries that should be zero: they move by about η instead."""
    found = 0
    for _ in range(claim.trials):
        g = gradient(6, 3)
        p = torch.zeros(6, 3, dtype=torch.float64).requires_grad_()
        step = move(
            SOAP([p], eps=1e-30, relative_eps=False, skip_first=False, **OFF), g
        )
        found += float(torch.linalg.matrix_norm(step, 2)) > 1.5
    assert found == claim.trials


def test_on_changing_gradients_the_basis_is_that_of_the_gradient_before():
    """Why the published order has no such limit: Q comes from the last gradient."""
    p = torch.zeros(4, 4, dtype=torch.float64).requires_grad_()
    optimizer = SOAP([p], eps=1e-8, refresh=1, **OFF)
    first, second = gradient(4, 4), gradient(4, 4)
    move(optimizer, first)
    u, _, vh = torch.linalg.svd(first)
    step = move(optimizer, second)
    assert torch.allclose(step, -u @ torch.sign(u.mT @ second @ vh.mT) @ vh, atol=1e-5)
    polar = Spectral().dualize(second)
    assert float((step + polar).abs().max()) > 0.1


@pytest.mark.claim("soap-is-adam-on-vectors", tol=1e-12, trials=30)
def test_on_vectors_it_is_adam_one_gradient_late(claim):
    p = torch.ones(5, dtype=torch.float64).requires_grad_()
    q = p.detach().clone().requires_grad_()
    soap = SOAP([p], lr=0.1, eps=0.0, weight_decay=0.0, betas=(0.9, 0.99))
    adam = Adam([q], lr=0.1, eps=0.0, betas=(0.9, 0.99))
    for k in range(claim.trials):
        g = torch.randn(5, dtype=torch.float64)
        move(soap, g)
        if k:
            move(adam, g)
    assert float((p - q).detach().abs().max()) < claim.tol


@pytest.mark.claim("soap-equivariant", tol=1e-9, trials=40)
def test_it_turns_with_the_weights(claim):
    """Rotating rows and columns of every gradient rotates the whole run."""
    left = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    p = torch.zeros(4, 3, dtype=torch.float64).requires_grad_()
    q = torch.zeros(4, 3, dtype=torch.float64).requires_grad_()
    plain, turned = (SOAP([x], lr=0.1, **PUBLISHED) for x in (p, q))
    for _ in range(claim.trials):
        g = torch.randn(4, 3, dtype=torch.float64)
        move(plain, g)
        move(turned, left @ g @ right)
    assert float((left @ p @ right - q).detach().abs().max()) < claim.tol
