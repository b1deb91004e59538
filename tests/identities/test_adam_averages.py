"""The claims of the chapter on Adam about the averages, parity and training."""

import importlib
import itertools
import math
from pathlib import Path
from statistics import mean

import pytest
import torch
from torch import Tensor

from anthology.optim import Adam, AdamW
from tests.identities.test_adam import NO_EPS, dense, steps_of

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def weights(t: int, beta: float) -> Tensor:
    """What a bias-corrected average after t steps gives to each step; sums to 1."""
    k = torch.arange(t - 1, -1, -1, dtype=torch.float64)
    return (1 - beta) * beta**k / (1 - beta**t)


def reach(t: float, beta1: float, beta2: float) -> float:
    """R_t, the longest step over lr that Adam can take at step t."""
    rho = beta1**2 / beta2
    tail = t if rho == 1 else (1 - rho**t) / (1 - rho)
    gain = (1 - beta1) / (1 - beta1**t)
    return gain * math.sqrt((1 - beta2**t) / (1 - beta2) * tail)


@pytest.mark.claim("adam-cosine", tol=1e-12, trials=20)
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.9, 0.9), (0.0, 0.9)])
def test_adam_takes_a_cosine_of_the_history(claim, betas):
    for _ in range(claim.trials):
        history = torch.stack([dense(6) for _ in range(30)])
        steps = steps_of(Adam, history, betas=betas, eps=NO_EPS)
        for t in (1, 2, 7, 30):
            a, b = weights(t, betas[0]), weights(t, betas[1])
            past, template = b.sqrt()[:, None] * history[:t], a / b.sqrt()
            cosine = (template @ past) / (template.norm() * past.norm(dim=0))
            assert abs(float(template.norm()) / reach(t, *betas) - 1) < claim.tol
            gap = (steps[t - 1] + reach(t, *betas) * cosine).abs().max()
            assert float(gap) < claim.tol * reach(t, *betas)


@pytest.mark.claim("adam-cosine", tol=1e-9, trials=40)
def test_the_bound_is_attained_by_a_growing_gradient(claim):
    for beta1, beta2 in [(0.9, 0.999), (0.9, 0.95), (0.5, 0.9)]:
        history = (beta2 / beta1) ** torch.arange(claim.trials, dtype=torch.float64)
        steps = steps_of(Adam, history[:, None], betas=(beta1, beta2), eps=NO_EPS)
        for t, step in enumerate(steps, start=1):
            assert abs(float(-step) / reach(t, beta1, beta2) - 1) < claim.tol


@pytest.mark.claim("adam-cosine", tol=1e-12, trials=200)
def test_reach_is_one_only_at_the_first_step_or_for_equal_betas(claim):
    for t in range(1, claim.trials + 1):
        assert abs(reach(t, 0.9, 0.9) - 1) < claim.tol
        if t > 1:
            assert reach(t, 0.9, 0.999) > 1 + 1e-4
            assert reach(t, 0.9, 0.85) > 1 + 1e-4
    assert abs(reach(1, 0.9, 0.999) - 1) < claim.tol
    limit = 0.1 / math.sqrt(0.001 * (1 - 0.81 / 0.999))
    assert abs(reach(10**5, 0.9, 0.999) / limit - 1) < 1e-9
    assert 7.26 < limit < 7.28
    assert reach(10**4, 0.9, 0.8) > 1e20  # beta1² > beta2: no bound


@pytest.mark.claim("kingma-ba-step-bound", tol=1.0, trials=2000)
def test_the_published_step_bound_is_exceeded(claim):
    history = 1.11 ** torch.arange(claim.trials, dtype=torch.float64)[:, None]
    steps = steps_of(Adam, history, betas=(0.9, 0.999))
    published = 0.1 / math.sqrt(0.001)
    assert float(steps.abs().max()) > 2 * published
    steps = steps_of(Adam, history, betas=(0.9, 0.99))  # the other case: at most 1
    assert float(steps.abs().max()) > 2 * claim.tol


@pytest.mark.claim("signal-to-noise", tol=1e-12, trials=10)
def test_rms_step_under_random_signs(claim):
    t, beta1 = claim.trials, 0.9  # all 2^t sign histories: the mean is exact
    history = torch.tensor(
        list(itertools.product([1.0, -1.0], repeat=t)), dtype=torch.float64
    ).T
    steps = steps_of(Adam, history, betas=(beta1, 0.999), eps=NO_EPS)[-1]
    share = (1 - beta1) * (1 + beta1**t) / ((1 + beta1) * (1 - beta1**t))
    assert abs(float((steps**2).mean()) - share) < claim.tol


