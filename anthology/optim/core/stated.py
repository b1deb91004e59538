"""Which of the things a class says of its rule hold for a subclass."""

from __future__ import annotations


def states_rule(rule: type, name: str) -> bool:
    """Whether what a class says of its rule holds for it."""
    return depth(rule, name) <= min(depth(rule, "single"), depth(rule, "multi"))


def depth(rule: type, name: str) -> int:
    """Where in the order of its classes an attribute is found."""
    return next(i for i, kind in enumerate(rule.__mro__) if name in vars(kind))
