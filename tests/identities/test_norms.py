"""Propositions about norms, checked without the code that they justify.

A convex solver knows each norm from its own definition and nothing of dual norms
or duality maps; what it finds is compared with ours.
"""

import math
from collections.abc import Callable

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from anthology import norms as N
from anthology.linalg import polar
from tests.norm_catalogue import draw, orthogonal, relative

Definition = Callable[[cp.Variable], cp.Expression]


def columns(p: float, factor: float = 1.0) -> Definition:
    return lambda T: (
        factor * cp.max(cp.hstack([cp.pnorm(T[:, j], p) for j in range(T.shape[1])]))
    )


def rows(p: float, factor: float = 1.0) -> Definition:
    return lambda T: columns(p, factor)(T.T)


def leading(k: int) -> Definition:
    """Singular values are the positive eigenvalues of [[0, T], [Tᵀ, 0]]."""
    return lambda T: cp.pos(
        cp.lambda_sum_largest(
            cp.bmat([[np.zeros((4, 4)), T], [T.T, np.zeros((3, 3))]]), k
        )
    )


def kernel(T: cp.Variable) -> cp.Expression:
    """Six positions of 2 × 3 matrices, side by side."""
    blocks = [cp.sigma_max(T[:, 3 * k : 3 * k + 3]) for k in range(6)]
    return 6 * math.sqrt(3 / 2) * cp.max(cp.hstack(blocks))


ROWS: list[tuple[N.Norm, tuple[int, ...], Definition]] = [
    (N.L2(), (5,), lambda t: cp.norm2(t)),
    (N.LInf(), (5,), lambda t: cp.norm_inf(t)),
    (N.L1(), (5,), lambda t: cp.norm1(t)),
    (N.Lp(3), (5,), lambda t: cp.pnorm(t, 3)),
    (N.Lp(1.5), (5,), lambda t: cp.pnorm(t, 1.5)),
    (N.RMS(), (5,), lambda t: cp.norm2(t) / math.sqrt(5)),
    (N.Frobenius(), (4, 3), lambda T: cp.norm(T, "fro")),
    (N.Spectral(), (4, 3), lambda T: cp.sigma_max(T)),
    (N.Nuclear(), (4, 3), lambda T: cp.normNuc(T)),
    (N.LowRank(2), (4, 3), lambda T: cp.maximum(cp.sigma_max(T), cp.normNuc(T) / 2)),
    (N.KyFan(2), (4, 3), leading(2)),
    (N.RMSToRMS(), (4, 3), lambda T: math.sqrt(3 / 4) * cp.sigma_max(T)),
    (N.MaxAbs(), (4, 3), lambda T: cp.max(cp.abs(T))),
    (N.OneTo(2), (4, 3), columns(2)),
    (N.OneTo(3), (4, 3), columns(3)),
    (N.OneToRMS(), (4, 3), columns(2, 1 / 2)),
    (N.ToInf(2), (4, 3), rows(2)),
    (N.ToInf(3), (4, 3), rows(1.5)),
    (N.RMSToInf(), (4, 3), rows(2, math.sqrt(3))),
    (N.RowL1(), (4, 3), rows(1)),
    (N.ColumnL1(), (4, 3), columns(1)),
    (N.Conv(2), (2, 3, 2, 3), kernel),
    (2.5 * N.Spectral(), (4, 3), lambda T: 2.5 * cp.sigma_max(T)),
    (N.Transpose(N.OneToRMS()), (4, 3), rows(2, 1 / math.sqrt(3))),
    (
        N.Split(N.Spectral(), 2),
        (4, 3),
        lambda T: cp.maximum(cp.sigma_max(T[:2]), cp.sigma_max(T[2:])),
    ),
]
every_row = pytest.mark.parametrize(
    ("norm", "shape", "definition"), ROWS, ids=[repr(row[0]) for row in ROWS]
)


def plain(norm: N.Norm, x: Tensor) -> np.ndarray:
    """A point as the solver holds it: kernel positions side by side."""
    if isinstance(norm, N.Conv):
        x = torch.cat(list(x.flatten(2).unbind(-1)), dim=1)
    return x.numpy()


def value(definition: Definition, x: np.ndarray) -> float:
    point = cp.Variable(x.shape)
    point.value = x
    return float(definition(point).value)


def solve(problem: cp.Problem) -> float:
    problem.solve(solver=cp.CLARABEL)
    assert problem.status == cp.OPTIMAL
    return float(problem.value)


