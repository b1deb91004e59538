"""The comparison of notebooks is proved to fail where it must.

A tool that passes everything would pass every chapter, so each way in which a
chapter can go wrong is tried on a small notebook, with the options of the real
run.
"""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import layers, notebook

FIGURE = """\
import matplotlib.pyplot as plt
from anthology import lab
lab.use_style()
_ = plt.subplots()[1].plot([0, 1])"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """A notebook that prints, returns, shows HTML, draws and has controls, as stored."""
    sources = [
        "x = 6",
        "print('ok  seven sixes', 7 * x)",
        "7 * x",
        "from IPython.display import HTML\nHTML(f'<p>{7 * x}</p>')",
        FIGURE,
        "def double(n):\n    print(2 * n)\nlab.explore(double, n=(x, 9))",
    ]
    nb = new_notebook(cells=[new_code_cell(source) for source in sources])
    notebook.fold_live(nb.cells[5])
    notebook.execute(nb, tmp_path_factory.mktemp("good"))
    return notebook.normalise(nb, "good")


def nbval(nb: nbformat.NotebookNode, folder: Path) -> tuple[int, str]:
    nbformat.write(nb, folder / "example.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", *layers.PYTEST, *layers.NBVAL, "example.ipynb"],
        cwd=folder,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_passes_on_what_is_true(good: nbformat.NotebookNode, tmp_path: Path) -> None:
    code, text = nbval(good, tmp_path)
    assert code == 0, text
    assert "6 passed" in text


def test_a_figure_drawn_otherwise_passes(
    good: nbformat.NotebookNode, tmp_path: Path
) -> None:
    other = nbformat.reads(nbformat.writes(good), as_version=4)
    data = other.cells[4].outputs[0].data
    assert "image/png" not in data
    data["image/svg+xml"] = data["image/svg+xml"].replace("M 0 0", "M 0 0.01")
    data["text/plain"] = data["text/plain"].replace("500x300", "501x300")
    assert data != good.cells[4].outputs[0].data
    code, text = nbval(other, tmp_path)
    assert code == 0, text


def test_of_a_live_cell_nothing_is_stored(good: nbformat.NotebookNode) -> None:
    live = good.cells[5]
    assert live.outputs == [] and live.execution_count == 6
    assert "widgets" not in good.metadata


def change_print(nb: nbformat.NotebookNode) -> None:
    nb.cells[1].outputs[0].text = "ok  seven sixes 43\n"


def change_value(nb: nbformat.NotebookNode) -> None:
    nb.cells[2].outputs[0].data["text/plain"] = "43"


def change_html(nb: nbformat.NotebookNode) -> None:
    nb.cells[3].outputs[0].data["text/html"] = "<p>43</p>"


def replace_a_figure(nb: nbformat.NotebookNode) -> None:
    nb.cells[4].outputs[0].data["image/svg+xml"] = "<svg><g/></svg>"


def remove_a_figure(nb: nbformat.NotebookNode) -> None:
    nb.cells[4].outputs = []


def break_a_live_cell(nb: nbformat.NotebookNode) -> None:
    nb.cells[5].source = "lab.explore(lambda n: 1 / n, n=(0, 9))"


def remove_output(nb: nbformat.NotebookNode) -> None:
    nb.cells[1].outputs = []


def raise_an_error(nb: nbformat.NotebookNode) -> None:
    nb.cells[0].source = "x = 6\nassert x == 7"


def warn(nb: nbformat.NotebookNode) -> None:
    nb.cells[0].source = "x = 6\nimport warnings; warnings.warn('now')"


# Each spoils a cell of its own, and a cell is one test: as many fail as are spoiled.
TOGETHER = [
    (warn, change_print, change_value, change_html, replace_a_figure),
    (raise_an_error, remove_output, remove_a_figure, break_a_live_cell),
]


@pytest.mark.parametrize("mutations", TOGETHER, ids=["changed", "removed"])
def test_fails_on_what_is_not(
    mutations, good: nbformat.NotebookNode, tmp_path: Path
) -> None:
    wrong = nbformat.reads(nbformat.writes(good), as_version=4)
    for mutate in mutations:
        mutate(wrong)
    code, text = nbval(wrong, tmp_path)
    assert code == 1, text
    count = len(good.cells) - len(mutations)
    assert f"{len(mutations)} failed, {count} passed" in text, text


def test_a_layer_in_which_nothing_ran_counts_as_failed(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(layers, "REPORTS", tmp_path)
    monkeypatch.setattr(layers, "run", lambda *command, later: 0)
    assert layers.pytest_count("nothing").failed == 1

    def report(*command: str, later: bool) -> int:
        path = next(c for c in command if c.startswith("--junit-xml="))
        Path(path.partition("=")[2]).write_text(
            '<testsuites><testsuite tests="3" skipped="3" failures="0" errors="0"/>'
            "</testsuites>"
        )
        return 0

    monkeypatch.setattr(layers, "run", report)
    assert layers.pytest_count("skips") == layers.Count(0, 1, 3)


def test_the_summary_counts_cells_and_ends_plainly() -> None:
    counts = {"package": layers.Count(5, 1), "chapters": layers.Count(40, 0, 2)}
    text = layers.summary(counts, {"package": 1.0, "chapters": 2.0})
    assert text.splitlines()[-1] == "45 passed, 1 failed"
    assert "40 notebook cells executed" in text
