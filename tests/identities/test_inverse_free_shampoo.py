"""What the chapter on inverse-free Shampoo proves: the pair, its structures, the guard."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from anthology.linalg import STRUCTURES, Structure, structure
from anthology.optim import SIRFShampoo

inv = torch.linalg.inv


def eye(d: int) -> Tensor:
    return torch.eye(d, dtype=torch.float64)


def draws(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def curvatures(G: Tensor, C: Tensor, K: Tensor, eps: float, B: float = 1.0):
    """Means over gradients (n, d_out, d_in) of what is held against the identity."""
    A, (d_out, d_in) = C.T @ G @ K, G.shape[1:]
    left = B * (A @ A.mT).mean(0) + eps * K.square().sum() * C.T @ C
    right = B * (A.mT @ A).mean(0) + eps * C.square().sum() * K.T @ K
    return left / d_in, right / d_out


def objective(G: Tensor, C: Tensor, K: Tensor, eps: float, B: float = 1.0) -> float:
    """J by the covariance P itself, of all entries."""
    g = G.flatten(1)
    P = B * g.T @ g / len(g) + eps * eye(g.shape[1])
    S = torch.kron(inv(C @ C.T), inv(K @ K.T))
    return float(((P @ inv(S)).trace() + torch.logdet(S)) / 2)


def rest(
    G: Tensor,
    eps: float,
    kinds: tuple[Structure, Structure],
    start: tuple[Tensor, Tensor] | None = None,
    steps: int = 800,
) -> tuple[Tensor, Tensor]:
    """Where mean steps of length at most 0.1 end."""
    C, K = start or (eye(kinds[0].dim), eye(kinds[1].dim))
    for _ in range(steps):
        sums = curvatures(G, C, K, eps)
        m = [
            kind.dense(kind.project(x - eye(kind.dim))) / 2
            for kind, x in zip(kinds, sums, strict=True)
        ]
        C, K = (
            X - 0.1 / max(1.0, float(y.norm())) * X @ y
            for X, y in zip((C, K), m, strict=True)
        )
    return C, K


def pair(name: str, d_out: int, d_in: int) -> tuple[Structure, Structure]:
    return structure(name, d_out), structure(name, d_in)


@pytest.mark.claim("sirf-flip-flop", tol=1e-8, trials=5)
def test_the_coupled_pair_is_the_minimum_and_unique(claim) -> None:
    for seed in range(claim.trials):
        torch.manual_seed(seed)
        G, eps = draws(6, 4, 3), 0.05
        C, K = rest(G, eps, pair("dense", 4, 3))
        s_c = (G @ K @ K.T @ G.mT).mean(0) + eps * (K @ K.T).trace() * eye(4)
        assert (s_c / 3 @ C @ C.T - eye(4)).abs().max() < claim.tol
        s_k = (G.mT @ C @ C.T @ G).mean(0) + eps * (C @ C.T).trace() * eye(3)
        assert (s_k / 4 @ K @ K.T - eye(3)).abs().max() < claim.tol
        # another start, the same product
        start = eye(4) + 0.3 * draws(4, 4), 3 * (eye(3) + 0.3 * draws(3, 3))
        X, Y = rest(G, eps, pair("dense", 4, 3), start)
        one, two = torch.kron(C @ C.T, K @ K.T), torch.kron(X @ X.T, Y @ Y.T)
        assert (one - two).norm() < 10 * claim.tol * one.norm()
        least = objective(G, C, K, eps)
        for size in (1e-3, 0.1, 1.0):
            rivals = (C + size * draws(4, 4), K + size * draws(3, 3))
            assert objective(G, *rivals, eps) > least
        # along the path of the proof J is convex
        D, E = (M + M.T for M in (draws(4, 4), draws(3, 3)))
        values = [
            objective(
                G, C @ torch.matrix_exp(t * D / 2), K @ torch.matrix_exp(t * E / 2), eps
            )
            for t in (-0.2, -0.1, 0.0, 0.1, 0.2)
        ]
        for a, b, c in zip(values, values[1:], values[2:], strict=False):
            assert a + c > 2 * b


@pytest.mark.claim("sirf-flip-flop", tol=1e-7)
def test_a_kronecker_covariance_is_found_and_shampoo_misses_its_trace(claim) -> None:
    x, y = eye(4) + 0.3 * draws(4, 4), eye(3) + 0.3 * draws(3, 3)
    unit = math.sqrt(12) * eye(12).reshape(12, 4, 3)  # covariance I
    G = x @ unit @ y.T
    P = torch.kron(x @ x.T, y @ y.T)
    C, K = rest(G, 0.0, pair("dense", 4, 3))
    found = torch.kron(inv(C @ C.T), inv(K @ K.T))
    assert (found - P).abs().max() < claim.tol * P.abs().max()
    L, R = (G @ G.mT).mean(0), (G.mT @ G).mean(0)
    assert (torch.kron(L, R) - P.trace() * P).abs().max() < 1e-9 * P.trace()


@pytest.mark.claim("sirf-natural-step", tol=1e-6, trials=5)
def test_the_step_is_a_natural_gradient(claim) -> None:
    """The gradient by differences, the metric by the divergence of two Gaussians."""
    G, eps, B = draws(6, 4, 3), 0.2, 3.0
    C, K = eye(4) + 0.3 * draws(4, 4), eye(3) + 0.3 * draws(3, 3)
    step = curvatures(G, C, K, eps, B)[0] - eye(4)
    h = 1e-4
    for _ in range(claim.trials):
        D = draws(4, 4)
        D = (D + D.T) / D.norm()
        there, back = (
            objective(G, C @ torch.matrix_exp(s * h * D / 2), K, eps, B)
            for s in (1, -1)
        )
        slope = (there - back) / (2 * h)
        metric = 3 / 2  # d_in / 2
        assert abs(slope - metric * float((step * D).sum())) < claim.tol * 10
        # twice the divergence of N(0, e^{-hD} ⊗ I) from N(0, I) is h² times the metric
        bent = torch.matrix_exp(h * D)
        twice = 3 * (bent.trace() - 4 - h * D.trace())
        assert float(twice / h**2) == pytest.approx(
            metric * float(D.square().sum()), rel=1e-3
        )
    # and the rule is the exponential, to first order
    old, errors = inv(C @ C.T), []
    for gamma in (0.02, 0.01):
        new = C - gamma / 2 * C @ step
        whole = C @ torch.matrix_exp(-gamma / 2 * step)
        errors.append(float((new - whole).norm()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert old.isfinite().all()


@pytest.mark.claim("sirf-guard", tol=1e-12, trials=30)
@pytest.mark.parametrize("name", STRUCTURES)
def test_no_factor_gets_further_than_the_guard_lets_it(claim, name) -> None:
    d, gamma = 5, 0.3
    for size in (1e-6, 3.0):
        w = torch.zeros(d, d, dtype=torch.float64, requires_grad=True)
        rule = SIRFShampoo([w], 0.0, gamma, batch_size=1, structures=name)
        low = high = 1.0
        volume = 0.0
        for k in range(1, claim.trials + 1):
            w.grad = size * draws(d, d)
            rule.step()
            factor = structure(name, d).dense(rule.state[w]["factor_0"])
            values = torch.linalg.svdvals(factor)
            low, high = low * (1 - gamma), high * (1 + gamma)
            assert values.min() >= low * (1 - claim.tol * k)
            assert values.max() <= high * (1 + claim.tol * k)
            new = float(torch.linalg.slogdet(factor)[1]) / d
            assert new - volume <= math.log1p(gamma / math.sqrt(d)) + claim.tol * k
            volume = new
        if size < 1:  # the bound is attained where there is no gradient
            bound = claim.trials * math.log1p(gamma / math.sqrt(d))
            assert volume > 0.3 * bound


@pytest.mark.claim("sirf-guard", tol=0.03, trials=4000)
@pytest.mark.parametrize("shape", [(6, 10), (12, 12), (10, 40)])
def test_how_long_a_step_at_rest_is(claim, shape) -> None:
    torch.manual_seed(0)
    d_out, d_in = shape
    A = draws(claim.trials, *shape)
    sizes = ((A @ A.mT / d_in - eye(d_out)) / 2).square().sum((1, 2))
    assert float(sizes.mean()) == pytest.approx(
        d_out * (d_out + 1) / (4 * d_in), rel=claim.tol
    )


def lossless(kind: Structure) -> bool:
    free = kind.pattern() >= 0
    tied = kind.size < int(free.sum())
    return bool((free | free.T).all()) and not tied


@pytest.mark.claim("sirf-triangular", tol=1e-7)
@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_with_one_of_every_mirrored_pair_lose_nothing(claim, name) -> None:
    torch.manual_seed(1)
    G, eps = draws(6, 4, 3), 0.05
    best = objective(G, *rest(G, eps, pair("dense", 4, 3)), eps)
    kinds = pair(name, 4, 3)
    found = objective(G, *rest(G, eps, kinds), eps)
    if all(map(lossless, kinds)):
        assert abs(found - best) < claim.tol
    else:
        assert found > best + 1e-3


def test_which_structures_are_lossless() -> None:
    whole = {"dense", "lower", "upper"}
    for d, more in ((4, {"hierarchical", "block-diagonal"}), (32, set())):
        names = {n for n in STRUCTURES if lossless(structure(n, d))}
        assert names == whole | more
    assert lossless(structure("hierarchical", 31))


@pytest.mark.claim("sirf-sinkhorn", tol=1e-9, trials=3)
def test_diagonal_factors_balance_the_variances(claim) -> None:
    for seed in range(claim.trials):
        torch.manual_seed(seed)
        G, eps = draws(5, 4, 3), 0.1
        v = G.square().mean(0) + eps
        C, K = rest(G, eps, pair("diagonal", 4, 3))
        a, b = C.diagonal() ** -2.0, K.diagonal() ** -2.0
        share = v / a[:, None] / b
        for axis in (0, 1):
            assert (share.mean(axis) - 1).abs().max() < claim.tol
        # Sinkhorn's scaling finds the same
        x, y = torch.ones(4, 1, dtype=torch.float64), torch.ones(3)
        for _ in range(300):
            y = (v / x).mean(0)
            x = (v / y).mean(1, keepdim=True)
        assert (a[:, None] * b / (x * y) - 1).abs().max() < claim.tol


@pytest.mark.claim("sirf-ikfac", tol=0.25, trials=4)
def test_an_uncoupled_factor_tracks_an_average(claim) -> None:
    """One step errs by the square of the rate, a run in proportion to it."""
    torch.manual_seed(0)
    X = draws(800, 5, 5)
    X = X @ X.mT / 5
    once, runs = [], []
    for power in range(claim.trials):
        gamma = 0.05 / 2**power
        S, K, errors = eye(5), eye(5), []
        for x in X[: round(5 / gamma)]:
            S = (1 - gamma) * S + gamma * x
            K = K - gamma / 2 * K @ (K.T @ x @ K - eye(5))
            errors.append(float((inv(K @ K.T) - S).norm()))
        once.append(errors[0])
        runs.append(sum(errors) / len(errors))
    for large, small in pairwise(once):
        assert abs(math.log2(large / small) - 2) < claim.tol
    for large, small in pairwise(runs):
        assert abs(math.log2(large / small) - 1) < claim.tol


def test_both_factors_carry_the_scale_equally() -> None:
    """The exercise: with the whole exponential and no guard a difference is kept."""
    torch.manual_seed(0)
    G, (C, K) = 0.5 * draws(6, 4, 3), (eye(4), eye(3))
    for _ in range(100):
        left, right = curvatures(G, C, K, 0.05)
        C = C @ torch.matrix_exp(-0.05 * (left - eye(4)))
        K = K @ torch.matrix_exp(-0.05 * (right - eye(3)))
        sizes = [float(torch.linalg.slogdet(X)[1]) / len(X) for X in (C, K)]
        assert sizes[0] == pytest.approx(sizes[1], abs=1e-9)
    assert abs(sizes[0]) > 0.1


def test_the_worked_number() -> None:
    G = torch.zeros(4, 2, 2, dtype=torch.float64)
    for n, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        G[n, i, j] = 2 * (9 if n == 0 else 1)
    C, K = rest(G, 0.0, pair("dense", 2, 2))
    found = (C.diagonal() ** -2.0)[:, None] * K.diagonal() ** -2.0
    expected = torch.tensor([[45, 5], [5, 5 / 9]], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-9)
