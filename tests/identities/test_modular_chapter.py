"""What the chapter on the modular norm states: shares, joins, runs and verdicts."""

import itertools
import math
import statistics
import sys

import pytest
import torch
from torch import nn

from anthology import norms
from anthology.optim import SteepestDescent
from tools import address

sys.path.append(str(address.ROOT / "experiments"))

import masses
import transfer

RULER = norms.RMSToRMS()
RUNS = transfer.stored()
RULES = tuple(transfer.POWERS)


def rotations(depth):
    """Weights of norm one, each a leaf that wants a gradient."""
    torch.manual_seed(depth)
    found = [torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]] * depth
    return [W.clone().requires_grad_() for W in found]


def output(weights):
    x = torch.ones(6, dtype=torch.float64)
    for W in weights:
        x = W @ x
    return x


def rms(x):
    return x.square().mean().sqrt()


@pytest.mark.claim("modular-own-rulers-in-depth", tol=1e-12, trials=12)
def test_a_chain_that_pulls_one_way_compounds(claim):
    eta = 0.1
    for depth in range(1, claim.trials + 1):
        weights = rotations(depth)
        before = output(weights)
        grads = torch.autograd.grad(before.square().sum(), weights)
        for share, wanted in (
            (1, (1 + eta) ** depth - 1),
            (1 / depth, (1 + eta / depth) ** depth - 1),
        ):
            moved = [
                W + eta * share * RULER.dualize(G)
                for W, G in zip(weights, grads, strict=True)
            ]
            assert abs(rms(output(moved) - before) - wanted) < claim.tol * depth


@pytest.mark.claim("modular-masses-free", tol=1e-12, trials=30)
def test_masses_like_gains_make_all_steps_equally_long(claim):
    torch.manual_seed(0)
    for _ in range(claim.trials):
        slopes = (0.3 + 2 * torch.rand(5)).tolist()
        gains = [math.prod(slopes[i + 1 :]) for i in range(5)]
        parts = [
            norms.atom(f"{i}", torch.zeros(2, 2), RULER, mass=m, sensitivity=s)
            for i, (m, s) in enumerate(zip(gains, slopes, strict=True))
        ]
        for s in norms.compose(*parts).scales.values():
            assert abs(s / sum(gains) - 1) < claim.tol


@pytest.mark.claim("modular-plain-shortcuts")
def test_plain_shortcuts_multiply_and_shared_ones_do_not():
    def block():
        return nn.TransformerEncoderLayer(
            32, 2, 128, activation="gelu", norm_first=True, batch_first=True
        )

    def stretch(net):
        return norms.modular_norm(net).sensitivity

    one, twelve = (
        stretch(nn.Sequential(*(block() for _ in range(n)))) for n in (1, 12)
    )
    assert twelve > 1e15
    assert abs(twelve / one**12 - 1) < 1e-9
    shared = [stretch(transfer.blocks(32, n)) for n in (1, 2, 6, 30)]
    assert [round(shared[i], 1) for i in (0, 2)] == [6.2, 11.6]
    assert shared == sorted(shared)
    assert shared[-1] < 2 * math.exp((8 + 0.128905) / 4) < 15.3


@pytest.mark.claim("modular-norm-well-normed", tol=1e-12, trials=20)
def test_joins_side_by_side_are_well_normed(claim):
    """The part of the theorem that no chain shows: sums of outputs."""
    torch.manual_seed(1)
    for _ in range(claim.trials):
        p, q, r = (w / RULER.norm(w) for w in torch.randn(3, 6, 6).double())
        parts = [
            norms.atom(n, w, RULER, mass=m)
            for n, w, m in (("p", p, 1), ("q", q, 4), ("r", r, 2))
        ]
        tree = norms.compose(norms.concat(*parts[:2]), norms.bond(0.5), parts[2])

        def call(p, q, r, x):
            return r @ (0.5 * (p @ x + q @ x))

        x = torch.randn(6, dtype=torch.float64)
        x, dx = x / rms(x), torch.randn(6, dtype=torch.float64)
        steps = tuple(torch.randn(3, 6, 6, dtype=torch.float64))
        still = torch.zeros(6, dtype=torch.float64)
        moved = torch.func.jvp(call, (p, q, r, x), (*steps, still))[1]
        assert rms(moved) <= tree.norm(list(steps)) + claim.tol
        held = tuple(torch.zeros_like(p) for _ in range(3))
        passed = torch.func.jvp(call, (p, q, r, x), (*held, dx))[1]
        assert rms(passed) <= tree.sensitivity * rms(dx) + claim.tol


def two_layers():
    torch.manual_seed(2)
    grads = [torch.randn(4, 3).double(), torch.randn(2, 5).double()]
    h = torch.stack([RULER.dual(G) for G in grads])
    return grads, h, [RULER.dualize(G) for G in grads]


@pytest.mark.claim("modular-norm-three-choices", tol=1e-12)
def test_the_package_steps_as_the_table_of_three_choices_says(claim):
    grads, h, units = two_layers()
    lengths = {
        ("max", "dualize"): torch.ones_like(h),
        ("max", "steepest"): h.sum().expand(2),
        ("l2", "dualize"): h / h.norm(),
        ("l2", "steepest"): h,
    }
    for (across, step), factors in lengths.items():
        params = [nn.Parameter(torch.zeros_like(G)) for G in grads]
        for p, G in zip(params, grads, strict=True):
            p.grad = G.clone()
        SteepestDescent(params, 0.3, step=step, across=across).step()
        for p, c, t in zip(params, factors, units, strict=True):
            assert (p + 0.3 * c * t).abs().max() < claim.tol


