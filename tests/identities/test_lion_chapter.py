"""The claims of the chapter on Lion: decay as a wall, two memories, other decays."""

import importlib
import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor

from anthology.norms import L1, L2, RMS, LInf, Spectral
from anthology.optim import SGD, AdamW, Lion, Signum

RACE = Path(__file__).resolve().parents[2] / "experiments/results/race.json"


@pytest.fixture
def lion_memory(monkeypatch):
    """The experiment, whose modules import each other by name."""
    monkeypatch.syspath_prepend(str(RACE.parents[1]))
    return importlib.import_module("lion_memory")


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.claim("decay-wall", tol=1e-12, trials=100)
@pytest.mark.parametrize("norm", [LInf(), L1(), L2(), RMS(), Spectral("svd")], ids=repr)
def test_what_is_outside_the_wall_comes_closer(claim, norm):
    for _ in range(claim.trials):
        kappa, gamma = float(torch.rand(())) + 0.1, float(torch.rand(()))
        shape = (4, 3) if isinstance(norm, Spectral) else (12,)
        w, z = normal(*shape) * 10 ** float(normal(1)), normal(*shape)
        z = z / norm.norm(z) * torch.rand(())
        new = w - gamma / kappa * (z + kappa * w)
        excess = float(norm.norm(new)) - 1 / kappa
        bound = (1 - gamma) * (float(norm.norm(w)) - 1 / kappa)
        assert excess <= bound + claim.tol * max(1.0, abs(bound))


@pytest.mark.claim("decay-wall", tol=1e-12, trials=100)
def test_a_step_of_lion_is_one_of_frank_and_wolfe(claim):
    for _ in range(claim.trials):
        kappa, gamma, beta = torch.rand(3, dtype=torch.float64).tolist()
        w = normal(6)
        p = w.clone().requires_grad_()
        lion = Lion([p], gamma / kappa, (beta, 0.99), weight_decay=kappa)
        lion.state_of(p, lion.param_groups[0])["exp_avg"].copy_(m := normal(6))
        p.grad = normal(6)
        u = beta * m + (1 - beta) * p.grad
        corner = -u.sign() / kappa
        others = (2 * torch.rand(200, 6, dtype=torch.float64) - 1) / kappa
        assert u @ corner <= (others @ u).min() + claim.tol
        lion.step()
        expected = (1 - gamma) * w + gamma * corner
        size = float(expected.abs().max()) + 1
        assert (p.detach() - expected).abs().max() < claim.tol * size


@pytest.mark.claim("decay-kkt", tol=1e-12, trials=200)
def test_the_gap_is_zero_at_kkt_points_only_and_bounds_the_excess(claim):
    for _ in range(claim.trials):
        kappa = float(torch.rand(())) + 0.2
        goal = 3 * normal(5)
        best = goal.clamp(-1 / kappa, 1 / kappa)

        def gap(w: Tensor, goal: Tensor = goal, kappa: float = kappa) -> float:
            g = w - goal
            return float(g @ w + g.abs().sum() / kappa)

        def loss(w: Tensor, goal: Tensor = goal) -> float:
            return float((w - goal).square().sum() / 2)

        assert abs(gap(best)) < claim.tol * (1 + float(goal.square().sum()))
        g = best - goal
        at_rest = g.sign() + kappa * best
        assert (at_rest.abs()[g != 0] < 1e-12).all()
        w = (2 * torch.rand(5, dtype=torch.float64) - 1) / kappa
        assert gap(w) >= 0
        assert loss(w) - loss(best) <= gap(w) + claim.tol


@pytest.mark.claim("decay-kkt", tol=0.01, trials=5)
def test_sign_descent_with_decay_ends_where_the_ball_cuts_off(claim):
    for _ in range(claim.trials):
        goal, kappa = 2 * normal(20), 0.8
        w = torch.zeros(20, dtype=torch.float64, requires_grad=True)
        rule = Signum([w], 1.0, momentum=0.0, weight_decay=kappa)
        for k in range(2000):
            rule.param_groups[0]["lr"] = 2 / (k + 2) / kappa
            w.grad = w.detach() - goal
            rule.step()
        gap = (w.detach() - goal.clamp(-1 / kappa, 1 / kappa)).abs().max()
        assert gap < claim.tol


def paths(first: Any, second: Any, steps: int) -> float:
    """How far apart two rules end that see the same gradients."""
    a, b = (torch.ones(6, dtype=torch.float64, requires_grad=True) for _ in "12")
    one, other = first([a]), second([b])
    for _ in range(steps):
        a.grad = normal(6)
        b.grad = a.grad.clone()
        one.step()
        other.step()
    return float((a - b).detach().abs().max())


