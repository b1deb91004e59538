"""Products of weights: what one kind of step keeps of them, and another does not."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import grad, jacfwd

from anthology import lab, norms, optim
from anthology.motion import (
    counter_field,
    find_symmetries,
    flow,
    follow_symmetry,
    norm_step,
    norm_velocity,
)

F64 = torch.float64
ROWS, WIDTH = 3, 4


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def product_loss(seed):
    """A function of AᵀB, with its gradient, a point, and +1 for A and −1 for B."""
    x, y = drawn(seed, 5, WIDTH), drawn(seed + 100, 5, WIDTH)

    def f(w):
        A, B = w.reshape(2, ROWS, WIDTH)
        attention = (x @ A.T) @ (B @ y.T)
        return attention.logsumexp(1).sum() + (A.T @ B).sin().sum()

    P = torch.ones(2, ROWS * WIDTH, dtype=F64)
    P[1] = -1
    return grad(f), drawn(seed + 200, 2 * ROWS * WIDTH) / 2, P.reshape(-1)


def decayed(gradient, decay, w):
    return gradient(w) + decay * w


@pytest.mark.claim("exchange-euler", tol=1e-10, trials=10)
def test_identities_of_an_exchange(claim):
    for seed in range(claim.trials):
        gradient, w, P = product_loss(seed)
        g, H = gradient(w), jacfwd(gradient)(w)
        T = torch.einsum("ijk,k->ij", jacfwd(jacfwd(gradient))(w), P * w)
        assert abs((P * w) @ g) < claim.tol * w.norm() * g.norm()
        assert lab.gap(H @ (P * w), -P * g) < claim.tol
        assert lab.gap(T, -H * P - P[:, None] * H) < claim.tol


@pytest.mark.claim("exchange-step", tol=1e-12, trials=10)
def test_the_difference_of_squares_after_each_step(claim):
    for seed in range(claim.trials):
        gradient, w, P = product_loss(seed)
        lr, decay = 0.01 + seed / 500, seed % 4 / 3
        for _ in range(10):
            g = gradient(w)
            expected = norm_step((P * w) @ w, (P * g) @ g, lr, decay)
            w = (1 - lr * decay) * w - lr * g
            assert abs((P * w) @ w - expected) < claim.tol * (w @ w)


@pytest.mark.claim("exchange-motion", tol=1e-10, trials=10)
def test_the_motion_of_the_difference(claim):
    for seed in range(claim.trials):
        gradient, w, P = product_loss(seed)
        lr, decay = 0.3, 0.4
        field = partial(decayed, gradient, decay)
        g, H = gradient(w), jacfwd(gradient)(w)
        bend = (P * g) @ (H @ (g + decay * w) + decay * g)
        for order in (1, 2, 3):
            F = counter_field(field, w, order, lr)
            squares = (P * w) @ w, (P * g) @ g
            predicted = norm_velocity(*squares, lr, decay, order=order, bend=bend)
            scale = (P * w).norm() * F.norm()
            assert abs(predicted - 2 * (P * w) @ F) < claim.tol * scale


@pytest.mark.claim("exchange-matrix", tol=1e-12, trials=10)
def test_of_queries_and_keys_a_whole_matrix(claim):
    for seed in range(claim.trials):
        gradient, w, _ = product_loss(seed)
        lr, decay = 0.05, 0.4
        A, B = w.reshape(2, ROWS, WIDTH)
        G, K = gradient(w).reshape(2, ROWS, WIDTH)
        assert lab.gap(G @ A.T, B @ K.T) < claim.tol * 100
        rho = 1 - lr * decay
        expected = rho**2 * (A @ A.T - B @ B.T) + lr**2 * (G @ G.T - K @ K.T)
        A, B = rho * A - lr * G, rho * B - lr * K
        assert (A @ A.T - B @ B.T - expected).norm() < claim.tol * (w @ w)


# an entrywise flow of degree p, from u and v in front of the same features
@pytest.mark.claim("exchange-powers", tol=1e-10)
@pytest.mark.parametrize("p", [0.25, 0.5, 1.0, 2.0, 3.0])
def test_entrywise_flows_on_a_diagonal_network(claim, p):
    x, w = drawn(0, 5, 4), drawn(1, 6).abs() + 0.5

    def f(w):
        return (x[:, :3] @ (w[:3] * w[3:]) - x[:, 3]).square().mean()

    def velocity(w):
        g = grad(f)(w)
        return -g.sign() * g.abs() ** p

    def kept(w, power):
        return w[:3].abs() ** power - w[3:].abs() ** power

    end = flow(velocity, w, 0.03)
    assert (end - w).abs().max() > 0.03
    assert (kept(end, p + 1) - kept(w, p + 1)).abs().max() < claim.tol
    wrong = 2.0 if p != 1 else 1.0
    assert (kept(end, wrong) - kept(w, wrong)).abs().max() > 1e-3


@pytest.mark.claim("exchange-spectral", tol=1e-12, trials=5)
def test_aligned_layers_under_spectral_descent(claim):
    """Steps of the same length on all singular values of both."""
    for seed in range(claim.trials):
        V, Q, U = (torch.linalg.qr(drawn(seed + k, 4, 4))[0] for k in (0, 50, 100))
        a, b = drawn(seed, 2, 4).abs() / 4 + 0.1
        A, B = Q @ a.diag() @ V.T, U @ b.diag() @ Q.T
        M = U @ torch.arange(2.0, 6.0, dtype=F64).diag() @ V.T
        layers = [nn.Parameter(A), nn.Parameter(B)]
        optimizer = optim.SteepestDescent(layers, 0.01, norm="Spectral()")
        for _ in range(40):
            optimizer.zero_grad()
            (layers[1] @ layers[0] - M).square().sum().backward()
            optimizer.step()
        A, B = (layer.detach() for layer in layers)
        inner = (Q.T @ A @ V).diag(), (U.T @ B @ Q).diag()
        assert (inner[0] - inner[1] - (a - b)).abs().max() < claim.tol
        assert (inner[0] - a).min() > 0.39
        assert (inner[0] ** 2 - inner[1] ** 2 - (a**2 - b**2)).abs().max() > 0.01


UNTURNED = [norms.Spectral(), norms.Frobenius(), norms.Nuclear(), norms.KyFan(2)]
TURNED = [norms.MaxAbs(), norms.RMSToInf()]


@pytest.mark.claim("reflected-norms", tol=1e-12, trials=20)
@pytest.mark.parametrize("norm", UNTURNED + TURNED, ids=str)
def test_a_norm_that_a_reflection_leaves_alone_keeps_the_sums(claim, norm):
    for seed in range(claim.trials):
        for rows in (2, 3, 5):
            G, ones = drawn(seed, rows, 6), torch.ones(rows, dtype=F64)
            R = torch.eye(rows, dtype=F64) - 2 / rows * torch.outer(ones, ones)
            same = abs(
                norm.dual(R @ drawn(9, rows, 6)) / norm.dual(drawn(9, rows, 6)) - 1
            )
            G = G - G.mean(0)
            leak = norm.dualize(G).sum(0).norm() / norm.dualize(G).norm()
            # of two rows the reflection swaps both and their signs: all norms here
            assert (same < claim.tol) == (rows == 2 or norm in UNTURNED)
            if same < claim.tol:
                assert leak < claim.tol
            else:
                assert leak > 1e-3


@pytest.mark.claim("parallel-steps", tol=1e-12, trials=20)
@pytest.mark.parametrize("norm", [*UNTURNED, *TURNED, norms.RMSToRMS()], ids=str)
def test_lengths_are_kept_by_parallel_steps_alone(claim, norm):
    """The worst scale-invariant weights for a gradient, and a random one."""
    for seed in range(claim.trials):
        G = drawn(seed, 4, 6)
        D = norm.dualize(G)
        cosine = (G * D).sum() / (G.norm() * D.norm())
        bound = (1 - cosine**2).clamp_min(0).sqrt()
        worst = D - (D * G).sum() / G.square().sum() * G
        if norm == norms.Frobenius():
            assert worst.norm() < claim.tol
            continue
        assert bound > 0.01
        other = drawn(seed + 50, 4, 6)
        other -= (other * G).sum() / G.square().sum() * G
        for w, attained in ((worst, True), (other, False)):
            leak = (w * D).sum().abs() / (w.norm() * D.norm())
            assert leak < bound + claim.tol
            assert not attained or abs(leak - bound) < 1e-8
        if norm == norms.RMSToInf():  # each row alone is parallel
            rows = nn.functional.cosine_similarity(G, D, dim=1)
            assert (rows - 1).abs().max() < claim.tol


class Reader(nn.Module):
    """Attention without heads, behind a layer norm, read from the mean."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(5, 5, bias=False) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(5, eps=1e-30), nn.Linear(5, 3)

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(self.norm(self.o(mixed)).mean(1))


