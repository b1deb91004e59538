"""The statements of the chapter shelf/edge-pruning, and what it says of stored runs."""

import math
import sys
from statistics import NormalDist

import pytest
import torch

from anthology import motion, optim
from tools import address

sys.path.append(str(address.ROOT / "experiments"))
import edge_pruning as study

LOGITS = [-4.0, -1.6, -0.3, 0.0, 1.0, 2.5, 5.0]


@pytest.fixture(scope="module")
def runs():
    return study.stored()


def double(x):
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.claim("edge-hard-concrete", tol=2e-6, trials=7)
def test_how_often_a_mask_is_open_and_one(claim):
    """Lots on a fine grid: each share is right to one lot at either end."""
    assert len(LOGITS) == claim.trials
    grid = (torch.arange(1_000_000).double() + 0.5) / 1_000_000
    shift = study.HEAT * math.log((1 - study.LOW) / (study.HIGH - 1))
    for a in map(double, LOGITS):
        z = study.hard_concrete(a, grid)
        assert abs((z > 0).double().mean() - study.keep_chance(a)) < claim.tol
        assert abs((z == 1).double().mean() - torch.sigmoid(a - shift)) < claim.tol


@pytest.mark.claim("edge-hard-concrete", trials=400_000)
def test_sampled_masks_are_open_as_often_as_said(claim):
    lot = torch.Generator().manual_seed(3)
    wide = -NormalDist().inv_cdf(1e-9)
    for a in map(double, LOGITS):
        u = torch.rand(claim.trials, generator=lot, dtype=torch.float64)
        p = study.keep_chance(a)
        error = (study.hard_concrete(a, u) > 0).double().mean() - p
        assert abs(error) < wide * (p * (1 - p) / claim.trials).sqrt()


@pytest.mark.claim("edge-hard-concrete", tol=1e-5, trials=7)
def test_slopes_of_the_count_and_of_a_sampled_function(claim):
    grid = (torch.arange(200_000).double() + 0.5) / 200_000
    for value in LOGITS:
        a = double(value).requires_grad_()
        (slope,) = torch.autograd.grad(study.keep_chance(a), a)
        p = study.keep_chance(a.detach())
        assert abs(slope - p * (1 - p)) < 1e-15
        for f in (torch.sin, torch.exp, torch.square):
            (sampled,) = torch.autograd.grad(f(study.hard_concrete(a, grid)).mean(), a)
            up, down = (
                f(study.hard_concrete(a.detach() + s, grid)).mean()
                for s in (1e-3, -1e-3)
            )
            assert abs(sampled - (up - down) / 2e-3) < claim.tol


def game(w, c):
    """Velocity of gap and both multipliers."""
    d, one, two = w
    return torch.stack([c - one - 2 * two * d, d, d * d])


@pytest.mark.claim("edge-brake", tol=1e-8, trials=3)
def test_the_brake_stores_the_energy(claim):
    lot = torch.Generator().manual_seed(1)
    for _ in range(claim.trials):
        start = torch.randn(3, generator=lot, dtype=torch.float64)
        start[2].abs_()
        c = float(torch.randn(1, generator=lot))

        def energy(w, c=c):
            return w[0] ** 2 / 2 + (w[1] - c) ** 2 / 2 + w[2] ** 2

        for time in (0.3, 4.0):
            w = motion.flow(lambda w, c=c: game(w, c), start, time)
            assert abs(energy(w) - energy(start)) < claim.tol * (1 + energy(start))
        w = motion.flow(lambda w, c=c: game(w, c), start, 60.0)
        assert w[:2].sub(double([0.0, c])).abs().max() < 1e-3
        assert abs(w[2] - energy(start).sqrt()) < 1e-6


@pytest.mark.claim("edge-brake", tol=1e-12, trials=6)
def test_the_window_of_steps(claim):
    etas = (0.01, 0.1, 0.3, 1.0, 1.9, 1.99)
    assert len(etas) == claim.trials
    for eta in etas:
        low, high = eta / 2, 1 / eta + eta / 4
        for two in torch.linspace(0.0, 1.5 * high, 301).tolist():
            matrix = double([[1 - 2 * eta * two, -eta], [eta, 1.0]])
            radius = torch.linalg.eigvals(matrix).abs().max()
            if min(abs(two - low), abs(two - high)) > 1e-9:
                assert bool(radius < 1) == (low < two < high)
        for two in (low, high):
            matrix = double([[1 - 2 * eta * two, -eta], [eta, 1.0]])
            assert abs(torch.linalg.eigvals(matrix).abs().max() - 1) < 1e3 * claim.tol
    for eta in (2.0, 3.0):  # no window
        assert eta / 2 >= 1 / eta + eta / 4


