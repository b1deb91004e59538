"""Tables for notebooks, and the table of what a step costs at least.

>>> from anthology import lab, optim
>>> lab.least_costs({"Lion": optim.Lion}, (100, 400))
The least that a step moves, keeps and multiplies, for a matrix of 100 × 400
optimizer | bytes moved a weight | bytes kept a weight | operations a weight
Lion      | 20                   | 4                   | 0
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from anthology.cost import Rates, limit

__all__ = ["Table", "least_costs"]


@dataclass(frozen=True)
class Table:
    """A table that a notebook shows as such and a terminal as text.

    ``caption`` says what it shows, ``head`` names the columns, and each of the
    ``rows`` has as many entries.

    >>> Table("Two numbers", ("x", "y"), (("1", "20"),))
    Two numbers
    x | y
    1 | 20
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __repr__(self) -> str:
        lines = (self.head, *self.rows)
        wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            " | ".join(x.ljust(w) for x, w in zip(line, wide, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([self.caption, *text])

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th scope="col"><span>{html.escape(x)}</span></th>' for x in self.head
        )
        body = ""
        for row in self.rows:
            first, *rest = map(html.escape, row)
            found = "".join(f"<td>{x}</td>" for x in rest)
            body += f'<tr><th scope="row">{first}</th>{found}</tr>'
        # a class that themes of notebooks know, in light and in dark; text in spans,
        # since the book hides heads without elements
        return (
            '<div class="measured" tabindex="0" style="overflow-x:auto">'
            f'<table class="dataframe"><caption>{html.escape(self.caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )


def least_costs(
    rules: Mapping[str, Callable[[Any], torch.optim.Optimizer]], shape: tuple[int, int]
) -> Table:
    """What a step on one matrix moves, keeps and multiplies at least, in float32.

    By `anthology.cost.limit`.

    Parameters
    ----------
    rules : mapping of str to callable
        What makes an optimizer from a list of parameters, by name.
    shape : tuple of int
        Of the matrix; nothing of its size is allocated.
    """
    p = torch.empty(shape, device="meta").requires_grad_()
    anything = Rates(((1, 1.0),), {"float32": 1.0})
    lines = []
    for name, make in rules.items():
        found = limit(make, [p], rates=anything)
        each = (found.bytes, found.state_bytes, found.flops)
        lines.append((name, *(f"{round(x / p.numel(), 1):g}" for x in each)))
    head = ("bytes moved a weight", "bytes kept a weight", "operations a weight")
    caption = "The least that a step moves, keeps and multiplies, for a matrix of "
    return Table(
        f"{caption}{shape[0]} × {shape[1]}", ("optimizer", *head), tuple(lines)
    )
