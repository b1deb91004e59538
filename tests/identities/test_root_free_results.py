"""What the stored experiments of the chapter on root-free methods say.

The text of the chapter and the claims page repeat these figures.
"""

import importlib
import json
import math
import sys
from pathlib import Path
from statistics import median

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"


def runs(name: str) -> dict:
    return json.loads((RESULTS / name).read_text())["runs"]


@pytest.fixture(scope="module")
def race():
    """How far one contestant of the race is ahead of another, and the margin."""
    sys.path.insert(0, str(RESULTS.parent))
    rule, stored = map(importlib.import_module, ("race_statistics", "race_runs"))
    sigma = importlib.import_module("race_declaration").SIGMA

    def lead(where: str, a: str, b: str, seeds: int) -> float:
        told = stored.slice([a, b], where)
        first, second = told[a]["losses"], told[b]["losses"]
        assert len(first) == len(second) == seeds and None not in first + second
        return rule.lead(first, second, sigma[where])

    yield lead, rule.MARGIN
    sys.path.remove(str(RESULTS.parent))


def errors(name: str, measure: str = "test", problem: str = "long") -> list[float]:
    stored = runs("root_free.json")
    return [stored[f"{problem}/{name}/final/{s}"][measure] for s in range(5)]


def wins(a: str, b: str) -> int:
    """In how many of 25 pairs of runs a makes fewer errors than b; 23 differ."""
    return sum(x < y for x in errors(a) for y in errors(b))


@pytest.mark.claim("root-free-transformers", trials=5)
def test_race_on_the_transformer(claim, race):
    lead, margin = race
    assert abs(lead("text", "AdamW", "RootFreeRMSProp", claim.trials)) < margin
    assert lead("text", "AdamW", "RootFreeAdamW", claim.trials) >= margin
    for name in ("AdamW", "RootFreeRMSProp"):
        assert lead("text", name, "SGD", claim.trials) >= margin


@pytest.mark.claim("root-free-matrices", trials=5)
def test_race_of_matrices(claim, race):
    lead, margin = race
    assert lead("text", "RootFreeRMSProp", "SIRFShampoo", claim.trials) >= margin
    assert lead("text", "Shampoo", "KrADagrad", claim.trials) >= margin
    for where in ("digits", "mnist"):
        assert abs(lead(where, "Shampoo", "KrADagrad", claim.trials)) < margin


@pytest.mark.claim("root-free-convolutions", trials=5)
def test_race_on_convolutions(claim, race):
    lead, margin = race
    assert abs(lead("mnist", "AdamW", "SGD", claim.trials)) < margin
    for name in ("RootFreeAdamW", "RootFreeRMSProp"):
        assert abs(lead("mnist", name, "SGD", claim.trials)) < margin


@pytest.mark.claim("root-free-convolutions", trials=25)
def test_until_all_fit_sgd_makes_the_most_errors(claim):
    adaptive = ("RMSProp", "AdamW", "RootFreeRMSProp", "RootFreeAdamW")
    short = {name: median(errors(name, "train", "conv")) for name in adaptive}
    assert median(errors("SGD", "train", "conv")) > 6 * max(short.values())
    medians = {name: median(errors(name)) for name in adaptive}
    assert median(errors("SGD")) > max(medians.values())
    assert min(medians, key=medians.get) == "AdamW"
    for name in ("SGD", *adaptive):
        assert max(errors(name, "train")) < 0.01
    for name in ("SGD", "RMSProp", "RootFreeRMSProp"):
        assert wins("AdamW", name) == claim.trials
    assert 3 <= wins("AdamW", "RootFreeAdamW") <= 22
    assert wins("RootFreeAdamW", "SGD") == claim.trials
    for name in ("SGD", "RMSProp"):
        assert 3 <= wins("RootFreeRMSProp", name) <= 22


def stored_losses(start: int | str, factor: str, alpha: float, size: int) -> dict:
    """Three seeds' losses for each rate 2^k; inf where training broke down."""
    stored = runs("root_free_ablation.json")
    key = f"start {start}/factor {factor}/alpha {alpha}/batch {size}"
    losses = {}
    for k in range(-16, 4, 2):
        values = [stored[f"{key}/rate {2.0**k:g}/seed {s}"]["loss"] for s in range(3)]
        losses[k] = [math.inf if v is None else v for v in values]
    return losses


def ablation(start: int | str, factor: str, alpha: float, size: int) -> dict:
    """Median loss of three seeds for each rate 2^k."""
    stored = stored_losses(start, factor, alpha, size)
    return {k: median(values) for k, values in stored.items()}


@pytest.mark.claim("start-at-one", trials=3)
def test_the_start_at_zero_explodes(claim):
    sizes = (16, 64, 256)
    assert len(sizes) == claim.trials
    for size in sizes:
        one, zero = (ablation(start, "B", 0.99, size) for start in (1, 0))
        best = min(one, key=one.get)
        assert one[best] < 0.1 and zero[best] > 1e5  # the rate that is best for one
        assert max(one.values()) < 3 and max(zero.values()) > 1e8
        assert 2 <= min(zero.values()) / min(one.values()) <= 25


SIZES = (16, 64, 256)


def best_rates(start: int | str, factor: str) -> list[int]:
    """For each batch size the k of the best rate 2^k, at α = 0.9."""
    tables = [ablation(start, factor, 0.9, size) for size in SIZES]
    return [min(table, key=table.get) for table in tables]


@pytest.mark.claim("factor-b-rates", trials=3)
def test_the_factor_moves_rates_and_does_not_unite_them(claim):
    with_b, without = best_rates(1, "B"), best_rates(1, "1")
    moved = [b - a for a, b in zip(without, with_b, strict=True)]
    assert moved == claim.trials * [4]
    assert len(set(with_b)) > 1


@pytest.mark.claim("mean-and-sum", trials=3)
def test_only_with_start_and_damping_over_b_the_rate_moves_by_b(claim):
    scaled = best_rates("1/B", "1")
    moved = [b - a for a, b in zip(scaled, best_rates(1, "B"), strict=True)]
    assert moved == [math.log2(size) for size in SIZES]
    for size in SIZES[: claim.trials]:
        shift = round(math.log2(size))
        theirs = stored_losses("1/B", "1", 0.9, size)
        ours = stored_losses(1, "B", 0.9, size)
        for k in range(-16, -6 - shift + 1, 2):  # before the runs turn chaotic
            assert theirs[k] == ours[k + shift]
