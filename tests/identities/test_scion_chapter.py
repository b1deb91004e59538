"""What the chapter on Scion says: walks in balls, floors, radii of other codes."""

import math

import pytest
import torch

from anthology import lab, norms, optim
from anthology.linalg import polar

two_weights = lab.problems.two_weights
NORMS = [
    norms.L1(),
    norms.L2(),
    norms.LInf(),
    norms.Lp(3),
    norms.Spectral(),
    norms.Nuclear(),
    norms.RMSToRMS(),
    norms.RMSToInf(),
]


def randn(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def shape_of(norm):
    flat = isinstance(norm, norms.L1 | norms.L2 | norms.LInf | norms.Lp)
    return (7,) if flat else (5, 3)


@pytest.mark.claim("scion-walk", tol=1e-9, trials=60)
@pytest.mark.parametrize("norm", NORMS, ids=repr)
def test_the_gap_and_where_a_step_can_rest(claim, norm):
    """Parts 1 and 2: any z of the unit ball; the gap of a minimiser and of others."""
    shape, radius = shape_of(norm), 1.7
    for seed in range(claim.trials):
        w, z, g = (randn(*shape, seed=3 * seed + i) for i in range(3))
        z = z / max(1.0, float(norm.norm(z)))
        share = 0.05 + 0.9 * (seed / claim.trials)
        after = (1 - share) * w - share * radius * z
        excess = float(norm.norm(w)) - radius
        assert float(norm.norm(after)) - radius <= (1 - share) * excess + claim.tol

        inside = w * min(1.0, radius / float(norm.norm(w)))
        gap = float((g * inside).sum() + radius * norm.dual(g))
        assert gap > claim.tol  # a random point is no minimiser
        best = -radius * norm.dualize(g)
        assert abs(float((g * best).sum() + radius * norm.dual(g))) < claim.tol
        stays = (1 - share) * best - share * radius * norm.dualize(g)
        assert float((stays - best).abs().max()) < claim.tol
        # every direction into the ball climbs from the best point
        other = inside - best
        assert float((g * other).sum()) >= -claim.tol


@pytest.mark.claim("scion-walk", tol=1e-9, trials=200)
@pytest.mark.parametrize(
    ("norm", "sharpness"),
    [
        (norms.Spectral(), 3.0),
        (norms.Frobenius(), 1.0),
        (norms.MaxAbs(), 15.0),
        (norms.Nuclear(), 1.0),
    ],
    ids=repr,
)
def test_the_rate_and_the_certificate_on_a_convex_loss(claim, norm, sharpness):
    """Part 3 on ½‖W − B‖², whose best point in the ball is known."""
    B, radius = randn(5, 3, seed=4), 0.9
    best = projected(norm, B, radius)
    assert float(norm.norm(best)) <= radius + claim.tol
    floor = float((best - B).square().sum() / 2)
    W = randn(5, 3, seed=5)
    W = W * (radius / norm.norm(W))
    for k in range(claim.trials):
        G, share = W - B, 2 / (k + 2)
        over = float(G.square().sum() / 2) - floor
        gap = float((G * W).sum() + radius * norm.dual(G))
        assert -claim.tol < over < gap + claim.tol
        if k:
            assert over <= 8 * sharpness * radius**2 / (k + 2) + claim.tol
        W = (1 - share) * W - share * radius * norm.dualize(G)
    assert over < 0.05 * floor


def projected(norm, B, radius):
    """The point of the ball nearest to B."""
    U, S, Vh = torch.linalg.svd(B, full_matrices=False)
    if isinstance(norm, norms.Spectral):
        return U * S.clamp(max=radius) @ Vh
    if isinstance(norm, norms.Frobenius):
        return B * min(1.0, radius / float(B.norm()))
    if isinstance(norm, norms.MaxAbs):
        return B.clamp(-radius, radius)
    spare = S.cumsum(0) - radius  # singular values lowered by one number
    count = int((S > spare / torch.arange(1, len(S) + 1)).sum())
    return U * (S - spare[count - 1] / count).clamp(min=0) @ Vh


@pytest.mark.claim("scion-walk", tol=1e-12, trials=50)
def test_a_network_is_one_ball(claim):
    """Under max ‖W_l‖_l/ρ_l the best point is that of each layer in its own ball."""
    radii, shapes = (2.0, 0.5), ((5, 3), (4,))
    rulers = (norms.RMSToRMS(), norms.RMS())
    scales = [1 / r for r in radii]
    joint = norms.MaxOver(list(zip(rulers, scales, strict=True)))
    for seed in range(claim.trials):
        gs = [randn(*s, seed=seed + 100 * i) for i, s in enumerate(shapes)]
        duals = [r * n.dual(g) for r, n, g in zip(radii, rulers, gs, strict=True)]
        assert float(joint.dual(gs)) == pytest.approx(float(sum(duals)), claim.tol)
        for t, r, n, g in zip(joint.dualize(gs), radii, rulers, gs, strict=True):
            assert torch.allclose(t, r * n.dualize(g), atol=claim.tol)


def walked(radius, shares, norm=None, ball=True):
    w, trail = two_weights.start(), []
    norm = norm or norms.LInf()
    for s in shares:
        w = (1 - s * ball) * w - s * radius * norm.dualize(two_weights.gradient(w))
        trail.append(w)
    return torch.stack(trail)


@pytest.mark.claim("scion-balance", tol=1e-12, trials=400)
@pytest.mark.parametrize("radius", [1.0, 1.5, 3.0])
def test_a_ball_takes_its_share_of_the_imbalance(claim, radius):
    shares = [0.1 * (1 - k / claim.trials) for k in range(claim.trials)]
    trail = walked(radius, shares)
    assert bool((trail > 0).all())
    left = 1.8 * torch.tensor([1 - s for s in shares]).double().cumprod(0)
    assert torch.allclose(trail[:, 0] - trail[:, 1], left, atol=claim.tol)
    assert torch.allclose(trail[-1], torch.ones(2).double(), atol=2e-3)
    free = walked(0.2, shares, ball=False)
    gap = free[:, 0] - free[:, 1]
    assert torch.allclose(gap, torch.full_like(gap, 1.8), atol=claim.tol)
    assert [round(float(x), 2) for x in free[-1]] == [2.25, 0.45]


@pytest.mark.claim("scion-floor", tol=1e-12, trials=200)
def test_a_bounded_head_cannot_be_sure(claim):
    ruler, classes = norms.RMSToInf(), 10
    for seed in range(claim.trials):
        W, h = randn(classes, 16, seed=seed), randn(16, seed=seed + 1)
        radius = 0.1 + 0.02 * seed
        W = W * (radius / ruler.norm(W))
        size = radius * float(h.square().mean().sqrt())
        floor = math.log1p((classes - 1) * math.exp(-2 * size))
        assert float(-(W @ h).log_softmax(0).max()) >= floor - claim.tol
    # attained: one row along h, the others against it
    rows = torch.stack([h, *[-h] * (classes - 1)])
    W = rows * (radius / ruler.norm(rows))
    assert float(-(W @ h).log_softmax(0)[0]) == pytest.approx(floor, abs=1e-9)


@pytest.mark.claim("scion-length", tol=1e-9, trials=100)
def test_the_length_that_a_growing_sharpness_asks_for(claim):
    """The minimum of −h‖G‖ + (L₀ + L₁‖G‖) h²/2 over lengths h."""
    h = torch.linspace(0, 3, 30001, dtype=torch.float64)
    for k in range(claim.trials):
        size, zero, one = 0.01 * 1.1**k, 1.0, 0.5 + k / 100
        best = size / (zero + one * size)
        values = -h * size + (zero + one * size) * h**2 / 2
        assert best <= 1 / one
        found = -best * size + (zero + one * size) * best**2 / 2
        assert found <= float(values.min()) + claim.tol


@pytest.mark.claim("scion-null-space", tol=1e-9, trials=500)
def test_what_no_datum_sees_goes_to_zero(claim):
    A, y = randn(3, 8, seed=1), randn(3, seed=2)
    least = torch.linalg.pinv(A) @ y
    w, norm = randn(8, seed=3), norms.L2()
    radius, unseen = 3 * float(least.norm()), torch.linalg.pinv(A) @ A
    before = w - unseen @ w
    left = 1.0
    for k in range(claim.trials):
        share = 0.05 * (1 - k / claim.trials)
        g = A.T @ (A @ w - y)
        w = (1 - share) * w - share * radius * norm.dualize(g)
        left *= 1 - share
        assert torch.allclose(w - unseen @ w, left * before, atol=claim.tol)
    assert float((w - least).norm()) < 1e-2 * float(least.norm())


@pytest.mark.claim("scion-cautious", tol=1e-9, trials=100)
def test_cautious_decay_has_no_ball_under_any_norm(claim):
    G = randn(6, 6)
    p = torch.nn.Parameter(torch.zeros_like(G))
    rule = optim.SteepestDescent(
        [p], 0.05, norm=norms.Spectral(), weight_decay=1.0, decay="cautious"
    )
    for k in range(claim.trials):
        p.grad = G.clone()
        rule.step()
        size = float(torch.linalg.matrix_norm(p.detach(), 2))
        assert size == pytest.approx(0.05 * (k + 1), abs=claim.tol)


@pytest.mark.claim("scion-radius-of-codes", tol=1e-2, trials=2500)
def test_one_decay_is_three_radii(claim):
    """c/κ, 1/κ and ηc/κ, by where a code multiplies the decay by η and by c."""
    eta, kappa, c = 0.02, 0.1, 2.0
    T = polar(randn(8, 2))
    codes = {c / kappa: eta * kappa, 1 / kappa: eta * c * kappa, eta * c / kappa: kappa}
    for radius, share in codes.items():
        size = 0.0  # along one direction, the norm of the weight
        for _ in range(claim.trials):
            size = (1 - share) * size + eta * c
        assert size == pytest.approx(radius, claim.tol)
    p = torch.nn.Parameter(torch.zeros_like(T))
    rule = optim.Muon([p], 50 * eta, kappa, method="svd")
    for _ in range(claim.trials // 50):
        p.grad = T.clone()
        rule.step()
    size = float(torch.linalg.matrix_norm(p.detach(), 2))
    assert size == pytest.approx(c / kappa, claim.tol)
