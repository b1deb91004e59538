"""The one command for a CUDA device: what it runs, says, keeps and returns."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cuda, outcomes
from benchmarks.cuda import PARTS, Part, main


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small commands in place of the real ones; returns where they may write."""
    module = tmp_path / "drawn.py"
    module.write_text(
        "import sys, time\n"
        "print('reached  copy 0.95', flush=True)\n"
        "time.sleep(float(sys.argv[2]))\n"
        "print('MISSED   polar 0.50' if sys.argv[1] == '3' else __file__)\n"
        "sys.exit(int(sys.argv[1]) % 3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(outcomes, "ROOT", tmp_path)
    made = {
        name: Part(f"about {name}", (words,), (words,), needs)
        for name, words, needs in (
            ("good", ("drawn", "0", "0"), ()),
            ("bad", ("drawn", "1", "0"), ()),
            ("far", ("drawn", "3", "0"), ()),
            ("slow", ("drawn", "0", "60"), ()),
            ("poor", ("drawn", "0", "0"), ("torch", "no_such_module")),
        )
    }
    monkeypatch.setattr(cuda, "PARTS", made)
    return tmp_path / "out"


def test_every_part_has_a_report(parts: Path, capsys: Any) -> None:
    chosen = ["--rehearse", "--out", str(parts), "--part"]
    assert main([*chosen, "good"]) == 0
    text = (parts / "good.txt").read_text()
    first, about, device, versions, date, *_ = text.splitlines()
    assert first.startswith("good         passed, 1 of 1 goals")
    assert about == "about good" and "rehearsal on the CPU" in device
    assert f"torch {torch.__version__}" in versions and date.startswith("date: 20")
    assert text.endswith(
        "$ python -m drawn 0 0\nreached  copy 0.95\ndrawn.py\nexit 0\n"
    )
    assert "reached  copy 0.95" in capsys.readouterr().out

    assert main([*chosen, "bad,poor"]) == 1
    assert "FAILED: exit 1" in (parts / "bad.txt").read_text()
    assert "not run: needs no_such_module" in (parts / "poor.txt").read_text()
    summary = (parts / "summary.txt").read_text()
    places = [summary.index(f"\n{name} ") for name in ("good", "bad", "poor")]
    assert places == sorted(places)
    assert summary.count("reached  copy") == 2


def test_which_lines_judge_a_goal() -> None:
    lines = ["reached  x", "MISSED   y", "z   1.20 ≤ 1.03  MISSED", "w 1 ≤ 1  met"]
    assert outcomes.goals_in([*lines, "he met", "not reached", ""]) == [
        *lines,
        "he met",
    ]
    found = outcomes.Outcome("p", "about", text="\n".join(lines))
    assert found.line == "p            passed, 2 of 4 goals (0 s)"
    assert not found.is_good


def test_what_takes_too_long_is_stopped_and_what_it_said_kept(parts: Path) -> None:
    chosen = ["--rehearse", "--out", str(parts), "--part", "slow", "--limit", "3"]
    assert main(chosen) == 1
    text = (parts / "slow.txt").read_text()
    assert "FAILED: stopped at the limit" in text and "reached  copy" in text


def test_a_goal_that_is_missed_is_no_success(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(outcomes, "machine", lambda rehearse: "device: none\n")
    chosen = ["--out", str(parts), "--part"]
    assert main([*chosen, "good"]) == 0
    assert main([*chosen, "far"]) == 1
    assert "passed, 1 of 2 goals" in (parts / "far.txt").read_text()
    assert main(["--rehearse", *chosen, "far"]) == 0  # whose figures mean nothing


def test_without_a_device_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device, and PyTorch .* none"):
        main([])
    with pytest.raises(SystemExit):
        main(["--part", "nothing"])


def test_the_commands_name_what_is_there() -> None:
    root = Path(cuda.ROOT)
    for part in PARTS.values():
        for words in (*part.commands, *part.rehearsal):
            for word in words:
                if word.startswith(("tests/", "chapters")):
                    assert (root / word).exists(), word
    parsed = [part.commands[0] for part in PARTS.values()]
    assert {words[0] for words in parsed} == {
        "pytest",
        "benchmarks.kernels",
        "benchmarks",
    }


def test_results_of_other_sets_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "RESULTS", tmp_path)
    path = tmp_path / "card-2026-01-01.json"

    def content(*sets: str, count: int) -> dict[str, Any]:
        rows = [{"set": name, "figure": count} for name in sets]
        samples = {"all": count}
        return {"sets": {x: x for x in sets}, "samples": samples, "results": rows}

    path.write_text(json.dumps(content("mlp", "gpt", count=3)))
    saved = outcomes.saved_results()
    outcomes.keep_others(saved)
    assert json.loads(path.read_text()) == content("mlp", "gpt", count=3)
    path.write_text(json.dumps(content("gpt", "1e8", count=2)))
    outcomes.keep_others(saved)
    found = json.loads(path.read_text())
    assert [(row["set"], row["figure"]) for row in found["results"]] == [
        ("mlp", 3),
        ("gpt", 2),
        ("1e8", 2),
    ]
    assert found["samples"] == {"all": 5}
    assert list(found["sets"]) == ["mlp", "gpt", "1e8"]
