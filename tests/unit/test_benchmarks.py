"""The benchmark: its arithmetic under false clocks, and its quick mode for real."""

import json

import pytest
import torch

from anthology.cost import Rates
from anthology.optim import SGD
from benchmarks import __main__ as command
from benchmarks.clock import Sample, Stopwatch, summarise
from benchmarks.contestants import Contestant, Family, families, ours, torch_paths
from benchmarks.goals import GOALS, Verdict, table, verdicts
from benchmarks.measure import Plan, run_family
from benchmarks.memory import allocated
from benchmarks.quality import efficiency
from benchmarks.report import line, load, machine, save
from benchmarks.sets import SETS, ParameterSet, fill
from tests.examples import public

RATES = Rates(((2**40, 1e9),), {"float32": 1e12})
TINY = ParameterSet("tiny", "two tensors", ((8, 4, 3),), ((5,),))


def clean(seconds):
    return Sample(seconds, seconds, 0.0)


def spoiled(seconds):
    return Sample(seconds, 0.5 * seconds, 0.5 * seconds)


class FalseClock:
    """Runs what it is given and tells prepared times."""

    def __init__(self, *samples):
        self.samples, self.told = list(samples), []

    def __call__(self, run):
        run()
        self.told.append(self.samples.pop(0))
        return self.told[-1]


def two(ours_make, peer_make, **kwargs):
    members = [
        Contestant("mine", "anthology", ours_make, ours=True),
        Contestant("theirs", "torch", peer_make),
    ]
    return Family("pair", members, **kwargs)


def test_the_contestants_take_turns_and_the_ratio_is_that_of_the_medians():
    taken = []

    def noted(name, make):
        def made(params):
            optimizer = make(params)
            optimizer.register_step_post_hook(lambda *_: taken.append(name))
            return optimizer

        return made

    family = two(noted("mine", SGD), noted("theirs", torch.optim.SGD), cycle=2)
    clock = FalseClock(*[clean(x) for x in (3.0, 8.0, 1.0, 4.0, 2.0, 4.0)])
    mine, theirs = run_family(family, TINY, Plan(rounds=3), RATES, clock)
    assert not clock.samples
    assert taken[-12:] == ["mine", "mine", "theirs", "theirs"] * 3
    assert mine.summary.seconds == 1.0  # the median 2 over a cycle of two steps
    assert theirs.summary.seconds == 2.0
    assert (mine.ratio, theirs.ratio) == (0.5, 1.0)
    assert mine.limit.bytes == 12 * mine.numbers == 12 * (96 + 5)
    assert mine.reached == pytest.approx(12 * 101 / 1e9)
    assert theirs.limit is None and theirs.reached is None
    assert "0.50" in line(mine) and "~" not in line(mine)


def test_short_runs_are_repeated_within_a_sample():
    family = two(SGD, torch.optim.SGD)
    first = [clean(1e-3), clean(1.0)]
    clock = FalseClock(*first, *[clean(12e-3), clean(2.0)] * 3)
    mine, theirs = run_family(family, TINY, Plan(rounds=3), RATES, clock)
    assert mine.summary.seconds == pytest.approx(12e-3 / 6)
    assert theirs.summary.seconds == 2.0


def test_spoiled_samples_do_not_count_where_three_are_clean():
    few = [clean(1.0), clean(2.0), clean(3.0), spoiled(50.0), spoiled(60.0)]
    found = summarise(few)
    assert (found.seconds, found.clean, found.samples) == (2.0, 3, 5)
    assert not found.noisy
    worse = Sample(9.0, 1.0, 8.0)
    noisy = summarise([worse, clean(1.0), worse, spoiled(4.0), spoiled(6.0)])
    assert (noisy.seconds, noisy.noisy) == (4.0, True)
    assert summarise([spoiled(4.0)], by="cpu").seconds == 2.0
    assert Sample(1.0, 1.0, 0.02).clean and not Sample(1.0, 1.0, 0.021).clean


def test_the_stopwatch_tells_what_was_worked_from_what_was_waited():
    sample = Stopwatch("cpu")(lambda: sum(range(10**5)))
    assert 0 < sample.cpu
    assert 0 <= sample.waited
    assert sample.wall > 0


def test_what_is_not_installed_is_said_and_the_others_go_on():
    def missing(params):
        raise ModuleNotFoundError("No module named 'nobody'", name="nobody")

    clock = FalseClock(clean(1.0), clean(2.0))
    mine, theirs = run_family(two(SGD, missing), TINY, Plan(rounds=1), RATES, clock)
    assert mine.summary.seconds == 2.0 and mine.ratio is None
    assert theirs.absent == "not installed: nobody"
    assert theirs.ratio is None and "nobody" in line(theirs)


def test_contestants_that_do_not_fit_together_go_one_after_the_other():
    clock = FalseClock(*[clean(1.0), clean(2.0), clean(1.0), clean(4.0)])
    plan = Plan(rounds=1, memory=1.0)
    mine, theirs = run_family(two(SGD, torch.optim.SGD), TINY, plan, RATES, clock)
    assert mine.best_peer == theirs.summary.seconds == 4.0
    assert mine.ratio == 0.5