@pytest.mark.claim("signal-to-noise", tol=1e-12, trials=8)
def test_moments_under_independent_gradients(claim):
    t, beta1, beta2 = claim.trials, 0.8, 0.97
    values, chance = torch.tensor([3.0, -1.0]).double(), (0.3, 0.7)
    mean = sum(float(v) * p for v, p in zip(values, chance, strict=True))
    square = sum(float(v) ** 2 * p for v, p in zip(values, chance, strict=True))
    index = torch.tensor(list(itertools.product([0, 1], repeat=t)))
    odds = torch.tensor(chance, dtype=torch.float64)[index].prod(1)
    history = values[index]
    m = history @ weights(t, beta1)
    v = history**2 @ weights(t, beta2)
    share = (1 - beta1) * (1 + beta1**t) / ((1 + beta1) * (1 - beta1**t))
    assert abs(float(odds @ m) - mean) < claim.tol
    assert abs(float(odds @ v) - square) < claim.tol
    predicted = mean**2 + share * (square - mean**2)
    assert abs(float(odds @ m**2) - predicted) < claim.tol


@pytest.mark.claim("adam-first-steps", tol=1e-12, trials=12)
def test_without_bias_correction_the_first_steps_are_too_long(claim):
    t = torch.arange(1, 2001, dtype=torch.float64)
    length = (1 - 0.9**t) / (1 - 0.999**t).sqrt()
    assert abs(float(length[0]) - 0.1 / math.sqrt(0.001)) < claim.tol * 1e3
    assert int(length.argmax()) + 1 == claim.trials
    assert 6.5 < float(length.max()) < 6.6
    constant = torch.ones(50, 3, dtype=torch.float64)
    corrected = steps_of(Adam, constant, betas=(0.9, 0.999), eps=NO_EPS)
    assert float((corrected + 1).abs().max()) < claim.tol


@pytest.mark.claim("adam-spike", tol=1e-9, trials=2303)
def test_a_spike_is_remembered(claim):
    spike, beta2 = 100.0, 0.999
    excess = (spike**2 - 1) * (1 - beta2)
    history = torch.ones(20_000 + claim.trials, 1, dtype=torch.float64)
    history[-claim.trials] = spike
    v = torch.ones(1, dtype=torch.float64)
    for g in history[-claim.trials :]:
        v = beta2 * v + (1 - beta2) * g**2
    k = claim.trials - 1  # steps after the spike
    assert abs(float(v) - (1 + excess * beta2**k)) < claim.tol
    halved = math.log(excess) / -math.log(beta2)
    assert claim.trials - 2 < halved < claim.trials
    assert (
        excess * beta2 ** math.ceil(halved) <= 1 < excess * beta2 ** math.floor(halved)
    )


@pytest.mark.claim("adam-parity", tol=1e-12, trials=200)
@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (Adam, torch.optim.Adam, {}),
        (Adam, torch.optim.Adam, {"weight_decay": 0.1}),
        (AdamW, torch.optim.AdamW, {}),
        (AdamW, torch.optim.AdamW, {"betas": (0.9, 0.95), "weight_decay": 0.1}),
        (Adam, torch.optim.Adam, {"betas": (0.0, 0.0), "eps": 1e-3}),
    ],
)
def test_adam_is_torchs_adam(claim, ours, theirs, options):
    target = torch.randn(4, 3, dtype=torch.float64)
    start = torch.randn(4, 3, dtype=torch.float64)
    runs = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [
        cls([w], lr=0.01, **options)
        for cls, w in zip((ours, theirs), runs, strict=True)
    ]
    for _ in range(claim.trials):
        for w, optimizer in zip(runs, optimizers, strict=True):
            optimizer.zero_grad()
            ((w @ w.T - target @ target.T) ** 2).sum().backward()
            optimizer.step()
        assert float((runs[0] - runs[1]).detach().abs().max()) < claim.tol


@pytest.mark.claim("epsilon-conventions", tol=1e-12, trials=50)
def test_the_papers_second_form_has_a_growing_eps(claim):
    beta1, beta2, eps = 0.9, 0.999, 1e-3
    history = torch.randn(claim.trials, 4, dtype=torch.float64)
    for t in range(1, claim.trials + 1):
        past = history[:t]
        m_hat = weights(t, beta1) @ past
        v_hat = weights(t, beta2) @ past**2
        m, v = m_hat * (1 - beta1**t), v_hat * (1 - beta2**t)
        rate = math.sqrt(1 - beta2**t) / (1 - beta1**t)
        second = rate * m / (v.sqrt() + eps)
        first = m_hat / (v_hat.sqrt() + eps / math.sqrt(1 - beta2**t))
        assert float((second - first).abs().max()) < claim.tol


@pytest.mark.claim("sign-has-adams-lead", tol=0.01)
def test_signs_have_most_of_adams_lead_on_text_alone(claim, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    race = importlib.import_module("race_runs")
    shares = {}
    for where in ("text", "digits"):
        told = race.slice(["SGD", "Signum-0", "Signum", "Adam"], where)
        sgd, signs, signum, adam = (mean(r["losses"]) for r in told.values())
        assert sgd - adam > 0.08
        shares[where] = [(sgd - x) / (sgd - adam) for x in (signs, signum)]
    assert shares["text"] == pytest.approx([0.98, 0.83], abs=claim.tol)
    assert shares["digits"] == pytest.approx([-0.22, 1.13], abs=claim.tol)
