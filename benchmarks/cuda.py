"""Everything that wants a CUDA device, by one command.

    python -m benchmarks.cuda [--part kernels,polar] [--limit 560] [--rehearse]

Runs the tests on the device, the benchmarks with their goals and all chapters, each
part as commands of its own within a limit of time, and writes for each what was run,
on what, and all that it printed to ``benchmarks/results/cuda/<part>.txt``, with a
summary beside. The exit status is 0 only if everything ran, passed and reached its
goals. Parts: kernels, optimizers, elementwise, polar, steps, large and chapters; each
fits ten minutes. ``--rehearse`` goes the same way on a CPU with tiny sizes, to see that
the way is clear; nothing is kept then, unless ``--out`` says where.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from tools.layers import BY_FILE, NBVAL, PYTEST

from .outcomes import ROOT, Outcome, execute, keep_others, saved_results, write
from .report import RESULTS

HOME = RESULTS / "cuda"
TESTED = ("pytest", "pytest_timeout", "hypothesis", "triton")
LAB = ("matplotlib", "scipy", "sklearn", "torchdiffeq", "tqdm", "ipywidgets")
Words = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Commands that belong together.

    Attributes
    ----------
    about : str
        What it shows.
    commands, rehearsal : tuple of tuple of str
        What follows ``python -m``, on the device and on a CPU.
    needs : tuple of str
        Modules that must be there.
    """

    about: str
    commands: tuple[Words, ...]
    rehearsal: tuple[Words, ...]
    needs: tuple[str, ...] = ()


def _kernels(about: str, parts: str) -> Part:
    words = ("benchmarks.kernels", "--parts", parts)
    rehearsal = (*words, "--rehearse", "--rounds", "1")
    return Part(about, (words,), (rehearsal,), ("triton",))


def _steps(about: str, sets: str) -> Part:
    words = ("benchmarks", "--device", "cuda", "--seconds", "3", "--sets", sets)
    quick = ("benchmarks", "--quick", "--families", "Lion,Muon bfloat16")
    return Part(about, ((*words, "--save"),), (quick,))


_BOOK = (*PYTEST, *NBVAL)
PARTS = {
    "kernels": Part(
        "what the kernels compute on the device",
        ((*PYTEST, "tests/kernels", "tests/cuda/test_numbers.py"),),
        ((*PYTEST, "tests/kernels/test_many.py", "tests/cuda/test_numbers.py"),),
        TESTED,
    ),
    "optimizers": Part(
        "every optimizer as on the CPU, without waiting, and in a CUDA graph",
        ((*PYTEST, "tests/cuda/test_optimizers.py"),),
        ((*PYTEST, "tests/cuda/test_optimizers.py"),),
        TESTED,
    ),
    "elementwise": _kernels(
        "passes over 10⁸ numbers at the bandwidth of a copy, and many small tensors",
        "elementwise,small",
    ),
    "polar": _kernels(
        "symmetric products, stacks and a whole step of Muon", "products,batched,step"
    ),
    "steps": _steps(
        "a step of every optimizer against its peers", "mlp,gpt,resnet18,small"
    ),
    "large": _steps("the same on large models", "gpt2-medium,1e8,1e9"),
    "chapters": Part(
        "every cell of every chapter prints on the device what is stored",
        ((*_BOOK, *(BY_FILE if find_spec("xdist") else ()), "chapters"),),
        ((*_BOOK, "chapters/norms/steepest-descent.ipynb"),),
        (*TESTED, "nbval", "ipykernel", *LAB),
    ),
}


def run(name: str, limit: float, rehearse: bool) -> Outcome:
    """Run a part.

    Parameters
    ----------
    name : str
        One of `PARTS`.
    limit : float
        Seconds for all of its commands.
    rehearse : bool
        On a CPU, with tiny sizes.

    Returns
    -------
    Outcome
        The verdict is ``passed``, or says what went wrong.
    """
    part, start = PARTS[name], time.monotonic()
    lacking = [module for module in part.needs if not find_spec(module)]
    if lacking:
        message = (
            f"not run: needs {', '.join(lacking)} (pip install -r requirements.txt)"
        )
        return Outcome(name, part.about, message)
    outcome = Outcome(name, part.about)
    saved = saved_results() if name in ("steps", "large") and not rehearse else {}
    for words in part.rehearsal if rehearse else part.commands:
        print("$ python -m", *words, flush=True)
        left = limit - (time.monotonic() - start)
        code, text = execute(words, left, rehearse)
        ending = f"exit {code}" if code is not None else "stopped at the limit"
        outcome.text += f"$ python -m {' '.join(words)}\n{text}{ending}\n"
        if code != 0 and outcome.verdict == "passed":
            outcome.verdict = f"FAILED: {ending}"
    keep_others(saved)
    outcome.seconds = time.monotonic() - start
    return outcome


def main(arguments: list[str] | None = None) -> int:
    """Run parts and write their reports.

    Parameters
    ----------
    arguments : list of str, optional
        Default None: those of the command line.

    Returns
    -------
    int
        The exit status.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", default=",".join(PARTS), help="names, by commas")
    parser.add_argument("--limit", type=float, default=560.0, help="seconds a part")
    parser.add_argument("--out", type=Path, help=f"default {HOME.relative_to(ROOT)}/")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, tiny sizes")
    given = parser.parse_args(arguments)
    chosen = given.part.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {list(PARTS)}")
    if not given.rehearse and not torch.cuda.is_available():
        raise SystemExit(
            f"benchmarks.cuda needs a CUDA device, and PyTorch {torch.__version__} finds "
            "none here: a GPU with its driver, or a build of PyTorch for CUDA is "
            "missing; --rehearse goes the same way on the CPU"
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.out or (Path(scratch) if given.rehearse else HOME)
        outcomes = []
        for name in chosen:
            print(f"\n== {name}: {PARTS[name].about} ==", flush=True)
            outcomes.append(run(name, given.limit, given.rehearse))
            write(outcomes[-1], folder, PARTS, given.rehearse)
        print("\n== all ==")
        print(*(outcome.line for outcome in outcomes), sep="\n")
    good = [x.verdict == "passed" if given.rehearse else x.is_good for x in outcomes]
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