@every_row
@pytest.mark.claim("norm-table", tol=1e-6)
def test_a_convex_solver_finds_the_dual_norm(norm, shape, definition, claim) -> None:
    g = draw(shape, 1)
    G = plain(norm, g)
    T = cp.Variable(G.shape)
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(G, T))), [definition(T) <= 1])
    best, dual = solve(problem), norm.dual(g).item()
    assert abs(best - dual) < claim.tol * dual
    # The norm itself, and our step, by the solver's own definition of the norm.
    assert abs(value(definition, G) - norm.norm(g).item()) < 1e-12
    step = plain(norm, norm.dualize(g))
    assert abs(value(definition, step) - 1) < 1e-12
    assert abs((G * step).sum() - dual) < 1e-12


@pytest.mark.claim("norm-table", tol=1e-6)
def test_a_convex_solver_finds_the_dual_of_schatten_4(claim) -> None:
    """‖T‖ ≤ 1 where some Y ⪰ TTᵀ has ‖Y‖_F ≤ 1: the fourth powers of σ sum to it."""
    norm, g = N.Schatten(4), draw((4, 3), 1)
    T, Y = cp.Variable((4, 3)), cp.Variable((4, 4), symmetric=True)
    ball = [cp.bmat([[Y, T], [T.T, np.eye(3)]]) >> 0, cp.norm(Y, "fro") <= 1]
    best = solve(cp.Problem(cp.Maximize(cp.sum(cp.multiply(g.numpy(), T))), ball))
    assert abs(best - norm.dual(g).item()) < claim.tol * best
    t = norm.dualize(g)
    assert abs((t @ t.mT).norm() - 1) < 1e-12


@every_row
@pytest.mark.claim("steepest-descent", tol=1e-6)
def test_the_regularised_linear_model_has_our_step_as_minimiser(
    norm, shape, definition, claim
) -> None:
    sharpness = 3.0
    g = draw(shape, 2)
    G = plain(norm, g)
    D = cp.Variable(G.shape)

    def model(D: cp.Expression) -> cp.Expression:
        linear = cp.sum(cp.multiply(G, D))
        return linear + sharpness / 2 * cp.square(definition(D))

    least = solve(cp.Problem(cp.Minimize(model(D))))
    dual = norm.dual(g).item()
    assert abs(least + dual**2 / (2 * sharpness)) < claim.tol * dual**2
    D.value = plain(norm, -(norm.dual(g) / sharpness) * norm.dualize(g))
    assert abs(model(D).value + dual**2 / (2 * sharpness)) < 1e-12 * dual**2


@pytest.mark.claim("max-of-norms", tol=1e-6)
def test_several_layers_have_one_step_size(claim) -> None:
    sharpness, s = 2.0, (0.5, 3.0)
    g, G = draw((4,), 1), draw((3, 2), 2)
    joint = N.MaxOver([(N.LInf(), s[0]), (N.Spectral(), s[1])])
    d, D = cp.Variable(4), cp.Variable((3, 2))
    size = cp.maximum(s[0] * cp.norm_inf(d), s[1] * cp.sigma_max(D))
    model = g.numpy() @ d + cp.sum(cp.multiply(G.numpy(), D))
    model = model + sharpness / 2 * cp.square(size)
    least = solve(cp.Problem(cp.Minimize(model)))
    step = joint.dual([g, G]).item() / sharpness
    assert abs(least + sharpness * step**2 / 2) < claim.tol
    d.value, D.value = (-step * t.numpy() for t in joint.dualize([g, G]))
    assert abs(model.value + sharpness * step**2 / 2) < 1e-12
    # Every layer moves by the same length in its own scaled norm.
    assert abs(s[0] * np.abs(d.value).max() - step) < 1e-12
    assert abs(s[1] * np.linalg.norm(D.value, 2) - step) < 1e-12


@pytest.mark.claim("sign-descent", "max-of-max", tol=1e-12, trials=50)
def test_sign_descent_is_the_largest_entry_of_all_layers(claim) -> None:
    layers = N.MaxOver([(N.MaxAbs(), 1.0)] * 3)
    for seed in range(claim.trials):
        Gs = [draw(shape, seed) for shape in ((3, 4), (5, 2), (1, 6))]
        flat = torch.cat([G.flatten() for G in Gs])
        assert abs(layers.norm(Gs) - N.LInf().norm(flat)) < claim.tol
        assert abs(layers.dual(Gs) - N.LInf().dual(flat)) < claim.tol
        assert abs(layers.dual(Gs) - flat.abs().sum()) < claim.tol
        steps = torch.cat([t.flatten() for t in layers.dualize(Gs)])
        assert torch.equal(steps, flat.sign())


