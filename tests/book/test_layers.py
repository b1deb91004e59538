"""No test is forgotten: by a layer, by the jobs of the workflow, by the slow list."""

import ast
from pathlib import Path

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
