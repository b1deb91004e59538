"""What the table of optimizers says about a class."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One row of the table of optimizers, one line of markdown a field.

    Attributes
    ----------
    problem : str
        The problem that one step solves.
    norm : str
        The norm in which the step is measured.
    average : str
        What is averaged over time.
    state : str
        Numbers kept for each parameter (the counters of a tensor not included).
    source : str
        Paper and equation.
    """

    problem: str
    norm: str
    average: str
    state: str
    source: str
