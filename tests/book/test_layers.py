"""No test is forgotten: by a layer, by the jobs of the workflow, by the slow list."""

import ast
import threading
from pathlib import Path

import pytest
import yaml

from tests.conftest import QUICK, SLOW, SLOW_LIST
from tools import address, layers, slow

ROOT = address.ROOT
NAMED = [folder for layer in layers.LAYERS.values() for folder in layer.tests]


def test_every_folder_of_tests_is_in_one_layer() -> None:
    folders = {
        path.parent.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
    }
    assert folders | {"chapters"} == set(NAMED)
    assert len(NAMED) == len(set(NAMED))


def test_the_jobs_of_the_workflow_are_all_layers_each_once() -> None:
    text = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["layers"]
    named = " ".join(job["strategy"]["matrix"]["layers"]).split()
    assert sorted(named) == sorted(layers.LAYERS)
    assert any(".ci/run ${{ matrix.layers }}" in str(step) for step in job["steps"])


def test_what_takes_one_core_runs_beside_what_takes_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every part runs once, the book's tests after its build, and a failure counts."""
    ended: list[tuple[str, ...]] = []
    begun, going_on = threading.Event(), threading.Event()

    def command(*words: str, later: bool) -> layers.Count:
        assert later
        begun.set()
        assert going_on.wait(60)  # the tests have begun, and this has not ended
        ended.append(words)
        return layers.Count(passed=words != layers.BUILD, failed=words == layers.BUILD)

    def tests(name: str, *words: str, later: bool = False) -> layers.Count:
        assert begun.wait(60)
        going_on.set()
        assert name != "book" or layers.BUILD in ended
        ended.append((name, *words))
        return layers.Count(passed=10)

    monkeypatch.setattr(layers, "command_count", command)
    monkeypatch.setattr(layers, "pytest_count", tests)
    results = layers.run_layers(list(layers.LAYERS))
    wanted = [words for layer in layers.LAYERS.values() for words in layer.commands]
    for name, layer in layers.LAYERS.items():
        wanted += [(name, *layer.tests, *layer.options)] if layer.tests else []
    assert sorted(ended) == sorted(wanted)
    assert results["style"].count == layers.Count(passed=4)
    assert results["book"].count == layers.Count(passed=10, failed=1)
    assert results["distributed"].count == layers.Count(passed=10)


def test_a_part_runs_folders_of_layers_without_what_is_slow() -> None:
    quick = layers.PARTS["quick"]
    assert set(quick.tests) == {f"tests/{name}" for name in QUICK} < set(NAMED)
    assert quick.options[-2:] == ("-m", "not slow")


def test_what_the_slow_list_names_exists() -> None:
    lines = SLOW_LIST.read_text(encoding="utf-8").splitlines()
    assert lines == sorted(SLOW)
    for file in {name.partition("::")[0] for name in SLOW}:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        here = {x.name for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)}
        gone = {n.partition("::")[2] for n in SLOW if n.startswith(f"{file}::")} - here
        assert not gone, f"{file}: {gone}"
        assert Path(file).parent.name in QUICK


def test_slow_is_over_half_a_second_or_over_one_in_all(tmp_path) -> None:
    case = '<testcase classname="tests.unit.test_a" name="test_{}" time="{}"/>'
    cases = [("one[1]", 0.1), ("one[2]", 0.6), ("many[1]", 0.4), ("few", 0.4)]
    cases += [(f"many[{k}]", 0.4) for k in range(2, 4)]
    report = tmp_path / "unit.xml"
    report.write_text(f"<r>{''.join(case.format(*x) for x in cases)}</r>")
    found = slow.slow(slow.measured(report))
    assert found == [
        "tests/unit/test_a.py::test_many",
        "tests/unit/test_a.py::test_one",
    ]
