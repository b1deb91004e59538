r"""What an optimizer silently penalises, asked of its class.

To second order in η a step that follows ∇φ of an averaged gradient descends
:math:`f + \tfrac\eta2 c\,\varphi(\nabla f)` (the chapter
chapters/motion/beyond-gradient-descent). The factor c is a property of the
optimizer's memory alone, so it can be read off the class: give it gradients
that change slowly, and see how late it follows. Matrices can grow and they can turn,
and a class may charge for one and reward the other.

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

__all__ = [
    "PENALTIES",
    "Penalised",
    "answers",
    "charge",
    "delay",
    "penalty_table",
    "toll",
]

Make = Callable[[list[Tensor]], torch.optim.Optimizer]
_PROBES = 20


def answers(make: Make, gradients: Tensor) -> Tensor:
    """The directions an optimizer takes when it is given these gradients.

    Of shape (steps, tensors), numbers, or (steps, tensors, rows, columns), matrices.
    """
    shape = gradients.shape[2:] or (1, 1)
    weights = [torch.zeros(*shape, dtype=torch.float64) for _ in gradients[0]]
    optimizer, moved = make(weights), []
    lr = float(optimizer.param_groups[0]["lr"])
    for row in gradients:
        for w, g in zip(weights, row, strict=True):
            w.grad = g.reshape(shape).clone()
        optimizer.step()
        moved.append(torch.stack(weights).reshape(row.shape) / -lr)
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


def toll(
    make: Make, at: Tensor, along: Tensor, steps: int = 400
) -> tuple[float, float]:
    """What a changing matrix is charged: ⟨E, {…}E⟩, and ⟨E, DE⟩ beside it.

    The gradient stands at the matrix ``at`` and changes slowly ``along`` E; {…} are the
    braces of the motion, D the derivative of the direction. Of a duality map with an
    average of age τ the first is 1 + 2τ times the second.
    """
    h = 1e-3 / steps
    level = torch.tensor([h, -h, 0.0, 0.0], dtype=torch.float64)
    growth = torch.tensor([0.0, 0.0, h, -h], dtype=torch.float64)
    k = torch.arange(1.0 - steps, 1.0, dtype=torch.float64)[:, None]
    given = at + (level + growth * k)[..., None, None] * along
    up, down, grown, shrunk = (answers(make, given)[-1] * along).sum((-2, -1)) / (2 * h)
    slope = float(up - down)
    return slope - 2 * float(grown - shrunk), slope


def _grown(make: Make, steps: int) -> float:
    """The factor c of a multiple of the identity that grows."""
    unit = torch.eye(2, dtype=torch.float64)
    base = answers(make, unit.expand(steps, 1, 2, 2))[-1, 0].trace()
    return toll(make, unit, unit, steps)[0] / float(base)


def _turned(make: Make, steps: int) -> float:
    """The factor c of the identity that turns, so of equal singular values."""
    unit = torch.eye(2, dtype=torch.float64)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    charged, slope = toll(make, unit, turn, steps)
    return charged / slope


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
        asked = {"charge": charge, "growth": _grown, "turn": _turned}.get(self.said.ask)
        if asked is None:
            return 1 + 2 * delay(self.make, steps=self.said.steps)
        return float(asked(self.make, steps=self.said.steps))  # type: ignore[operator]


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
