"""Identities of norms and polar factors that no other test states at this strength."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from anthology import norms as N
from anthology.linalg import coefficients, polar, polar_express_coefficients
from tests.norm_catalogue import CASES, Case, draw, inner, relative

every_norm = pytest.mark.parametrize("case", CASES, ids=str)


@every_norm
@pytest.mark.claim("norm-table", tol=1e-12, trials=10_000)
def test_hoelder_for_ten_thousand_pairs(case: Case, claim) -> None:
    """|⟨g, w⟩| ≤ ‖g‖_*·‖w‖ over pairs of very different sizes, near equality too."""
    n = case.norm
    g, w = draw((2, claim.trials, *case.shape), 11)
    w[::2] = n.dualize(g[::2]) + 1e-2 * w[::2]
    sizes = 10.0 ** (40 * torch.rand(claim.trials, dtype=torch.float64) - 20)
    g = g * sizes[(...,) + (None,) * n.ndim]
    share = inner(g, w, n.ndim).abs() / (n.dual(g) * n.norm(w))
    assert share.max() <= 1 + claim.tol
    assert share.max() > 0.9


def positions(T: cp.Variable, shape: tuple[int, ...]) -> list[cp.Expression]:
    """The matrices of a kernel that is held as (d_out, d_in·positions)."""
    count = math.prod(shape[2:])
    return [T[:, k::count] for k in range(count)]


def spectral(factor: float):
    return lambda T: factor * cp.sigma_max(T)


def largest(shape: tuple[int, ...], factor: float):
    return lambda T: (
        factor * cp.max(cp.hstack([cp.sigma_max(P) for P in positions(T, shape)]))
    )


KERNELS = [
    (N.Conv(1), (3, 2, 2), largest((3, 2, 2), 2 * math.sqrt(2 / 3))),
    (N.Conv(3), (2, 2, 1, 2, 2), largest((2, 2, 1, 2, 2), 4.0)),
    (N.FlatSpectral(1), (4, 3, 2), spectral(1.0)),
    (N.FlatConv(2), (3, 2, 2, 2), spectral(4 * math.sqrt(2 / 3))),
    (N.Split(N.FlatSpectral(1), 2), (4, 3, 2), "halves"),
]


@pytest.mark.parametrize(
    ("norm", "shape", "definition"), KERNELS, ids=[repr(row[0]) for row in KERNELS]
)
@pytest.mark.claim("norm-table", "flat-kernels", tol=1e-6)
def test_a_convex_solver_finds_the_duals_of_kernels(norm, shape, definition, claim):
    if definition == "halves":
        half = shape[0] // 2
        definition = lambda T: cp.maximum(
            cp.sigma_max(T[:half]), cp.sigma_max(T[half:])
        )
    g = draw(shape, 1)
    G, T = g.flatten(1).numpy(), cp.Variable((shape[0], math.prod(shape[1:])))
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(G, T))), [definition(T) <= 1])
    best = problem.solve(solver=cp.CLARABEL)
    assert abs(best - norm.dual(g).item()) < claim.tol * best
    T.value = np.asarray(norm.dualize(g).flatten(1))
    assert abs(definition(T).value - 1) < 1e-12


def of_rank(shape: tuple[int, ...], rank: int, seed: int) -> Tensor:
    """Matrices in the last two axes with ``rank`` singular values between 1 and 3."""
    u, _, vh = torch.linalg.svd(draw(shape, seed), full_matrices=False)
    sigma = 1 + 2 * torch.rand(rank, dtype=torch.float64)
    return (u[..., :rank] * sigma) @ vh[..., :rank, :]


DEFICIENT = [
    (N.Spectral(), lambda G: G, 1.0),
    (N.RMSToRMS(), lambda G: G, math.sqrt(5 / 7)),
    (2.0 * N.Spectral(), lambda G: G, 0.5),
    (N.Transpose(N.RMSToRMS()), lambda G: G.mT, math.sqrt(5 / 7)),
    (N.Conv(1), lambda G: G[..., None], math.sqrt(5 / 7)),
    (N.FlatSpectral(1), lambda G: G[..., None], 1.0),
    (N.FlatConv(1), lambda G: G[..., None], math.sqrt(5 / 7)),
    (N.Split(N.Spectral(), 1), lambda G: G, 1.0),
]


@pytest.mark.parametrize(
    ("norm", "place", "factor"), DEFICIENT, ids=[repr(row[0]) for row in DEFICIENT]
)
@pytest.mark.claim("rank-deficient-polar", tol=1e-10, trials=20)
def test_norms_of_deficient_matrices_keep_the_convention(norm, place, factor, claim):
    """⟨G, t⟩ = factor·Σσ_i and t = factor·U_rV_rᵀ, of rank r and no more."""
    for seed in range(claim.trials):
        G = of_rank((5, 7), 1 + seed % 4, seed)
        sigma = torch.linalg.svdvals(G)
        t = norm.dualize(place(G))
        assert abs(inner(place(G), t, norm.ndim) - factor * sigma.sum()) < claim.tol
        assert abs(norm.norm(t) - 1) < claim.tol
        plain = t.squeeze(-1) if t.ndim == 3 else t
        plain = plain.mT if plain.shape == (7, 5) else plain
        # A partial isometry: its singular values are the factor, or zero.
        assert relative(plain @ plain.mT @ plain, factor**2 * plain) < claim.tol
        assert relative(plain @ torch.linalg.pinv(G, rtol=1e-12) @ G, plain) < claim.tol


@pytest.mark.claim("rank-deficient-polar", tol=1e-10, trials=20)
def test_the_reduced_decomposition_differs_by_the_null_directions(claim) -> None:
    """‖UVᵀ − U_rV_rᵀ‖_F = √(min(m, n) − r): what libraries disagree by."""
    for seed in range(claim.trials):
        rank = 1 + seed % 4
        G = of_rank((5, 7), rank, seed)
        u, _, vh = torch.linalg.svd(G, full_matrices=False)
        assert abs((u @ vh - polar(G)).norm() - math.sqrt(5 - rank)) < claim.tol


@pytest.mark.claim("polar-alignment", tol=0.85, trials=10)
def test_share_of_the_dual_norm_on_gaussian_matrices(claim) -> None:
    """⟨G, X⟩/‖G‖_* and the relative error of X, for 64 × 128 both ways round."""
    figures = {
        ("muon", None): (claim.tol, 0.19, 0.21),
        ("you", None): (0.99, 0.002, 0.004),
        ("polar-express", 4): (0.98, 0.0, 0.03),
        ("polar-express", 5): (0.99, 0.0, 0.01),
        ("polar-express", 6): (0.99, 0.0, 0.002),
        ("polar-express", 8): (1 - 1e-6, 0.0, 1e-3),
        ("gram", None): (0.99, 0.0, 0.002),
    }
    for seed in range(claim.trials):
        G = draw((64, 128), seed)
        G = G.mT if seed % 2 else G
        exact, dual = polar(G), N.Spectral().dual(G)
        for (method, steps), (least, low, high) in figures.items():
            X = polar(G, method, steps)
            share = (G * X).sum() / dual
            assert share > least
            assert share < 1.03
            assert low <= (X - exact).norm() / exact.norm() < high


@pytest.mark.claim("polar-alignment", tol=0.85, trials=3)
def test_square_matrices_are_aligned_but_not_orthogonal(claim) -> None:
    """Their smallest singular value is out of reach of five or six polynomials."""
    for seed in range(claim.trials):
        G = draw((256, 256), seed)
        dual, lowest = N.Spectral().dual(G), torch.linalg.svdvals(G)[-1] / G.norm()
        for method in ("muon", "you", "polar-express"):
            X = polar(G, method)
            assert (G * X).sum() / dual > claim.tol
            slope = math.prod(a for a, _, _ in coefficients(method))
            assert torch.linalg.svdvals(X)[-1] <= slope * lowest * (1 + 1e-6)


def apply(polynomials, x: Tensor) -> Tensor:
    for a, b, c in polynomials:
        x = a * x + b * x**3 + c * x**5
    return x


@pytest.mark.claim("newton-schulz-figures", tol=1e-3)
def test_figures_of_the_polynomials_that_are_left(claim) -> None:
    """Slopes at 0 and 1, sums of coefficients, and where the Muon quintic bites."""
    one = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    for method, value, first, second in (
        ("cubic", 1.0, 0.0, -3.0),
        ("pade", 1.0, 0.0, 0.0),
        ("muon", 0.701, -0.723, None),
    ):
        p = coefficients(method, 1)
        image = apply(p, one)
        (slope,) = torch.autograd.grad(image, one, create_graph=True)
        assert abs(image - value) < claim.tol
        assert abs(slope - first) < claim.tol
        if second is not None:
            (bend,) = torch.autograd.grad(slope, one)
            assert abs(bend - second) < claim.tol
    assert coefficients("pade", 1)[0][0] == 1.875
    slopes = {m: math.prod(a for a, _, _ in coefficients(m)) for m in ("muon", "you")}
    assert abs(slopes["muon"] / 484.9 - 1) < claim.tol
    assert abs(slopes["you"] / 1137.45 - 1) < claim.tol
    x = torch.linspace(1.4e-3, 1.6e-3, 2001, dtype=torch.float64)
    bite = x[apply(coefficients("muon"), x) >= 0.68][0]
    assert abs(bite / 1.5e-3 - 1) < claim.tol
    low = torch.logspace(-2, 0, 20001, dtype=torch.float64)
    image = apply(polar_express_coefficients(5), low)
    assert abs(image.min() - 0.8764) < claim.tol
    assert abs(image.max() - 1.1236) < claim.tol


@pytest.mark.claim("null-noise", tol=1e-13, trials=10)
def test_noise_in_null_directions_grows_by_the_slopes_at_zero(claim) -> None:
    for seed in range(claim.trials):
        G = of_rank((6, 9), 3, seed)
        u, _, vh = torch.linalg.svd(G)
        for method in ("cubic", "pade", "muon", "you", "polar-express"):
            slope = math.prod(a for a, _, _ in coefficients(method))
            for noise in (1e-9, 1e-11):
                H = G + noise * G.norm() * torch.outer(u[:, 4], vh[4])
                image = u[:, 4] @ polar(H, method) @ vh[4]
                assert abs(image / (slope * noise) - 1) < 1e-3 + claim.tol / noise


@pytest.mark.parametrize("method", ["svd", "eigh", "gram", "muon", "polar-express"])
def test_transposition_in_single_precision(method: str) -> None:
    for seed in range(10):
        G = of_rank((24, 40), 24, seed).float()
        assert relative(polar(G.mT, method), polar(G, method).mT) < 2e-6
