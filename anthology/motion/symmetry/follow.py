r"""Predicted and measured motion of weights along a symmetry.

:func:`follow_symmetry` runs gradient descent with weight decay and puts beside
what a symmetry made of the weights what three theories say of it: gradient flow,
the motion with its first counter term, and the exact law of the steps.

>>> import torch
>>> from torch import nn
>>> from torch.nn.functional import cross_entropy
>>> from anthology.motion import find_symmetries, follow_symmetry
>>> _ = torch.manual_seed(0)
>>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
>>> model, loss = nn.Linear(4, 3), lambda net: cross_entropy(net(x), y)
>>> weight, bias = find_symmetries(model, loss)
>>> run = follow_symmetry(model, loss, bias, lr=0.1, decay=0.5, steps=20)
>>> {name: f"{gap:.0e}" for name, gap in run.gaps().items()}
{'flow': '9e-03', 'motion': '3e-04', 'descent': '2e-16'}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anthology.motion._arguments import (
    require_callable,
    require_count,
    require_learning_rate,
    require_nonnegative,
)
from anthology.motion.symmetry.pieces import Symmetry
from anthology.motion.symmetry.places import Place, double, widened
from anthology.motion.symmetry.rates import translation_rate
from anthology.motion.symmetry.scale_invariance import norm_step

__all__ = ["SymmetryRun", "follow_symmetry"]


@dataclass(frozen=True, eq=False)
class SymmetryRun:
    """A coordinate of :meth:`Symmetry.coordinate` over a run, and its predictions.

    Parameters
    ----------
    times : Tensor
        η·k for k = 0 to `steps`, shape (steps + 1,).
    measured : Tensor
        The coordinate: ‖w‖² of each piece, or ⟨1, w⟩; shape (steps + 1, …).
    flow : Tensor
        By gradient flow, which knows the decay alone.
    motion : Tensor
        By the motion with the first counter term; for a scale with the ‖g‖ of the
        run, held still over each step.
    descent : Tensor
        By the law of the steps; for a scale with the ‖g‖ of the run.
    angles : Tensor or None
        For a scale the angle that each piece turned in each step, in radians, shape
        (steps, parts).
    """

    times: Tensor
    measured: Tensor
    flow: Tensor
    motion: Tensor
    descent: Tensor
    angles: Tensor | None

    def gaps(self) -> dict[str, float]:
        """Largest error of each prediction, relative to the largest measured value.

        Returns
        -------
        dict
            ``flow``, ``motion`` and ``descent``.
        """
        size = self.measured.abs().max()
        return {
            name: float((getattr(self, name) - self.measured).abs().max() / size)
            for name in ("flow", "motion", "descent")
        }


def follow_symmetry(
    model: nn.Module,
    loss: Callable[[Callable[..., Any]], Tensor],
    symmetry: Symmetry,
    *,
    lr: float,
    decay: float,
    steps: int,
) -> SymmetryRun:
    r"""Gradient descent with weight decay, seen along one symmetry.

    Parameters
    ----------
    model : torch.nn.Module
        Left untouched: a float64 copy, in the mode of the model, is trained.
    loss : callable
        The loss on fixed data, given a function to be called like the model, as
        for :func:`anthology.motion.find_symmetries`.
    symmetry : Symmetry
        One of those it found for this model.
    lr, decay : float
        η > 0 and κ ≥ 0; :math:`w \leftarrow (1-\eta\kappa)w - \eta g` for all
        parameters.
    steps : int
        How many, at least 1.

    Returns
    -------
    SymmetryRun
        On the device of the model, float64.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If numbers make no sense or the model has not the parameters meant.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    require_callable("loss", loss, "a function of the model")
    if not isinstance(symmetry, Symmetry):
        kind = type(symmetry).__name__
        raise TypeError(f"symmetry must be one of find_symmetries, got {kind}")
    require_learning_rate(lr)
    require_nonnegative("decay", decay)
    require_count("steps", steps, 1)
    place = Place(double(model), widened(loss))
    missing = [name for name in symmetry.names if name not in place.values]
    if missing:
        raise ValueError(f"the model has no trainable parameter {missing[0]}")
    pieces, slopes = _descend(place, symmetry, lr, decay, steps)
    times = lr * torch.arange(steps + 1, dtype=torch.float64, device=pieces.device)
    if symmetry.kind == "scale":
        return _of_scale(times, pieces, slopes, lr, decay)
    return _of_translation(times, pieces.sum(2), lr, decay)


def _descend(
    place: Place, symmetry: Symmetry, lr: float, decay: float, steps: int
) -> tuple[Tensor, Tensor]:
    """The pieces at each step, and the gradient of them before each."""
    values, slope = place.values, place.slope
    pieces, slopes = [symmetry.pieces(values)], []
    for _ in range(steps):
        slopes.append(symmetry.pieces(slope))
        values = {k: (1 - lr * decay) * w - lr * slope[k] for k, w in values.items()}
        pieces.append(symmetry.pieces(values))
        slope = place.at(values)[1]
    return torch.stack(pieces), torch.stack(slopes)


def _of_scale(
    times: Tensor, pieces: Tensor, slopes: Tensor, lr: float, decay: float
) -> SymmetryRun:
    measured, growth = pieces.square().sum(2), slopes.square().sum(2)
    rate = 2 * decay * (1 + lr * decay / 2)
    # ds/dt = −rate · s + η‖g‖² over one step, ‖g‖ held still
    grown = lr if rate == 0 else -math.expm1(-rate * lr) / rate
    motion, descent = [measured[0]], [measured[0]]
    for square in growth:
        motion.append(math.exp(-rate * lr) * motion[-1] + lr * grown * square)
        descent.append(torch.as_tensor(norm_step(descent[-1], square, lr, decay)))
    return SymmetryRun(
        times,
        measured,
        measured[0] * torch.exp(-2 * decay * times)[:, None],
        torch.stack(motion),
        torch.stack(descent),
        _angles(pieces),
    )


def _of_translation(
    times: Tensor, measured: Tensor, lr: float, decay: float
) -> SymmetryRun:
    def decayed(factor: Tensor) -> Tensor:
        return measured[0] * factor[:, None, None]

    flow, motion = (translation_rate(lr, decay, order=n) for n in (1, 2))
    count = torch.arange(len(times), dtype=torch.float64, device=times.device)
    left = (1 - lr * decay) ** count
    by_flow, by_motion = (decayed(torch.exp(-r * times)) for r in (flow, motion))
    return SymmetryRun(times, measured, by_flow, by_motion, decayed(left), None)


def _angles(pieces: Tensor) -> Tensor:
    """Between the pieces of one step and the next; exact for small angles too."""
    unit = torch.nn.functional.normalize(pieces, dim=2)
    apart = (unit[1:] - unit[:-1]).norm(dim=2)
    together = (unit[1:] + unit[:-1]).norm(dim=2)
    return 2 * torch.atan2(apart, together)
