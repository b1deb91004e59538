"""What the stored runs say to the predictions on lengths and angles."""

import math
import runpy

import pytest

from tools import address

STUDY = runpy.run_path(str(address.ROOT / "experiments/symmetry.py"))
SEEDS, RUNS = STUDY["SEEDS"], STUDY["stored"]()
DESCENT, BALL, ADAM, SMALL = "SGD", "SGD, μ = 0.9", "AdamW", "SGD, small ε"


def runs(rule):
    return [RUNS[f"{rule}/{seed}"] for seed in SEEDS]


def angles(rule):
    told = math.acos(STUDY["cosine"](rule))
    return [run["angle"] / told for run in runs(rule)]


def laws(rule):
    return [run["step"] / STUDY["law"](rule, run) for run in runs(rule)]


@pytest.mark.claim("angles-in-the-wild", tol=0.02, trials=4)
def test_the_mean_angle_is_too_small(claim):
    assert len(SEEDS) == claim.trials
    assert all(0.85 < z < 0.88 for z in angles(DESCENT))
    assert all(0.93 < z < 1.02 for z in angles(BALL))
    assert min(angles(BALL)) < 1 - claim.tol
    assert all(0.94 < z < 0.951 for z in laws(DESCENT))
    assert all(abs(z - 1) < 0.003 for z in laws(BALL))
    assert all(abs(z - 1) < 0.001 for z in laws(SMALL))


@pytest.mark.claim("single-angles-in-the-wild", tol=0.33, trials=4)
def test_single_angles_do_not_settle(claim):
    for rule in (DESCENT, BALL, ADAM):
        for run in runs(rule):
            low, _, high = (q / run["angle"] for q in run["quantiles"])
            assert 0.2 < low < 1 - claim.tol
            assert 1 + claim.tol < high < 1.8


@pytest.mark.claim("adamw-angle-in-the-wild", tol=0.1, trials=4)
def test_adamw_turns_as_an_average_does(claim):
    assert all(abs(z - 1) < claim.tol for z in angles(ADAM))


@pytest.mark.claim("settling-in-the-wild", trials=4)
def test_the_length_takes_the_time_it_is_told(claim):
    for rule in (DESCENT, BALL, ADAM, SMALL):
        for run in runs(rule):
            took, told = STUDY["settling"](rule, run)
            assert max(took / told, told / took) < 1.5
            if rule == BALL:
                assert abs(took / told - 1) < 0.09
            elif rule != ADAM:
                assert abs(took / told - 1) < 0.03
