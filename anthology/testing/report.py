"""What the contract suite found, as a table."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


class ContractError(AssertionError):
    """Raised by `Report.raise_if_failed`; its text is the report."""


@dataclass(frozen=True)
class Result:
    """The outcome of one check.

    Attributes
    ----------
    name : str
        The check.
    passed : bool
        Whether the optimizer keeps this part of the contract.
    why : str
        What happened instead; empty if it passed.
    harm : str
        What a user suffers where the check fails.
    """

    name: str
    passed: bool
    why: str
    harm: str


@dataclass(frozen=True)
class Report:
    """All outcomes for one optimizer; its text is a table.

    Attributes
    ----------
    name : str
        The optimizer.
    results : tuple of Result
        One for each check, in the order of the suite.
    watched : int
        How many gradients of a tensor the optimizer declares only to watch.
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
        """Do nothing if every check passed.

        Raises
        ------
        ContractError
            With the whole table, if one did not.
        """
        if self.failed:
            raise ContractError(f"\n{self}")

    def __str__(self) -> str:
        width = max((len(result.name) for result in self.results), default=0)
        many = "gradient" if self.watched == 1 else "gradients"
        after = f" after {self.watched} {many} watched" if self.watched else ""
        lines = [f"{self.name}: {self.score} checks passed{after}"]
        for result in self.results:
            mark = "passed" if result.passed else "FAILED"
            lines.append(f"  {result.name:<{width}}  {mark}")
            if not result.passed:
                lines += _indented(f"{result.why} -> {result.harm}")
        return "\n".join(lines)


def _indented(text: str) -> list[str]:
    space = " " * 6
    return textwrap.wrap(text, 88, initial_indent=space, subsequent_indent=space)
