"""Whose cost is known: a class with an attribute ``cost``, and its like elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .work import Seen, Work


def cost_of(optimizer: torch.optim.Optimizer) -> Callable[[Seen], Work]:
    """The cost of an optimizer's step on one parameter.

    ``torch.optim`` has the names and group keys of this package for SGD, Adam, AdamW
    and Muon, so that a class without a cost has that of its namesake here, or of the
    nearest class that it derives from.
    """
    from anthology import optim  # whose classes hold costs themselves

    namesakes = (getattr(optim, k.__name__, None) for k in type(optimizer).__mro__)
    for held in (optimizer, *namesakes):
        own: Callable[[Seen], Work] | None = getattr(held, "cost", None)
        if callable(own):
            return own
    known = [x for x in optim.__all__ if hasattr(getattr(optim, x), "cost")]
    raise TypeError(
        f"the cost of {type(optimizer).__name__} is not known; give it a method "
        "cost(subject) that returns anthology.cost.Work, or use one of "
        + ", ".join(known)
    )