@pytest.mark.claim("edge-brake", tol=1e-12, trials=5)
def test_a_step_accelerates_by_half_its_size(claim):
    lot = torch.Generator().manual_seed(2)
    for _ in range(claim.trials):
        x = torch.randn(2, generator=lot, dtype=torch.float64)
        terms = motion.motion_terms(lambda v: torch.stack([-v[1], v[0]]), x, 2)
        assert (terms[1] - x / 2).abs().max() < claim.tol


def test_an_edge_that_passes_all_changes_nothing_and_names_are_in_order(runs):
    net = study.unpacked(runs["network/0"]["weights"])
    case = study.Case(net, 8, torch.Generator().manual_seed(0))
    assert len(study.EDGES) == 42
    ones = torch.ones(42)
    assert torch.allclose(net.pruned(case.x, ones, case.other), net(case.x), atol=1e-4)
    nothing = net.pruned(case.x, torch.zeros(42), case.other)
    assert torch.allclose(nothing, case.other.sum(0) @ net.out, atol=1e-4)
    # an edge by its name: without it the reader sees the other sequence there
    edge = study.EDGES.index("2a > output")
    one = net.pruned(case.x, ones.index_fill(0, torch.tensor([edge]), 0.0), case.other)
    change = case.other[4] - net.sources(case.x)[4]
    assert torch.allclose(one, net(case.x) + change @ net.out, atol=1e-4)


def test_our_multipliers_and_masks_step_as_torchs(runs):
    net = study.unpacked(runs["network/0"]["weights"])
    ours, theirs = (
        study.prune(net, steps=8, rule=rule)
        for rule in (optim.AdamW, torch.optim.AdamW)
    )
    assert (ours["a"] - theirs["a"]).abs().max() < 1e-3
    assert (ours["price"] - theirs["price"]).abs().max() < 1e-3


@pytest.mark.parametrize("seed", study.SEEDS)
def test_stored_circuits_are_worth_what_was_stored(runs, seed):
    run = runs[f"network/{seed}"]
    net = study.unpacked(run["weights"])
    case = study.trial_case(net)
    assert run["accuracy"] > 0.999
    assert set(study.textbook(net, case)) == set(run["textbook"]["edges"])
    for told in (run["textbook"], runs[f"eleven/{seed}/0"]["found"]):
        again = study.judged(case, study.mask_of(told["edges"]))
        assert abs(again["loss"] - told["loss"]) < 1e-2
        assert abs(again["accuracy"] - told["accuracy"]) < 1e-2
    cost = study.EDGES.index("1a > output")
    z = torch.ones(42).index_fill(0, torch.tensor([cost]), 0.0)
    assert abs(case.loss(z) - run["alone"][cost]) < 1e-2


def found(runs, seed, lot):
    return set(runs[f"eleven/{seed}/{lot}"]["found"]["edges"])


@pytest.mark.claim("edge-circuit", trials=9)
def test_what_was_found(runs, claim):
    cases = [(seed, lot) for seed in study.SEEDS for lot in study.LOTS]
    assert len(cases) == claim.trials
    hits = []
    for seed, lot in cases:
        edges = found(runs, seed, lot)
        book = set(runs[f"network/{seed}"]["textbook"]["edges"])
        dear = set(runs[f"ablation/{seed}"]["edges"])
        assert len(edges) == study.KEPT and len(edges & dear) >= 9
        assert any(e[0] == "1" and e.endswith(".k") for e in edges & book)
        hits.append(len(edges & book))
    assert hits == [11, 10, 10, 8, 7, 9, 10, 11, 11]
    for seed, wins in ((0, True), (2, False)):
        best = runs[f"ablation/{seed}"]["accuracy"]
        for lot in study.LOTS:
            told = runs[f"eleven/{seed}/{lot}"]["found"]["accuracy"]
            assert (told > best) == wins


@pytest.mark.claim("edge-settles", trials=9)
def test_where_the_game_ended(runs, claim):
    ends = []
    for seed in study.SEEDS:
        for lot in study.LOTS:
            run = runs[f"eleven/{seed}/{lot}"]
            assert run["second never fell"]
            ends.append(abs(float(run["gap"].split()[-1])) * 42)
    assert len(ends) == claim.trials
    assert sum(x < 0.05 for x in ends) == 3 and max(ends) < 2.01
    for seed in study.SEEDS:
        lone, both = (runs[f"{kind}/{seed}/0"] for kind in ("one multiplier", "eleven"))
        low, high = (min(float(x.split()[0]) for x in r["price"]) for r in (lone, both))
        assert low < 2 * high < 0
        assert lone["swing"] > 1.6 * both["swing"]
    assert set(runs["seven/0/0"]["found"]["edges"]) <= set(
        runs["network/0"]["textbook"]["edges"]
    )
    assert runs["seven/0/0"]["found"]["accuracy"] < 0.1
    lazy = runs["gradient/0/0"]["a"][-1].split()
    assert min(map(float, lazy)) > 9.9