@pytest.mark.claim("lion-look-ahead", tol=1e-12, trials=300)
@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99])
def test_lion_is_signum_with_a_look_ahead(claim, beta):
    def lion(first):
        return lambda ps: Lion(ps, 0.1, (first, beta), weight_decay=0.1)

    def signum(nesterov):
        return lambda ps: Signum(ps, 0.1, beta, nesterov, weight_decay=0.1)

    assert paths(lion(beta), signum(False), claim.trials) < claim.tol
    assert paths(lion(beta**2), signum(True), claim.trials) < claim.tol


@pytest.mark.claim("lion-look-ahead", tol=1e-12, trials=100)
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.9), (0.95, 0.95)])
def test_what_lion_takes_the_sign_of(claim, betas):
    """By Lion's two lines, as the quotient says, and as a sum over the past."""
    beta1, beta2 = betas
    history, m = normal(claim.trials), torch.zeros((), dtype=torch.float64)
    for g in history:
        u = beta1 * m + (1 - beta1) * g
        m = beta2 * m + (1 - beta2) * g
        c = beta1 / beta2
        assert abs(u - (c * m + (1 - c) * g)) < claim.tol
    j = torch.arange(1, 20000, dtype=torch.float64)
    first = torch.full((1,), 1 - beta1, dtype=torch.float64)
    weights = torch.cat([first, beta1 * (1 - beta2) * beta2 ** (j - 1)])
    assert abs(u - history.flip(0) @ weights[: claim.trials]) < claim.tol
    ages = torch.arange(len(weights), dtype=torch.float64)
    assert float(ages @ weights) == pytest.approx(beta1 / (1 - beta2), rel=1e-9)
    squares = (1 - beta1) ** 2 + beta1**2 * (1 - beta2) / (1 + beta2)
    assert float(weights @ weights) == pytest.approx(squares, rel=1e-12)


@pytest.mark.claim("lion-swing", trials=4)
def test_how_far_signs_swing_about_a_minimum(claim):
    swings = []
    for beta1, beta2 in ((0.9, 0.9), (0.972, 0.972), (0.99, 0.99), (0.9, 0.99)):
        w = torch.ones(1, dtype=torch.float64, requires_grad=True)
        rule, late = Lion([w], 0.01, (beta1, beta2)), []
        for _ in range(5000):
            w.grad = w.detach().clone()
            rule.step()
            late.append(abs(w.item()) / 0.01)
        swings.append(round(max(late[-500:])))
    assert len(swings) == claim.trials
    assert swings == [2, 3, 7, 1]


@pytest.mark.claim("adamw-wall", tol=1e-9, trials=500)
@pytest.mark.parametrize("betas", [(0.9, 0.9), (0.9, 0.999)])
def test_adamw_keeps_to_its_ball(claim, betas):
    """Also from outside, under gradients that grow, at which its steps are longest."""
    beta1, beta2 = betas
    equal = beta1 == beta2
    limit = (1 - beta1) ** 2 / (1 - beta2) / (1 - beta1**2 / beta2)
    bound = 1.0 if equal else math.sqrt(limit)
    kappa, lr = 2.0, 0.05
    w = torch.tensor([4.0, -0.1, 0.2], dtype=torch.float64, requires_grad=True)
    rule = AdamW([w], lr, betas, eps=1e-300, weight_decay=kappa)
    for k in range(claim.trials):
        before = float(w.detach().abs().max())
        w.grad = -torch.tensor([1.0, 1.1**k, 1.0], dtype=torch.float64)
        rule.step()
        excess = float(w.detach().abs().max()) - bound / kappa
        assert excess <= (1 - lr * kappa) * (before - bound / kappa) + claim.tol


@pytest.mark.claim("adamw-wall-is-soft", tol=0.006, trials=3)
def test_adamw_meets_the_wall_once_its_squares_have_forgotten(claim):
    ends = {
        (0.9, 0.999): (2.16, 0.95),
        (0.9, 0.99): (2.4, 1.0),
        (0.95, 0.95): (2.5, 1.0),
    }
    assert len(ends) == claim.trials
    goal = torch.tensor([3.0, 1.0], dtype=torch.float64)
    for betas, end in ends.items():
        w = torch.tensor([0.0, 3.0], dtype=torch.float64, requires_grad=True)
        rule = AdamW([w], 0.1, betas, weight_decay=0.4)
        for k in range(1000):
            rule.param_groups[0]["lr"] = 0.1 * (1 - k / 1000)
            w.grad = w.detach() - goal
            rule.step()
        assert (w.detach() - goal.new_tensor(end)).abs().max() < claim.tol


