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
from typing import Any

import torch
from torch import Tensor

from anthology import norms, optim

__all__ = ["PENALTIES", "Penalised", "answers", "charge", "delay", "penalty_table"]

Make = Callable[[list[Tensor]], torch.optim.Optimizer]
_PROBES = 20


@dataclass(frozen=True)
class Penalised:
    """One row of the table: a class, and what the theorem says of it."""

    name: str
    settings: dict[str, Any]
    penalty: str
    formula: str = ""
    factor: float | None = None
    ask: Callable[..., float] | None = None  # for c; by default by the delay
    steps: int = 400

    def make(self, weights: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer, with η = 1 unless the class bounds it."""
        settings = {"lr": 1e-3 if self.name == "Scion" else 1.0, **self.settings}
        made: torch.optim.Optimizer = getattr(optim, self.name)(weights, **settings)
        return made

    def cells(self) -> tuple[str, str]:
        """The class and what is set; φ(∇f) and below it c; as markdown."""
        options = (f"`{k}={v!r}`" for k, v in self.settings.items())
        title = "<br>".join([self.name, *options])
        if self.factor is None:
            return title, self.penalty
        value = f"{self.factor:.4g}"
        formula = "" if self.formula == value else f"{self.formula}$ ${{}}="
        return title, f"{self.penalty}<br>$c={formula}{value}$"

    def measured(self) -> float | None:
        """The factor c as the class shows it."""
        if self.factor is None:
            return None
        if self.ask:
            return self.ask(self.make, steps=self.steps)
        return 1 + 2 * delay(self.make, steps=self.steps)


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


_SQUARE = r"$\tfrac12\lVert\nabla f\rVert_2^2$"
_ONE = r"$\lVert\nabla f\rVert_1$"
_NUCLEAR = r"$\sum_l\sum_i\sigma_i(\nabla_lf)$"
_WIDE = r"$\sum_l\sqrt{d_{out}/d_{in}}$ $\sum_i\sigma_i(\nabla_lf)$"
_LAYERS = r"$%s\lVert\nabla_lf\rVert_%s$, layer by layer"
_SOFT = r"$\lVert\nabla f\rVert_1$, rounded at ε"
_LOG = r"$\tfrac1{2B}\sum_i$ $\log(B\,\partial_if^2+\varepsilon)$"
_AGE = r"1+2\tau"
_ADAM = r"(1+2\tau_1)$ ${}-(1+2\tau_2)\,\rho"
_FREE = r"(1+2\tau_1)$ ${}-2(1+2\tau_2)\,\rho"
_HEAVY = r"(1+2\tau_1)$ $(1-2\rho)$ ${}-4\tau_2\rho"
_LENGTH = "that of its norm, while its length stands still"
_SUMS = "none that lasts: its sums never forget, so its steps fade"
_MATRICES = "open: its averages are matrices"
_MEMORY = {"momentum": 0.9}
_NESTEROV = {**_MEMORY, "nesterov": True}
_ONCE = {"batch_size": 1}
_SLOW = {**_ONCE, "betas": (0.9, 0.99)}
_RHO = 1 / 1.0001  # ρ at a gradient of one, with the ε that the root-free ones have

_ROWS: tuple[tuple[Any, ...], ...] = (
    ("SteepestDescent", {"norm": norms.L2()}, _LAYERS % ("", "2"), "1", 1.0),
    ("SteepestDescent", {"norm": norms.LInf()}, _ONE, "1", 1.0),
    ("SteepestDescent", {"norm": norms.Spectral()}, _NUCLEAR, "1", 1.0),
    ("SteepestDescent", {"norm": norms.RMSToRMS(), **_MEMORY}, _WIDE, _AGE, 19.0),
    ("FreeSteepestDescent", {}, _LENGTH),
    ("SGD", {}, _SQUARE, "1", 1.0, charge),
    ("SGD", _MEMORY, _SQUARE, _AGE, 19.0, charge),
    ("SGD", _NESTEROV, _SQUARE, _AGE, 17.2, charge),
    ("Signum", {}, _ONE, _AGE, 19.0),
    ("Lion", {}, _ONE, _AGE, 181.0, None, 2000),
    ("Adam", {}, _SOFT, _ADAM, 19 - 1999.0, charge, 10_000),
    ("AdamW", {"betas": (0.9, 0.9)}, _SOFT, _ADAM, 0.0, charge),
    ("Shampoo", {}, _SUMS),
    ("SOAP", {}, _MATRICES),
    ("KrADagrad", {}, _SUMS),
    ("Muon", {}, _NUCLEAR, _AGE, 37.1),
    ("Scion", _MEMORY, _LAYERS % (r"\sum_l", "*"), _AGE, 19.0),
    ("Prodigy", {}, _LENGTH),
    ("RootFreeRMSProp", _ONCE, _LOG, _HEAVY, 19 - 434 * _RHO, charge, 3000),
    ("RootFreeAdamW", _SLOW, _LOG, _FREE, 19 - 398 * _RHO, charge, 3000),
    ("SIRFShampoo", {}, _MATRICES),
)
_CARDED = (name for name in optim.__all__ if hasattr(getattr(optim, name), "card"))
_NAMED = {row[0] for row in _ROWS}
PENALTIES = (
    *(Penalised(*row) for row in _ROWS),
    *(Penalised(name, {}, "open") for name in _CARDED if name not in _NAMED),
)


def penalty_table(ask: bool = True) -> str:
    """The table as markdown: class and settings, φ(∇f) with its factor c."""
    lines = [["optimizer", r"penalises $\varphi(\nabla f)$, times $c$"], ["---"] * 2]
    for row in PENALTIES:
        if ask and row.factor is not None:
            allowed = max(0.1, abs(row.factor) / 1000) + 1e-9
            found = row.measured()
            assert found is not None, row
            assert abs(found - row.factor) <= allowed, (row, found)
        lines.append([*row.cells()])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
