"""What the chapter on Muon states: blocks, noise, stages, decay, QK-clip, its runs."""

import math
import sys
from statistics import mean

import pytest
import torch

from anthology import norms, optim
from anthology.linalg import polar
from tools import address

sys.path.append(str(address.ROOT / "experiments"))


def nuclear(*matrices):
    return sum(torch.linalg.svdvals(a).sum() for a in matrices)


def top(a):
    return float(torch.linalg.matrix_norm(a, 2))


@pytest.mark.claim("muon-blocks", tol=1e-10, trials=60)
def test_the_largest_spectral_norm_among_blocks_has_the_sum_as_its_dual(claim):
    """The step attains the value, none of 50 rivals does, and the bounds hold."""
    torch.manual_seed(0)
    for trial in range(claim.trials):
        blocks = (1, 2, 4, 8)[trial % 4]
        g = torch.randn(16, 12, dtype=torch.float64)
        parts, lam = g.chunk(blocks), 1.7
        total = nuclear(*parts)
        t = torch.cat([polar(a) for a in parts])
        norm = norms.MaxOver([(norms.Spectral(), 1.0)] * blocks)
        assert abs(norm.dual(list(parts)) - total) < claim.tol * total
        step = -total / lam * t

        def cost(step):
            size = max(map(top, step.chunk(blocks)))  # noqa: B023
            return float((g * step).sum()) + lam / 2 * size**2  # noqa: B023

        least = -(float(total) ** 2) / (2 * lam)
        assert abs(cost(step) - least) < claim.tol * abs(least)
        for size in torch.logspace(-3, 1, 50):
            assert cost(step + size * torch.randn_like(g)) > least
        assert nuclear(g) <= total + claim.tol
        assert total <= math.sqrt(blocks) * nuclear(g) + claim.tol
        assert top(t) <= math.sqrt(blocks) + claim.tol


@pytest.mark.claim("muon-blocks", tol=1e-12, trials=2)
def test_both_bounds_of_blocks_are_attained(claim):
    equal = torch.cat([torch.eye(4, dtype=torch.float64)] * claim.trials)
    assert abs(nuclear(*equal.chunk(2)) - 2**0.5 * nuclear(equal)) < claim.tol
    apart = torch.eye(8, dtype=torch.float64)
    assert abs(nuclear(*apart.chunk(2)) - nuclear(apart)) < claim.tol


@pytest.mark.claim("muon-blocks", tol=1e-10, trials=20)
def test_cut_by_its_group_muon_takes_the_step_of_blocks(claim):
    torch.manual_seed(1)
    for _ in range(claim.trials):
        p = torch.zeros(16, 12, dtype=torch.float64).requires_grad_()
        p.grad = torch.randn_like(p)
        group = {"params": [p], "norm": "Split(RMSToRMS(), 4)"}
        options = {"method": "svd", "adjust_lr_fn": "none"}
        optim.Muon([group], 1.0, 0.0, **options).step()
        expected = torch.cat([polar(a) for a in p.grad.chunk(4)])
        assert float((p.detach() + expected).abs().max()) < claim.tol


@pytest.mark.claim("muon-noise", trials=100)
@pytest.mark.parametrize(
    "norm", [norms.Spectral(), norms.Frobenius(), norms.MaxAbs(), norms.RMSToRMS()]
)
def test_a_step_loses_at_most_twice_the_dual_norm_of_the_noise(claim, norm):
    torch.manual_seed(2)
    for trial in range(claim.trials):
        g = torch.randn(7, 5, dtype=torch.float64)
        n = 10 ** (trial / 50 - 1) * torch.randn(7, 5, dtype=torch.float64)
        kept = (g * norm.dualize(g + n)).sum()
        assert kept >= norm.dual(g) - 2 * norm.dual(n) - 1e-10


@pytest.mark.claim("muon-decay", tol=0.02, trials=4000)
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_decay_leaves_the_mean_of_the_steps_over_kappa(claim, beta):
    torch.manual_seed(3)
    kappa, signal = 2.0, torch.eye(6, dtype=torch.float64)
    p = torch.zeros(6, 6, dtype=torch.float64).requires_grad_()
    options = {"method": "svd", "adjust_lr_fn": "none", "nesterov": False}
    optimizer = optim.Muon([p], 0.05, kappa, beta, **options)
    weights, steps = [], []
    for _ in range(claim.trials):
        before = p.detach().clone()
        p.grad = signal + torch.randn_like(signal)
        optimizer.step()
        steps.append(((1 - 0.05 * kappa) * before - p.detach()) / 0.05)
        weights.append(p.detach().clone())
        assert top(p.detach()) <= 1 / kappa + 1e-9
    means = [torch.stack(x[500:]).mean(0) for x in (weights, steps)]
    assert float((means[0] + means[1] / kappa).abs().max()) < claim.tol
    assert (float(means[1].trace()) / 6 > 0.8) == (beta > 0)


@pytest.mark.claim("muon-qk-clip", tol=1e-12, trials=50)
def test_qk_clip_brings_the_largest_logit_to_the_bound(claim):
    """With biases and with a rotation for each position, as rotary embeddings have."""
    torch.manual_seed(4)
    for _ in range(claim.trials):
        x, wq, wk = (torch.randn(9, 6, dtype=torch.float64) for _ in range(3))
        wq, wk = 5 * wq[:4], 5 * wk[:4]
        bq, bk = torch.randn(2, 4, dtype=torch.float64)
        turns = torch.linalg.qr(torch.randn(9, 4, 4, dtype=torch.float64))[0]

        def logits(s):
            q = (x @ (s * wq).T + s * bq)[:, None] @ turns  # noqa: B023
            k = (x @ (s * wk).T + s * bk)[:, None] @ turns  # noqa: B023
            return q[:, 0] @ k[:, 0].T

        largest, tau = logits(1.0).max(), 3.0
        assert largest > tau
        clipped = logits((tau / largest).sqrt()).max()
        assert abs(clipped - tau) < claim.tol * 100


@pytest.mark.claim("muon-cofactors", tol=1e-10, trials=200)
def test_two_by_two_polar_factors_by_cofactors(claim):
    torch.manual_seed(5)
    for _ in range(claim.trials):
        a = torch.randn(2, 2, dtype=torch.float64)
        (p, q), (r, s) = a
        cofactors = torch.stack([torch.stack([s, -r]), torch.stack([-q, p])])
        sign = torch.linalg.det(a).sign()
        size = (a.square().sum() + 2 * sign * torch.linalg.det(a)).sqrt()
        assert torch.allclose(polar(a), (a + sign * cofactors) / size, atol=claim.tol)


@pytest.mark.claim("muon-momentum-and-decay", trials=5)
def test_without_decay_muon_hardly_misses_its_momentum(claim):
    """The stored runs, and the sizes that explain them."""
    import muon as study

    runs = study.best(study.stored(), "digits")
    assert all(len(rows) == claim.trials for _, rows in runs.values())
    loss = {key: mean(x["loss"] for x in rows) for key, (_, rows) in runs.items()}
    size = {key: mean(x["size"] for x in rows) for key, (_, rows) in runs.items()}
    gaps = [loss["no momentum", k] - loss["momentum", k] for k in study.DECAYS]
    assert gaps[0] > 0.3 and gaps[1] < 0.1 * gaps[0]
    assert size["no momentum", 0.1] < 0.7 * size["momentum", 0.1]
    assert size["no momentum", 0.0] > 2 * size["no momentum", 0.1]
