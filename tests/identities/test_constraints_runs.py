"""What the chapter on constraints says of stored runs, and of what was expected."""

import sys
from statistics import mean

import pytest

from tools import address

sys.path.append(str(address.ROOT / "experiments"))
import constraints as study
from race_declaration import SEEDS, SIGMA
from race_statistics import beats, ties

RUNS = study.stored()


def losses(where, kind):
    return [row["loss"] for row in RUNS[f"{where}/{kind}/seeds"]]


def compared(where, rule, a, b):
    return rule(losses(where, a), losses(where, b), SIGMA[where])


def test_every_contestant_had_the_same_budget():
    for where in study.STEPS:
        for kind in study.contestants(where):
            assert len(RUNS[f"{where}/{kind}/search"]) == len(study.RATES)
            assert len(losses(where, kind)) == len(SEEDS)
            assert study.best(RUNS, where, kind) not in study.RATES[:: len(study.RATES)]


@pytest.mark.claim("constraints-train-better", trials=5)
def test_no_surface_trains_better(claim):
    assert len(SEEDS) == claim.trials
    for kind in study.contestants("text"):
        assert compared("text", ties, kind, "plain") or kind == "plain"
    said = {"plain": 0.18, "decay": 0.24, "hyperball": 1.73, "hyperball-2": 0.89}
    said |= {"hyperball-8": 0.20, "sphere": 1.09}
    for kind, loss in said.items():
        assert round(mean(losses("digits", kind)), 2) == loss
        assert not compared("digits", beats, kind, "plain")


@pytest.mark.claim("constraints-radius", trials=5)
def test_on_digits_the_radius_decides(claim):
    assert len(losses("digits", "hyperball")) == claim.trials
    assert compared("digits", beats, "hyperball-2", "hyperball")
    assert compared("digits", beats, "hyperball-8", "hyperball-2")
    assert compared("digits", ties, "hyperball-8", "plain")
    assert compared("digits", beats, "decay", "hyperball-2")
    assert compared("text", ties, "hyperball-2", "hyperball")
    sizes = [row["size"] for row in RUNS["digits/plain/seeds"]]
    assert 9 < mean(sizes) < 10


@pytest.mark.claim("constraints-same-as-hyperball", trials=5)
def test_the_exact_step_does_not_tie_with_bringing_back(claim):
    assert compared("text", ties, "sphere", "hyperball")
    assert compared("digits", beats, "sphere", "hyperball")
    even = {
        kind: mean(row["even"] for row in RUNS[f"digits/{kind}/seeds"])
        for kind in ("sphere", "hyperball")
    }
    assert len(losses("digits", "sphere")) == claim.trials
    assert round(even["sphere"], 2) == 0.30
    assert round(even["hyperball"], 2) == 0.88


def test_the_other_predictions():
    assert compared("text", ties, "stiefel", "sphere")  # said to be behind
    for where, lost in (("digits", (0.13, 0.07)), ("text", (0.12, 0.04))):
        for kind, said in zip(("plain", "hyperball"), lost, strict=True):
            found = [row["loss"] for row in RUNS[f"{where}/{kind}/search"]]
            k = found.index(min(found))
            assert abs(found[k + 2] - found[k] - said) < 0.006