def test_flat_families_see_matrices_only():
    seen = []

    def make(params):
        seen.extend(tuple(p.shape) for p in params)
        return SGD(params)

    clock = FalseClock(*[clean(1.0)] * 4)
    run_family(two(make, SGD, flat=True), TINY, Plan(rounds=1), RATES, clock)
    assert set(seen) == {(8, 12)}


def test_allocations_are_counted_inside_operations_too():
    x = torch.ones(1000)

    def run():
        kept = x + 1  # 4000 bytes stay
        ((kept * 2) + kept).sum()  # two of 4000 at once, and a number
        return kept

    _, stays, peak = allocated(run, "cpu")
    assert stays == 4000
    assert 12000 <= peak <= 12100


def test_state_and_peak_of_a_family():
    family = Family("SGD", ours(SGD, only=("foreach",), momentum=0.9))
    (row,) = run_family(
        family, TINY, Plan(rounds=1), RATES, FalseClock(clean(1.0), clean(1.0))
    )
    counters = 2 * 2 * 8  # step and skipped of two tensors, at most eight bytes
    assert 4 * row.numbers <= row.state_bytes <= 4 * row.numbers + counters
    assert row.limit.state_bytes == 4 * row.numbers


def test_every_optimizer_of_the_package_competes():
    titles = " ".join(c.name for f in families() for c in f.contestants if c.ours)
    assert [name for name in public() if f"{name} " not in titles + " "] == []


def test_the_sets_have_the_sizes_of_their_models():
    def size(name):
        return sum(torch.Size(s).numel() for s in SETS[name].shapes(flat=False))

    assert size("mlp") == 784 * 1024 + 1024 + 1024**2 + 1024 + 10240 + 10
    assert size("resnet18") == 11_689_512
    assert size("small") == 500 * 64**2
    assert size("1e8") == 10**8 and size("1e9") == 10**9
    assert 12e6 < size("gpt") < 13e6
    assert 350e6 < size("gpt2-medium") < 360e6
    assert all(p.grad is not None for p in fill([(2, 3)], "cpu"))


def test_the_quick_mode_writes_results_that_can_be_read(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "device_rates", lambda device: RATES)
    monkeypatch.setattr(command, "save", lambda *a: save(*a, folder=tmp_path))
    threads = str(torch.get_num_threads())
    options = ["--quick", "--save", "--families", "SGD,Muon b,SIRF"]
    rows = command.main([*options, "--threads", threads])
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text(encoding="utf-8"))
    about = content["machine"]
    assert path.name == f"{about['kind']}-{about['date']}.json"
    assert about["versions"]["torch"] == torch.__version__
    assert len(content["results"]) == len(rows)
    assert {r["family"] for r in content["results"]} == {
        "SGD",
        "Muon bfloat16",
        "SIRFShampoo",
    }
    mine = [r for r in content["results"] if r["ours"]]
    assert mine and all(r["summary"]["seconds"] > 0 for r in mine)
    assert all(r["limit"]["seconds"] > 0 for r in mine)
    assert content["samples"]["all"] >= content["samples"]["clean"] >= 0
    table = capsys.readouterr().out
    assert content["goals"] and content["goals"][0]["goal"] in table
    command.main(["--goals", str(path)])
    assert (
        capsys.readouterr().out.splitlines()[2:]
        == table.splitlines()[-len(content["goals"]) - 1 :]
    )
    assert all(r["summary"] or r["absent"] for r in content["results"])


def test_results_name_no_host():
    import socket

    assert socket.gethostname() not in json.dumps(machine("cpu", 1))


def row(family, name, seconds, ours=False, **more):
    found = {"set": "gpt", "family": family, "name": name, "ours": ours}
    found |= {"summary": {"seconds": seconds}, "limit": None, "reached": None}
    found |= {"state_bytes": 0, "peak_bytes": 0, "largest": 10, "efficiency": None}
    return found | more


def by_goal(rows, **kwargs):
    return {v.goal: v for v in verdicts(rows, **kwargs)}


def test_goals_compare_the_fastest_of_each_side():
    lion = [row("Lion", "Lion loop", 9.0, True), row("Lion", "Lion fused", 3.0, True)]
    lion += [row("Lion", "theirs", 6.0), row("Lion", "slower", 60.0)]
    found = by_goal(lion)["Lion against the best peer"]
    assert (found.ours, found.rival, found.figure) == ("Lion fused", "theirs", 0.5)
    assert found.met
    lion[1]["summary"] = {"seconds": 3.7}
    assert by_goal(lion)["Lion against the best peer"].met is False