@pytest.mark.claim("modular-norm-three-choices", tol=1e-12, trials=200)
def test_duals_of_three_joins_are_attained_and_not_exceeded(claim):
    grads, h, units = two_layers()
    best = h.argmax()
    joins = [
        (math.inf, h.sum(), torch.ones(2)),
        (2, h.norm(), h / h.norm()),
        (1, h.max(), torch.eye(2)[best]),
    ]
    for order, dual, lengths in joins:
        attained = sum(
            c * (G * t).sum() for c, G, t in zip(lengths, grads, units, strict=True)
        )
        assert abs(attained - dual) < claim.tol * dual
        assert abs(torch.linalg.vector_norm(lengths, order) - 1) < 1e-6
        for _ in range(claim.trials):
            rival = [torch.randn_like(G) for G in grads]
            sizes = torch.stack([RULER.norm(t) for t in rival])
            price = sum((G * t).sum() for G, t in zip(grads, rival, strict=True))
            assert price <= dual * torch.linalg.vector_norm(sizes, order) + claim.tol


def came(where, rule):
    return transfer.transfer(RUNS, where, rule)


def test_every_run_of_the_transfer_is_stored():
    wanted = {
        transfer.key(where, size, rule, power, seed)
        for where, sizes in transfer.SIZES.items()
        for size in sizes
        for rule, powers in transfer.POWERS.items()
        for power in powers
        for seed in transfer.SEEDS
    }
    assert set(RUNS) == wanted
    assert len(wanted) == 1152


def test_twelve_of_thirteen_predictions_hold():
    kept = [transfer.holds(RUNS, p) for p in transfer.PREDICTIONS]
    assert (len(kept), sum(kept)) == (13, 12)


@pytest.mark.claim("transfer-over-widths")
def test_over_widths_own_rulers_keep_the_rate_and_adam_does_not():
    for where in ("digits-width", "text-width"):
        for rule in ("layers", "modular"):
            assert abs(came(where, rule).drift) <= 1
    assert came("digits-width", "Adam").drift == -2
    assert came("text-width", "Adam").drift == -1
    costly = came("digits-width", "modular")
    assert [round(x[0], 3) for x in (costly.tuned, costly.carried)] == [0.231, 0.485]


@pytest.mark.claim("transfer-over-depths")
def test_over_depths_shares_keep_the_rate_better_than_own_rulers():
    assert came("digits-depth", "layers").drift == -2
    modular = came("digits-depth", "modular")
    assert modular.drift == -1
    assert [round(x[0], 3) for x in (modular.tuned, modular.carried)] == [0.788, 1.416]
    lost = {rule: came("digits-depth", rule).carried[0] for rule in RULES}
    assert {rule: round(x, 2) for rule, x in lost.items() if rule != "modular"} == {
        "Adam": 1.97,
        "UVᵀ": 2.20,
        "layers": 2.31,
    }
    assert abs(lost["layers"] - math.log(10)) < 0.01, "as good as guessing"
    for rule in ("layers", "modular"):
        assert abs(came("text-depth", rule).drift) <= 1


@pytest.mark.claim("transfer-uv-over-widths")
def test_the_rate_of_uv_stays_though_it_was_to_double():
    assert came("digits-width", "UVᵀ").powers == (-4, -4, -4)

    def in_own_rulers(width):
        sizes = [transfer.CANVAS**2, width, width, 10]
        for d_in, d_out in itertools.pairwise(sizes):
            step = norms.Spectral().dualize(torch.randn(d_out, d_in).double())
            yield RULER.norm(step).item()

    narrow, wide = (list(in_own_rulers(w)) for w in (32, 288))
    ratios = [b / a for a, b in zip(narrow, wide, strict=True)]
    assert ratios == pytest.approx([1 / 3, 1, 3], rel=1e-9)


@pytest.mark.claim("modular-promise")
def test_the_verdict_on_stable_scalable_and_faster():
    told = []
    for where, sizes in transfer.SIZES.items():
        adam, modular = (came(where, rule) for rule in ("Adam", "modular"))

        def near(rule, tuned, where=where, size=sizes[-1]):
            means = [
                statistics.mean(transfer.losses(RUNS, where, size, rule, power))
                for power in transfer.POWERS[rule]
            ]
            return sum(x <= 1.1 * tuned for x in means)

        spread = max(adam.tuned[1], modular.tuned[1])
        lead = adam.tuned[0] - modular.tuned[0]
        wider = near("modular", modular.tuned[0]) > near("Adam", adam.tuned[0])
        kept = [abs(x.drift) <= 1 for x in (modular, adam)]
        told.append((wider, *kept, lead > spread, -lead > spread))
    assert [sum(column) for column in zip(*told, strict=True)] == [0, 4, 2, 2, 1]
    own = [abs(came(where, "layers").drift) <= 1 for where in transfer.SIZES]
    assert sum(own) == 3


@pytest.mark.claim("transfer-masses")
def test_masses_of_the_body_bring_the_loss_down():
    runs = masses.stored()
    assert len(runs) == 2 * 8 * 3
    assert all(masses.outcomes(runs).values())
    assert [round(masses.best(runs, 6)[i], 3) for i in (1, 2)] == [2.505, 0.035]
    modular, own = (came("text-depth", rule).tuned for rule in ("modular", "layers"))
    assert [round(x[0], 3) for x in (modular, own)] == [2.614, 2.473]


def test_one_stored_point_of_each_experiment_comes_again():
    for where, size, rule, power in [("digits-width", 32, "modular", -2)]:
        now = transfer.train(where, size, rule, power, 0)
        assert now == pytest.approx(
            RUNS[transfer.key(where, size, rule, power, 0)], 0.1
        )
    now = masses.train(1, 0, 0)
    assert now == pytest.approx(masses.stored()[masses.key(1, 0, 0)], 0.1)
