"""The checker prints one stable line or raises, and is never fooled."""

import re
import subprocess
import sys

import pytest
import torch

from anthology import lab


def test_check_prints_one_line(capsys):
    assert lab.check("sums commute", True, "3 trials") is None
    lab.check("all hold", torch.tensor([True, True]))
    assert capsys.readouterr().out == "ok  sums commute (3 trials)\nok  all hold\n"


@pytest.mark.parametrize(
    "passed", [False, torch.tensor(False), torch.tensor([1, 0]) > 0]
)
def test_check_raises_and_prints_nothing(capsys, passed):
    with pytest.raises(AssertionError, match=re.escape("FAILED  two is three (why)")):
        lab.check("two is three", passed, "why")
    assert capsys.readouterr().out == ""


def test_check_of_no_elements_is_no_proof():
    with pytest.raises(AssertionError):
        lab.check("nothing was compared", torch.tensor([], dtype=torch.bool))


@pytest.mark.parametrize("passed", [1, 0.3, "yes", None, torch.tensor([2.0])])
def test_check_refuses_what_is_no_truth_value(passed):
    with pytest.raises(TypeError, match="compare first"):
        lab.check("a number is not a proof", passed)


def test_check_accepts_numpy_truth():
    import numpy as np

    lab.check("numpy compares too", np.float64(1) < 2)
    with pytest.raises(AssertionError):
        lab.check("numpy compares too", np.float64(3) < 2)


def test_check_close_prints_the_tolerance_and_not_the_error(capsys):
    lab.check_close(
        "close", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.00001]), 1e-3
    )
    assert capsys.readouterr().out == "ok  close (error < 0.001)\n"
    lab.check_close("close", 1.0, 1.0, 1e-12)
    assert capsys.readouterr().out == "ok  close (error < 1e-12)\n"


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (1.0, 1.1),
        (float("nan"), 1.0),
        (1.0, float("nan")),
        (float("inf"), 1.0),
        (torch.tensor([0.0, float("nan")]), torch.zeros(2)),
    ],
)
def test_check_close_fails(actual, expected):
    with pytest.raises(AssertionError, match=r"FAILED  far .*allowed 0\.01"):
        lab.check_close("far", actual, expected, 1e-2)


def test_a_tolerance_of_zero_never_passes():
    with pytest.raises(AssertionError):
        lab.check_close("strict", 1.0, 1.0, 0.0)


def test_gap_is_relative_above_one_and_absolute_below():
    assert lab.gap(torch.tensor([1e6 + 1.0]).double(), torch.tensor([1e6])) == 1e-6
    assert lab.gap(torch.tensor([1e-6]), torch.zeros(1)) == pytest.approx(1e-6)
    assert lab.gap(torch.zeros(0), torch.zeros(0)) == 0.0


def test_gap_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"\(2,\) and \(2, 2\)"):
        lab.gap(torch.zeros(2), torch.zeros(2, 2))


def test_device_and_budget_follow_the_environment(monkeypatch):
    monkeypatch.setenv("ANTHOLOGY_DEVICE", "cpu")
    assert lab.pick_device() == torch.device("cpu")
    monkeypatch.delenv("ANTHOLOGY_BUDGET", raising=False)
    assert lab.budget() == "small"
    monkeypatch.setenv("ANTHOLOGY_BUDGET", "large")
    assert lab.budget() == "large"
    monkeypatch.setenv("ANTHOLOGY_BUDGET", "huge")
    with pytest.raises(ValueError, match="'small' or 'large'"):
        lab.budget()


def test_device_picked_without_being_told_has_float64(monkeypatch):
    monkeypatch.delenv("ANTHOLOGY_DEVICE", raising=False)
    device = lab.pick_device()
    assert torch.ones(1, dtype=torch.float64, device=device).item() == 1.0


def test_importing_lab_loads_no_plotting_and_no_data_library():
    code = (
        "import sys; from anthology import lab; "
        "print(sorted({'matplotlib', 'sklearn', 'ipywidgets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_exported_name_exists():
    missing = [name for name in lab.__all__ if not hasattr(lab, name)]
    assert missing == [] and len(lab.__all__) == len(set(lab.__all__))


def test_python_floats_keep_their_digits():
    exact = torch.tensor(0.1, dtype=torch.float64)
    assert lab.gap(exact, 0.1) == 0
    assert lab.gap(0.1, 0.1 + 1e-12) > 1e-13
