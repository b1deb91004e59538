"""The claims that the chapter on Newton–Schulz adds to those of the package."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from anthology.linalg import (
    coefficients,
    minimax_quintic,
    newton_schulz,
    polar,
    polar_express_coefficients,
)
from anthology.linalg.published import CANS, MUON
from tests.norm_catalogue import draw, orthogonal

ROOT = Path(__file__).resolve().parents[2]


def apply(polynomials, x: Tensor) -> Tensor:
    for a, b, c in polynomials:
        x = x * (a + x * x * (b + x * x * c))
    return x


def grid(low: float, high: float = 1.0, count: int = 4001) -> Tensor:
    return torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float64)


@pytest.mark.claim("best-quintic", tol=1e-6)
def test_a_linear_program_finds_the_same_quintic(claim) -> None:
    """Least E with |1 − h| ≤ E at 400 points, without a word of alternation."""
    for low, high in ((0.05, 1.0), (0.2, 1.7), (0.5, 1.2)):
        x = np.linspace(low, high, 400)
        powers = np.stack([x, x**3, x**5], 1)
        ones = np.ones((len(x), 1))
        found = linprog(
            [0, 0, 0, 1],
            np.block([[powers, -ones], [-powers, -ones]]),
            np.concatenate([np.ones(len(x)), -np.ones(len(x))]),
            bounds=[(None, None)] * 3 + [(0, None)],
        )
        h = minimax_quintic(low, high)
        error = (1 - apply([h], torch.from_numpy(x))).abs().max().item()
        assert found.fun <= error + claim.tol
        assert error <= found.fun * (1 + 1e-3), "400 points see a little less"


@pytest.mark.claim("polar-express-optimal", tol=1e-9, trials=5)
def test_no_search_over_two_quintics_finds_a_better_pair(claim) -> None:
    points = grid(0.01, count=600)
    best = polar_express_coefficients(2, 0.01, safety=1.0, cushion=0.0)

    def worst(flat) -> float:
        pair = np.asarray(flat).reshape(2, 3).tolist()
        return (1 - apply(pair, points)).abs().max().item()

    least = worst(np.ravel(best))
    rng = np.random.default_rng(0)
    for trial in range(claim.trials):
        start = np.ravel(best) * (1 + 10.0**-trial * rng.standard_normal(6))
        found = minimize(worst, start, method="Nelder-Mead", options={"maxiter": 800})
        assert found.fun >= least - 1e-4, "600 points see a little less"
    low = torch.tensor(0.01, dtype=torch.float64)
    assert abs(1 - apply(best, low) - least) < claim.tol


@pytest.mark.claim("polar-express-optimal", tol=1e-9, trials=60)
def test_only_the_ratio_matters_and_a_better_one_stays_better(claim) -> None:
    """R(ρ) does not fall, and no quintic that is positive leaves a better ratio."""
    generator = torch.Generator().manual_seed(0)
    last = 0.0
    for ratio in (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9):
        leaves = []
        for high in (1.0, 0.3, 1.9):
            image = apply([minimax_quintic(ratio * high, high)], grid(ratio) * high)
            leaves.append((image.min() / image.max()).item())
        assert max(leaves) - min(leaves) < claim.tol * 10
        assert leaves[0] > last
        last = leaves[0]
        for _ in range(claim.trials):
            h = torch.randn(3, generator=generator, dtype=torch.float64)
            image = apply([(h * torch.tensor([1.0, 2.0, 1.0])).tolist()], grid(ratio))
            if image.min() > 0:
                assert image.min() / image.max() <= leaves[0] + claim.tol


@pytest.mark.claim("cans-is-polar-express", tol=5.1e-5)
def test_two_papers_have_one_list(claim) -> None:
    built = polar_express_coefficients(5, 1e-3, safety=1.0, cushion=0.0)
    for one, other in zip(built, CANS, strict=True):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < claim.tol


@pytest.mark.claim("muon-triple", tol=1e-4)
def test_where_the_triple_of_muon_comes_from(claim) -> None:
    below, above = 1e-3, 1.0
    for _ in range(60):
        low = math.sqrt(below * above)
        h = minimax_quintic(low, 1.3)
        worse = 1 - apply([h], torch.tensor(low, dtype=torch.float64)) > 0.3
        below, above = (low, above) if worse else (below, low)
    assert h == pytest.approx((3.6356, -4.7916, 1.9125), abs=claim.tol)
    band = apply([h], torch.linspace(low, 1.3, 2001, dtype=torch.float64))
    assert 0.7 - 1e-6 < band.min() and band.max() < 1.3 + 1e-6
    assert 0.945 < MUON[0] / h[0] < 0.95


@pytest.mark.claim("muon-reach", tol=2e-3)
def test_the_reach_of_muons_quintic(claim) -> None:
    for count, reach in ((3, 0.0178), (4, 0.0052), (5, 0.0015), (6, 0.00044)):
        image = apply((MUON,) * count, grid(reach, count=20001))
        assert image.min() == pytest.approx(0.68, abs=2 * claim.tol)
        assert apply((MUON,) * count, grid(0.9 * reach)).min() < 0.67


@pytest.mark.claim("odd-step-descends", tol=1e-12, trials=30)
def test_a_positive_polynomial_descends_and_a_negative_one_climbs(claim) -> None:
    generator = torch.Generator().manual_seed(1)
    for seed in range(claim.trials):
        G = draw((5, 8), seed)
        s = torch.linalg.svdvals(G)
        h = torch.randn(3, generator=generator, dtype=torch.float64).tolist()
        X = newton_schulz(G, (tuple(h),))
        image = apply([h], s / s.norm())
        gain = (G * X).sum()
        assert abs(gain - (s * image).sum()) < claim.tol * s.sum()
        if image.min() >= 0:
            assert gain >= 0
            share = gain / (s.sum() * torch.linalg.matrix_norm(X, 2))
            assert abs(share - (s * image).sum() / (image.max() * s.sum())) < claim.tol
        one = draw((5, 1), seed) @ draw((1, 8), seed + 1)
        climbs = (one * newton_schulz(one, ((0.5, -1.0, 0.2),))).sum()
        assert abs(climbs / one.norm() + 0.3) < claim.tol


@pytest.mark.claim("louder-noise")
def test_a_better_polynomial_makes_rounding_noise_louder(claim) -> None:
    for seed in range(10):
        G = (draw((64, 1), seed) @ draw((1, 64), seed + 100)).bfloat16().double()
        loudest = [
            (torch.linalg.svdvals(polar(G, method))[:2].flip(0)).tolist()
            for method in ("muon", "polar-express", "svd")
        ]
        few, many, exact = (noise / signal for noise, signal in loudest)
        assert 0.3 < few < 0.95 and few < many
        assert 0.85 < many < 1.02
        assert exact == pytest.approx(1, abs=1e-9)
    G = orthogonal(64)[:, :1] @ orthogonal(64, 1)[:1]
    assert torch.linalg.svdvals(polar(G, "polar-express"))[1] < 1e-12, "not rounded"


@pytest.mark.claim("better-polar-factor")
def test_what_the_stored_runs_say() -> None:
    sys.path.append(str(ROOT / "experiments"))
    import polar_methods as study

    stored = json.loads(study.PATH.read_text())
    lost = {way: study.losses(study.finals(stored, way)) for way in study.WAYS}
    assert all(len(values) == 5 for values in lost.values())
    full = ("Muon's, five", "Polar Express, six", "exact")
    for one in full:
        for other in full:
            if one != other:
                assert not study.told_apart(lost[one], lost[other])
    for way in ("none", "Muon's, one"):
        assert study.told_apart(lost[way], lost["exact"])
    for way in study.WAYS:
        inside = study.tried(stored, way)[1:-1]
        assert study.best(stored, way) in inside
    assert coefficients("muon", 5) == (MUON,) * 5
