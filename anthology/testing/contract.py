"""The contract suite: what every user of `torch.optim` may rely on."""

from __future__ import annotations

from .check import Check, Report, checks
from .gradients import Gradients, Tensors
from .interface import Interface, KindsOfDecay
from .state import State
from .subject import Factory, Subject, weight

SUITE = (Gradients, Tensors, Interface, KindsOfDecay, State)
CHECKS: tuple[Check, ...] = tuple(check for kind in SUITE for check in checks(kind))


def contract(factory: Factory, name: str | None = None) -> Report:
    """Check an optimizer against the whole contract, on the CPU.

    Parameters
    ----------
    factory : callable
        Takes parameters, named parameters or groups, and returns an optimizer: a
        class, a `functools.partial` of one, or a function. Where a check needs
        another option (a negative learning rate, say), the class of what it returns
        is called again with its ``defaults`` and that option (with its ``arguments``
        where it has such an attribute, because its groups use other names).
    name : str, optional
        Name in the report; by default that of the factory.

    Returns
    -------
    Report
        Prints as a table. A method that only watches a tensor's first gradients may
        say how many in an attribute ``warmup_steps``, up to 10: the checks let as
        many pass first, one checks that the number is true, and the report names
        it. An optimizer that cannot do what a check asks for (a
        scalar parameter, an option it lacks) fails it; nothing is skipped.

    Examples
    --------
    >>> import torch
    >>> from anthology.testing import contract
    >>> report = contract(torch.optim.AdamW)
    >>> "nan gradient" in report.failed
    True
    """
    subject = Subject(factory)
    results = tuple(check.run(subject) for check in CHECKS)
    try:
        watched = subject.fresh(weight()).warm_up
    except Exception:  # noqa: BLE001 - the checks have reported it
        watched = 0
    kind = getattr(factory, "func", factory)
    called = str(getattr(kind, "__name__", type(kind).__name__))
    return Report(name or called, results, watched)
