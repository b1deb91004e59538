"""A small GPT on real text, on one process or many, that survives being killed.

    python train_gpt.py
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 train_gpt.py

The text is a million bytes of Python's own library, which every Python has: nothing is
downloaded, and losses differ a little between versions of Python. To train something
else, copy this file and resumable.py beside it and change `build` and `batch_of`.

Under torchrun the weights are shared out (--parallel fsdp) or each process keeps them
all (ddp), and each takes its slice of every batch: the same data whatever the number of
processes. All that is random follows from the seed and the number of the step, so a
checkpoint is the weights, the optimizer's state and that number. Killed and started
again with the same command, or restarted by torchrun, a job goes on from its newest
complete checkpoint as if nothing had been, also on another number of processes. The
processes of several machines need a --folder that all can see.
"""

from __future__ import annotations

import argparse
import inspect
import math
import os
import random
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from resumable import Job, Log, hold, join, resume, save
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from anthology import lab, optim
from anthology.norms import metrize

OPTIMIZERS = {
    name.lower(): kind
    for name, kind in sorted(vars(optim).items())
    if isinstance(kind, type) and optim.BaseOptimizer in kind.__mro__[1:]
}
# learning rates, where the class has none or a careful one
RATES = {"muon": 0.02, "steepestdescent": 0.02}
# what may change when a job goes on
FREE = ("folder", "save_every", "log_every", "parallel")


class Layout(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Shows the defaults, and the text above as it stands."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what makes no sense is refused here."""
    about, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=Layout
    )
    add = parser.add_argument
    add("--folder", type=Path, default=Path("gpt"), help="for checkpoints and the log")
    add("--steps", type=int, default=300, help="in all")
    add("--save-every", type=int, default=50, help="steps between checkpoints")
    add("--log-every", type=int, default=10, help="steps between lines of the log")
    add("--optimizer", default="muon", help=f"one of {', '.join(OPTIMIZERS)}")
    add("--lr", type=float, help="at its peak; None: as is usual for it")
    add("--warmup", type=float, default=0.1, help="share of the steps with a rising lr")
    add("--clip", type=float, help="the 2-norm a gradient is cut to; None: any")
    add("--parallel", choices=("fsdp", "ddp"), default="fsdp", help="see below")
    add("--batch", type=int, default=16, help="windows a step, of all processes")
    add("--context", type=int, default=64, help="bytes in a window")
    add("--width", type=int, default=64, help="a multiple of 4, the number of heads")
    add("--depth", type=int, default=2, help="blocks")
    add("--seed", type=int, default=0, help="of weights and batches")
    args = parser.parse_args(argv)
    for name in ("steps", "save-every", "log-every", "batch", "context", "depth"):
        if getattr(args, name.replace("-", "_")) < 1:
            parser.error(f"--{name} must be at least 1")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if args.batch % processes:
        parser.error(f"--batch {args.batch} cannot be shared by {processes} processes")
    if args.width < 1 or args.width % 4:
        parser.error(f"--width must be a positive multiple of 4, got {args.width}")
    if not 0 <= args.warmup < 1:
        parser.error(f"--warmup must be in [0, 1), got {args.warmup}")
    if args.clip is not None and not args.clip > 0:
        parser.error(f"--clip must be positive, got {args.clip}")
    args.optimizer = args.optimizer.lower()
    if args.optimizer not in OPTIMIZERS:
        parser.error(f"--optimizer must be one of {', '.join(OPTIMIZERS)}")
    if args.lr is None:
        own = inspect.signature(OPTIMIZERS[args.optimizer]).parameters["lr"].default
        args.lr = RATES.get(args.optimizer, own)
    return args


def build(args: argparse.Namespace, job: Job) -> tuple[Any, Any]:
    """The model, spread over the processes if there are several, and its optimizer."""
    sizes = {name: getattr(args, name) for name in ("width", "depth", "context")}
    model: Any = lab.transformer(**sizes, seed=args.seed).to(job.device)
    if dist.is_initialized() and args.parallel == "fsdp":
        mesh = init_device_mesh(job.device.type, (job.size,))
        for part in (*model.blocks, model):
            fully_shard(part, mesh=mesh)
    kind: Any = OPTIMIZERS[args.optimizer]
    wishes, options = {"lr": args.lr}, inspect.signature(kind).parameters
    if "adamw_lr" in options:
        wishes["adamw_lr"] = args.lr  # a small model wants more than the default
    if "batch_size" in options:
        wishes["batch_size"] = args.batch * args.context  # terms the loss averages
    optimizer = kind(metrize(model), **wishes)
    if dist.is_initialized() and args.parallel == "ddp":
        model = DistributedDataParallel(model)
    return model, optimizer


