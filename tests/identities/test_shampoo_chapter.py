"""What the chapter on Shampoo says of memory."""

import pytest
import torch
from torch import Tensor

from anthology.linalg import inverse_root
from anthology.optim import Shampoo
from tests.random_steps import moves


def positive(d: int, seed: int) -> Tensor:
    """Symmetric positive definite, condition number 30 or so."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator)).Q
    return q * torch.logspace(0, -1.5, d, dtype=torch.float64) @ q.mT


def root(A: Tensor) -> Tensor:
    return inverse_root(torch.linalg.inv(A), 2)


def cost(D: Tensor, G: Tensor, tall: Tensor, wide: Tensor, eta: float) -> Tensor:
    """What the step minimises, of one matrix or of several."""
    ruler = (tall @ D @ wide).square().sum((-2, -1))
    return (G * D).sum((-2, -1)) + ruler / (2 * eta)


@pytest.mark.claim("shampoo-halves", tol=1e-8, trials=10)
def test_with_memory_the_root_of_each_scale_is_left(claim) -> None:
    """All signs of Z give the expectation exactly: its entries are uncorrelated."""
    for seed in range(claim.trials):
        A, C = positive(2, seed), positive(3, seed + 100)
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 6)
        Z = signs.reshape(-1, 2, 3)
        G = A @ Z @ C
        L, R = (G @ G.mT).mean(0), (G.mT @ G).mean(0)
        step = inverse_root(L, 4) @ G @ inverse_root(R, 4)
        left = root(A) @ Z @ root(C) / (A.norm() * C.norm()).sqrt()
        assert (step - left).abs().max() < claim.tol
        # the pair that divides each other, by the sum over all signs
        for _ in range(200):
            L = (G @ torch.linalg.inv(R) @ G.mT).mean(0) / 3
            R = (G.mT @ torch.linalg.inv(L) @ G).mean(0) / 2
        step = inverse_root(L, 2) @ G @ inverse_root(R, 2)
        assert (step - Z).abs().max() < claim.tol


def test_the_class_does_as_the_expectation_says() -> None:
    torch.manual_seed(0)
    A, C = positive(6, 1), positive(9, 2)
    gradients = A @ torch.randn(3000, 6, 9, dtype=torch.float64) @ C
    for options, left in (({}, root(A)), ({"factors": "kl"}, torch.eye(6).double())):
        w = torch.zeros(6, 9, dtype=torch.float64).requires_grad_()
        optimizer = Shampoo([w], 1.0, (0.0, 0.999), eps=0.0, **options)
        squares = moves(optimizer, w, gradients)[1000:]
        found = (squares @ squares.mT).mean(0)
        expected = left @ left
        expected = expected * found.trace() / expected.trace()
        assert (found - expected).norm() < 0.06 * expected.norm()


@pytest.mark.claim("shampoo-ruler", tol=1e-10, trials=20)
def test_fixed_factors_are_a_stretched_euclidean_ruler(claim) -> None:
    for seed in range(claim.trials):
        torch.manual_seed(seed)
        L, R = positive(4, seed), positive(5, seed + 50)
        G, eta = torch.randn(4, 5, dtype=torch.float64), 0.3
        for c, u in ((4, 4), (2, None), (2, 2)):
            right = torch.eye(5).double() if u is None else inverse_root(R, u)
            step = -eta * inverse_root(L, c) @ G @ right
            tall = inverse_root(torch.linalg.inv(L), 2 * c)
            wide = (
                torch.linalg.inv(right)
                if u is None
                else (inverse_root(torch.linalg.inv(R), 2 * u))
            )
            slope = torch.func.grad(cost)(step, G, tall, wide, eta)
            assert slope.norm() < claim.tol * G.norm()
            rivals = step + 0.1 * torch.randn(50, 4, 5, dtype=torch.float64)
            values = cost(rivals, G, tall, wide, eta)
            assert (values > cost(step, G, tall, wide, eta)).all()
