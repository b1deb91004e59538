"""What the table of optimizers and the front page say about a class."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# How the words of a norm begin, the ruler they mean, and its dual norm.
_RULERS = (
    (r"$\ell_2$", "l2", r"$\lVert g\rVert_2$"),
    (r"$\ell_\infty$", "linf", r"$\sum_i\lvert g_i\rvert$"),
    ("spectral", "spectral", r"$\sum_i\sigma_i(G)$"),
    ("any", "any", "that of the norm"),
    ("$", "learned", "the same with inverse weights"),
)


@dataclass(frozen=True)
class Card:
    """One entry of the table of optimizers, one line of markdown a field.

    Attributes
    ----------
    answer : str
        What it is, in one plain sentence after its name: "measures a step by …".
    update : str
        The step from the gradient, without weight decay.
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

    answer: str
    update: str
    problem: str
    norm: str
    average: str
    state: str
    source: str

    @property
    def ruler(self) -> str:
        """Whose colour it wears: "l2", "linf", "spectral", "learned" or "any"."""
        learned = "learned" in self.norm + self.update
        return "learned" if learned else self._ruler()[1]

    @property
    def dual(self) -> str:
        """The dual norm, which measures the gradient, as markdown."""
        return self._ruler()[2]

    def _ruler(self) -> tuple[str, str, str]:
        return next(r for r in _RULERS if self.norm.startswith(r[0]))


@dataclass(frozen=True)
class SilentPenalty:
    r"""What a class silently adds to the loss: :math:`\tfrac\eta2 c\,\varphi(\nabla f)`.

    Attributes
    ----------
    penalty : str
        φ(∇f) as markdown, or in words why there is none.
    formula : str
        c as a formula. Default: none.
    factor : float, optional
        c as a number, which a test asks the class for. Default None: it has none.
    settings : mapping
        Arguments of the class with which c is that number. Default: none.
    ask : str
        How it is asked for: by the "delay" (default) of its steps, by the "charge" of a
        growing gradient, for rules that act entry by entry and keep sizes, or of a
        matrix by its "growth" or by its "turn", where two memories act apart.
    steps : int
        After so many steps. Default 400.
    """

    penalty: str
    formula: str = ""
    factor: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    ask: str = "delay"
    steps: int = 400
