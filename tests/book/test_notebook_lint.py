"""The rules every chapter keeps, so that no reviewer has to count."""

import re
import statistics
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from _ext.book_figures import inline
from anthology.lab.palette import PAPER, STYLES
from tests.book import chapter_rules
from tests.book.chapter_rules import count_words, prose
from tools import address, notebook

NOTEBOOKS = address.notebooks()
# Pages of reference follow the rules of form, but tell no story.
CHAPTERS = [path for path in NOTEBOOKS if path.parent.name != "reference"]
MAX_WORDS = 2500
MAX_CODE_CELLS = 16
SHORT_WORDS = 1300  # on the shelf
SHORT_CODE_CELLS = 10
MAX_LINES = 20
MEDIAN_LINES = 10
MAX_COLUMNS = 79
MAX_BYTES = 500_000
PHONE = 341  # pixels for a figure on a screen 390 wide
EMPTY_WORDS = re.compile(
    r"\b(clearly|simply|obviously|trivially|as we can see|of course)\b", re.IGNORECASE
)

per_notebook = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS]
)
per_chapter = pytest.mark.parametrize(
    "path", CHAPTERS, ids=[path.stem for path in CHAPTERS]
)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def is_set_up(cell: nbformat.NotebookNode) -> bool:
    return "colab" in cell.metadata.get("tags", [])


def is_folded(cell: nbformat.NotebookNode) -> bool:
    return bool({"hide-cell", "hide-input"} & set(cell.metadata.get("tags", [])))


def count_lines(cell: nbformat.NotebookNode) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def markdown(path: Path) -> str:
    return chapter_rules.markdown(read(path))


def test_there_are_chapters() -> None:
    assert CHAPTERS


@per_notebook
def test_every_cell_was_run_in_order(path: Path) -> None:
    cells = code_cells(path)
    assert all(cell.source.strip() for cell in cells), "an empty cell is never run"
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))


@per_notebook
def test_no_error_or_warning_is_stored(path: Path) -> None:
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.get("text")


@per_notebook
def test_limits_of_size(path: Path) -> None:
    cells = [cell for cell in code_cells(path) if not is_set_up(cell)]
    lines = [count_lines(cell) for cell in cells]
    shown = [count_lines(cell) for cell in cells if not is_folded(cell)]
    short = chapter_rules.is_short(read(path))
    assert path.stat().st_size <= MAX_BYTES
    assert len(cells) <= (SHORT_CODE_CELLS if short else MAX_CODE_CELLS)
    assert max(lines) <= MAX_LINES
    assert statistics.median(shown) <= MEDIAN_LINES
    assert count_words(markdown(path)) <= (SHORT_WORDS if short else MAX_WORDS)


@per_notebook
def test_code_fits_a_page(path: Path) -> None:
    long = [
        line
        for cell in code_cells(path)
        if not is_set_up(cell)  # its lines are as long as the book's address
        for line in cell.source.splitlines()
        if len(line) > MAX_COLUMNS
    ]
    assert not long


@per_notebook
def test_set_up_comes_first_and_once(path: Path) -> None:
    cells = code_cells(path)
    assert [is_set_up(cell) for cell in cells].index(True) == 0
    assert sum(map(is_set_up, cells)) == 1
    relative = path.relative_to(address.ROOT).as_posix()
    assert cells[0].source == address.colab_cell(relative)
    assert cells[0].outputs == []
    assert f"[Open this chapter in Colab]({address.colab_link(relative)})" in (
        markdown(path)
    )


@per_notebook
def test_it_opens_with_a_title_and_a_plain_sentence(path: Path) -> None:
    title, sentence = re.split(r"\n\s*\n", read(path).cells[0].source.strip())[:2]
    assert re.fullmatch(r"# \S.*", title)
    assert sentence.rstrip().endswith(".")
    assert not re.search(r"[$`\[\]{}|<>]", sentence), "it becomes the description"


@per_chapter
@pytest.mark.parametrize("rule", chapter_rules.RULES, ids=lambda rule: rule.__name__)
def test_the_template_is_kept(path: Path, rule: chapter_rules.Rule) -> None:
    assert rule(read(path)) == [], rule.__doc__


@per_notebook
def test_captions_speak_plainly_and_say_what_was_run(path: Path) -> None:
    assert chapter_rules.raw_formulas(read(path)) == []
    assert chapter_rules.unsaid_numbers(read(path)) == []


def test_the_front_page_says_only_what_was_run() -> None:
    assert chapter_rules.unsaid_on_the_front_page() == []


