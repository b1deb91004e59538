"""The chapters of the book in its own order, as the front page tells them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools import notebook

ROOT = Path(__file__).resolve().parent.parent
MINUTES = re.compile(r"(\d+) minutes to read")


@dataclass(frozen=True)
class Chapter:
    """A chapter, from its first cell.

    Attributes
    ----------
    number : int
        Its number in the book.
    path : str
        Its path without an ending: ``chapters/optimizers/adam``.
    part : str
        The part of the book it stands in.
    title : str
        Its title.
    claim : str
        The sentence under the title.
    minutes : int
        How long it takes to read.
    """

    number: int
    path: str
    part: str
    title: str
    claim: str
    minutes: int

    @property
    def short(self) -> str:
        """The title up to its colon."""
        return self.title.partition(":")[0]


def read(number: int, path: str, part: str, root: Path = ROOT) -> Chapter:
    """A chapter from the first cell of its notebook."""
    source = notebook.read(root / f"{path}.ipynb").cells[0].source
    title, claim = source.split("\n\n")[:2]
    minutes = MINUTES.search(source)
    if minutes is None:
        raise ValueError(
            f"{path}: the table under the title has no 'N minutes to read'"
        )
    return Chapter(number, path, part, title.lstrip("# "), claim, int(minutes[1]))


def chapters(root: Path = ROOT) -> list[Chapter]:
    """Every numbered chapter of the table of contents."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    named = [
        (entry["file"], part["caption"])
        for part in toc["parts"]
        if part.get("numbered")
        for entry in part["chapters"]
    ]
    return [read(k, path, part, root) for k, (path, part) in enumerate(named, 1)]
