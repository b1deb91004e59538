r"""A probe of the motion: what an optimizer does to a model, layer by layer.

:class:`Probe` hangs on the step hooks of any optimizer and writes down, every so
many steps, how far each layer is from the regime in which steps follow a motion.

>>> import torch
>>> from anthology.motion import Probe
>>> model = torch.nn.Linear(2, 1, bias=False)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
>>> def loss(net):
...     return net(x).square().sum() / 2
>>> with Probe(model, optimizer, loss) as probe:
...     for _ in range(3):
...         optimizer.zero_grad()
...         loss(model).backward()
...         optimizer.step()
>>> [round(record["product"], 3) for record in probe.records]  # lr times 4
[0.4, 0.4, 0.4]
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from anthology.motion._arguments import require
from anthology.motion.models import FixedBatch, Values
from anthology.motion.probe.laws import Laws, shrinkage
from anthology.motion.probe.readings import (
    Rows,
    Watched,
    at_hand,
    of_penalty,
    of_steps,
    of_turn,
    sharpest,
    watched,
)
from anthology.motion.probe.schedule import Clock, Schedule
from anthology.motion.symmetry.pieces import Symmetry

__all__ = ["Probe"]


class Probe:
    r"""Measure the steps of an optimizer against its equation of motion.

    Parameters
    ----------
    model : torch.nn.Module
        The model in training; neither it nor its gradients are changed.
    optimizer : torch.optim.Optimizer
        Any one, of this package or not. Its steps stay bit for bit the same.
    loss : callable, optional
        A loss on a fixed batch, as a function of something to be called like the
        model: ``lambda net: cross_entropy(net(x), y)``. Without it the parts
        ``"turn"``, ``"sharpness"`` and ``"blocks"`` are not there.
    symmetries : sequence of Symmetry, optional
        What `find_symmetries(model, loss)` found. Without it there is no part
        ``"symmetry"``.
    every : int or mapping
        Measure the first step and each `every`-th after it; a mapping gives each
        part its own number (1 where it gives none). Default 1.
    parts : collection of str, optional
        What to measure, of the notes' list; by default all that the other arguments
        allow, except ``"blocks"``.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a part is unknown or lacks its `loss`, or `every` is not positive.

    Notes
    -----
    ``"steps"``, from the steps alone. The motion is
    :math:`\eta\dot w = \Delta w - \tfrac12\Delta^2 w + \dots`, so
    ``error`` :math:`= \tfrac12\lVert\Delta^2 w\rVert/\lVert\Delta w\rVert`, with
    :math:`\Delta^2 w` the step minus the step before, is the first term that the
    step misses of its motion, relative to the step. For gradient descent on one
    fixed loss :math:`\tfrac12\Delta^2w = \eta^2\xi_0 + O(\eta^3)`, and twice the
    error is at most ηλ_max, to leading order. With mini-batches it measures their noise
    too: independent gradients give 0.71, steps that turn round each time give 1.

    ``"turn"``, the part of it that is not noise: with ∇f on the fixed batch before
    and after the step, ``turn`` :math:`= \tfrac12\lVert\nabla f(w+\Delta w) -
    \nabla f(w)\rVert/\lVert\nabla f(w)\rVert`; for gradient descent on that batch it
    is what ``error`` will be at the next step, times the ratio of the two gradients.
    ``gain`` is :math:`-\langle\nabla f(w),\Delta w\rangle`, the fall of the loss that
    the gradient promises, ``bend`` is
    :math:`\langle\nabla f(w+\Delta w)-\nabla f(w),\Delta w\rangle`, and
    ``overshoot`` is bend/gain, the ηλ of the direction in which this optimizer went:
    above 1 the step goes past the lowest point on its line, at 2 it arrives as high
    as it started. For a loss that is quadratic along the step, ``fall``, by how much
    it fell, is gain − bend/2. NaN where the step goes uphill. Two gradients.

    ``"sharpness"``: ``product`` is ηλ_max on the batch after the step, λ_max of
    :math:`P^{-1}H` where the step is :math:`-\eta P^{-1}` times an (averaged)
    gradient with a diagonal P: 1 for gradient descent, √v̂ + ε for Adam. For other
    optimizers only ``sharpness``, λ_max of H itself, is known, and ``product`` is NaN.
    ``limit`` is where the motion of the weights ceases to exist and ``stable`` where
    the method does, for that P held fixed: 1 and 2 without momentum, less and more
    with it. The first time that ``product`` passes ``limit``, a warning is given.
    ``"blocks"`` is the same for each tensor alone, the others held still. As much as a
    hundred gradients or two (Lanczos' method): choose `every`.

    ``"penalty"``: ``dual`` is ‖∇f‖_* in the norm in which the optimizer measures its
    step (that of its group, or of its card), on the fixed batch if there is one, else
    the gradient at hand; ``penalty`` is φ(∇f), which the motion adds to the loss with
    the factor η/2 (½‖∇f‖_*², or ‖∇f‖_* for steps of a fixed length).

    ``"symmetry"``: for each the length of the weights (or of their sums), ``measured``,
    and ``predicted`` from the first step on by the laws of gradient descent,
    :math:`\lVert w'\rVert^2 = (1-\eta\kappa)^2\lVert w\rVert^2 + \lVert\Delta w +
    \eta\kappa w\rVert^2` and :math:`\langle 1, w'\rangle = (1-\eta\kappa)\langle 1,
    w\rangle`. They part where a step is not along the gradient: under momentum, or in
    a norm that does not share the symmetry; ``drift`` is how far the weights went along
    the symmetry beyond the law, a way on which the loss is constant.

    Reading `records` waits for the device, as does a measurement of ``"sharpness"``.
    The random numbers and the buffers of the fixed batch are its own; layers keep
    their mode. Under ``torch.amp`` the gradient at hand is the scaled one. A model
    wrapped for several devices is to be given bare.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Callable[..., Any]], Tensor] | None = None,
        *,
        symmetries: Sequence[Symmetry] = (),
        every: int | Mapping[str, int] = 1,
        parts: Collection[str] | None = None,
    ) -> None:
        _require("model", model, nn.Module)
        _require("optimizer", optimizer, torch.optim.Optimizer)
        if loss is not None:
            require(loss=loss)
        names = [name for name, _ in model.named_parameters()]
        self._laws = Laws(symmetries, names)
        self._due = Schedule(every, parts, loss is not None, bool(self._laws)).due
        self._model, self._optimizer = model, optimizer
        self._batch = None if loss is None else FixedBatch(model, loss)
        self._rows: list[Rows] = []
        self._count, self._warned = 0, False
        self._before: dict[Tensor, Tensor] = {}
        self._moves: dict[Tensor, Tensor] = {}
        self._slope: tuple[Tensor, Values] | None = None
        self._clock = Clock()
        self._hooks = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )

    @property
    def records(self) -> list[dict[str, Any]]:
        """What was measured, in order, as plain numbers; reading waits for the device.

        Returns
        -------
        list of dict
            One a measured step: ``step`` (from 1), ``loss`` on the fixed batch before
            it, figures of the whole model, ``layers``, for each parameter by name
            its figures, and ``symmetries``. What was not due is absent; what has no
            value is NaN.
        """
        return [row.plain() for row in self._rows]

    @property
    def overhead(self) -> float:
        """Seconds inside the hooks per second outside of them; NaN before a step.

        From the first step to the last, so let it see many. On an accelerator only
        what the host waits for is seen.
        """
        return self._clock.share

    def remove(self) -> None:
        """Take the hooks off; the records stay."""
        for hook in self._hooks:
            hook.remove()
        self._before, self._moves, self._slope = {}, {}, None

    def clear(self) -> None:
        """Forget the records; steps are counted on."""
        self._rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __str__(self) -> str:
        return self._rows[-1].table() if self._rows else "no step was measured"

    def _before_step(self, _: Any, args: Any, kwargs: Any) -> None:
        with self._clock, torch.no_grad():
            self._look(evaluates=len(args) > 1 or kwargs.get("closure") is not None)

    def _after_step(self, *_: Any) -> None:
        with self._clock, torch.no_grad():
            self._measure()

    def _look(self, evaluates: bool) -> None:
        self._count += 1
        step = self._count
        soon = self._due("steps", step) or self._due("steps", step + 1)
        gradients = self._due("turn", step) or self._due("penalty", step)
        layers = watched(self._model, self._optimizer)
        self._before, self._slope = {}, None
        everything = soon or self._due("turn", step)
        for x in layers:
            if everything or x.name in self._laws.names:
                self._before[x.tensor] = x.tensor.detach().clone()
        if gradients and self._batch is not None:
            self._slope = self._batch.gradient()
        elif gradients and not evaluates:
            self._slope = at_hand(layers)

    def _measure(self) -> None:
        step = self._count
        layers = watched(self._model, self._optimizer)
        moves = {
            x.tensor: x.tensor.detach() - self._before[x.tensor]
            for x in layers
            if x.tensor in self._before
        }
        rows = Rows(step)
        if self._due("steps", step):
            rows.add(of_steps(layers, moves, self._moves))
        self._follow(rows, layers)
        if self._due("penalty", step):
            slope = self._slope or at_hand(layers)
            rows.add(of_penalty(self._optimizer, layers, slope[1]))
        if self._batch is not None:
            self._on_the_batch(self._batch, rows, layers, moves)
        self._moves = moves if self._due("steps", step + 1) else {}
        self._before, self._slope = {}, None
        if rows:
            self._rows.append(rows)

    def _follow(self, rows: Rows, layers: list[Watched]) -> None:
        """The laws hold from step to step, so they are followed at each."""
        lawful = [x for x in layers if x.name in self._laws.names]
        old = {x.name: self._before[x.tensor] for x in lawful}
        new = {x.name: x.tensor.detach() for x in lawful}
        shrink = {x.name: shrinkage(self._optimizer, x.tensor, x.group) for x in lawful}
        self._laws.follow(old, new, shrink)
        if self._due("symmetry", rows.step):
            rows.laws = self._laws.readings(new)

    def _on_the_batch(
        self,
        batch: FixedBatch,
        rows: Rows,
        layers: list[Watched],
        moves: dict[Tensor, Tensor],
    ) -> None:
        if self._slope is not None:
            rows.add(({"loss": self._slope[0]}, {}))
        if self._slope is not None and self._due("turn", rows.step):
            loss, after = batch.gradient()
            rows.add(({"fall": self._slope[0] - loss}, {}))
            rows.add(of_turn(layers, moves, self._slope[1], after))
        if self._due("sharpness", rows.step):
            found = sharpest(batch, self._optimizer, layers)
            rows.add((found, {}))
            self._warn(rows.step, found)
        if self._due("blocks", rows.step):
            blocks = {x.name: sharpest(batch, self._optimizer, [x]) for x in layers}
            rows.add(({}, blocks))

    def _warn(self, step: int, found: Mapping[str, float]) -> None:
        if self._warned or not found["product"] > found["limit"]:
            return
        self._warned = True
        warnings.warn(
            f"at step {step} the learning rate times the sharpness is "
            f"{found['product']:.3g}, above {found['limit']:.3g}: in the steepest "
            "directions no equation of motion of the weights passes through the steps "
            f"any more (the method itself is stable up to {found['stable']:.3g})",
            RuntimeWarning,
            stacklevel=6,
        )


def _require(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        wanted = f"torch.{'nn' if kind is nn.Module else 'optim'}.{kind.__name__}"
        raise TypeError(f"{name} must be a {wanted}, got {type(value).__name__}")
