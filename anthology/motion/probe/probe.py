"""A probe of the motion: what an optimizer does to a model, layer by layer."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from anthology.motion._arguments import demand
from anthology.motion.models import FixedBatch, Loss, Values
from anthology.motion.probe import readings
from anthology.motion.probe.readings import Watched, watched
from anthology.motion.probe.step_rules import shrinkage
from anthology.motion.symmetry.pieces import Symmetry

PARTS = ("steps", "penalty", "symmetry", "turn", "sharpness", "blocks")
_ON_THE_BATCH = ("turn", "sharpness", "blocks")
# one sharpness costs more than a hundred steps, one turn two gradients
_EVERY = {"penalty": 10, "turn": 10, "sharpness": 1000, "blocks": 1000}


class Probe:
    r"""Measure, layer by layer, the steps of an optimizer against its equation of motion.

    Parameters
    ----------
    model : torch.nn.Module
        The model in training; neither it nor its gradients are changed.
    optimizer : torch.optim.Optimizer
        Any one, of this package or not. Its steps stay bit for bit the same.
    loss : callable, optional
        A loss on a fixed batch, given a function to be called like the model:
        ``lambda net: cross_entropy(net(x), y)``. The parts ``"turn"``, ``"sharpness"``
        and ``"blocks"`` need it.
    symmetries : sequence of Symmetry, optional
        What `find_symmetries(model, loss)` found, for the part ``"symmetry"``.
    every : int or mapping, optional
        Measure the first step and each `every`-th after it; a mapping gives parts their
        own numbers. By default 1 for what is read off the steps, 10 for ``"turn"`` and
        ``"penalty"``, 1000 for ``"sharpness"`` and ``"blocks"``.
    parts : collection of str, optional
        What to measure, of the notes' list; by default all that the other arguments
        allow, except ``"blocks"``.

    Raises
    ------
    TypeError, ValueError
        For a wrong kind, a part that is unknown or lacks what it needs, `every` below 1.

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

    ``"turn"``, the part of it that is not noise: with g = ∇f on the fixed batch and its
    change Δg over the step, ``turn`` :math:`= \tfrac12\lVert\Delta g\rVert/\lVert
    g\rVert`; for gradient descent on that batch it is what ``error`` will be at the next
    step, times the ratio of the two gradients. ``gain`` is :math:`-\langle g,\Delta
    w\rangle`, the fall of the loss that the gradient promises, ``bend`` is
    :math:`\langle\Delta g,\Delta w\rangle`, and ``overshoot`` is bend/gain, the ηλ of the
    direction in which this optimizer went, NaN where it goes uphill: above 1 the step goes
    past the lowest point on its line, at 2 it arrives as high as it started. For a loss
    that is quadratic along the step, ``fall``, by how much it fell, is gain − bend/2. Two
    gradients.

    ``"sharpness"``: ``product`` is ηλ_max on the batch after the step, λ_max of
    :math:`P^{-1}H` where the step is :math:`-\eta P^{-1}` times an (averaged)
    gradient with a diagonal P: 1 for gradient descent, √v̂ + ε for Adam. For other
    optimizers only ``sharpness``, λ_max of H itself, is known, and ``product`` is NaN.
    ``limit`` is where the motion of the weights ends and ``stable`` where the method does,
    for that P held fixed: 1 and 2 without momentum, less and more with it. The first time
    that ``product`` passes ``limit``, a warning is given. ``"blocks"`` is the same for each
    tensor alone. As much as a hundred gradients or two (Lanczos' method).

    ``"penalty"``: ``dual`` is ‖∇f‖_* in the norm in which the optimizer measures its
    step (that of its group, or of its card), on the fixed batch if there is one, else
    the gradient at hand; ``penalty`` is φ(∇f), which the motion adds to the loss with
    the factor η/2 (½‖∇f‖_*², or ‖∇f‖_* for steps of a fixed length).

    ``"symmetry"``: for each the length of the weights, of their sums, or of the
    differences of squares of an exchange, ``measured``,
    and ``predicted`` from the first step on by the laws of gradient descent,
    :math:`\lVert w'\rVert^2 = (1-\eta\kappa)^2\lVert w\rVert^2 + \lVert\Delta w +
    \eta\kappa w\rVert^2` and :math:`\langle 1, w'\rangle = (1-\eta\kappa)\langle 1,
    w\rangle`; an exchange has the first with the signs of its parts. They part where a
    step is not along the gradient: under momentum, or in a norm that does not share the
    symmetry; ``drift`` is how far the weights went along the symmetry beyond the law
    (of an exchange, its difference of squares), a way on which the loss is constant.

    ``"sharpness"`` waits for the device. The random numbers and the buffers of the fixed
    batch are its own; layers keep their mode. Under ``torch.amp`` the gradient at hand is
    the scaled one. A model wrapped for several devices is to be given bare.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> loss = lambda net: net(torch.diag(torch.tensor([1.0, 2.0]))).square().sum() / 2
    >>> with Probe(model, optimizer, loss) as probe:
    ...     optimizer.step(lambda: loss(model).backward())
    >>> round(probe.records[0]["product"], 3)  # lr times 4
    0.4
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss | None = None,
        *,
        symmetries: Sequence[Symmetry] = (),
        every: int | Mapping[str, int] | None = None,
        parts: Collection[str] | None = None,
    ) -> None:
        demand(model=model, optimizer=optimizer)
        if loss is not None:
            demand(loss=loss)
        self._lawful = {name for s in symmetries for name in s.names}
        known = {name for name, _ in model.named_parameters()}
        if unknown := sorted(self._lawful - known):
            raise ValueError(f"the model has no parameter {unknown[0]!r}")
        lacking = {} if symmetries else {"symmetry": "symmetries"}
        if loss is None:
            lacking |= dict.fromkeys(_ON_THE_BATCH, "a loss on a fixed batch")
        self._every = _schedule(every, parts, lacking)
        self._model, self._optimizer = model, optimizer
        self._batch = None if loss is None else FixedBatch(model, loss)
        self._laws: dict[Symmetry, Tensor | None] = dict.fromkeys(symmetries)
        self._rows: list[dict[str, Any]] = []
        self._count, self._warned = 0, False
        self._before: readings.Moves = {}
        self._moves: readings.Moves = {}
        self._slope: tuple[Tensor, Values] | None = None
        self._first, self._last, self._inside = math.nan, math.nan, 0.0
        self._hooks = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )

    @property
    def records(self) -> list[dict[str, Any]]:
        """What was measured, as plain numbers; reading waits for the device.

        One dict a measured step: ``step`` (from 1), ``loss`` on the fixed batch before it,
        figures of the model, ``layers`` and ``symmetries``, figures by name. What was not
        due is absent; NaN has no value.
        """
        return [readings.plain(row) for row in self._rows]

    @property
    def overhead(self) -> float:
        """Seconds inside the hooks per second outside, from the first step to the last.

        NaN before a step. On an accelerator only what the host waits for is seen.
        """
        outside = self._last - self._first - self._inside
        return self._inside / outside if outside > 0 else math.nan

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
        """The newest of each figure, with its step where that is not the last."""
        return readings.table(self._rows) if self._rows else "no step was measured"

    def _due(self, part: str, later: int = 0) -> bool:
        """Whether a part is to be measured at the step now, or so many later."""
        every = self._every.get(part)
        return every is not None and (self._count + later - 1) % every == 0

    @torch.no_grad()
    def _before_step(self, _: Any, args: Any, kwargs: Any) -> None:
        start = time.perf_counter()
        self._count += 1
        layers = watched(self._model, self._optimizer)
        moving = self._due("steps") or self._due("steps", 1) or self._due("turn")
        kept = [x.tensor for x in layers if moving or x.name in self._lawful]
        self._before = {p: p.detach().clone() for p in kept}
        self._slope = None
        evaluates = len(args) > 1 or kwargs.get("closure") is not None
        if self._due("turn") or self._due("penalty"):
            if self._batch is not None:
                self._slope = self._batch.gradient()
            elif not evaluates:
                self._slope = readings.at_hand(layers)
        self._spent(start)

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        start = time.perf_counter()
        layers, before = watched(self._model, self._optimizer), self._before
        known = [x.tensor for x in layers if x.tensor in before]
        moves = {p: p.detach() - before[p] for p in known}
        found: list[readings.Reading] = []
        if self._due("steps"):
            found.append(readings.of_steps(layers, moves, self._moves))
        laws = self._follow(layers)
        if self._due("penalty"):
            slope = self._slope or readings.at_hand(layers)
            found.append(readings.of_penalty(self._optimizer, layers, slope[1]))
        if self._batch is not None:
            found += self._on_the_batch(self._batch, layers, moves)
        self._moves = moves if self._due("steps", 1) else {}
        self._before, self._slope = {}, None
        if row := readings.merged(found, laws):
            self._rows.append({"step": self._count, **row})
        self._spent(start)

    def _spent(self, start: float) -> None:
        if math.isnan(self._first):
            self._first = start
        self._last = time.perf_counter()
        self._inside += self._last - start

    def _follow(self, layers: list[Watched]) -> dict[str, readings.Figures]:
        """The laws hold from step to step, so they are followed at each."""
        lawful = [x for x in layers if x.name in self._lawful]
        old = {x.name: self._before[x.tensor] for x in lawful}
        new = {x.name: x.tensor.detach() for x in lawful}
        shrink = {x.name: shrinkage(self._optimizer, x.tensor, x.group) for x in lawful}
        for s, before in self._laws.items():
            if all(name in old for name in s.names):
                factors = {shrink[name] for name in s.names}
                factor = factors.pop() if len(factors) == 1 else math.nan
                start = s.coordinate(old) if before is None else before
                self._laws[s] = s.law(start, old, new, factor)
        if not self._due("symmetry"):
            return {}
        known = {s: x for s, x in self._laws.items() if x is not None}
        return {str(s): readings.of_law(s, x, new) for s, x in known.items()}

    def _on_the_batch(
        self, batch: FixedBatch, layers: list[Watched], moves: readings.Moves
    ) -> Iterator[readings.Reading]:
        if self._slope is not None:
            loss, slope = self._slope
            yield {"loss": loss}, {}
            if self._due("turn"):
                new, after = batch.gradient()
                yield {"fall": loss - new}, {}
                yield readings.of_turn(layers, moves, slope, after)
        if self._due("sharpness"):
            found = readings.sharpest(batch, self._optimizer, layers)
            yield found, {}
            self._warn(found)
        if self._due("blocks"):
            for x in layers:
                yield {}, {x.name: readings.sharpest(batch, self._optimizer, [x])}

    def _warn(self, found: Mapping[str, float]) -> None:
        if self._warned or not found["product"] > found["limit"]:
            return
        self._warned = True
        warnings.warn(
            f"at step {self._count} the learning rate times the sharpness is "
            f"{found['product']:.3g}, above {found['limit']:.3g}: in the steepest "
            "directions no equation of motion of the weights passes through the steps "
            f"any more (the method itself is stable up to {found['stable']:.3g})",
            RuntimeWarning,
            stacklevel=6,
        )


def _schedule(
    every: int | Mapping[str, int] | None,
    parts: Collection[str] | None,
    lacking: Mapping[str, str],
) -> dict[str, int]:
    """Every how many steps each part is due; what a part lacks it is refused for."""
    if parts is None:
        parts = [part for part in PARTS if part not in lacking and part != "blocks"]
    elif isinstance(parts, str) or not isinstance(parts, Collection):
        raise TypeError(f"parts must be a collection of names, got {parts!r}")
    if every is None or isinstance(every, Mapping):
        given = {**_EVERY, **(every or {})}
    else:
        given = dict.fromkeys(PARTS, every)
    for part in (*parts, *given):
        if part not in PARTS:
            raise ValueError(f"there is no part {part!r}; there are {', '.join(PARTS)}")
    for part in parts:
        if part in lacking:
            raise ValueError(f"the part {part!r} needs {lacking[part]}")
    for count in given.values():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"every must be a positive integer, got {count!r}")
    return {part: given.get(part, 1) for part in parts}
