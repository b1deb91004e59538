"""Muon as steepest descent, and the identities its conventions rest on."""

import math
from itertools import pairwise

import pytest
import torch

from anthology.norms import Spectral
from anthology.optim import Muon, SteepestDescent, convert_lr
from tests.random_steps import copies, gap, train, weights

SHAPES = [(6, 4), (4, 6), (5, 5), (6, 4), (7, 1)]
SCALES = ("original", "match_rms_adamw", "rms_to_rms", "none")


@pytest.mark.claim("muon-is-steepest-descent", tol=1e-10, trials=100)
@pytest.mark.parametrize("foreach", [True, False])
def test_without_averages_muon_is_steepest_descent_under_its_norm(claim, foreach):
    params = weights(SHAPES)
    others = copies(params)
    options = {"method": "svd", "adjust_lr_fn": "rms_to_rms", "foreach": foreach}
    ours = Muon(params, 0.02, 0.1, momentum=0.0, **options)
    theirs = SteepestDescent(others, 0.02, weight_decay=0.1, norm="RMSToRMS()")
    train(ours, params, claim.trials)
    train(theirs, others, claim.trials)
    assert gap(params, others) < claim.tol


@pytest.mark.claim("muon-is-steepest-descent", tol=1e-10, trials=50)
def test_for_kernels_too_if_each_position_is_a_matrix(claim):
    params = weights([(4, 3, 2, 2), (2, 6, 3, 1)])
    others = copies(params)
    options = {"method": "svd", "adjust_lr_fn": "rms_to_rms", "kernel": "positions"}
    ours = Muon(params, 0.02, 0.0, momentum=0.9, **options)
    theirs = SteepestDescent(others, 0.02, 0.9, nesterov=True, norm="Conv(2)")
    train(ours, params, claim.trials)
    train(theirs, others, claim.trials)
    assert gap(params, others) < claim.tol


@pytest.mark.claim("muon-heavy-ball", tol=1e-10, trials=100)
@pytest.mark.parametrize("nesterov", [True, False])
def test_the_sum_and_the_average_give_the_same_steps(claim, nesterov):
    """M ← βM + G, U = G + βM, as Muon is often written, against our average."""
    (p,) = weights([(6, 4)])
    w, m, beta, lr = p.detach().clone(), torch.zeros(6, 4).double(), 0.95, 0.02
    optimizer = Muon(
        [p], lr, 0.0, beta, nesterov, method="svd", adjust_lr_fn="rms_to_rms"
    )
    for _ in range(claim.trials):
        g = torch.randn(6, 4, dtype=torch.float64)
        p.grad = g.clone()
        optimizer.step()
        m = beta * m + g
        u, _, vh = torch.linalg.svd(g + beta * m if nesterov else m, False)
        w = w - lr * math.sqrt(6 / 4) * u @ vh
    assert float((p.detach() - w).abs().max()) < claim.tol


@pytest.mark.claim("muon-convert-lr", tol=1e-12, trials=30)
@pytest.mark.parametrize("there", SCALES)
@pytest.mark.parametrize("here", SCALES)
def test_a_converted_rate_gives_the_same_run(claim, here, there):
    for shape in [(6, 4), (3, 9)]:
        params = weights([shape])
        others = copies(params)
        rate = convert_lr(0.02, shape, here, there)
        decay = 0.1 * 0.02 / rate
        train(Muon(params, 0.02, 0.1, adjust_lr_fn=here), params, claim.trials)
        train(Muon(others, rate, decay, adjust_lr_fn=there), others, claim.trials)
        assert gap(params, others) < claim.tol


@pytest.mark.claim("muon-step-length", tol=1e-3, trials=300)
def test_five_steps_keep_the_spectral_norm_below_a_fifth_too_much(claim):
    """1.20237 is the largest value of any iterate of the quintic on [0, 1]."""
    (p,) = weights([(12, 20)])
    optimizer = Muon([p], 0.5, 0.0, adjust_lr_fn="none")
    before, longest = p.detach().clone(), 0.0
    for trial in range(claim.trials):
        spread = torch.logspace(0, -(trial % 6), 12, dtype=torch.float64)
        p.grad = spread[:, None] * torch.randn(12, 20, dtype=torch.float64)
        optimizer.step()
        longest = max(longest, float(Spectral().norm(p.detach() - before)))
        before = p.detach().clone()
    assert 0.5 < longest < 0.5 * (1.20237 + claim.tol)


@pytest.mark.claim("muon-linear-loss", tol=1e-12, trials=20)
def test_on_a_linear_loss_the_exact_step_descends_by_the_dual_norm(claim):
    """f(W) = ⟨G, W⟩ falls by η s ‖G‖_* at every step, whatever the momentum."""
    (p,) = weights([(6, 4)])
    g = torch.randn(6, 4, dtype=torch.float64)
    optimizer = Muon([p], 0.02, 0.0, method="svd", adjust_lr_fn="none")
    losses = [float((g * p.detach()).sum())]
    for _ in range(claim.trials):
        p.grad = g.clone()
        optimizer.step()
        losses.append(float((g * p.detach()).sum()))
    fall = 0.02 * float(Spectral().dual(g))
    assert max(abs(a - b - fall) for a, b in pairwise(losses)) < claim.tol
