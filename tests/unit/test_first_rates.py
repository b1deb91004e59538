"""The rate to try first: stored runs, defaults, docstrings and page agree."""

import importlib
import inspect
from pathlib import Path

import pytest

from anthology import optim
from tests.examples import EXAMPLES
from tools import generated

ROOT = Path(__file__).resolve().parents[2]
TABLE = {(row["class"], row["given"]): row for row in generated.first_rates(ROOT)}
CLASSES = sorted({name for name, _ in TABLE})


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module("first_rates")


def given_default(name: str, option: str):
    return inspect.signature(getattr(optim, name)).parameters[option].default


def test_every_optimizer_has_been_measured():
    measured = {name for name, example in EXAMPLES.items() if example.measured}
    assert set(CLASSES) == measured


def test_the_table_is_what_the_runs_say(script):
    stored = script.Store(script.RESULTS / "first_rates.json", {})
    runs = script.Runs(stored, make=False)
    assert stored.content["table"] == [
        script.row(runs, *who) for who in script.contestants()
    ]


def test_the_second_settings_are_the_measured_ones(script):
    runs = script.Runs(script.Store(script.RESULTS / "first_rates.json", {}), False)
    for name, value in script.CHOSEN.items():
        assert script.second(runs, name) == value


def test_a_run_can_be_repeated(script):
    """Rounding differs between processors and acts like another seed: 10 %."""
    stored = script.Store(script.RESULTS / "first_rates.json", {}).runs
    run = ("digits", "AdamW", "plain", (1e-3, None), 0)
    assert script.train(*run) == pytest.approx(stored[script.key(*run)], rel=0.1)


@pytest.mark.parametrize("name", CLASSES)
def test_the_defaults_are_the_measured_ones(name):
    row = TABLE[name, "plain"]
    if "default" in row:
        assert given_default(name, "lr") == row["default"]
    if "second" in row:
        second = row["second"]
        assert given_default(name, second["option"]) == second["default"]


@pytest.mark.parametrize("who", TABLE, ids=" ".join)
def test_out_of_the_box_ours_end_near_adamw(who, script):
    row = TABLE[who]
    if "default" in row and who[0] not in script.KEEPS:
        assert script.score(row["at default"]) <= script.TOLERANCE


@pytest.mark.parametrize("who", TABLE, ids=" ".join)
def test_the_first_rate_is_within_the_range_that_was_tried(who, script):
    tried = [lr for lr, _ in script.settings(who[0])]
    assert min(tried) < TABLE[who]["first"] < max(tried)


@pytest.mark.parametrize("name", CLASSES)
def test_the_docstring_says_it_in_one_line(name):
    lines = [line.strip() for line in getattr(optim, name).__doc__.splitlines()]
    told = [line for line in lines if line.startswith("Rate to try first")]
    assert told == [generated.first_rate_line(name, ROOT)]


def test_how_rates_carry_over_is_what_the_page_says():
    best = {who: row["best"] for who, row in TABLE.items()}
    for name in ("Signum", "Lion", "Adam", "AdamW", "Muon"):
        rates = best[name, "plain"]
        assert rates["digits"] / rates["digits-wide"] == pytest.approx(3, rel=0.12)
    for name in ("SteepestDescent", "FreeSteepestDescent", "Scion"):
        for given in ("plain", "metrize"):
            assert best[name, given]["digits-wide"] == best[name, given]["digits"]
    soap = best["SOAP", "plain"]
    assert soap["digits-wide"] == soap["digits"]
    for rates in best.values():
        assert 1 / 3.5 < rates["digits-batch"] / rates["digits"] < 3.5


def test_the_page_has_a_row_for_each():
    page = (ROOT / "chapters" / "reference" / "conventions.md").read_text()
    assert page.count("<!-- generated: first rates -->") == 1
    rows = generated.first_rates_page(ROOT).splitlines()[2:]
    assert len(rows) == len(TABLE)
    assert all(f"`{name}`" in row for (name, _), row in zip(TABLE, rows, strict=True))
