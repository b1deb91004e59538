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


def ablation(start: int, factor: str, alpha: float, size: int) -> dict[int, float]:
    """Median loss of three seeds for each rate 2^k."""
    stored = runs("root_free_ablation.json")
    key = f"start {start}/factor {factor}/alpha {alpha}/batch {size}"
    losses = {}
    for k in range(-16, 4, 2):
        values = [stored[f"{key}/rate {2.0**k:g}/seed {s}"]["loss"] for s in range(3)]
        losses[k] = median(math.inf if v is None else v for v in values)
    return losses


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


@pytest.mark.claim("factor-b-rates", trials=3)
def test_the_factor_moves_rates_and_does_not_unite_them(claim):
    best = {}
    for factor in ("B", "1"):
        tables = [ablation(1, factor, 0.9, size) for size in (16, 64, 256)]
        best[factor] = [min(t, key=t.get) for t in tables]
    moved = [b - a for a, b in zip(best["1"], best["B"], strict=True)]
    assert moved == claim.trials * [4]
    assert len(set(best["B"])) > 1
