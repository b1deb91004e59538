"""The parts of the example that make a job resumable, each by itself."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

import resumable

JOB = resumable.Job(0, 1, torch.device("cpu"))


def test_two_jobs_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "gpt"
    busy = pytest.raises(SystemExit, match="another job is at work in")
    with resumable.hold(folder, JOB), busy:
        resumable.hold(folder, JOB)
    resumable.hold(folder, JOB).close()


def test_a_checkpoint_counts_when_it_has_its_name(tmp_path: Path) -> None:
    for name in ("step-000000010", "step-000000009", "step-000000011.draft", "lock"):
        (tmp_path / name).mkdir()
    found = [path.name for path in resumable.checkpoints(tmp_path)]
    assert found == ["step-000000009", "step-000000010"]
    assert resumable.checkpoints(tmp_path / "missing") == []


def test_an_earlier_start_is_not_met() -> None:
    """Each process finds the others of its start, however late they come."""
    store, agreed = dist.HashStore(), []

    def meet(rank: int, wait: float) -> None:
        time.sleep(wait)
        agreed.append(resumable.agreed_name(store, rank, 3))

    for attempt in range(6):
        waits = [(0.0, 0.1, 0.2)[(attempt + rank) % 3] for rank in range(3)]
        threads = [threading.Thread(target=meet, args=x) for x in enumerate(waits)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(agreed) == 3 * (attempt + 1)
        assert len(set(agreed)) == attempt + 1


def test_a_log_says_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = resumable.Log(path, 0, JOB)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": float("nan")})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 1, "lo')  # killed while it wrote
    resumable.Log(path, 2, JOB).write({"step": 3, "loss": 0.5})
    rows = [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["loss"] for row in rows] == [None, None, 0.5]
