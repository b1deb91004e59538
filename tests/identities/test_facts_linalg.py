"""Square roots away from the identity, and structures from the metric of Gaussians."""

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from anthology.linalg import STRUCTURES, lyapunov, square_root, structure
from tests.norm_catalogue import draw, orthogonal


def definite(n: int, condition: float, seed: int) -> tuple[Tensor, Tensor]:
    """A positive definite matrix and its root."""
    q = orthogonal(n, seed)
    values = condition ** -torch.linspace(0, 1, n, dtype=torch.float64)
    return (q * values) @ q.mT, (q * values.sqrt()) @ q.mT


def relative(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


@pytest.mark.claim("square-root-condition", trials=10)
@pytest.mark.parametrize(
    ("condition", "taylor", "pade"),
    [(1e1, (0.01, 0.03), (5e-4, 2e-3)), (1e3, (0.1, 0.3), (0.04, 0.1)),
     (1e5, (0.15, 0.4), (0.08, 0.2))],
)  # fmt: skip
def test_published_degrees_need_a_regularised_matrix(claim, condition, taylor, pade):
    """Relative errors of the root of 8 × 8 matrices, between two bounds."""
    for seed in range(claim.trials):
        A, root = definite(8, condition, seed)
        for method, (low, high) in (("mtp", taylor), ("mpa", pade)):
            assert low < relative(square_root(A, method), root) < high
        # A multiple of the identity added, the condition number falls to 10.
        eye = torch.eye(8, dtype=torch.float64)
        eased = A + torch.linalg.eigvalsh(A)[-1] / 9 * eye
        squared = square_root(eased)
        assert relative(squared @ squared, eased) < 5e-3


@pytest.mark.claim("lyapunov-steps", trials=10)
@pytest.mark.parametrize(("steps", "limit"), [(8, 2e-5), (12, 1e-13)])
def test_steps_of_the_lyapunov_iteration(claim, steps, limit) -> None:
    """For A of condition number 20; the root has its square root, 4.5."""
    for seed in range(claim.trials):
        _, S = definite(8, 20.0, seed)
        C = draw((8, 8), seed + 1)
        C = C + C.mT
        X = lyapunov(S, C, steps)
        assert relative(S @ X + X @ S, C) < limit


PLACES = [(name, dim) for name in STRUCTURES for dim in (1, 2, 4)]


@pytest.mark.claim("structure-projection", tol=1e-9, trials=3)
@pytest.mark.parametrize(("name", "dim"), PLACES)
def test_the_projection_is_twice_the_natural_gradient(claim, name, dim) -> None:
    """The metric is the second derivative of the divergence from N(0, (eᵐeᵐᵀ)⁻¹)."""
    kind = structure(name, dim)
    origin = torch.zeros(kind.size, dtype=torch.float64)

    def spread(m: Tensor) -> Tensor:
        factor = torch.linalg.matrix_exp(kind.dense(m))
        return factor @ factor.mT

    def divergence(m: Tensor) -> Tensor:
        inverse = spread(m)
        return (inverse.trace() - inverse.logdet()) / 2

    metric = torch.linalg.pinv(hessian(divergence, origin), hermitian=True, rtol=1e-9)
    for seed in range(claim.trials):
        M = draw((dim, dim), seed)
        M = M + M.mT
        slope = jacobian(lambda m, M=M: (M * spread(m)).sum() / 2, origin)
        gap = (kind.project(M) - 2 * metric @ slope).abs().max()
        assert gap < claim.tol * (1 + M.abs().max())


@pytest.mark.claim("structure-closed", tol=1e-12, trials=5)
@pytest.mark.parametrize("dim", [1, 3, 17, 34])
@pytest.mark.parametrize("name", STRUCTURES)
def test_sums_products_and_factors_stay_inside(claim, name, dim) -> None:
    """What K ← K − βKm needs: the entries say all there is of the result."""
    kind = structure(name, dim)
    for seed in range(claim.trials):
        x, y = draw((2, kind.size), seed)
        a, b = kind.dense(x), kind.dense(y)
        new = a - 0.1 * a @ b
        scale = 1 + new.abs().max()
        assert (kind.dense(kind.entries(new)) - new).abs().max() < claim.tol * scale
        packed = x - 0.1 * kind.matmul(x, y)
        assert (kind.dense(packed) - new).abs().max() < claim.tol * scale