def followed(build, steps=30):
    """The largest error of the law and the largest leak, by kind of symmetry."""
    torch.manual_seed(0)
    model, x, y = Reader(), torch.randn(8, 6, 5), torch.randint(3, (8,))

    def loss(net):
        return nn.functional.cross_entropy(net(x), y)

    worst = {}
    for symmetry in find_symmetries(model, loss):
        run = follow_symmetry(model, loss, symmetry, build, steps=steps)
        figures = run.gaps()["law"], float(run.leaks.abs().max())
        worst.setdefault(symmetry.kind, []).append(figures)
    assert {kind: len(found) for kind, found in worst.items()} == {
        "scale": 2,
        "translation": 3,
        "exchange": 2,
    }
    return {
        k: [f(x) for f, x in zip((max, max), zip(*v, strict=True), strict=True)]
        for k, v in worst.items()
    }


ROUNDING = 1e-10


@pytest.mark.claim("laws-of-steps", tol=1e-10)
@pytest.mark.parametrize(
    "build",
    [
        lambda net: torch.optim.SGD(net.parameters(), 0.2),
        lambda net: torch.optim.SGD(net.parameters(), 0.2, weight_decay=0.1),
        lambda net: optim.SGD(net.parameters(), 0.02, normalised=True),
    ],
    ids=["descent", "decay", "normalised"],
)
def test_steps_along_the_gradient_keep_all_laws(claim, build):
    for gap, leak in followed(build).values():
        assert gap < claim.tol and leak < claim.tol


