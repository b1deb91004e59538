"""The race: its rule, its order, its store, and what it stored."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from anthology import lab
from tests.examples import EXAMPLES

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
STORED = FOLDER / "results" / "race.jsonl"


@pytest.fixture(scope="module")
def load():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def rule(load):
    return load("race_statistics")


@pytest.fixture(scope="module")
def runs(load):
    return load("race_runs")


@pytest.fixture(scope="module")
def entries(load):
    return load("race_contestants")


# ---- the rule


@pytest.mark.parametrize("n", [2, 5, 8])
def test_the_margin_is_one_in_a_thousand(rule, n):
    normal = torch.distributions.Normal(0.0, 1.0)
    assert 1 - normal.cdf(torch.tensor(rule.MARGIN)) == pytest.approx(1e-3, rel=0.01)
    needed = rule.MARGIN * math.sqrt(2 / n)
    assert rule.beats([0.0] * n, [1.001 * needed] * n, sigma=1.0)
    assert rule.ties([0.0] * n, [0.999 * needed] * n, sigma=1.0)


def test_equal_contestants_are_told_apart_that_often(rule):
    g = torch.Generator().manual_seed(0)
    pairs = torch.randn(20_000, 2, 5, generator=g, dtype=torch.float64).tolist()
    wins = sum(
        rule.average(b) - rule.average(a) >= 3.09 * math.sqrt(0.4) for a, b in pairs
    )
    assert 5 <= wins <= 40  # 20 are expected; five standard deviations are 22
    assert sum(rule.beats(a, b, 1.0) for a, b in pairs) <= wins


def test_one_is_better_the_other_worse(rule):
    a, b = [1.0, 1.1, 0.9], [2.0, 2.1, 1.9]
    assert rule.beats(a, b, 0.1) and not rule.beats(b, a, 0.1)
    assert rule.lead(a, b, 0.1) == pytest.approx(-rule.lead(b, a, 0.1))
    assert rule.ranks({"a": a, "b": b, "c": a}, 0.1) == {"a": 1, "b": 3, "c": 1}


def test_a_wild_contestant_needs_a_larger_lead(rule):
    calm, wild = [1.0] * 5, [1.2, 2.2, 0.2, 3.2, 1.2]
    assert rule.ties(calm, wild, sigma=0.01)
    assert rule.beats(calm, [1.6] * 5, sigma=0.01)


@pytest.mark.parametrize("gone", [None, math.nan, math.inf])
def test_a_lost_run_loses(rule, gone):
    whole, torn = [9.0] * 5, [1.0] * 4 + [gone]
    assert rule.average(torn) == math.inf
    assert rule.beats(whole, torn, 0.1) and not rule.beats(torn, whole, 0.1)
    assert not rule.beats(torn, torn, 0.1) and not rule.ties(torn, torn, 0.1)
    assert rule.ranks({"whole": whole, "torn": torn}, 0.1) == {"whole": 1, "torn": 2}


def test_missing_runs_count_as_lost(rule):
    assert rule.average([]) == math.inf
    assert rule.average([1.0] * 4, seeds=5) == math.inf
    assert rule.average([1.0] * 5, seeds=5) == 1.0
    assert rule.beats([1.0], [], 0.1)


def test_pooled_deviation(rule):
    assert rule.deviation([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert rule.deviation([0.0, 2.0], [5.0, 5.0]) == pytest.approx(1.0)
    assert rule.deviation([1.0], []) == 0.0


def test_steps_to_a_target(rule):
    curve = [(25, 4.0), (50, 2.0), (75, 3.0), (100, 1.0)]
    assert rule.steps_to(curve, 3.0) == pytest.approx(37.5)
    assert rule.steps_to(curve, 4.0) == 25
    assert rule.steps_to(curve, 0.5) == math.inf
    assert rule.steps_to([(25, None), (50, 1.0)], 3.0) == 50
    assert rule.steps_to([], 1.0) == math.inf


# ---- who races, and how often


def test_every_optimizer_of_the_package_races(entries):
    measured = {name for name, example in EXAMPLES.items() if example.measured}
    ours = {name for name in entries.CONTESTANTS if not name.startswith("torch.")}
    assert ours == measured


def test_momentum_is_taken_from_all_that_have_one(entries):
    racing = {*entries.names(), *entries.SAME}
    ours = [name for name in entries.CONTESTANTS if not name.startswith("torch.")]
    assert all(f"{name}-0" in racing for name in ours)
    assert all(name in entries.names() for name in entries.SAME.values())


def all_names() -> list[str]:
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("race_contestants").names()
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("name", all_names())
def test_everyone_takes_a_step_on_digits(load, entries, name):
    p = load("race_problems").known("digits")
    model = p.model(seed=0)
    before = [w.clone() for w in model.parameters()]
    optimizer = entries.build(name, model, p, entries.middle(name, "digits"))
    x, y = next(p.batches(seed=0))
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    after = list(model.parameters())
    moved = [not a.equal(b) for a, b in zip(after, before, strict=True)]
    assert all(moved) and all(w.isfinite().all() for w in after)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(after)


def test_the_bytes_of_a_state_are_counted_once(entries):
    w = torch.nn.Parameter(torch.zeros(10))
    optimizer = torch.optim.SGD([w], 0.1)
    assert entries.state_bytes(optimizer) == 0
    shared = torch.zeros(10)
    optimizer.state[w] = {"a": shared, "b": [shared[2:]], "n": 3, "t": torch.ones(())}
    assert entries.state_bytes(optimizer) == 40


def test_a_rule_keeps_no_more_without_momentum(load, entries):
    p = load("race_problems").known("digits")
    for name in ("SGD", "SteepestDescent", "Signum"):
        kept = []
        for shown in (name, f"{name}-0"):
            model = p.model(seed=0)
            optimizer = entries.build(shown, model, p, 0.1)
            sum(w.sum() for w in model.parameters()).backward()
            optimizer.step()
            kept.append(entries.state_bytes(optimizer))
        assert kept == [4 * 14_090, 0]


# ---- the order of the runs and their store


def fake(losses):
    """A `train` that knows the losses by rate, and remembers what it was asked."""
    asked = []

    def train(run, curve=False):
        asked.append(run)
        found = {"loss": losses(run), "ms": 1.0, "wall": 1.0, "state": 4.0}
        return found | ({"curve": [[25, 2.0], [50, losses(run)]]} if curve else {})

    return train, asked


def bowl(run):
    """Best at a rate of 0.2 (of 0.1 · 4^k and their neighbours)."""
    return round((math.log(run[2] / 0.2)) ** 2 + run[3] / 100, 4)


def test_everyone_has_the_same_number_of_runs(load, runs, entries, tmp_path):
    race = load("race")
    train, asked = fake(bowl)
    stored = runs.Runs(tmp_path / "race.jsonl", train)
    race.compete(stored, "digits")
    count = {name: 0 for name in entries.names()}
    for run in asked:
        count[run[1]] += 1
    assert set(count.values()) == {12} and len(set(asked)) == len(asked)
    assert runs.final_rate(stored, "digits", "SGD") == 0.2
    # round by round: at any time nobody is ahead by more than one run
    seen = {name: 0 for name in entries.names()}
    for run in asked:
        seen[run[1]] += 1
        assert max(seen.values()) - min(seen.values()) <= 1


def test_a_race_goes_on_where_it_stopped(load, runs, tmp_path):
    race, path = load("race"), tmp_path / "race.jsonl"
    train, asked = fake(bowl)

    def stops(run, curve=False):
        if len(asked) == 100:
            raise KeyboardInterrupt
        return train(run, curve)

    with pytest.raises(KeyboardInterrupt):
        race.compete(runs.Runs(path, stops), "text")
    assert len(path.read_text().splitlines()) == 100
    race.compete(runs.Runs(path, train), "text")
    assert len(set(asked)) == len(asked) == len(path.read_text().splitlines())


def test_forgotten_runs_are_made_again_and_no_others(load, runs, tmp_path):
    race, path = load("race"), tmp_path / "race.jsonl"
    race.compete(runs.Runs(path, fake(bowl)[0]), "mnist")
    train, asked = fake(bowl)
    again = runs.Runs(path, train)
    again.forget(["SOAP"])
    race.compete(again, "mnist")
    assert {run[1] for run in asked} == {"SOAP", "SOAP-0"} and len(asked) == 24
    with pytest.raises(ValueError, match="no contestants"):
        again.forget(["Sophia"])


def test_lost_runs_and_missing_ones(runs, tmp_path):
    stored = runs.Runs(tmp_path / "none.jsonl", fake(lambda run: None)[0])
    assert stored.loss(("digits", "SGD", 0.1, 0)) == math.inf
    assert not runs.finished(runs.Runs(tmp_path / "no.jsonl"), "digits", "SGD")
    with pytest.raises(ValueError, match="not finished"):
        runs.slice(["SGD"], "digits", runs.Runs(tmp_path / "no.jsonl"))
    with pytest.raises(ValueError, match="no contestant"):
        runs.slice(["sgd"], "digits", stored)


def test_a_slice_is_drawn_with_every_seed_and_the_lost_ones_said(load, runs, tmp_path):
    race, figure = load("race"), load("race_figure")

    def lost(run):
        return None if run[1] == "SGD-0" and run[3] == 3 else bowl(run)

    stored = runs.Runs(tmp_path / "race.jsonl", fake(lost)[0])
    race.compete(stored, "digits")
    chosen = ["SGD", "SGD-0", "Muon"]
    told = figure.draw(chosen, ["digits"], stored)
    (ax,) = figure.plt.gcf().axes
    assert list(told["digits"]) == chosen
    dots = [len(line.get_xdata()) for line in ax.get_lines()]
    assert dots == [5, 1, 4, 5, 1]  # no mean where a seed is lost
    assert [t.get_text() for t in ax.texts] == ["lost"]
    shown = [t.get_text() for t in ax.get_yticklabels()]
    assert shown == ["SGD", "SGD, no momentum", "Muon"]
    figure.plt.close()
    with pytest.raises(ValueError, match="no contestant"):
        figure.draw(["sgd"], ["digits"], stored)
    rulers = [figure.ruler(name) for name in ("SGD", "torch.AdamW", "SteepestDescent")]
    assert rulers == ["l2", "linf", "spectral"]
    assert {figure.ruler(name) for name in race.names()} <= set(lab.STYLES)


def test_the_longer_setting_asks_for_three_rates(load, runs, tmp_path):
    race = load("race")
    stored = runs.Runs(tmp_path / "race.jsonl", fake(bowl)[0])
    for where in ("digits", "text", "mnist"):
        race.compete(stored, where)
    wanted = [r for r in runs.long_runs(stored) if r[:2] == ("text-long", "SGD")]
    assert sorted({r[2] for r in wanted}) == [0.1, 0.2, 0.4]
    assert len(wanted) == 9 and {r[3] for r in wanted} == {1, 2, 3}


# ---- the table and the predictions


def test_the_table_of_a_race_that_is_known(load, runs, tmp_path):
    race, table = load("race"), load("race_table")
    stored = runs.Runs(tmp_path / "race.jsonl", fake(bowl)[0])
    assert table.table(runs.Runs(tmp_path / "no.jsonl"))["text"] == {}
    race.compete(stored, "digits")
    found = table.table(runs.Runs(stored.path))  # which makes none
    row = found["digits"]["SGD"]
    assert found["text"] == {}
    assert row["rate"] == 0.2 and not row["edge"] and row["time"] == 1.0
    assert row["losses"] == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert row["mean"] == pytest.approx(0.03) and row["curve"][-1] == (50, 0.03)
    assert row["steps"] == pytest.approx(25 + 25 * (2 - 0.36) / (2 - 0.03), rel=1e-3)


def test_what_is_told_is_written_too(load, runs, tmp_path, monkeypatch, capsys):
    race, table = load("race"), load("race_table")
    lost = {"digits/Lion": None}
    train = fake(lambda run: lost.get("/".join(run[:2]), bowl(run)))[0]
    stored = runs.Runs(tmp_path / "race.jsonl", train)
    for where in ("digits", "text", "mnist"):
        race.compete(stored, where)
    capsys.readouterr()
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    table.tell(runs.Runs(stored.path), {"command": "none"})
    told = capsys.readouterr().out
    assert told.count("torch.Muon") >= 3 and "lost" in told and "open: 0 of" in told
    written = tmp_path / "race.json"
    content = json.loads(written.read_text())
    assert content["table"]["digits"]["Lion"]["mean"] is None
    assert content["table"]["digits"]["Lion"]["rank"] == len(load("race").names())
    assert written.stat().st_size + stored.path.stat().st_size <= 500_000


def test_every_prediction_can_be_contradicted(load):
    """Each is decided by a made-up table, and by another one the other way."""
    table, told = load("race_table"), load("race_declaration")
    names = load("race_contestants").names()

    def decided(value):
        def made(i):
            x = value(i)
            row = {"rate": x, "steps": x, "time": x, "state": x, "mean": x}
            return row | {"losses": [x] * 5, "runs": 5}

        rows = {name: made(i) for i, name in enumerate(names)}
        found = {where: rows for where in told.SHORT}
        return [table.outcome(found, p)["outcome"] for p in told.PREDICTIONS]

    n = len(names)
    worlds = [
        lambda i: 1e4 * 30.0**-i,
        lambda i: 1e-4 * 30.0**i,
        lambda i: 1e3 + i,
        lambda i: 1e3 - i,
        lambda i: 1.0,
        lambda i: 4.0,
        lambda i: 8.0,
        lambda i: 10.0 * (i >= 19) + 1,
        lambda i: 20.0 * (i == 7) + 1,
        lambda i: 20.0 * (i == 14) + 1,
    ]
    outcomes = list(zip(*map(decided, worlds), strict=True))
    for p, seen in zip(told.PREDICTIONS, outcomes, strict=True):
        assert set(seen) == {"holds", "contradicted"}, p.says
    assert n == len(set(names))


def test_an_unfinished_race_leaves_predictions_open(load):
    table, told = load("race_table"), load("race_declaration")
    empty = {where: {} for where in told.SHORT}
    said = {table.outcome(empty, p)["outcome"] for p in told.PREDICTIONS}
    assert said == {"open"}


# ---- what is stored


def test_stored_runs_are_those_that_were_declared(load, runs, entries):
    told = load("race_declaration")
    for line in map(json.loads, STORED.read_text().splitlines()):
        where, name, rate, seed = line["run"].split("/")
        assert where.removesuffix("-long") in told.SHORT and name in entries.names()
        assert int(seed) in (told.SEARCH_SEED, *told.SEEDS) and float(rate) > 0
        assert line["at"] and line["torch"] and line["date"]
    assert STORED.stat().st_size <= 500_000


def test_a_stored_run_can_be_repeated(load, runs):
    """Rounding differs between processors and acts like another seed: 30 %."""
    race = load("race")
    stored = runs.Runs().loss(("digits", "torch.AdamW", 0.01, 0))
    assert race.repeat("torch.AdamW", rate=0.01, seed=0) == pytest.approx(
        stored, rel=0.3
    )


def test_a_chapters_predictions_are_a_line_each(load, tmp_path):
    said = [
        ("text: a beats b", "one", "holds"),
        ("mnist: a beats b", "one", "open"),
        ("text: c", "two", "holds"),
        ("text: d: as e", "one", "contradicted"),
    ]
    keys = ("says", "source", "outcome")
    told = [dict(zip(keys, each, strict=True)) for each in said]
    path = tmp_path / "race.json"
    path.write_text(json.dumps({"predictions": told}))
    lines = load("race_table").came_of("one", path=path).splitlines()
    assert lines == [
        "a beats b: holds on text; open on mnist",
        "d: as e: contradicted on text",
    ]
