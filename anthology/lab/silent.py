r"""What an optimizer silently penalises, asked of its class.

To second order in η a step that follows ∇φ of an averaged gradient descends
:math:`f + \tfrac\eta2 c\,\varphi(\nabla f)` (the chapter
chapters/motion/beyond-gradient-descent). The factor c is a property of the
optimizer's memory alone, so it can be read off the class: give it gradients
that change slowly, and see how late it follows.

>>> from anthology import optim
>>> from anthology.lab.silent import delay
>>> delay(lambda p: optim.Signum(p, 1.0, momentum=0.8))
4.0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from anthology import optim
from anthology.optim import SilentPenalty

__all__ = ["PENALTIES", "Penalised", "answers", "charge", "delay", "penalty_table"]

Make = Callable[[list[Tensor]], torch.optim.Optimizer]
_PROBES = 20


def answers(make: Make, gradients: Tensor) -> Tensor:
    """The directions an optimizer takes when it is given these gradients."""
    weights = [torch.zeros(1, 1, dtype=torch.float64) for _ in gradients[0]]
    optimizer, moved = make(weights), []
    lr = float(optimizer.param_groups[0]["lr"])
    for row in gradients:
        for w, g in zip(weights, row, strict=True):
            w.grad = g.view(1, 1).clone()
        optimizer.step()
        moved.append(torch.cat(weights).flatten() / -lr)
        for w in weights:
            w.zero_()
    return torch.stack(moved)


def delay(make: Make, steps: int = 400, longest: int = 120) -> float:
    """How many steps after the gradient the optimizer's step changes sign.

    It is the mean age τ of the gradients in its average; c = 1 + 2τ.
    """
    k = torch.arange(steps + longest, dtype=torch.float64)[:, None]
    zero = steps + (torch.arange(_PROBES, dtype=torch.float64) + 0.5) / _PROBES
    late = (answers(make, k - zero) <= 0) & (k > zero)
    return float(late.sum()) / _PROBES


def charge(make: Make, g: float = 1.0, steps: int = 400) -> float:
    """The factor c, from the response to a growing gradient.

    For rules that act entry by entry and do not forget sizes (SGD, Adam, root-free).
    """
    h = 1e-3 / steps
    level = torch.tensor([0.0, h, -h, 0.0, 0.0], dtype=torch.float64)
    growth = torch.tensor([0.0, 0.0, 0.0, h, -h], dtype=torch.float64)
    k = torch.arange(1.0 - steps, 1.0, dtype=torch.float64)[:, None]
    base, up, down, grown, shrunk = answers(make, g * (1 + level + growth * k))[-1]
    return float((up - down - 2 * (grown - shrunk)) / (2 * h * base))


@dataclass(frozen=True)
class Penalised:
    """One row of the table: a class, and what it says of itself."""

    name: str
    said: SilentPenalty

    def make(self, weights: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer, with η = 1."""
        kind = getattr(optim, self.name)
        made: torch.optim.Optimizer = kind(weights, **{"lr": 1.0, **self.said.settings})
        return made

    def cells(self) -> tuple[str, str]:
        """The class and what is set; φ(∇f) and below it c; as markdown."""
        said = self.said
        options = (f"`{k}={v!r}`" for k, v in said.settings.items())
        title = "<br>".join([self.name, *options])
        if said.factor is None:
            return title, said.penalty
        value = f"{said.factor:.4g}"
        formula = "" if said.formula == value else f"{said.formula}$ ${{}}="
        return title, f"{said.penalty}<br>$c={formula}{value}$"

    def measured(self) -> float | None:
        """The factor c as the class shows it."""
        if self.said.factor is None:
            return None
        if self.said.ask == "charge":
            return charge(self.make, steps=self.said.steps)
        return 1 + 2 * delay(self.make, steps=self.said.steps)


_CARDED = {
    name: vars(kind)
    for name in optim.__all__
    if hasattr(kind := getattr(optim, name), "card")
}
PENALTIES = tuple(
    Penalised(name, said)
    for name, own in _CARDED.items()
    for said in own.get("silent", (SilentPenalty("open"),))
)


def penalty_table(ask: bool = True) -> str:
    """The table as markdown: class and settings, φ(∇f) with its factor c."""
    lines = [["optimizer", r"penalises $\varphi(\nabla f)$, times $c$"], ["---"] * 2]
    for row in PENALTIES:
        factor = row.said.factor
        if ask and factor is not None:
            found = row.measured()
            assert found is not None, row
            assert abs(found - factor) <= max(0.1, abs(factor) / 1000) + 1e-9, found
        lines.append([*row.cells()])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
