"""Run a chapter and store it in the one form this repository keeps.

``python tools/notebook.py chapters/norms/steepest-descent.ipynb`` executes the
notebook from a fresh kernel and writes it back normalised: counts 1…n, cell ids
from the position, only the metadata the book uses, images without the name of
the program that drew them. Doing it twice changes nothing. ``--check`` only
says which notebooks are not in that form; ``--fill`` normalises and fills the
Colab link and cell without executing.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import address

TAGS = {
    "colab",
    "full-width",
    "hide-cell",
    "hide-input",
    "hide-output",
    "nbval-ignore-output",
    "remove-cell",
    "remove-input",
    "remove-output",
}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LIVE = re.compile(r"^(\w+ = )?lab\.explore\(", re.MULTILINE)
PLAY = "Run this chapter to play"  # what the page shows of a live cell
COLAB_LINK = re.compile(r"\[Open this chapter in Colab\]\([^)]*\)")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Text, time and camera data in a PNG say who drew it and when; drop them.
PNG_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"pHYs", b"sRGB", b"gAMA"}
CELL_SECONDS = 300


def read(path: Path) -> NotebookNode:
    found: NotebookNode = nbformat.read(path, as_version=4)
    return found


def write_text(nb: NotebookNode) -> str:
    """The notebook as the text that is stored: sorted keys, a final newline."""
    found: str = nbformat.writes(nb).rstrip("\n") + "\n"
    return found


def chapter_path(path: Path, root: Path = ROOT) -> str:
    """``chapters/norms/x.ipynb``, wherever the command is run from."""
    path = path.resolve()
    return path.relative_to(root.resolve()).as_posix()


def strip_png(data: str) -> str:
    """Base64 of the same picture without its text chunks, on one line."""
    raw = base64.b64decode(data)
    if not raw.startswith(PNG_SIGNATURE):
        raise ValueError("an output says image/png but is none")
    kept, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while position < len(raw):
        length = int.from_bytes(raw[position : position + 4], "big")
        chunk = raw[position : position + 12 + length]
        if chunk[4:8] in PNG_KEPT:
            kept.append(chunk)
        position += 12 + length
    return binascii.b2a_base64(b"".join(kept), newline=False).decode()


def normal_output(output: NotebookNode, count: int) -> NotebookNode | None:
    """One output in stored form, or None where nothing of it is kept."""
    if output.output_type in ("stream", "error"):
        return output
    output.metadata = NotebookNode()
    output.pop("transient", None)
    data = output.data
    if WIDGET_VIEW in data:
        return None
    if "image/png" in data:
        data["image/png"] = strip_png(data["image/png"])
    if output.output_type == "execute_result":
        output.execution_count = count
    return output


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Prints that follow each other as one, however the kernel sent them."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            merged.append(output)
    return merged


def normalise(nb: NotebookNode, slug: str) -> NotebookNode:
    """Bring a notebook, in place, into the one stored form.

    Raises
    ------
    ValueError
        For a tag the book does not use.
    """
    nb.metadata = NotebookNode(
        kernelspec=NotebookNode(KERNEL), language_info=NotebookNode(name="python")
    )
    nb.nbformat, nb.nbformat_minor = 4, 5
    count = 0
    for position, cell in enumerate(nb.cells):
        tags = sorted(set(cell.metadata.get("tags", [])))
        if unknown := set(tags) - TAGS:
            raise ValueError(f"cell {position}: unknown tags {sorted(unknown)}")
        metadata = NotebookNode()
        if tags:
            metadata.tags = tags
        if "mystnb" in cell.metadata:
            metadata.mystnb = cell.metadata.mystnb
        cell.metadata = metadata
        cell.id = f"{slug[:50]}-{position:02d}"
        cell.source = cell.source.rstrip("\n")
        if cell.cell_type != "code":
            continue
        count += 1
        if cell.execution_count is not None:
            cell.execution_count = count
        if "nbval-ignore-output" in tags:
            cell.outputs = []
        outputs = (normal_output(output, count) for output in cell.outputs)
        cell.outputs = merge_streams([o for o in outputs if o is not None])
    return nb


def is_live(cell: NotebookNode) -> bool:
    """Whether a cell shows controls, which only a kernel can move."""
    return cell.cell_type == "code" and LIVE.search(cell.source) is not None


def fold_live(cell: NotebookNode) -> None:
    """A live cell is one folded line on the page, and its output is not stored."""
    tags = {"hide-input", "nbval-ignore-output", *cell.metadata.get("tags", [])}
    cell.metadata.tags = sorted(tags)
    said = cell.metadata.setdefault("mystnb", NotebookNode())
    for prompt in ("code_prompt_show", "code_prompt_hide"):
        said.setdefault(prompt, PLAY)


def fill(nb: NotebookNode, chapter: str, root: Path = ROOT) -> NotebookNode:
    """Write the Colab link and the Colab cell for the book's address; fold live cells."""
    link = f"[Open this chapter in Colab]({address.colab_link(chapter, root)})"
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = COLAB_LINK.sub(lambda _: link, cell.source)
        elif "colab" in cell.metadata.get("tags", []):
            cell.source = address.colab_cell(chapter, root)
            cell.metadata.tags = ["colab", "remove-cell"]
        elif is_live(cell):
            fold_live(cell)
    return nb


def fill_file(path: Path, root: Path = ROOT, write: bool = True) -> bool:
    """Fill one notebook on disk; whether its text changed (or would)."""
    before = path.read_text(encoding="utf-8")
    nb = fill(nbformat.reads(before, as_version=4), chapter_path(path, root), root)
    after = write_text(normalise(nb, path.stem))
    if write and after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def execute(nb: NotebookNode, folder: Path, root: Path = ROOT) -> NotebookNode:
    """Run every cell in a fresh kernel whose folder is the notebook's."""
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
    client = NotebookClient(
        nb,
        timeout=CELL_SECONDS,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return nb


def run_file(path: Path, root: Path = ROOT) -> bool:
    """Fill, execute, normalise and store one notebook; whether it changed."""
    before = path.read_text(encoding="utf-8")
    nb = fill(nbformat.reads(before, as_version=4), chapter_path(path, root), root)
    normalise(nb, path.stem)  # a wrong tag is cheaper to learn before the run
    execute(nb, path.parent, root)
    after = write_text(normalise(nb, path.stem))
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--fill", action="store_true", help="do not execute")
    arguments = parser.parse_args(argv)
    failed = False
    for path in arguments.notebooks or address.notebooks():
        try:
            if arguments.check:
                changed = fill_file(path, write=False)
                failed |= changed
                print(f"{path}: {'not in stored form' if changed else 'ok'}")
            else:
                changed = fill_file(path) if arguments.fill else run_file(path)
                print(f"{path}: {'written' if changed else 'unchanged'}")
        except (CellExecutionError, ValueError, OSError) as error:
            failed = True
            print(f"{path}: left as it was\n{error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
