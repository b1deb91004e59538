"""The tool that runs and stores chapters: one form, twice the same."""

import base64
import struct
import zlib
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import address, notebook

CHAPTER = "chapters/norms/example.ipynb"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository in miniature with one chapter."""
    (tmp_path / "anthology").mkdir()
    (tmp_path / "anthology/__init__.py").write_text('__version__ = "9.8.7"\n')
    (tmp_path / "_config.yml").write_text(
        "title: x\n\nrepository:\n  url: https://github.com/someone/some-book\n"
    )
    (tmp_path / CHAPTER).parent.mkdir(parents=True)
    return tmp_path


def store(root: Path, cells: list) -> Path:
    path = root / CHAPTER
    nbformat.write(new_notebook(cells=cells), path)
    return path


def code(source: str, *tags: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


DRAWING = """\
import matplotlib
matplotlib.use("agg")
from IPython.display import Image, display
import io, matplotlib.pyplot as plt
figure, axes = plt.subplots(figsize=(1, 1))
buffer = io.BytesIO()
figure.savefig(buffer, format="png")
plt.close(figure)
display(Image(buffer.getvalue()))
"""


def test_running_twice_changes_nothing(root: Path) -> None:
    path = store(
        root,
        [
            new_markdown_cell("# T\n\n[Open this chapter in Colab](COLAB)"),
            code("print('filled')", "colab"),
            code("print('a')\nprint('b', flush=True)\nprint('c')"),
            code("6 * 7"),
            code(DRAWING),
            code("import random; print(random.random())", "nbval-ignore-output"),
        ],
    )
    assert notebook.run_file(path, root)
    first = path.read_bytes()
    assert first.endswith(b"}\n") and not first.endswith(b"\n\n")
    assert not notebook.run_file(path, root)
    assert path.read_bytes() == first
    assert not notebook.fill_file(path, root, write=False)

    nb = notebook.read(path)
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4, 5]
    assert [cell.id for cell in nb.cells] == [f"example-{i:02d}" for i in range(6)]
    assert nb.metadata.language_info == {"name": "python"}
    assert cells[0].metadata.tags == ["colab", "remove-cell"]
    assert "github.com/someone/some-book" in cells[0].source
    assert cells[0].outputs == []
    assert [o.text for o in cells[1].outputs] == ["a\nb\nc\n"]
    assert cells[2].outputs[0].data["text/plain"] == "42"
    assert cells[4].outputs == [], "what nbval ignores must not be stored"
    assert (
        "colab.research.google.com/github/someone/some-book/blob/v9.8.7/" + CHAPTER
        in nb.cells[0].source
    )
    picture = base64.b64decode(cells[3].outputs[0].data["image/png"])
    assert b"matplotlib" not in picture.lower() and b"tEXt" not in picture


def test_a_raising_cell_leaves_the_file_alone(root: Path) -> None:
    path = store(root, [code("1 / 0")])
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebook.run_file(path, root)
    assert path.read_bytes() == before


def test_unknown_tags_are_refused(root: Path) -> None:
    path = store(root, [code("1", "nbval-skip")])
    with pytest.raises(ValueError, match="nbval-skip"):
        notebook.run_file(path, root)


def test_widget_views_are_not_stored() -> None:
    cell = code("slider")
    cell.execution_count = 7
    cell.outputs = [
        nbformat.v4.new_output(
            "display_data", data={notebook.WIDGET_VIEW: {}, "text/plain": "IntSlider()"}
        )
    ]
    nb = notebook.normalise(new_notebook(cells=[cell]), "x")
    assert nb.cells[0].outputs == [] and nb.cells[0].execution_count == 1


def chunk(kind: bytes, data: bytes) -> bytes:
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


def test_png_loses_its_text_and_keeps_its_pixels() -> None:
    pixels = chunk(b"IHDR", bytes(13)) + chunk(b"IDAT", b"pixels")
    end = chunk(b"IEND", b"")
    drawn = notebook.PNG_SIGNATURE + chunk(b"tEXt", b"Software\0x") + pixels + end
    stripped = notebook.strip_png(base64.b64encode(drawn).decode() + "\n")
    assert base64.b64decode(stripped) == notebook.PNG_SIGNATURE + pixels + end
    assert "\n" not in stripped


def test_every_chapter_is_in_stored_form() -> None:
    chapters = address.notebooks()
    assert chapters, "there is no chapter"
    wrong = [p.name for p in chapters if notebook.fill_file(p, write=False)]
    assert not wrong, f"run tools/notebook.py on {wrong}"


LIVE = f"""\
import sys
sys.path.insert(0, {str(address.ROOT)!r})  # before the repository in miniature
from anthology import lab
def double(n):
    print(2 * n)
play = lab.explore(double, n=(1, 9))
play"""


def test_a_live_cell_is_folded_and_keeps_no_controls(root: Path) -> None:
    path = store(root, [new_markdown_cell("# T"), code(LIVE), code("1 + 1")])
    assert notebook.run_file(path, root)
    first = path.read_text()
    live, after = notebook.read(path).cells[1:]
    assert live.metadata.tags == ["hide-input", "nbval-ignore-output"]
    assert live.metadata.mystnb.code_prompt_show == "Run this chapter to play"
    assert (live.outputs, live.execution_count) == ([], 1)
    assert (after.outputs[0].data["text/plain"], after.execution_count) == ("2", 2)
    assert "widget" not in first
    assert not notebook.run_file(path, root)
    assert path.read_text() == first


def test_a_live_cell_keeps_the_line_it_was_given(root: Path) -> None:
    cell = code(LIVE)
    cell.metadata.mystnb = {"code_prompt_show": "Run this chapter to play: your loss"}
    path = store(root, [cell])
    notebook.fill_file(path, root)
    said = notebook.read(path).cells[0].metadata.mystnb
    assert said.code_prompt_show == "Run this chapter to play: your loss"
    assert said.code_prompt_hide == "Run this chapter to play"


def test_a_live_cell_that_fails_leaves_the_file_as_it_was(root: Path) -> None:
    path = store(root, [code(LIVE.replace("(1, 9)", "(9, 1)"))])
    before = path.read_text()
    with pytest.raises(CellExecutionError, match="low before high"):
        notebook.run_file(path, root)
    assert path.read_text() == before
