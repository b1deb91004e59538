"""Out of the box: every optimizer with its defaults, and which rate to try first.

Two small problems (problems.py), some hundred steps at a constant rate: what one
sees in the first five minutes. Who competes, and what was expected, is in
first_rates_contestants.py. A loss is told as a multiple of that of `AdamW` with its
defaults on the same problem.

1. One seed: a declared range of rates, a factor of about three apart.
2. Five seeds: the published default, and the two rates with the best *score*, which
   is the larger multiple of the two problems.
3. One seed, on `digits` with four times the width, and with four times the batch:
   the first rate (see below) and its two neighbours, to see where the best one goes.

The *first rate* is the one with the smallest score, by the medians of five seeds.
A default of ours that ends at most 15 % above AdamW's on both problems stays;
otherwise it becomes the first rate for plain parameters. The second settings of Muon
(AdamW's rate) and Scion (its radius) are chosen from the first step: see `second`.

    python experiments/first_rates.py                # about 40 minutes
    python experiments/first_rates.py --again SOAP   # forget its runs first

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from first_rates_contestants import (
    CHOSEN,
    EXPECTED,
    KEEPS,
    PUBLISHED,
    SECOND,
    TORCH,
    Run,
    Setting,
    build,
    contestants,
    published,
    settings,
)
from problems import Problem, problem
from store import RESULTS, Store, provenance

from anthology import lab

MAIN, OTHERS = ("digits", "text"), ("digits-wide", "digits-batch")
SEEDS, TOLERANCE, KEPT = 5, 1.15, 2


def key(where: str, name: str, given: str, setting: Setting, seed: int) -> str:
    """Under which a run is stored."""
    lr, second = setting
    rates = f"lr {lr:g}" + (f" with {second:g}" if second is not None else "")
    return f"{where}/{name}/{given}/{rates}/seed {seed}"


def train(
    where: str, name: str, given: str, setting: Setting, seed: int
) -> float | None:
    """The test loss after one run; None if it is not finite."""
    p = known(where)
    model = p.model(seed=seed)
    optimizer = build(name, given, model, p, setting)
    evaluate = p.evaluate(model)
    run = lab.fit(model, optimizer, p.batches(seed=seed), p.steps, evaluate=evaluate)
    finite = run.metric is not None and math.isfinite(run.metric)
    return float(f"{run.metric:.5g}") if finite else None


@cache
def known(where: str) -> Problem:
    return problem(where)


class Runs:
    """The losses that are stored, made where they are missing."""

    def __init__(self, store: Store, make: bool = True, workers: int = 1) -> None:
        self.store, self.make, self.workers = store, make, workers

    def ahead(self, wanted: Iterable[Run]) -> None:
        """Make what is missing, several runs at a time."""
        missing = [run for run in wanted if key(*run) not in self.store.runs]
        with ProcessPoolExecutor(self.workers, initializer=one_thread) as pool:
            futures = {pool.submit(train, *run): run for run in missing}
            for done in as_completed(futures):
                self.store.once(key(*futures[done]), done.result)

    def loss(self, *run: Any) -> float:
        """One loss; infinite where the run was not finite or does not exist."""
        name = key(*run)
        if self.make:
            self.store.once(name, lambda: train(*run))
        value = self.store.runs.get(name)
        return math.inf if value is None else value

    def losses(self, *run: Any) -> list[float]:
        """Those of all seeds."""
        return [self.loss(*run, seed) for seed in range(SEEDS)]

    def reference(self, where: str, seeds: int = SEEDS) -> float:
        """The loss of AdamW with its defaults: the median over seeds."""
        run = (where, "AdamW", "plain", (1e-3, None))
        return median(self.loss(*run, seed) for seed in range(seeds))

    def pilot(self, where: str, name: str, given: str) -> dict[Setting, float]:
        """The loss of each setting with the first seed."""
        return {s: self.loss(where, name, given, s, 0) for s in settings(name)}

    def pilot_score(self, name: str, given: str) -> dict[Setting, float]:
        """For each setting the larger multiple of AdamW's loss, one seed."""
        found = {w: self.pilot(w, name, given) for w in MAIN}
        base = {w: self.reference(w, seeds=1) for w in MAIN}
        return {s: max(found[w][s] / base[w] for w in MAIN) for s in settings(name)}

    def finalists(self, name: str, given: str) -> list[Setting]:
        """The settings that get five seeds.

        The published rate and the best one, each with the published second setting
        and the chosen one; and the best rates with the chosen one.
        """
        score = self.pilot_score(name, given)
        chosen, before = CHOSEN.get(name), published(name)
        ranked = [s for s in sorted(score, key=lambda s: score[s]) if s[1] == chosen]
        pairs = itertools.product((before[0], ranked[0][0]), (before[1], chosen))
        kept = {*ranked[:KEPT], *pairs}
        return [s for s in score if s in kept]


