"""The cards of the optimizers: what a class says of itself, as the book shows it."""

from __future__ import annotations

import inspect
from pathlib import Path

from anthology import optim
from anthology.optim import Card
from tools.generated import ROOT, chapter_of, table


def carded() -> dict[str, Card]:
    """The cards of the package by the name of their class, in its order."""
    found = {name: getattr(optim, name) for name in optim.__all__}
    return {
        name: kind.card
        for name, kind in found.items()
        if inspect.isclass(kind) and hasattr(kind, "card")
    }


def name_link(name: str) -> str:
    return f"{{py:class}}`~anthology.optim.{name}`"


def marked(name: str, card: Card) -> str:
    """The name of a class, with a mark in the colour of its ruler."""
    return f'{name_link(name)}<span class="ruler-{card.ruler}"></span>'


def chapter_link(chapter: str | None) -> str:
    if chapter is None:
        return ""
    return f"<br>[{Path(chapter).name.replace('-', ' ')}](/{chapter}.ipynb)"


def optimizers_page(root: Path = ROOT) -> str:
    """One card for each class of ``anthology.optim`` that carries one."""
    rows = []
    for name, card in carded().items():
        derived = chapter_link(chapter_of(getattr(optim, name).__module__, root))
        rows.append(
            [
                f"{marked(name, card)} {card.answer}{derived}",
                card.update,
                card.problem,
                card.norm,
                card.dual,
                f"{card.average}; keeps {card.state}",
                card.source,
            ]
        )
    head = ["Optimizer", "One step", "solves", "Norm", "Dual", "Averages", "Source"]
    return f":::{{table}}\n:class: optimizers cards\n\n{table(head, rows)}\n:::"
