"""The report of the contract suite, and its command."""

import subprocess
import sys

import pytest
import torch

from anthology.testing import ContractError, Report, Result, contract
from anthology.testing.__main__ import main, option

REPORT = Report(
    "Toy",
    (
        Result("closure", True, "", "Code fails."),
        Result("deep copy", False, "the copy moved", "A copied trainer moves it."),
    ),
)


def test_a_report_says_what_failed_why_and_whom_it_hurts():
    assert REPORT.score == "1/2"
    assert REPORT.passed == ["closure"]
    assert REPORT.failed == ["deep copy"]
    assert str(REPORT).splitlines() == [
        "Toy: 1/2 checks passed",
        "  closure    passed",
        "  deep copy  FAILED",
        "      the copy moved -> A copied trainer moves it.",
    ]
    assert max(len(line) for line in str(contract(torch.optim.Adam)).splitlines()) <= 88


def test_raise_if_failed():
    with pytest.raises(ContractError, match="the copy moved"):
        REPORT.raise_if_failed()
    Report("Toy", REPORT.results[:1]).raise_if_failed()


def test_the_suite_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    contract(torch.optim.SGD)
    assert torch.equal(torch.randn(3), expected)


def test_a_factory_that_cannot_build_fails_everything_and_raises_nothing():
    def broken(params):
        raise RuntimeError("no such device")

    report = contract(broken)
    assert report.name == "broken"
    assert report.passed == []
    assert all("no such device" in result.why for result in report.results)


def test_the_command_reports_and_tells_by_its_status(capsys):
    ours = "anthology.optim.SteepestDescent"
    assert main([ours, "lr=0.01", "norm=LInf()", "momentum=0.9"]) == 0
    assert f"{ours}: 50/50 checks passed" in capsys.readouterr().out
    assert main(["torch.optim.SGD"]) == 1
    assert "nan gradient" in capsys.readouterr().out


def test_its_arguments():
    assert option("betas=(0.9, 0.99)") == ("betas", (0.9, 0.99))
    assert option("norm=LInf()") == ("norm", "LInf()")
    with pytest.raises(SystemExit):
        main(["torch.optim.SGD", "lr"])


@pytest.mark.parametrize("path", ["torch.optim.Nope", "nowhere.SGD", "SGD"])
def test_a_path_to_nothing_is_said_without_a_traceback(path, capsys):
    with pytest.raises(SystemExit):
        main([path])
    assert f"no class at {path!r}" in capsys.readouterr().err


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "anthology.testing", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "dotted path of the class" in result.stdout
