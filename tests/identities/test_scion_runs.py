"""What the chapter on Scion says of stored runs."""

import sys
from statistics import mean

import pytest
import torch

from tools import address

sys.path.append(str(address.ROOT / "experiments"))
import scion as study
import scion_smoothness as smooth
from race_declaration import SIGMA
from race_statistics import beats, ties


@pytest.fixture(scope="module")
def losses():
    found = study.best(study.stored())
    return {case: [row["loss"] for row in rows] for case, (_, rows) in found.items()}


@pytest.fixture(scope="module")
def filled():
    """The largest share of its ball that a matrix fills at the end of any run."""
    found = study.best(study.stored())
    return {
        case: [[x / case[0] for x in row["sizes"]] for row in rows]
        for case, (_, rows) in found.items()
        if case[0]
    }


def level(a, b):
    return ties(a, b, SIGMA[study.WHERE])


def ahead(a, b):
    return beats(a, b, SIGMA[study.WHERE])


def test_the_stored_study_is_whole(losses):
    assert set(losses) == set(study.CASES)
    assert all(len(row) == len(study.SEEDS) for row in losses.values())


def test_what_came_of_the_predictions(losses, filled):
    """In the order of the declaration; the last two do not hold."""
    plain = {r: losses[r, 0.9, "plain"] for r in study.RADII}
    bare = {r: losses[r, 0.0, "plain"] for r in study.RADII}
    edge = {r: losses[r, 0.9, "edge"] for r in study.RADII[:3]}
    free = {r: losses[r, 0.9, "free head"] for r in study.RADII[:3]}
    assert level(plain[30.0], plain[100.0]) and level(plain[30.0], plain[None])
    assert mean(plain[1.0]) > 1 and ahead(plain[30.0], plain[3.0])
    assert mean(bare[None]) < 0.3 and mean(bare[30.0]) > 0.4
    assert min(min(row) for row in filled[3.0, 0.9, "plain"]) > 0.9
    assert max(max(row) for row in filled[100.0, 0.9, "plain"]) < 0.3
    assert level(edge[1.0], plain[1.0]) and level(edge[3.0], plain[3.0])
    assert ahead(plain[10.0], edge[10.0])
    assert ahead(plain[30.0], free[3.0])


@pytest.mark.claim("scion-inside-the-ball", trials=3)
def test_an_edge_that_is_not_touched(losses, filled):
    inside = filled[10.0, 0.9, "plain"]
    assert max(max(row) for row in inside) < 0.7
    assert ahead(losses[30.0, 0.9, "plain"], losses[10.0, 0.9, "plain"])


@pytest.mark.claim("scion-momentum-and-ball", trials=3)
def test_momentum_protects_the_weight_from_the_ball(losses):
    assert ahead(losses[30.0, 0.9, "plain"], losses[30.0, 0.0, "plain"])
    assert level(losses[30.0, 0.9, "plain"], losses[None, 0.0, "plain"])


@pytest.mark.claim("scion-head-needs-room", trials=3)
def test_it_is_the_head_that_a_small_ball_holds_back(losses):
    assert min(losses[1.0, 0.9, "plain"]) > 2.2
    halved = mean(losses[3.0, 0.9, "free head"]) / mean(losses[3.0, 0.9, "plain"])
    assert halved < 0.5
    assert level(losses[10.0, 0.9, "free head"], losses[30.0, 0.9, "plain"])


@pytest.mark.claim("scion-edge-start", trials=3)
def test_a_start_on_the_edge(losses):
    for radius in (1.0, 3.0):
        assert level(losses[radius, 0.9, "edge"], losses[radius, 0.9, "plain"])
    assert ahead(losses[10.0, 0.9, "plain"], losses[10.0, 0.9, "edge"])


@pytest.mark.claim("gluon-line", trials=18)
def test_how_much_a_line_explains(claim):
    runs, explained = smooth.stored(), {}
    for rate in smooth.RATES:
        rows = [row for seed in smooth.SEEDS for row in runs[f"{rate}/{seed}"]]
        explained[rate] = [
            float(torch.corrcoef(torch.tensor(row).T)[0, 1] ** 2) for row in rows
        ]
    assert sum(map(len, explained.values())) == claim.trials
    low, high = explained.values()
    assert max(low) < 0.34
    assert min(high) > 0.59 and max(high) < 0.9