def test_goals_for_one_pass_and_for_foreach_have_rivals_of_their_kind():
    rows = [row("SGD", f"SGD {x}", t, True) for x, t in (("foreach", 4.0), ("loop", 1))]
    rows += [row("SGD", "SGD compiled", 3.02, True), row("SGD", "optimi SGD", 0.1)]
    rows += [row("SGD", f"torch.optim SGD {x}", 3.0) for x in ("foreach", "fused")]
    found = by_goal(rows)
    assert found["SGD as PyTorch's fused"].figure == pytest.approx(3.02 / 3)
    assert found["SGD as PyTorch's fused"].met is False  # 1.01
    assert found["SGD foreach as PyTorch's"].figure == pytest.approx(4 / 3)


def test_a_fast_approximation_does_not_beat_a_better_one():
    rows = [
        row("Muon float32", "Muon muon", 1.0, True, efficiency=0.8),
        row("Muon float32", "Muon gram", 2.0, True, efficiency=0.9),
        row("Muon float32", "theirs", 4.0, efficiency=0.9),
    ]
    found = by_goal(rows)["Muon float32, as efficient"]
    assert (found.ours, found.figure) == ("Muon gram", 0.5)
    rows[1]["efficiency"] = 0.85
    missing = by_goal(rows)["Muon float32, as efficient"]
    assert (missing.ours, missing.figure, missing.met) == ("none", None, None)
    alone = by_goal(rows[:2])["Muon float32, as efficient"]
    assert (alone.rival, alone.met) == ("none", None)


def test_goals_of_memory_and_of_the_limit():
    bound = {"state_bytes": 40.0, "flops": 0}
    rows = [
        row("Lion", "Lion loop", 1.0, True, limit=bound, state_bytes=41, peak_bytes=40),
        row("Lion", "Lion fused", 1.0, True, limit=bound, reached=1.07, peak_bytes=44),
        row("Lion", "Lion foreach", 1.0, True, limit=bound, peak_bytes=4000),
    ]
    found = by_goal(rows)
    assert found["state, the worst of all"].figure == 41 / 40
    assert found["temporaries, Lion"].figure == 1.1
    assert found["no step faster than its limit"].met is False


def test_goals_of_a_device_are_not_held_against_a_cpu():
    names = {goal.title for goal in GOALS if goal.cuda}
    muon = [row("Muon bfloat16", "Muon foreach", 1.0, True, set="gpt2-medium")]
    muon += [row("Muon bfloat16", "torch.optim Muon", 2.0, set="gpt2-medium")]
    bound = {"state_bytes": 0.0, "flops": 0}
    wide = [row("Lion", "Lion triton", 1.0, True, limit=bound, reached=0.95, set="1e8")]
    assert not names & set(by_goal(muon))
    assert by_goal(muon, cuda=True)[names.pop()].figure == 0.5
    (found,) = [v for v in verdicts(wide, cuda=True) if v.larger]
    assert found.met and found.figure == 0.95


def test_the_table_of_goals_counts_what_was_met():
    lines = [
        Verdict("a", "gpt", "x", "y", 0.754, 0.75),
        Verdict("b", "gpt", "x", "y", 0.756, 0.75),
        Verdict("c", "gpt", "x", "none", None, 0.75),
    ]
    text = table(lines)
    assert text.splitlines()[-1] == "1 met, 1 missed, 1 not measured"
    assert "MISSED" in text.splitlines()[2]
    assert lines[0].plain()["met"] is True


@pytest.mark.parametrize("who", [ours(SGD, only=("foreach",)), torch_paths("SGD")[1:]])
def test_a_step_beyond_its_limit_is_told(who, capsys):
    slow = Rates(((2**40, 1.0),), {"float32": 1e12})
    clock = FalseClock(clean(1.0), clean(1.0))
    found = run_family(Family("SGD", who), TINY, Plan(rounds=1), slow, clock)
    command._warn(found)
    assert "measured too low" in capsys.readouterr().out
    assert by_goal([found[0].plain()])["no step faster than its limit"].met is False


def test_efficiency_tells_exact_polar_factors_from_other_steps():
    from functools import partial

    from anthology.optim import Muon, Signum

    shapes = [(20, 10), (6, 6), (10, 20), (20, 10)]
    exact = partial(Muon, method="svd", weight_decay=0.1)
    assert efficiency(exact, shapes, "cpu") == pytest.approx(1.0, abs=1e-4)
    rough = efficiency(Muon, shapes, "cpu")
    assert 0.6 < rough < 0.99
    assert efficiency(Signum, shapes, "cpu") < rough


def test_the_latest_results_are_loaded_and_saved_ones_are_valid(tmp_path, monkeypatch):
    from benchmarks import report

    monkeypatch.setattr(report, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m benchmarks"):
        load()
    for date in ("2026-01-02", "2025-12-31"):
        text = json.dumps({"machine": date})
        (tmp_path / f"cpu-2-threads-{date}.json").write_text(text)
    assert load()["machine"] == "2026-01-02"


def test_quiet_while_memory_is_watched(capfd):
    allocated(lambda: torch.ones(3), "cpu")
    out, err = capfd.readouterr()
    assert not out and not err
