"""Follow an equation of motion, in float64, by torchdiffeq's integrators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anthology.motion._arguments import Field, demand, evaluated


class _OutOfRangeError(ArithmeticError):
    """The motion reached a point where the velocity is not finite."""


def flow(
    velocity: Field,
    w0: Tensor,
    t: float | Sequence[float],
    *,
    solver: str = "dopri8",
    rtol: float = 1e-11,
    atol: float = 1e-12,
    max_evaluations: int = 1_000_000,
) -> Tensor:
    """Where the motion ẇ = velocity(w) that starts at ``w0`` is at time ``t``.

    Parameters
    ----------
    velocity : callable
        dw/dt as a function of the point (autonomous), in its shape and dtype.
    w0 : Tensor
        The point at time 0, float64, any shape.
    t : float or sequence of float
        One time of either sign, or increasing times ≥ 0. Units of η·steps.
    solver : str
        An adaptive one of torchdiffeq (``"dopri8"``, ``"dopri5"``, ``"bosh3"``, …).
    rtol, atol : float
        Its tolerances for one step, ≥ 0 and not both 0.
    max_evaluations : int
        How often the velocity may be evaluated in all.

    Returns
    -------
    Tensor
        The point, in the shape of ``w0``, or for a sequence the points, shape
        ``(len(t), *w0.shape)``; no gradient. NaN where the motion has left the
        floating-point range, which it can in finite time.

    Raises
    ------
    TypeError, ValueError, ImportError, RuntimeError
        For an argument of the wrong kind or range, if torchdiffeq is not installed, if
        ``max_evaluations`` did not suffice.

    Examples
    --------
    >>> w = flow(lambda w: -w, torch.ones(1, dtype=torch.float64), 1.0)
    >>> abs(w.item() - math.exp(-1)) < 1e-11
    True
    """
    demand(velocity=velocity, w0=w0, max_evaluations=max_evaluations)
    times = _times(t)
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        what = "flow integrates with torchdiffeq, which is not installed"
        raise ImportError(f"{what}: pip install torchdiffeq") from error
    demand(solver=solver)
    if not (rtol >= 0 and atol >= 0 and 0 < rtol + atol < math.inf):
        what = "rtol and atol must be finite, ≥ 0 and not both 0"
        raise ValueError(f"{what}, got {rtol}, {atol}")
    field = _Guarded(velocity, w0.shape, max_evaluations)

    def piece(w: Tensor, duration: float) -> Tensor:
        if not torch.isfinite(w).all():
            return torch.full_like(w, torch.nan)
        if duration == 0 or w.numel() == 0:
            return w
        field.backward = duration < 0
        span = torch.tensor([0.0, abs(duration)], dtype=torch.float64, device=w.device)
        # step_t makes the last step end at the time asked for; otherwise it
        # overshoots and a low-order interpolation gives the answer
        settings = {"rtol": rtol, "atol": atol, "options": {"step_t": span[1:]}}
        try:
            end: Tensor = odeint(field, w, span, method=solver, **settings)[-1]
        except _OutOfRangeError:
            return torch.full_like(w, torch.nan)
        return end

    w, now, points = w0.detach().reshape(-1), 0.0, []
    with torch.no_grad():
        for time in times:
            # one piece a time, so that the solver lands on each instead of interpolating
            w = piece(w, time - now)
            now = time
            points.append(w.reshape(w0.shape))
    if isinstance(t, int | float):
        return points[0]
    return torch.stack(points) if points else w0.new_empty(0, *w0.shape)


class _Guarded:
    """The velocity as torchdiffeq wants it: f(t, flat w), with a way out."""

    def __init__(self, velocity: Field, shape: torch.Size, allowed: int) -> None:
        self.velocity, self.shape = velocity, shape
        self.allowed, self.left = allowed, allowed
        self.backward = False

    def __call__(self, t: Tensor, flat: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError(
                f"flow needed more than {self.allowed} evaluations of the velocity; "
                "raise rtol and atol, or max_evaluations"
            )
        # a velocity may be made of optimizer steps that call backward
        with torch.enable_grad():
            value = evaluated("velocity", self.velocity, flat.reshape(self.shape))
        if not torch.isfinite(value).all():
            raise _OutOfRangeError
        return (-value if self.backward else value).detach().reshape(-1)

    def callback_step(self, t: Tensor, flat: Tensor, dt: Tensor) -> None:
        if not t + dt > t:
            raise _OutOfRangeError


def _times(t: float | Sequence[float]) -> list[float]:
    times = [float(t)] if isinstance(t, int | float) else [float(x) for x in t]
    if not all(math.isfinite(x) for x in times):
        raise ValueError(f"times must be finite, got {t}")
    increasing = all(a <= b for a, b in zip([0.0, *times], times, strict=False))
    if not (isinstance(t, int | float) or increasing):
        raise ValueError("several times must be ≥ 0 and increasing")
    return times
