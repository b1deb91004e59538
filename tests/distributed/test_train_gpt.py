"""The example that outgrew a notebook: killed anywhere, it goes on as if it had not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.run import get_args_parser

from tests.distributed.processes import Processes

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "train_gpt.py"
KILLER = Path(__file__).with_name("kill_train_gpt.py")
sys.path.append(str(SCRIPT.parent))  # where Python looks when it runs the script

import resumable
import train_gpt as gpt

SMALL = {"width": 16, "depth": 1, "batch": 4, "context": 16, "steps": 8}
OFTEN = {"save-every": 3, "log-every": 1}
TINY = [f"--{name}={value}" for name, value in (SMALL | OFTEN).items()]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
PATIENCE = 400  # seconds; a job takes ten on a machine with nothing else to do


def start(*command: object) -> subprocess.Popen[str]:
    """A Python command, on one thread a process."""
    paths = os.pathsep.join(map(str, (ROOT, SCRIPT.parent)))
    own = {"OMP_NUM_THREADS": "1", "ANTHOLOGY_DEVICE": "cpu", "PYTHONPATH": paths}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*command: object, status: int = 0) -> str:
    """Its output; it must end as expected."""
    job = start(*command)
    try:
        out, err = job.communicate(timeout=PATIENCE)
    finally:
        job.terminate()  # on which torchrun ends its processes
    assert job.returncode == status, err
    return out


def killed(folder: Path, place: str) -> list[object]:
    """The example's command, which comes to an end before its time."""
    marks = folder.parent / "marks"
    marks.mkdir()
    return [KILLER, place, marks, *TINY, "--folder", folder]


