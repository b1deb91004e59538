"""One check, what came of it, and the report of many."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .subject import Subject


class ContractError(AssertionError):
    """Raised by `Report.raise_if_failed`; its text is the report."""


@dataclass(frozen=True)
class Result:
    """The outcome of one check.

    ``why`` says what happened instead, empty if it passed; ``harm`` what a user suffers
    where the check fails.
    """

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


def checks(kind: type[Subject]) -> list[Check]:
    """The public methods that a kind of subject adds; the docstring is the harm."""

    def check(name: str, method: Callable[[Any], None]) -> Check:
        harm = " ".join((method.__doc__ or "").split())
        return Check(name.replace("_", " "), harm, lambda s: method(kind(s.factory)))

    return [check(*item) for item in vars(kind).items() if item[0][0] != "_"]


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