@pytest.mark.claim("heavy-ball-law", tol=1e-10)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_heavy_ball_leaks_by_a_law(claim, decay):
    found = followed(
        lambda net: torch.optim.SGD(net.parameters(), 0.2, 0.9, weight_decay=decay)
    )
    assert all(gap < claim.tol for gap, _ in found.values())
    assert all(found[kind][1] > 0.1 for kind in ("scale", "exchange"))
    assert (found["translation"][1] < claim.tol) == (decay == 0)


@pytest.mark.claim("laws-of-steps", tol=1e-10)
@pytest.mark.parametrize(
    ("build", "keeps_sums"),
    [
        (lambda net: torch.optim.AdamW(net.parameters(), 0.01), False),
        (
            lambda net: optim.SteepestDescent(net.parameters(), 0.01, norm="LInf()"),
            False,
        ),
        (lambda net: optim.SteepestDescent(net.parameters(), 0.01, norm="L2()"), True),
        (lambda net: torch.optim.SGD(net.parameters(), 0.2, 0.9, nesterov=True), True),
    ],
    ids=["AdamW", "sign", "each tensor", "Nesterov"],
)
def test_other_steps_have_no_law_for_products(claim, build, keeps_sums):
    found = followed(build)
    assert found["exchange"][0] > 0.01 and found["exchange"][1] > 0.01
    assert (found["translation"][1] < claim.tol) == keeps_sums


@pytest.mark.claim("laws-of-steps", tol=1e-10)
def test_spectral_steps_keep_the_sums_alone(claim):
    found = followed(lambda net: optim.Muon(net.parameters(), 0.01))
    assert found["scale"][1] > 0.01 and found["exchange"][1] > 0.01
