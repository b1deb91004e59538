"""What the docstrings and the README say of rounding is what was measured."""

import json
import re
from pathlib import Path

import pytest
import torch

from anthology.optim import SOAP, Shampoo
from experiments import rounding

ROOT = Path(__file__).parents[2]
RESULTS = json.loads(rounding.STORE.read_text(encoding="utf-8"))["results"]
DEFAULTS = {"SOAP, 0.03": SOAP, "Shampoo, 1e-4": Shampoo}


def largest(name: str) -> float:
    return max(max(RESULTS[problem][name]["apart"]) for problem in RESULTS)


def mean_loss(problem: str, name: str) -> float:
    losses = RESULTS[problem][name]["loss"]
    return sum(losses) / len(losses)


def test_both_problems_and_every_contestant_were_run() -> None:
    assert set(RESULTS) == set(rounding.PROBLEMS)
    for found in RESULTS.values():
        assert set(found) == set(rounding.CONTESTANTS)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_are_what_was_measured(name) -> None:
    kind, settings = rounding.CONTESTANTS[name]
    (group,) = kind([torch.ones(2, requires_grad=True)]).param_groups
    assert kind is DEFAULTS[name]
    assert {key: group[key] for key in settings} == settings


def test_what_the_relative_epsilon_costs() -> None:
    """At the best rate of each, the mean over five seeds."""
    for problem in RESULTS:
        for name, kind in DEFAULTS.items():
            published = mean_loss(problem, f"{kind.__name__}, published")
            assert mean_loss(problem, name) < 1.15 * published


def test_the_sentence_of_the_readme() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.search(
        r"less than (\S+) of a learning rate in ten steps for AdamW, (\S+) for SOAP "
        r"and Shampoo \(as published: (\S+) and (\S+)\)",
        text,
    )
    assert found is not None
    adam, ours, soap, shampoo = map(float, found.groups())
    assert adam / 2 < largest("AdamW") < adam
    assert ours / 2 < max(map(largest, DEFAULTS)) < ours
    assert soap / 2 < largest("SOAP, published") < soap
    assert shampoo / 2 < largest("Shampoo, published") < shampoo
