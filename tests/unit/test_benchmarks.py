"""The benchmark: its arithmetic under false clocks, and its quick mode for real."""

import json

import pytest
import torch

from anthology.cost import Rates
from anthology.optim import SGD
from benchmarks import __main__ as command
from benchmarks.clock import Sample, Stopwatch, summarise
from benchmarks.contestants import Contestant, Family, families, ours
from benchmarks.measure import Plan, run_family
from benchmarks.memory import allocated
from benchmarks.report import line, machine, save
from benchmarks.sets import SETS, ParameterSet, fill

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
    from anthology import optim

    titles = " ".join(c.name for f in families() for c in f.contestants if c.ours)
    for name in optim.__all__:
        cls = getattr(optim, name)
        if isinstance(cls, type) and issubclass(cls, optim.BaseOptimizer):
            assert cls is optim.BaseOptimizer or f"{name} " in titles + " ", name


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


def test_the_quick_mode_writes_results_that_can_be_read(monkeypatch, tmp_path):
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
    assert all(r["summary"] or r["absent"] for r in content["results"])


def test_results_name_no_host():
    import socket

    assert socket.gethostname() not in json.dumps(machine("cpu", 1))
