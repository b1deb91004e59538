"""One check: a function that raises, and what its failure means to a user."""

from __future__ import annotations

import inspect
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .report import Result
from .subject import Subject


@dataclass(frozen=True)
class Check:
    """A named part of the contract.

    Attributes
    ----------
    name : str
        Its name in reports.
    harm : str
        What a user suffers where it fails, from the function's docstring.
    body : callable
        Takes a `Subject`; raises if the optimizer breaks the contract.
    """

    name: str
    harm: str
    body: Callable[[Subject], None]

    def run(self, subject: Subject) -> Result:
        """Run it with a seed of its own and without touching the caller's.

        Parameters
        ----------
        subject : Subject
            The optimizer to be checked.

        Returns
        -------
        Result
            Any exception is a failure and gives the reason.
        """
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


class Checks(list[Check]):
    """A list of checks that functions enter by decoration."""

    def __call__(self, body: Callable[[Subject], None]) -> Callable[[Subject], None]:
        """Enter a function; its name and docstring become the check's."""
        name = body.__name__.replace("_", " ")
        harm = " ".join((inspect.getdoc(body) or "").split())
        self.append(Check(name, harm, body))
        return body
