"""The contract suite: its checks, what came of one, and the report of all."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .gradients import Gradients, Tensors
from .interface import Interface, KindsOfDecay
from .state import State
from .subject import Factory, Subject, weight


class ContractError(AssertionError):
    """Raised by `Report.raise_if_failed`; its text is the report."""


@dataclass(frozen=True)
class Result:
    """The outcome of a `Check`; ``why`` says what happened instead, "" if it passed."""

    name: str
    passed: bool
    why: str
    harm: str


@dataclass(frozen=True)
class Check:
    """A named part of the contract.

    ``harm`` is what a user suffers where it fails, and ``body`` takes a `Subject` and
    raises if the optimizer breaks the contract.
    """

    name: str
    harm: str
    body: Callable[[Subject], None]

    def run(self, subject: Subject) -> Result:
        """Run it with a seed of its own; any exception is a failure and its reason."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            try:
                self.body(subject)
            except Exception as error:  # noqa: BLE001 - whatever breaks, breaks it
                return Result(self.name, False, _reason(error), self.harm)
        return Result(self.name, True, "", self.harm)


def _reason(error: Exception) -> str:
    text = textwrap.shorten(str(error), 300)
    if isinstance(error, AssertionError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _check(kind: type[Subject], name: str) -> Check:
    """A public method that a kind of subject adds; the docstring is the harm."""
    method = vars(kind)[name]
    harm = " ".join((method.__doc__ or "").split())
    return Check(name.replace("_", " "), harm, lambda s: method(kind(s.factory)))


@dataclass(frozen=True)
class Report:
    """All outcomes for one optimizer, in the order of the suite; its text is a table.

    ``watched`` is how many gradients of a tensor the optimizer declares only to watch.
    """

    name: str
    results: tuple[Result, ...]
    watched: int = 0

    @property
    def passed(self) -> list[str]:
        """Names of the checks that passed."""
        return [result.name for result in self.results if result.passed]

    @property
    def failed(self) -> list[str]:
        """Names of the checks that did not."""
        return [result.name for result in self.results if not result.passed]

    @property
    def score(self) -> str:
        """Passed out of all, such as ``31/38``."""
        return f"{len(self.passed)}/{len(self.results)}"

    def raise_if_failed(self) -> None:
        """Raise a `ContractError` with the whole table unless every check passed."""
        if self.failed:
            raise ContractError(f"\n{self}")

    def __str__(self) -> str:
        width = max((len(result.name) for result in self.results), default=0)
        many = "gradient" if self.watched == 1 else "gradients"
        after = f" after {self.watched} {many} watched" if self.watched else ""
        lines = [f"{self.name}: {self.score} checks passed{after}"]
        for r in self.results:
            lines.append(f"  {r.name:<{width}}  {'passed' if r.passed else 'FAILED'}")
            if not r.passed:
                text = textwrap.fill(f"{r.why} -> {r.harm}", 82)
                lines.append(textwrap.indent(text, " " * 6))
        return "\n".join(lines)


SUITE = (Gradients, Tensors, Interface, KindsOfDecay, State)
CHECKS: tuple[Check, ...] = tuple(
    _check(kind, name) for kind in SUITE for name in vars(kind) if name[0] != "_"
)


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
        say how many in an attribute ``warmup_steps``, up to 10: as many pass first,
        one check is whether the number is true, and the report names it. What cannot
        do what a check asks for (a scalar parameter, an option) fails it.

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
