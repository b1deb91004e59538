"""The benchmark of the kernels runs, and says what it needs."""

import pytest
import torch

from benchmarks import kernels
from benchmarks.kernels import Goal


def test_every_part_runs(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    kernels.main(["--rehearse", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert all(line.split()[0] in ("reached", "MISSED") for line in lines)
    names = [line.split()[1].rstrip(",") for line in lines]
    assert names[:8] == [*kernels.RULES, "prodigy"]
    muon = ["Muon"] * hasattr(torch.optim, "Muon")
    assert names[8:] == ["AdamW", *["gram", "quadratic"] * 2, "polar", "3", *muon]


def test_a_part_that_is_not_there() -> None:
    with pytest.raises(SystemExit):
        kernels.main(["--rehearse", "--parts", "elementwise,none"])


def test_what_counts_as_reached() -> None:
    assert Goal("x", 0.9, 0.9, True, "").reached
    assert not Goal("x", 0.89, 0.9, True, "").reached
    assert Goal("x", 0.75, 0.75, False, "").reached
    assert str(Goal("x", 0.8, 0.75, False, "")).startswith("MISSED")


def test_without_cuda_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="on a CUDA device, and PyTorch finds none"):
        kernels.main([])
