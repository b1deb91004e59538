"""The benchmark of the kernels runs, and says what it needs."""

import pytest
import torch

from benchmarks import kernels
from benchmarks.kernels import Goal


def test_every_part_runs(device: str) -> None:
    goals = kernels.elementwise(device, 3000, rounds=1)
    goals += kernels.products(device, [32], rounds=1)
    goals += kernels.batched(device, 3, 8, rounds=1)
    goals += kernels.whole_step(device, "quick", rounds=1)
    assert [goal.name.split(",")[0] for goal in goals[:7]] == [
        *kernels.RULES,
        "prodigy",
    ]
    assert all(goal.figure > 0 for goal in goals)
    if hasattr(torch.optim, "Muon"):
        assert len(goals) == 7 + 4 + 1 + 1


def test_what_counts_as_reached() -> None:
    assert Goal("x", 0.9, 0.9, True, "").reached
    assert not Goal("x", 0.89, 0.9, True, "").reached
    assert Goal("x", 0.75, 0.75, False, "").reached
    assert str(Goal("x", 0.8, 0.75, False, "")).startswith("MISSED")


def test_without_cuda_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["kernels"])
    with pytest.raises(SystemExit, match="on a CUDA device, and PyTorch finds none"):
        kernels.main()
