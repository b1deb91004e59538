"""Predicted and measured motion of weights along a symmetry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anthology.motion._arguments import demand, require_kind
from anthology.motion.models import FixedBatch, Loss, Values
from anthology.motion.probe.step_rules import heavy_ball, shrinkage
from anthology.motion.symmetry.evaluation import Evaluation, doubled
from anthology.motion.symmetry.pieces import Symmetry
from anthology.motion.symmetry.rates import translation_rate

# shorter steps, in units of the weights, are what subtracting two weights leaves
_ROUNDING = 1e-14


@dataclass(frozen=True, eq=False)
class SymmetryRun:
    r"""A coordinate of :meth:`Symmetry.coordinate` over a run, and its predictions.

    ``measured`` has shape (steps + 1, …), like the predictions. ``law`` is that of
    :meth:`Symmetry.law` for steps that are nowhere along the symmetry, with their lengths
    from the run; of heavy ball with what its momentum carries along; NaN where the
    parameters decay differently, or by what the gradient is (Adam with an L2 term). Of gradient descent
    without momentum, else None, there are also ``flow``, by gradient flow, which knows the
    decay alone, and ``motion``, by the motion with the first counter term, with the ‖g‖ of
    the run held still over each step. ``times`` are η·k for k = 0 to `steps`.

    ``leaks``, of shape (steps, …), are the cosines between each step, without the decay,
    and the :meth:`Symmetry.field`. Where all are 0 to rounding, the law is exact, whatever
    the optimizer. Else it is exact for heavy ball alone; no other has a law, and what is
    ``measured`` is all that can be said: the steps lead along the symmetry, where the
    loss is constant.

    ``angles`` are for a scale those that each piece turned in each step, in radians, shape
    (steps, parts); else None.
    """

    times: Tensor
    measured: Tensor
    law: Tensor
    leaks: Tensor
    flow: Tensor | None
    motion: Tensor | None
    angles: Tensor | None

    def gaps(self) -> dict[str, float]:
        """Largest errors of the predictions there are, relative to the largest
        measured value."""
        size = self.measured.abs().max()
        made = {"flow": self.flow, "motion": self.motion, "law": self.law}
        return {
            name: float((path - self.measured).abs().max() / size)
            for name, path in made.items()
            if path is not None
        }


def follow_symmetry(
    model: nn.Module,
    loss: Loss,
    symmetry: Symmetry,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    steps: int,
) -> SymmetryRun:
    r"""Train with any optimizer along one symmetry, measured and predicted.

    Parameters
    ----------
    model, loss
        As for :func:`find_symmetries`, with its errors; the float64 copy is trained.
    symmetry : Symmetry
        One of those it found for this model.
    optimizer : callable
        From a model (the copy) to an optimizer of it; ValueError if that lacks a
        parameter of the symmetry.
    steps : int
        How many, at least 1.

    Examples
    --------
    >>> from anthology.motion import find_symmetries
    >>> x, y, model = torch.randn(8, 4), torch.arange(8) % 3, nn.Linear(4, 3)
    >>> loss = lambda net: nn.functional.cross_entropy(net(x), y)
    >>> _, bias = find_symmetries(model, loss)
    >>> descent = lambda net: torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.5)
    >>> run = follow_symmetry(model, loss, bias, descent, steps=20)
    >>> run.gaps()["motion"] < 1e-3, run.gaps()["law"] < 1e-12
    (True, True)
    """
    demand(model=model, loss=loss)
    require_kind("symmetry", symmetry, "one of find_symmetries", Symmetry)
    require_kind("optimizer", optimizer, "a function from the model to its optimizer")
    demand(steps=steps)
    twin, wide = doubled(model, loss)
    start = Evaluation(FixedBatch(twin, wide)).values
    missing = [name for name in symmetry.names if name not in start]
    if missing:
        raise ValueError(f"the model has no trainable parameter {missing[0]}")
    run = _Run(twin, wide, symmetry, optimizer(twin))
    for _ in range(steps):
        run.step()
    return run.result()


class _Settings(NamedTuple):
    lr: float
    shrink: float
    momentum: float | None  # None: not heavy ball


class _Run:
    """The steps of an optimizer on a model, watched along a symmetry."""

    def __init__(
        self, model: nn.Module, loss: Loss, symmetry: Symmetry, optimizer: Any
    ) -> None:
        demand(optimizer=optimizer)
        self.batch, self.symmetry = FixedBatch(model, loss), symmetry
        self.optimizer = optimizer
        self.parameters = dict(model.named_parameters())
        self.settings = _Settings(math.nan, 1.0, None)
        now = self.now()
        self.pieces = [symmetry.pieces(now)]
        self.measured = [symmetry.coordinate(now)]
        self.law = self.measured.copy()
        self.leaks: list[Tensor] = []
        self.growth: list[Tensor] = []
        # of heavy ball: what the next step owes to this one, along the symmetry
        self.carried: Tensor | float = 0.0

    def now(self) -> Values:
        names = self.symmetry.names
        return {name: self.parameters[name].detach().clone() for name in names}

    def step(self) -> None:
        old = self.now()
        self.optimizer.step(self._gradients)
        new, symmetry = self.now(), self.symmetry
        # after the step: some optimizers know their settings only then
        self.settings = self._read()
        _, shrink, momentum = self.settings
        step = {name: new[name] - shrink * old[name] for name in old}
        self.growth.append(symmetry.coordinate(step))
        self.leaks.append(_cosine(symmetry, old, step))
        self.measured.append(symmetry.coordinate(new))
        self.pieces.append(symmetry.pieces(new))
        if momentum is None:
            self.law.append(symmetry.law(self.law[-1], old, new, shrink))
            return
        # the decay is in the average, so d = w' − w is part of the next step
        along = momentum * self.carried - (1 - shrink) * self.law[-1]
        self.law.append(symmetry.law(self.law[-1], old, new, along=along))
        whole = symmetry.coordinate({name: new[name] - old[name] for name in old})
        self.carried = along + (0 if symmetry.kind == "translation" else whole)

    def _gradients(self) -> Tensor:
        value, slope = self.batch.gradient()
        for name, g in slope.items():
            self.parameters[name].grad = g
        return value

    def _read(self) -> _Settings:
        each = [self._read_one(name) for name in self.symmetry.names]
        first, *others = each
        if all(x == first for x in others):
            return first
        alike = all(x.shrink == first.shrink for x in others)
        return first._replace(shrink=first.shrink if alike else math.nan, momentum=None)

    def _read_one(self, name: str) -> _Settings:
        p, groups = self.parameters[name], self.optimizer.param_groups
        group = next((g for g in groups if any(p is q for q in g["params"])), None)
        if group is None:
            raise ValueError(
                f"the optimizer has no parameter {name}; "
                "give it all that the symmetry changes"
            )
        group = getattr(self.optimizer, "group_of", lambda p, g: g)(p, group)
        shrink = shrinkage(self.optimizer, p, group)
        momentum = heavy_ball(self.optimizer, group)
        return _Settings(float(group["lr"]), shrink, momentum)

    def result(self) -> SymmetryRun:
        lists = self.measured, self.law, self.leaks, self.growth, self.pieces
        measured, law, leaks, growth, pieces = map(torch.stack, lists)
        lr, shrink, momentum = self.settings
        times = lr * torch.arange(len(law), dtype=torch.float64, device=law.device)
        flow = motion = angles = None
        if momentum == 0:
            options = times, measured[0], growth / lr**2, lr, (1 - shrink) / lr
            flow, motion = _of_descent(self.symmetry, *options)
        if self.symmetry.kind == "scale":
            # between the pieces of one step and the next; exact for small angles too
            unit = torch.nn.functional.normalize(pieces, dim=2)
            apart = (unit[1:] - unit[:-1]).norm(dim=2)
            angles = 2 * torch.atan2(apart, (unit[1:] + unit[:-1]).norm(dim=2))
        return SymmetryRun(times, measured, law, leaks, flow, motion, angles)


def _cosine(symmetry: Symmetry, old: Values, step: Values) -> Tensor:
    d, field = symmetry.pieces(step), symmetry.field(old)
    still = d.norm(dim=1) <= _ROUNDING * symmetry.pieces(old).norm(dim=1)
    cosine = torch.nn.functional.cosine_similarity(d, field, dim=1, eps=1e-300)
    return torch.where(still, 0.0, cosine)


def _of_descent(
    symmetry: Symmetry,
    times: Tensor,
    start: Tensor,
    squares: Tensor,
    lr: float,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """By gradient flow, and by the motion with the first counter term."""
    if symmetry.kind == "translation":
        rates = [translation_rate(lr, decay, order=n) for n in (1, 2)]
        flow, motion = (torch.exp(-r * times)[:, None, None] * start for r in rates)
        return flow, motion
    rate = 2 * decay * (1 + lr * decay / 2)
    # dQ/dt = −rate · Q + η Σ p‖g‖² over one step, ‖g‖ held still
    grown = lr if rate == 0 else -math.expm1(-rate * lr) / rate
    path = [start]
    for square in squares:
        path.append(math.exp(-rate * lr) * path[-1] + lr * grown * square)
    return torch.exp(-2 * decay * times)[:, None] * start, torch.stack(path)