def compete(runs: Runs) -> None:
    """All runs, the ones that tell most first."""
    own = [(f"torch.{kind}", "plain", (0, None)) for kind in TORCH]
    runs.ahead(with_seeds([*own, ("AdamW", "plain", (1e-3, None))]))
    tried = [(*who, s) for who in contestants() for s in settings(who[0])]
    runs.ahead((where, *one, 0) for one in tried for where in MAIN)
    runs.ahead(with_seeds((*w, s) for w in contestants() for s in runs.finalists(*w)))
    runs.ahead(
        (where, *who, s, 0)
        for who in contestants()
        for s in near(runs, *who)
        for where in OTHERS
    )


def with_seeds(entries: Iterable[tuple[str, str, Setting]]) -> Iterator[Run]:
    """Each entry on both problems, first all with one seed, then with the next."""
    for seed, entry, where in itertools.product(range(SEEDS), list(entries), MAIN):
        yield (where, *entry, seed)


def one_thread() -> None:
    torch.set_num_threads(1)


def multiples(runs: Runs, name: str, given: str, setting: Setting) -> dict[str, Any]:
    """Median, least and largest loss on each problem, as multiples of AdamW's."""
    found = {}
    for where in MAIN:
        losses = runs.losses(where, name, given, setting)
        three = (median(losses), min(losses), max(losses))
        found[where] = [round(x / runs.reference(where), 3) for x in three]
    return found


def score(found: dict[str, list[float]]) -> float:
    """The larger of the two medians."""
    return max(found[where][0] for where in MAIN)


def second(runs: Runs, name: str) -> float:
    """The smallest second setting that is nearly as good as the best one.

    Each is judged by the score of its best rate in the pilot; it is to be within 5 %
    of the best, for plain parameters and with `metrize`.
    """
    near = []
    for who in contestants():
        if who[0] == name:
            best: dict[Any, float] = {}
            for (_, value), x in runs.pilot_score(*who).items():
                best[value] = min(x, best.get(value, math.inf))
            near.append({v for v, x in best.items() if x <= 1.05 * min(best.values())})
    return min(set.intersection(*near))


def first(runs: Runs, name: str, given: str) -> Setting:
    """The finalist with the smallest score, of those with the chosen second."""
    tried = [s for s in runs.finalists(name, given) if s[1] == CHOSEN.get(name)]
    return min(tried, key=lambda s: score(multiples(runs, name, given, s)))


def default(runs: Runs, name: str) -> Setting:
    """What a class has out of the box, by the rule at the top."""
    own = (PUBLISHED[name], CHOSEN.get(name))
    stays = name in KEEPS or score(multiples(runs, name, "plain", own)) <= TOLERANCE
    return own if stays else first(runs, name, "plain")


def near(runs: Runs, name: str, given: str) -> list[Setting]:
    """The first rate and its neighbours in the range."""
    tried = [s for s in settings(name) if s[1] == CHOSEN.get(name)]
    at = tried.index(first(runs, name, given))
    return tried[max(at - 1, 0) : at + 2]


def best(runs: Runs, where: str, name: str, given: str) -> float:
    """The best of these rates on a problem, first seed."""
    return min(
        near(runs, name, given), key=lambda s: runs.loss(where, name, given, s, 0)
    )[0]


def good(runs: Runs, where: str, name: str, given: str) -> list[float]:
    """The least and the largest rate within 15 % of the best one, first seed."""
    losses = {
        s[0]: x
        for s, x in runs.pilot(where, name, given).items()
        if s[1] == CHOSEN.get(name)
    }
    close = [lr for lr, x in losses.items() if x <= TOLERANCE * min(losses.values())]
    return [min(close), max(close)]


def row(runs: Runs, name: str, given: str) -> dict[str, Any]:
    """What is told of a contestant."""
    chosen = first(runs, name, given)
    told = {"class": name, "given": given, "first": chosen[0]}
    told["at first"] = multiples(runs, name, given, chosen)
    if name in PUBLISHED:
        before, after = published(name), default(runs, name)
        told |= {"published": before[0], "default": after[0]}
        told["at published"] = multiples(runs, name, given, before)
        told["at default"] = multiples(runs, name, given, after)
    if name in SECOND:
        told["second"] = {"option": SECOND[name][0], "default": CHOSEN[name]}
    told["good"] = {w: good(runs, w, name, given) for w in MAIN}
    told["best"] = {w: best(runs, w, name, given) for w in ("digits", *OTHERS)}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--again", nargs="*", default=[], help="classes to run anew")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(RESULTS / "first_rates.json", provenance("first_rates.py"))
    for name in [k for k in store.runs if k.split("/")[1] in chosen.again]:
        del store.runs[name]
    runs = Runs(store, workers=chosen.workers)
    compete(runs)
    store.content["expected"] = EXPECTED
    store.content["table"] = [row(runs, *who) for who in contestants()]
    store.save()


if __name__ == "__main__":
    main()
