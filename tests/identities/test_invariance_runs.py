"""What the chapter on invariance says of experiments/invariance.py."""

import json
import sys
from statistics import median

import pytest
import torch
from torch.func import grad, jacrev

from anthology import lab
from tools import address

sys.path.append(str(address.ROOT / "experiments"))

import invariance

RUNS = json.loads((invariance.RESULTS / "invariance.json").read_text())["runs"]


def losses(case: str, p: float, rate: float) -> list[float]:
    keys = [invariance.key(case, p, rate, seed) for seed in invariance.SEEDS]
    return [RUNS[key]["loss"] or 1e9 for key in keys]


def best(case: str, p: float = 1.0) -> tuple[float, list[float]]:
    """The best rate and its losses."""
    rate = min(invariance.RATES, key=lambda lr: median(losses(case, p, lr)))
    return rate, losses(case, p, rate)


OUTER, NEWTON, KRONECKER = invariance.CURVATURES


@pytest.mark.claim("any-curvature", trials=5)
def test_each_curvature_trains_with_a_root_and_without(claim) -> None:
    for case in invariance.CURVATURES:
        for p in (1.0, 0.5):
            found = best(case, p)[1]
            assert len(found) == claim.trials and max(found) < 0.02


@pytest.mark.claim("better-curvature", trials=5)
def test_kronecker_ends_lower_and_the_diagonals_level(claim) -> None:
    (_, outer), (_, newton), (rate, kronecker) = map(best, invariance.CURVATURES)
    assert 10 * max(kronecker) < min(median(outer), median(newton))
    assert [round(median(x), 4) for x in (outer, newton)] == [0.0103, 0.0105]
    keys = [invariance.key(KRONECKER, 1.0, rate, s) for s in invariance.SEEDS]
    assert round(median(RUNS[key]["right"] for key in keys), 3) == 0.939


@pytest.mark.claim("kronecker-without-root", trials=5)
def test_with_a_root_kronecker_ends_lower(claim) -> None:
    (rate, plain), (rooted, under) = best(KRONECKER), best(KRONECKER, 0.5)
    assert rooted == 16 * rate
    assert max(under) < min(plain)
    assert 0.4 < median(under) / median(plain) < 0.5
    for case in (OUTER, NEWTON):
        ratio = median(best(case, 0.5)[1]) / median(best(case)[1])
        assert 0.5 < ratio < 2


@pytest.mark.claim("zero-start-loses", trials=5)
def test_from_zero_both_end_lower(claim) -> None:
    for case in (OUTER, NEWTON):
        zero = best(f"{case}, from zero")[1]
        assert max(zero) < min(best(case)[1])
        assert 2 * median(zero) < median(best(case)[1])
    bare = f"{OUTER}, from zero, bare"
    assert 2 * median(best(bare)[1]) < median(best(OUTER)[1])
    for lr in invariance.RATES[-3:]:
        assert median(losses(bare, 1.0, lr)) > 10 * median(losses(OUTER, 1.0, lr))
    rate = best(f"{NEWTON}, from zero, bare")[0]
    assert 4 * rate == best(NEWTON)[0]


def test_the_networks_gradient_and_curvature_are_those_of_autograd() -> None:
    data = lab.digits()
    w = [x.double() for x in invariance.start(0)]
    x, y = data.x[:6].double(), data.y[:6]

    def scores(*w):
        return invariance.forward(list(w), x)[1]

    grads = grad(lambda *w: lab.cross_entropy(scores(*w), y), (0, 1))(*w)
    jacobians = jacrev(scores, (0, 1))(*w)
    p = torch.softmax(scores(*w), 1)
    h = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    mine = invariance.gradient(w, x, y)
    newton = invariance.curvature(NEWTON, w, x, mine)
    factors = invariance.curvature(KRONECKER, w, x, mine)
    for g, own, j, (c,), (left, right) in zip(
        grads, mine, jacobians, newton, factors, strict=True
    ):
        assert (g - own).abs().max() < 1e-12
        exact = torch.einsum("nkij,nkl,nlij->ij", j, h, j) / 6
        assert (exact - c).abs().max() < 1e-12
        assert (len(left), len(right)) == g.shape