def logged(folder: Path) -> list[dict[str, Any]]:
    """All that the log says: losses and certificates of every step, in full."""
    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def last_line(out: str) -> str:
    return out.splitlines()[-1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and output of an unbroken plain job."""
    folder = tmp_path_factory.mktemp("alone") / "gpt"
    return folder, run(SCRIPT, *TINY, "--folder", folder)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and output of an unbroken job of two processes."""
    folder = tmp_path_factory.mktemp("together") / "gpt"
    return folder, run(*TORCHRUN, SCRIPT, *TINY, "--folder", folder)


def test_what_a_job_leaves(alone: tuple[Path, str]) -> None:
    folder, out = alone
    saved = ["step-000000006", "step-000000008"]
    assert names(folder) == ["lock", "log.jsonl", *saved]
    assert re.findall(r"^step (\d) .* efficiency ≥ \d", out, re.MULTILINE)
    assert last_line(out).startswith("trained 8 steps: loss ")
    rows = logged(folder)
    assert [row["step"] for row in rows] == list(range(1, 9))
    rates = [row["lr"] for row in rows]
    assert rates == sorted(rates, reverse=True)  # its warm-up is shorter than a step
    for row in rows:
        assert len(row["certificates"]) == 15
        assert all(c["efficiency"] <= 1 + 1e-6 for c in row["certificates"])
    assert rows[-1]["validation"] < rows[0]["validation"] < 5.55  # log 256 = 5.545
    again = run(SCRIPT, *TINY, "--folder", folder)
    assert again.splitlines() == ["goes on from step 8", last_line(out)]
    assert logged(folder) == rows


def test_killed_while_it_saved(alone: tuple[Path, str], tmp_path: Path) -> None:
    """What was half written does not count: the job goes on from step 3."""
    folder = tmp_path / "gpt"
    run(*killed(folder, "save"), status=-signal.SIGKILL)
    assert {"step-000000003", "step-000000006.draft"} < set(names(folder))
    out = run(SCRIPT, *TINY, "--folder", folder)
    assert out.startswith("goes on from step 3\nstep 4 ")
    assert last_line(out) == last_line(alone[1])
    assert logged(folder) == logged(alone[0])
    assert names(folder) == names(alone[0])


def end(job: subprocess.Popen[str], marks: Path) -> None:
    """Kill torchrun and its two processes when both wait for it."""
    try:
        give_up = time.monotonic() + PATIENCE
        while len(list(marks.glob("*.pid"))) < 2 and job.poll() is None:
            assert time.monotonic() < give_up
            time.sleep(0.1)
    finally:
        job.kill()
        for mark in marks.glob("*.pid"):
            os.kill(int(mark.stem), signal.SIGKILL)
        job.communicate()
    assert job.returncode == -signal.SIGKILL
    assert len(list(marks.glob("*.pid"))) == 2


def test_killed_as_a_whole(together: tuple[Path, str], tmp_path: Path) -> None:
    """Killed before step 5, torchrun and all; the same command ends it."""
    folder = tmp_path / "gpt"
    end(start(*TORCHRUN, *killed(folder, "wait")), tmp_path / "marks")
    out = run(*TORCHRUN, SCRIPT, *TINY, "--folder", folder)
    assert out.startswith("goes on from step 3\nstep 4 ")
    assert last_line(out) == last_line(together[1])
    assert logged(folder) == logged(together[0])


def test_one_process_of_two_killed(together: tuple[Path, str], tmp_path: Path) -> None:
    """Then torchrun ends the other, and starts both again."""
    folder = tmp_path / "gpt"
    out = run(*TORCHRUN, "--max-restarts=1", *killed(folder, "step"))
    assert len(list((tmp_path / "marks").glob("*.pid"))) == 1
    assert out.count("goes on from step 3\nstep 4 ") == 1
    assert last_line(out) == last_line(together[1])
    assert logged(folder) == logged(together[0])


def trained(folder: str, *more: str) -> None:
    """What a process of a job does."""
    args = gpt.arguments([*TINY, f"--folder={folder}", *more])
    job = resumable.Job(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    with resumable.hold(args.folder, job) or open(os.devnull):
        gpt.train(args, job)


def forget(folder: Path) -> None:
    """The last checkpoint, as if the job had been killed after that of step 6."""
    shutil.rmtree(folder / "step-000000008")


def same(folder: Path, expected: list[dict[str, Any]], tol: float = 1e-5) -> bool:
    """Whether the losses are those of other processes, which add in another order."""
    names = ("loss", "validation")
    found = [row[name] for row in logged(folder) for name in names]
    wanted = [row[name] for row in expected for name in names]
    return found == pytest.approx(wanted, rel=tol)


def test_fewer_processes(
    alone: tuple[Path, str], processes: Processes, tmp_path: Path
) -> None:
    """Saved by four, resumed by two: the losses of one."""
    processes(trained, str(tmp_path))
    forget(tmp_path)
    processes(trained, str(tmp_path), size=2)
    assert same(tmp_path, logged(alone[0]))


def test_shared_out_or_not(
    together: tuple[Path, str], processes: Processes, tmp_path: Path
) -> None:
    """From two that share the weights to two that do not, to one."""
    folder, expected = tmp_path / "gpt", logged(together[0])
    shutil.copytree(together[0], folder)
    for count in (2, 1):
        forget(folder)
        processes(trained, str(folder), "--parallel=ddp", size=count)
        assert same(folder, expected)


@pytest.mark.parametrize("name", ["AdamW", "SOAP", "SIRFShampoo", "Prodigy"])
def test_other_optimizers(name: str, processes: Processes, tmp_path: Path) -> None:
    more = [f"--optimizer={name}", "--clip=1", "--warmup=0.5"]
    processes(trained, str(tmp_path), *more, size=2)
    expected = logged(tmp_path)
    forget(tmp_path)
    processes(trained, str(tmp_path), *more, size=2)
    if name == "Prodigy":  # each process keeps its part of a sum; loaded, it is one
        assert same(tmp_path, expected, tol=1e-6)
    else:
        assert logged(tmp_path) == expected


def test_random_numbers_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dropout leaves out follows from the step."""
    whole = gpt.lab.transformer

    def leaky(**sizes: int) -> torch.nn.Module:
        return torch.nn.Sequential(whole(**sizes), torch.nn.Dropout(0.5))

    monkeypatch.setattr(gpt.lab, "transformer", leaky)
    gpt.main([*TINY, f"--folder={tmp_path}"])
    expected = logged(tmp_path)
    forget(tmp_path)
    torch.rand(3)
    gpt.main([*TINY, f"--folder={tmp_path}"])
    assert logged(tmp_path) == expected


def test_other_settings_are_refused(alone: tuple[Path, str]) -> None:
    folder = alone[0]
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit, match=r"made with lr 0\.02, not 0\.5"):
        gpt.main([*TINY, "--lr=0.5", f"--folder={folder}"])
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        ("--steps=0", "--steps must be at least 1"),
        ("--save-every=0", "--save-every must be at least 1"),
        ("--optimizer=Adamm", "--optimizer must be one of adam, adamw, "),
        ("--batch=3", "--batch 3 cannot be shared by 2 processes"),
        ("--width=18", "--width must be a positive multiple of 4, got 18"),
        ("--warmup=1", r"--warmup must be in \[0, 1\), got 1.0"),
        ("--clip=nan", "--clip must be positive, got nan"),
    ],
)
def test_wrong_arguments(
    wrong: str,
    answer: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        gpt.arguments([wrong])
    assert re.search(answer, capsys.readouterr().err)


def test_torchrun_leaves_its_options_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """It takes what begins one of its own, wherever that stands on the line."""
    with pytest.raises(SystemExit):
        gpt.arguments(["--help"])
    options = re.findall(r"^ *(--[\w-]+)", capsys.readouterr().out, re.MULTILINE)
    assert len(options) == 14
    theirs = [o for a in get_args_parser()._actions for o in a.option_strings]
    assert not [(o, t) for o in options for t in theirs if t.startswith(o)]
