"""Time of a step of every optimizer, against its peers and its limit.

    python -m benchmarks [--quick] [--device cuda] [--threads 2] [--sets mlp,gpt]
                         [--families Lion,AdamW] [--paths foreach,compiled] [--save]
    python -m benchmarks --goals [FILE]

Every contestant of a family takes its steps in turn, round after round, so that a
disturbance meets all of them; gradients are given and the first steps do not count.
At the end stand the goals and what became of them; --goals prints those of saved
results, the latest where no file is named.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from anthology.cost import device_rates

from .contestants import PATHS, families
from .goals import TOO_FAST, table, verdicts
from .measure import Plan, Row, run_family
from .report import HEAD, RESULTS, line, load, machine, rounded, save
from .sets import SETS


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure, print and, on request, save.

    Parameters
    ----------
    arguments : list of str, optional
        Default None: those of the command line.

    Returns
    -------
    list of Row
        Everything measured.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15, help="most samples of each")
    parser.add_argument("--seconds", type=float, default=5.0, help="most a family")
    parser.add_argument("--minutes", type=float, help="begin no family after so many")
    parser.add_argument("--clock", choices=("wall", "cpu"), help="which one counts")
    parser.add_argument("--sets", help="some of " + ",".join(SETS))
    parser.add_argument("--families", help="names or parts of names, by commas")
    parser.add_argument("--paths", help="of ours, some of " + ",".join(PATHS))
    parser.add_argument(
        "--quick", action="store_true", help="tiny set, few rounds, nothing compiled"
    )
    parser.add_argument("--save", action="store_true", help=f"to {RESULTS.name}/")
    parser.add_argument(
        "--goals", nargs="?", const="", metavar="FILE", help="only print saved ones"
    )
    given = parser.parse_args(arguments)
    if given.goals is not None:
        _saved(Path(given.goals) if given.goals else None)
        return []
    torch.set_num_threads(given.threads)
    on_gpu = torch.device(given.device).type == "cuda"
    rates = device_rates(given.device)
    plan = Plan(
        device=given.device,
        rounds=3 if given.quick else given.rounds,
        seconds=0.5 if given.quick else given.seconds,
        by=given.clock or ("wall" if on_gpu or given.threads > 1 else "cpu"),
        paths=_paths(given.paths, given.quick),
        memory=0.6 * torch.cuda.mem_get_info()[0] if on_gpu else 8e9,
    )
    about = machine(given.device, given.threads)
    print(
        about["processor"], given.threads, "threads,", plan.by, "time,", about["date"]
    )
    print("GB/s", [(size, round(rate / 1e9, 1)) for size, rate in rates.ladder])
    print("GFLOP/s", {k: round(rate / 1e9, 1) for k, rate in rates.matmul.items()})
    rows: list[Row] = []
    end = time.monotonic() + 60 * (given.minutes or float("inf"))
    for name in _chosen(given.sets, given.quick, on_gpu):
        print(f"\n{name}: {SETS[name].title}\n{HEAD}")
        for family in families():
            if family.sets and name not in family.sets:
                continue
            if not _wanted(family.name, given.families):
                continue
            if time.monotonic() > end:
                print(f"{family.name}: left out, the minutes are over")
                continue
            print(family.name)
            found = run_family(family, SETS[name], plan, rates)
            print("\n".join(map(line, found)), flush=True)
            _warn(found)
            rows += found
            if given.save:
                save(rows, plan, rates, about)
    plain = rounded([row.plain() for row in rows])  # as a file has them
    print(f"\n{table(verdicts(plain, on_gpu))}")
    return rows


def _saved(path: Path | None) -> None:
    """Print the goals of results, by the rows that are in the file."""
    content = load(path)
    about = content["machine"]
    cuda = not about["kind"].startswith("cpu")
    print(about["processor"], about["threads"], "threads,", about["date"])
    print(table(verdicts(content["results"], cuda)))


def _warn(rows: list[Row]) -> None:
    """Say so if a step was faster than what counts as its limit."""
    for row in rows:
        if row.reached is not None and row.reached > TOO_FAST:
            print(
                f"! {row.name} reached {row.reached:.0%} of its limit: the rates were "
                "measured too low; measure again when nothing else runs"
            )


def _paths(asked: str | None, quick: bool) -> tuple[str, ...]:
    """Paths of this package to measure; none for all."""
    if asked:
        return tuple(asked.split(","))
    return ("foreach", "loop", "fused") if quick else ()


def _chosen(asked: str | None, quick: bool, on_gpu: bool) -> list[str]:
    """Names of the sets to run."""
    if asked:
        return asked.split(",")
    if quick:
        return ["quick"]
    return [
        s.name for s in SETS.values() if s.name != "quick" and s.cuda_only <= on_gpu
    ]


def _wanted(name: str, asked: str | None) -> bool:
    return not asked or any(part.lower() in name.lower() for part in asked.split(","))


if __name__ == "__main__":
    main()