@pytest.mark.claim("spectral-descent", tol=1e-12, trials=20)
def test_spectral_descent_sums_nuclear_norms(claim) -> None:
    layers = N.MaxOver([(N.Spectral(), 1.0)] * 2)
    for seed in range(claim.trials):
        Gs = [draw((3, 5), seed), draw((4, 2), seed + 100)]
        svds = [torch.linalg.svd(G, full_matrices=False) for G in Gs]
        total = sum(s.sum() for _, s, _ in svds)
        assert abs(layers.dual(Gs) - total) < claim.tol * total
        for t, (u, _, vh) in zip(layers.dualize(Gs), svds, strict=True):
            assert relative(t, u @ vh) < claim.tol


@pytest.mark.claim("semi-orthogonal-projection", tol=1e-12, trials=300)
def test_the_polar_factor_is_the_nearest_semi_orthogonal_matrix(claim) -> None:
    for shape in ((3, 5), (5, 3), (4, 4)):
        G = draw(shape, 1)
        nearest = polar(G)
        k = min(shape)
        gram = nearest @ nearest.mT if shape[0] == k else nearest.mT @ nearest
        assert relative(gram, torch.eye(k, dtype=torch.float64)) < claim.tol
        distance = (nearest - G).norm()
        least = (torch.linalg.svdvals(G) - 1).norm()
        assert abs(distance - least) < claim.tol
        for seed in range(claim.trials):
            Q = orthogonal(shape[0], seed) @ torch.eye(*shape, dtype=torch.float64)
            near = polar(nearest + 10.0 ** -(seed % 6) * draw(shape, seed))
            for other in (Q, near):
                assert (other - G).norm() >= distance - claim.tol
    # A rank-deficient matrix has many: turning the null block costs nothing.
    G = draw((4, 2), 2) @ draw((2, 4), 3)
    u, s, vh = torch.linalg.svd(G)
    turned = [u @ torch.block_diag(torch.eye(2), orthogonal(2, k)) @ vh for k in (1, 2)]
    assert relative(turned[0], turned[1]) > 0.1
    for other in turned:
        assert abs((other - G).norm() - (s - 1).norm()) < claim.tol


@pytest.mark.claim("shampoo-identity", tol=1e-8, trials=20)
def test_shampoo_without_accumulation_is_the_polar_factor(claim) -> None:
    def power(A: Tensor, exponent: float) -> Tensor:
        """A pseudo-inverse power of a symmetric positive semi-definite matrix."""
        values, vectors = torch.linalg.eigh(A)
        kept = values > 1e-10 * values.max()
        values = torch.where(kept, values.abs().clamp_min(1e-300) ** exponent, 0)
        return vectors @ torch.diag(values) @ vectors.mT

    for seed in range(claim.trials):
        full = orthogonal(4, seed)[:, :3] @ torch.diag(
            torch.tensor([3.0, 2.0, 0.5], dtype=torch.float64)
        )
        full = full @ orthogonal(3, seed + 1)
        deficient = draw((5, 2), seed) @ draw((2, 6), seed + 1)
        for G in (full, deficient):
            L, R = G @ G.mT, G.mT @ G
            target = polar(G)
            assert relative(power(L, -0.25) @ G @ power(R, -0.25), target) < claim.tol
            assert relative(power(L, -0.5) @ G, target) < claim.tol
            assert relative(G @ power(R, -0.5), target) < claim.tol


@pytest.mark.claim("square-loss", tol=1e-12, trials=200)
def test_square_loss_has_sharpness_d_in_over_d_out(claim) -> None:
    d_in, d_out, count = 6, 4, 20
    x = draw((count, d_in), 1)
    x = x / x.norm(dim=1, keepdim=True) * math.sqrt(d_in)
    y, W = draw((count, d_out), 2), draw((d_out, d_in), 3)

    def loss(W: Tensor) -> Tensor:
        return (y - x @ W.mT).square().sum() / (2 * count * d_out)

    def gradient(W: Tensor) -> Tensor:
        return (x @ W.mT - y).mT @ x / (count * d_out)

    spectral, sharpness = N.Spectral(), d_in / d_out
    for seed in range(claim.trials):
        D = 10.0 ** (seed % 5 - 2) * draw((d_out, d_in), seed + 10)
        bound = loss(W) + (gradient(W) * D).sum()
        bound = bound + sharpness / 2 * spectral.norm(D) ** 2
        assert loss(W + D) <= bound * (1 + claim.tol)
    for _ in range(claim.trials):
        G = gradient(W)
        dual = spectral.dual(G)
        new = W - dual / sharpness * spectral.dualize(G)
        assert (
            loss(W) - loss(new) >= dual**2 / (2 * sharpness) * (1 - claim.tol) - 1e-15
        )
        W = new
