"""Fills the generated pages: a comment in the page says what goes there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import address, cards, front, front_page, generated, hero


def raw(html: str) -> str:
    return f"```{{raw}} html\n{html}\n```"


def optimizers() -> Iterable[Path]:
    return (ROOT / "anthology" / "optim").rglob("*.py")


def chapters() -> list[Path]:
    return [ROOT / "_toc.yml", *optimizers(), *address.notebooks(ROOT)]


# What a comment asks for, and the files it is made of.
PARTS: dict[str, tuple[Callable[[], str], Callable[[], Iterable[Path]]]] = {
    "optimizers": (cards.optimizers_page, optimizers),
    "penalties": (
        generated.penalties,
        lambda: [ROOT / "anthology" / "lab" / "silent.py", *optimizers()],
    ),
    "first rates": (
        generated.first_rates_page,
        lambda: [ROOT / "experiments" / "results" / "first_rates.json"],
    ),
    "hero": (lambda: raw(hero.figure()), lambda: hero.HERE.iterdir()),
    "front": (lambda: raw(front.figure()._repr_html_()), list),
    "answers": (front_page.answers, chapters),
    "doors": (front_page.doors, chapters),
    "lengths": (front_page.lengths, chapters),
    "map": (front_page.chapter_map, chapters),
}


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put what is generated where the page's comments are."""
    for name, (make, made_of) in PARTS.items():
        comment = f"<!-- generated: {name} -->"
        if comment in source[0]:
            for path in made_of():
                app.env.note_dependency(str(path))
            source[0] = source[0].replace(comment, make())


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