def seed_of(*numbers: int) -> int:
    """One seed of several numbers, the same on every machine."""
    return random.Random(repr(numbers)).getrandbits(63)


def batch_of(words: lab.Text, step: int, args: Any) -> tuple[Tensor, Tensor]:
    """All windows of a step and, one byte on, what comes next: (batch, context)."""
    return next(words.batches(args.batch, args.context, seed_of(args.seed, step)))


def loss_of(model: Any, batch: tuple[Tensor, Tensor], job: Job) -> Tensor:
    """Mean cross entropy of this process's slice, in nats a byte."""
    x, y = (part.chunk(job.size)[job.rank] for part in batch)
    kind = job.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


@torch.no_grad()
def measure(model: Any, batch: tuple[Tensor, Tensor], job: Job) -> float:
    """The loss over all processes, without training on it."""
    model.eval()
    loss = job.mean(loss_of(model, batch, job))
    model.train()
    if isinstance(model, FSDPModule):
        model.reshard()  # which otherwise waits for a backward pass
    return loss


def share_of_rate(step: int, args: argparse.Namespace) -> float:
    """The learning rate as a share of its peak: up in a line, then down in one."""
    done = step / (args.steps + 1)
    fall = (1 - done) / (1 - args.warmup)
    rise = done / args.warmup if args.warmup else 1
    return float(min(rise, fall))


def descend(model: Any, optimizer: Any, batch: Any, args: Any, job: Job) -> Tensor:
    """Take one step; the loss before it, of this process's slice."""
    loss = loss_of(model, batch, job)
    loss.backward()
    if args.clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def line_of(row: dict[str, Any]) -> str:
    """A line of the log for people: how good, how steep and how long the step was."""
    line = "step {step}  loss {loss:.4f}  validation {validation:.4f}".format(**row)
    # an efficiency is NaN without a gradient, a ratio inf for weights that were zero
    figures = [c for c in row["certificates"] if math.isfinite(c["efficiency"])]
    figures = [c for c in figures if math.isfinite(c["ratio"])]
    if figures:
        least = min(figures, key=lambda c: c["efficiency"])
        longest = max(figures, key=lambda c: c["ratio"])
        line += f"  efficiency ≥ {least['efficiency']:.3f} ({least['name']})"
        line += f"  ‖Δw‖/‖w‖ ≤ {longest['ratio']:.2g} ({longest['name']})"
    return line


def train(args: argparse.Namespace, job: Job) -> None:
    """Train to the end; the last line gives the losses to nine digits."""
    words = lab.text(job.device, size=1_000_000)
    unseen = words.test_batch(4 * args.batch, args.context)
    model, optimizer = build(args, job)
    settings = {name: x for name, x in vars(args).items() if name not in FREE}
    done = resume(args.folder, model, optimizer, settings, job)
    log = Log(args.folder / "log.jsonl", done, job)
    for step in range(done + 1, args.steps + 1):
        torch.manual_seed(seed_of(args.seed, step, job.rank))  # for dropout and such
        lr = args.lr * share_of_rate(step, args)
        for group in optimizer.param_groups:
            group["lr"] = lr
        logged = step % args.log_every == 0 or step == args.steps
        with optim.certificates(optimizer) if logged else nullcontext() as measured:
            loss = descend(model, optimizer, batch_of(words, step, args), args, job)
        if measured is not None:
            row: dict[str, Any] = {"step": step, "lr": lr, "loss": job.mean(loss)}
            if isinstance(optimizer, optim.Muon):
                row["rates"] = optimizer.rates  # of both its rules, group by group
            row["validation"] = measure(model, unseen, job)
            figures = [c._asdict() | {"step": step} for c in measured.records]
            row["certificates"] = figures
            log.write(row)
            job.say(line_of(row))
        if step % args.save_every == 0 or step == args.steps:
            save(args.folder, step, model, optimizer, settings, job)
    last = measure(model, batch_of(words, args.steps, args), job)
    apart = measure(model, unseen, job)
    job.say(f"trained {args.steps} steps: loss {last:.9g}, validation {apart:.9g}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = arguments(argv)
    # which a single process says at every checkpoint
    warnings.filterwarnings("ignore", "torch.distributed is .*uninitialized")
    job = join(lab.pick_device())
    with hold(args.folder, job) or nullcontext():
        train(args, job)
    if dist.is_initialized():  # after an error torchrun ends the others
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
