"""What the stored experiments of the chapter on root-free methods say.

The text of the chapter and the claims page repeat these figures.
"""

import json
import math
from pathlib import Path
from statistics import median

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"


def runs(name: str) -> dict:
    return json.loads((RESULTS / name).read_text())["runs"]


def finals(problem: str, name: str, measure: str = "test") -> list[float]:
    stored = runs("root_free.json")
    return [stored[f"{problem}/{name}/final/{s}"][measure] for s in range(5)]


def wins(problem: str, a: str, b: str) -> int:
    """In how many of 25 pairs of runs a ends below b; 23 make a difference."""
    return sum(x < y for x in finals(problem, a) for y in finals(problem, b))


ADAPTIVE = ("RMSProp", "AdamW", "RootFreeRMSProp", "RootFreeAdamW")


@pytest.mark.claim("root-free-transformers", trials=25)
def test_race_on_the_transformer(claim):
    assert wins("text", "RootFreeRMSProp", "RMSProp") == claim.trials
    assert wins("text", "RootFreeRMSProp", "AdamW") == claim.trials
    for root in ("RMSProp", "AdamW"):
        assert 3 <= wins("text", "RootFreeAdamW", root) <= 22
    assert all(wins("text", name, "SGD") == claim.trials for name in ADAPTIVE)


@pytest.mark.claim("root-free-convolutions", trials=25)
def test_race_on_convolutions(claim):
    short = {name: median(finals("conv", name, "train")) for name in ADAPTIVE}
    assert median(finals("conv", "SGD", "train")) > 6 * max(short.values())
    for problem in ("conv", "long"):
        medians = {name: median(finals(problem, name)) for name in ADAPTIVE}
        assert median(finals(problem, "SGD")) > max(medians.values())
        assert min(medians, key=medians.get) == "AdamW"
    for name in ("SGD", *ADAPTIVE):
        assert max(finals("long", name, "train")) < 0.01
    for name in ("SGD", "RMSProp", "RootFreeRMSProp"):
        assert wins("long", "AdamW", name) == claim.trials
    assert 3 <= wins("long", "AdamW", "RootFreeAdamW") <= 22
    assert wins("long", "RootFreeAdamW", "SGD") == claim.trials
    for name in ("SGD", "RMSProp"):
        assert 3 <= wins("long", "RootFreeRMSProp", name) <= 22


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
