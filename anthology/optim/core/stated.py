"""Which of the things a class says of its rule hold for a subclass."""

from __future__ import annotations


def states_rule(rule: type, name: str) -> bool:
    """Whether what a class says of its rule holds for it.

    Parameters
    ----------
    rule : type
        The class of an optimizer.
    name : str
        An attribute that describes `single` and `multi`, such as ``entrywise``.

    Returns
    -------
    bool
        False for a subclass with a `single` or `multi` of its own that does not say
        it anew.
    """
    return depth(rule, name) <= min(depth(rule, "single"), depth(rule, "multi"))


def depth(rule: type, name: str) -> int:
    """Where in the order of its classes an attribute is found.

    Parameters
    ----------
    rule : type
        The class of an optimizer.
    name : str
        An attribute that it has.

    Returns
    -------
    int
        0 if it is its own, 1 if the next class in the order of resolution gave it.
    """
    return next(i for i, kind in enumerate(rule.__mro__) if name in vars(kind))