PICTURES = {"image/png", "image/svg+xml"}


def drawings(path: Path) -> list[str]:
    """The figures of a notebook that are SVG."""
    shown = [output for cell in code_cells(path) for output in cell.outputs]
    return [
        o.data["image/svg+xml"] for o in shown if "image/svg+xml" in o.get("data", {})
    ]


@per_notebook
def test_every_picture_says_what_it_shows(path: Path) -> None:
    for cell in code_cells(path):
        if not any(PICTURES & set(o.get("data", {})) for o in cell.outputs):
            continue
        meta = cell.metadata.get("mystnb", {})
        assert meta.get("image", {}).get("alt", "").strip(), cell.source
        figure = meta.get("figure", {})
        assert figure.get("name", "").startswith("fig-"), cell.source
        assert figure.get("caption", "").strip(), cell.source


@per_notebook
def test_every_figure_is_native_by_day_and_by_night(path: Path) -> None:
    for cell in code_cells(path):
        for output in cell.outputs:
            kinds = set(output.get("data", {}))
            assert "image/png" not in kinds, (
                f"call lab.use_style() before the figures:\n{cell.source}"
            )
    palette = {entry.color for entry in STYLES.values()} | {PAPER["page"]["light"]}
    for drawing in drawings(path):
        assert inline(drawing, "x") is not None, "drawn by lab.use_style()"
        assert set(re.findall(r'="(#[0-9a-f]{6})"', drawing)) <= palette, (
            "a colour that no scheme of the page replaces: take lab.style(...), "
            "greys, or an image (rasterized=True)"
        )


@per_notebook
def test_a_live_cell_is_one_folded_line_on_the_page(path: Path) -> None:
    for cell in code_cells(path):
        if "lab.explore(" not in cell.source:
            continue
        assert notebook.is_live(cell), "lab.explore stands at the start of a line"
        assert {"hide-input", "nbval-ignore-output"} <= set(cell.metadata.tags)
        said = cell.metadata.mystnb
        assert said.code_prompt_show.startswith(notebook.PLAY)
        assert said.code_prompt_hide.startswith(notebook.PLAY)
        assert cell.outputs == []


@per_notebook
def test_a_phone_shows_the_words_of_a_figure_at_eleven_pixels(path: Path) -> None:
    for drawing in drawings(path):
        root = ElementTree.fromstring(drawing)
        edges = [0.0, *map(float, root.get("data-cut", "").split())]
        edges.append(float(root.get("viewBox", "").split()[2]))
        widest = max(right - left for left, right in pairwise(edges))
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            sizes = [e.get("font-size", "") for e in text.iter()]
            size = max(float(s.removesuffix("px")) for s in sizes if s)
            assert size * PHONE / widest >= 11, (
                f"{''.join(text.itertext())!r} in a picture {widest / 72:.1f} inches "
                "wide: at most 5.1 inches a column, and the style's own sizes"
            )


@per_notebook
def test_text_degrades_to_plain_markdown(path: Path) -> None:
    text = markdown(path)
    assert not re.search(r"^```\{", text, re.MULTILINE), "use colon fences"
    assert not re.search(r"\\(re)?newcommand|\\def\b", text), "no macros of our own"
    assert "attachment:" not in text
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if "$$" in line:
            assert line.strip() == "$$", f"display math alone on its line: {line}"
    fences = [number for number, line in enumerate(lines) if line.strip() == "$$"]
    assert len(fences) % 2 == 0
    for opening, closing in zip(fences[::2], fences[1::2], strict=True):
        before = lines[opening - 1].strip()
        after = lines[closing + 1].strip() if closing + 1 < len(lines) else ""
        assert not before or before.startswith(":"), f"blank line before: {before}"
        assert not after or after.startswith(":"), f"blank line after: {after}"


@per_notebook
def test_no_word_that_only_presses(path: Path) -> None:
    found = EMPTY_WORDS.findall(prose(markdown(path)))
    assert not found


@per_chapter
def test_exercises_have_solutions(path: Path) -> None:
    text = markdown(path)
    exercises = re.findall(
        r"^:{3,}\{exercise\}.*\n(?::[\w-]+:.*\n)*?:label: (ex-[\w-]+)",
        text,
        re.MULTILINE,
    )
    solutions = re.findall(r"^:{3,}\{solution\} (ex-[\w-]+)", text, re.MULTILINE)
    assert 3 <= len(exercises) <= 6
    assert sorted(solutions) == sorted(exercises)
