"""Predicted and measured motion of weights along a symmetry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anthology.motion._arguments import demand, require_kind
from anthology.motion.models import FixedBatch, Loss
from anthology.motion.symmetry.find import Evaluation, doubled
from anthology.motion.symmetry.pieces import Symmetry
from anthology.motion.symmetry.rates import norm_step, translation_rate


@dataclass(frozen=True, eq=False)
class SymmetryRun:
    """A coordinate of :meth:`Symmetry.coordinate` over a run, and its predictions.

    ``times`` are η·k for k = 0 to `steps`, ``measured`` the coordinate, ‖w‖² of each piece
    or ⟨1, w⟩, shape (steps + 1, …), like three predictions: ``flow``, by gradient flow,
    which knows the decay alone; ``motion``, by the motion with the first counter term, and
    ``descent``, by the law of the steps, for a scale both with the ‖g‖ of the run, held
    still over each step. ``angles`` are for a scale those that each piece turned in each
    step, in radians, shape (steps, parts); else None.
    """

    times: Tensor
    measured: Tensor
    flow: Tensor
    motion: Tensor
    descent: Tensor
    angles: Tensor | None

    def gaps(self) -> dict[str, float]:
        """Largest errors of the three, relative to the largest measured value."""
        size = self.measured.abs().max()
        return {
            name: float((getattr(self, name) - self.measured).abs().max() / size)
            for name in ("flow", "motion", "descent")
        }


def follow_symmetry(
    model: nn.Module,
    loss: Loss,
    symmetry: Symmetry,
    *,
    lr: float,
    decay: float,
    steps: int,
) -> SymmetryRun:
    r"""Gradient descent with weight decay along one symmetry, measured and predicted.

    Parameters
    ----------
    model, loss
        As for :func:`find_symmetries`, with its errors; the float64 copy is trained.
    symmetry : Symmetry
        One of those it found for this model.
    lr, decay : float
        η > 0 and κ ≥ 0 of all parameters, :math:`w \leftarrow (1-\eta\kappa)w - \eta g`.
    steps : int
        How many, at least 1.

    Examples
    --------
    >>> from anthology.motion import find_symmetries
    >>> x, y, model = torch.randn(8, 4), torch.arange(8) % 3, nn.Linear(4, 3)
    >>> loss = lambda net: nn.functional.cross_entropy(net(x), y)
    >>> _, bias = find_symmetries(model, loss)
    >>> run = follow_symmetry(model, loss, bias, lr=0.1, decay=0.5, steps=20)
    >>> run.gaps()["motion"] < 1e-3, run.gaps()["descent"] < 1e-12
    (True, True)
    """
    demand(model=model, loss=loss)
    require_kind("symmetry", symmetry, "one of find_symmetries", Symmetry)
    demand(lr=lr, decay=decay, steps=steps)
    point = Evaluation(FixedBatch(*doubled(model, loss)))
    missing = [name for name in symmetry.names if name not in point.values]
    if missing:
        raise ValueError(f"the model has no trainable parameter {missing[0]}")
    values, slope = point.values, point.slope
    rows, slopes = [symmetry.pieces(values)], []
    for _ in range(steps):
        slopes.append(symmetry.pieces(slope))
        values = {k: (1 - lr * decay) * w - lr * slope[k] for k, w in values.items()}
        rows.append(symmetry.pieces(values))
        slope = point.batch.gradient(values)[1]
    pieces = torch.stack(rows)
    times = lr * torch.arange(steps + 1, dtype=torch.float64, device=pieces.device)
    if symmetry.kind == "scale":
        return _of_scale(times, pieces, torch.stack(slopes), lr, decay)
    return _of_translation(times, pieces.sum(2), lr, decay)


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
    flow = measured[0] * torch.exp(-2 * decay * times)[:, None]
    # between the pieces of one step and the next; exact for small angles too
    unit = torch.nn.functional.normalize(pieces, dim=2)
    apart = (unit[1:] - unit[:-1]).norm(dim=2)
    angles = 2 * torch.atan2(apart, (unit[1:] + unit[:-1]).norm(dim=2))
    predicted = (flow, torch.stack(motion), torch.stack(descent))
    return SymmetryRun(times, measured, *predicted, angles)


def _of_translation(
    times: Tensor, measured: Tensor, lr: float, decay: float
) -> SymmetryRun:
    rates = [translation_rate(lr, decay, order=n) for n in (1, 2)]
    count = torch.arange(len(times), dtype=torch.float64, device=times.device)
    factors = [torch.exp(-rate * times) for rate in rates] + [(1 - lr * decay) ** count]
    flow, motion, descent = (measured[0] * f[:, None, None] for f in factors)
    return SymmetryRun(times, measured, flow, motion, descent, None)
