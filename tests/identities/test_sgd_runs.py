"""What the chapter on SGD says of stored runs: the race, and rates by batch size."""

import sys
from pathlib import Path
from statistics import mean

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import race
import sgd as study
from race_declaration import SIGMA
from race_statistics import ties

RUNS = study.Study()


def test_the_stored_study_is_whole():
    for budget, sizes in study.SIZES.items():
        for rule in study.RULES:
            for size in sizes:
                at, tried = (budget, rule, size), RUNS.tried(budget, rule, size)
                best = min(tried, key=lambda p, at=at: RUNS.loss(*at, p))
                assert {best + k for k in range(-2, 3)} <= set(tried)
    assert RUNS.store.content["provenance"]["seeds"] == list(study.SEEDS)


@pytest.mark.claim("scaling-of-rates", tol=0.005, trials=3)
@pytest.mark.parametrize(
    ("rule", "steps", "samples"),
    [("SGD", 0.63, 0.54), ("normalised SGD", 0.81, 0.23), ("Adam", 0.43, 0.42)],
)
def test_the_exponents_of_whole_runs(claim, rule, steps, samples):
    assert len(study.SEEDS) == claim.trials
    for budget, said in (("steps", steps), ("samples", samples)):
        slope = RUNS.slope(budget, rule, *study.SPANS[budget])
        assert abs(slope - said) <= claim.tol
        low, high = (0.8, 1.2) if rule == "SGD" else (0.35, 0.65)
        assert (low <= slope <= high) == (rule == "Adam")


def test_one_image_a_step_learns_nothing():
    for rule in ("SGD", "normalised SGD"):
        tried = RUNS.tried("steps", rule, 1)
        assert min(RUNS.loss("steps", rule, 1, p) for p in tried) > 2.3  # ln 10


@pytest.mark.claim("sgd-without-momentum", trials=5)
def test_momentum_in_the_race(claim):
    said = {
        "digits": (5, [0.36, 0.61], False),
        "text": (20, [2.83, 2.83], True),
        "mnist": (10, [0.13, 0.17], True),
    }
    for where, (times, means, tie) in said.items():
        told = race.slice(["SGD", "SGD-0"], where)
        assert round(told["SGD-0"]["rate"] / told["SGD"]["rate"]) == times
        losses = [r["losses"] for r in told.values()]
        assert all(len(found) == claim.trials for found in losses)
        assert [round(mean(found), 2) for found in losses] == means
        assert ties(*losses, SIGMA[where]) == tie


@pytest.mark.claim("sgd-parity", tol=1e-5, trials=15)
def test_torch_and_ours_end_alike_in_the_race(claim):
    pairs = []
    for where in ("digits", "text", "mnist"):
        told = race.slice(["SGD", "torch.SGD"], where)
        pairs += zip(told["SGD"]["losses"], told["torch.SGD"]["losses"], strict=True)
    assert len(pairs) == claim.trials
    assert all(abs(a - b) < claim.tol for a, b in pairs)