@pytest.mark.claim("cautious-no-wall", tol=1e-9, trials=2000)
def test_cautious_decay_stops_nothing(claim):
    ends = {}
    for kind in ("plain", "cautious"):
        w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        rule = Lion([w], 0.05, weight_decay=0.5, decay=kind)
        for _ in range(claim.trials):
            w.grad = torch.full_like(w, -1)
            rule.step()
        ends[kind] = w.item()
    assert ends == pytest.approx({"plain": 2.0, "cautious": 100.0}, abs=claim.tol)
    w = normal(50).requires_grad_()
    rule = Signum([w], 0.01, 0.0, weight_decay=3.0, decay="cautious")
    for _ in range(20):
        before, w.grad = w.detach().clone(), normal(50)
        rule.step()
        assert (w.detach() - before).abs().min() >= 0.01 - 1e-12


@pytest.mark.claim("corrected-radius", trials=4)
@pytest.mark.parametrize("kind", ["plain", "corrected"])
def test_the_radius_of_weights_that_only_turn(claim, kind):
    shares = (1.0, 0.5, 0.2, 0.1)
    assert len(shares) == claim.trials
    top, kappa = 0.02, 5.0
    for share in shares:
        eta = top * share
        target = (eta if kind == "plain" else top) / (2 * kappa)
        w = torch.tensor([target**0.5, 0.0], dtype=torch.float64, requires_grad=True)
        groups = [{"params": [w], "max_lr": top}]
        rule = SGD(groups, eta, weight_decay=kappa, decay=kind)
        for _ in range(int(2 / (eta * kappa * share))):
            w.grad = w.detach().flip(0) * w.new_tensor([-1.0, 1.0])
            w.grad /= w.grad.norm()
            rule.step()
        found = float(w.detach().square().sum())
        assert abs(found / target - 1) < eta * kappa


@pytest.mark.claim("decay-kinds", tol=1e-12, trials=50)
def test_both_decays_as_their_authors_write_them(claim):
    """On Lion; `tests/unit/test_optim_decay.py` has every class."""
    w, m = normal(6), torch.zeros(6, dtype=torch.float64)
    p = w.clone().requires_grad_()
    rule = Lion([p], 0.1, weight_decay=0.5, decay="cautious+corrected")
    for k in range(claim.trials):
        eta = 0.1 * (1 - k / claim.trials)
        rule.param_groups[0]["lr"] = eta
        p.grad = g = normal(6)
        z = (0.9 * m + 0.1 * g).sign()
        m = 0.99 * m + 0.01 * g
        w = w - eta * z - eta**2 * 0.5 / 0.1 * w * (z * w >= 0)
        rule.step()
        assert (p.detach() - w).abs().max() < claim.tol


@pytest.mark.claim("lion-memory-is-stale", trials=3)
def test_lion_ends_behind_signum_in_the_race(claim):
    table = json.loads(RACE.read_text(encoding="utf-8"))["table"]
    lion, signum = (
        {where: table[where][name]["mean"] for where in ("digits", "text", "mnist")}
        for name in ("Lion", "Signum")
    )
    assert round(lion["text"], 2) == 2.64
    assert round(signum["text"], 2) == 2.51
    assert round(lion["digits"], 3) == 0.312
    assert round(signum["digits"], 3) == 0.266
    assert round(lion["mnist"], 3) == 0.094
    assert round(signum["mnist"], 3) == 0.098
    assert len(lion) == claim.trials


@pytest.mark.claim("lion-memory-is-stale", tol=0.02, trials=5)
@pytest.mark.parametrize(("where", "loss"), [("digits", 0.268), ("text", 2.42)])
def test_lion_with_a_shorter_memory_catches_up(claim, lion_memory, where, loss):
    runs = json.loads(lion_memory.STORE.read_text(encoding="utf-8"))["runs"]
    losses = [runs[lion_memory.key(where, seed)] for seed in lion_memory.SEEDS]
    assert len(losses) == claim.trials
    assert mean(losses) < loss * (1 + claim.tol) + 0.01


def test_a_run_of_it_can_be_repeated(lion_memory):
    """Rounding elsewhere acts like another seed: 10 %."""
    stored = json.loads(lion_memory.STORE.read_text(encoding="utf-8"))["runs"]
    run = ("digits", lion_memory.SEEDS[0])
    assert lion_memory.loss(*run) == pytest.approx(stored[lion_memory.key(*run)], 0.1)
