"""The cards of the optimizers: what a class says of itself, as the book shows it."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch

from anthology import optim
from anthology.cost import Rates, limit
from anthology.optim import Card
from tools.generated import ROOT, chapter_of, table
from tools.reference import optimizers


def carded() -> dict[str, Card]:
    """The cards of the package by the name of their class, in its order."""
    return {name: kind.card for name, kind in optimizers().items()}  # type: ignore[attr-defined]


def name_link(name: str) -> str:
    return f"{{py:class}}`~anthology.optim.{name}`"


def marked(name: str, card: Card) -> str:
    """The name of a class, with a mark in the colour of its ruler."""
    return f'{name_link(name)}<span class="ruler-{card.ruler}"></span>'


def chapter_link(chapter: str | None) -> str:
    if chapter is None:
        return ""
    return f"<br>[{Path(chapter).name.replace('-', ' ')}](/{chapter}.ipynb)"


def least(name: str) -> str:
    """What a step costs at least for each float32 weight of a 1024 × 1024 matrix."""
    kind = getattr(optim, name)
    if not hasattr(kind, "cost"):
        return "what a step costs is open"
    asked = inspect.signature(kind).parameters.values()
    needs = [x.name for x in asked if x.default is x.empty and x.name != "params"]
    weight = torch.empty(1024, 1024, device="meta", requires_grad=True)
    one = dict.fromkeys(("float32", "bfloat16"), 1.0)
    found = limit(
        lambda params: kind(params, **dict.fromkeys(needs, 1)),
        [weight],
        rates=Rates(((1, 1.0),), one),
    )
    moved = f"a step moves {found.bytes / weight.numel():.3g} bytes"
    work = f" and takes {found.flops / weight.numel():,.0f} operations"
    return moved + work * bool(found.flops)


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
                f"{card.average}; keeps {card.state}; {least(name)}",
                card.source,
            ]
        )
    head = ["Optimizer", "One step", "solves", "Norm", "Dual", "Averages", "Source"]
    return f":::{{table}}\n:class: optimizers cards\n\n{table(head, rows)}\n:::"
