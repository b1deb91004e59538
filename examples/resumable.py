"""What lets a job of one or many processes be killed and go on: copy it as it is.

`join` meets the processes that torchrun started, `hold` keeps other jobs out of the
folder, `save` and `resume` write and read checkpoints that any number of processes can
go on from, `Log` is a file of JSON lines that tells each step once. Needs an optimizer
of `anthology.optim`, or another one with its state there from the start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

KEEP = 2  # checkpoints; the one before the newest is the spare
PATIENCE = timedelta(minutes=10)  # who waits longer for the others gives up


class Job(NamedTuple):
    """Where this process stands: it is number `rank` of `size`."""

    rank: int
    size: int
    device: torch.device

    def tell(self, value: str | None = None) -> str | None:
        """What process 0 has to say, on every process; all wait for it."""
        told = [value]
        if dist.is_initialized():
            dist.broadcast_object_list(told, 0, device=self.device)
        return told[0]

    def mean(self, x: Tensor) -> float:
        """The mean over the processes."""
        x = x.detach().clone()
        if dist.is_initialized():
            dist.all_reduce(x)
        return float(x / self.size)

    def say(self, line: str) -> None:
        """Print, once."""
        if self.rank == 0:
            print(line, flush=True)


def join(device: torch.device) -> Job:
    """Meet the other processes, if torchrun started some."""
    if "RANK" not in os.environ:
        return Job(0, 1, device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    store, rank, size = next(iter(rendezvous("env://", timeout=PATIENCE)))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(agreed_name(store, rank, size), store),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    return Job(rank, size, device)


def agreed_name(store: Any, rank: int, size: int) -> str:
    """A name that the processes of this start share, and no earlier start had.

    When torchrun restarts a job, its store still holds where the dead processes
    listened, and who reads that fails (pytorch/pytorch#135712). So each process
    writes a new name for itself, and all agree on the names that they read: had one
    read an old name, the process that had it could not agree.
    """
    store.set(f"name/{rank}", uuid.uuid4().hex)
    while True:
        names = b" ".join(store.get(f"name/{r}") for r in range(size))
        agreed = hashlib.sha256(names).hexdigest()
        store.set(f"{agreed}/{rank}", "yes")
        if store.check([f"{agreed}/{r}" for r in range(size)]):
            return agreed
        time.sleep(0.05)


def hold(folder: Path, job: Job) -> Any:
    """Make a folder, and keep other jobs out of it while the result is open."""
    lock, problem = None, None
    if job.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
        with contextlib.suppress(ImportError):  # not on Windows
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                problem = f"another job is at work in {folder}; end it first"
    if problem := job.tell(problem):
        raise SystemExit(problem)
    return lock


def checkpoints(folder: Path) -> list[Path]:
    """Complete ones, oldest first; one being written has another name."""
    return sorted(folder.glob("step-" + 9 * "[0-9]"))


def contents(model: Any, optimizer: Any) -> dict[str, Any]:
    """What a checkpoint holds; of a sharded tensor, the part that this process has."""
    kept = states.get_optimizer_state_dict(model, optimizer)
    return {"model": states.get_model_state_dict(model), "optimizer": kept}


def save(
    folder: Path, step: int, model: Any, optimizer: Any, settings: Any, job: Job
) -> None:
    """Write a checkpoint under another name; renaming it makes it count."""
    target = folder / f"step-{step:09d}"
    draft = target.with_suffix(".draft")
    if job.rank == 0:
        for old in folder.glob("*.draft"):  # of a job that was killed
            shutil.rmtree(old)
        draft.mkdir()
    job.tell()
    state_dict_saver.save(contents(model, optimizer), checkpoint_id=draft)
    if job.rank == 0:
        (draft / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        draft.rename(target)
        for old in checkpoints(folder)[:-KEEP]:
            shutil.rmtree(old)
    job.tell()


def resume(folder: Path, model: Any, optimizer: Any, settings: Any, job: Job) -> int:
    """Load the newest complete checkpoint, if any; the number of steps behind it."""
    found = checkpoints(folder)
    newest = job.tell(str(found[-1]) if found else None)
    if newest is None:
        return 0
    source = Path(newest)
    made_with = json.loads((source / "settings.json").read_text(encoding="utf-8"))
    for name, value in made_with.items():
        if settings.get(name) != value:
            raise SystemExit(
                f"{source} was made with {name} {value}, not {settings.get(name)}; "
                f"give that, or another folder"
            )
    optimizer.create_state()  # room to load into
    state = contents(model, optimizer)
    state_dict_loader.load(state, checkpoint_id=source)
    states.set_model_state_dict(model, state["model"])
    states.set_optimizer_state_dict(model, optimizer, state["optimizer"])
    step = int(source.name.removeprefix("step-"))
    job.say(f"goes on from step {step}")
    return step


class Log:
    """A file of JSON lines, one a step that was logged, in which null is NaN or inf."""

    def __init__(self, path: Path, done: int, job: Job) -> None:
        """Forget what it says of the steps after `done`: they are made again."""
        self.path, self.job = path, job
        if job.rank == 0 and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            kept = [line for line in whole if json.loads(line)["step"] <= done]
            draft = path.with_suffix(".draft.jsonl")
            draft.write_text("".join(kept), encoding="utf-8")
            draft.replace(path)

    def write(self, row: dict[str, Any]) -> None:
        """Add a line, which must say of which `step` it is."""
        if self.job.rank == 0:
            row = json.loads(json.dumps(row), parse_constant=lambda _: None)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
