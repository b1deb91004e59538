"""One step of any torch optimizer, as a map of one vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anthology.motion._arguments import demand, require_float64, require_one_device
from anthology.motion.step_state import (
    Entry,
    Group,
    Loan,
    Snapshot,
    holder,
    parameters_of,
    snapshot,
    take,
    trial,
)

Closure = Callable[[], Any]

_PRECISION = "the motion is read off small differences of the steps"


def step_map(optimizer: Optimizer, closure: Closure) -> StepMap:
    r"""The map that one step of an optimizer makes of parameters and memory together.

    Of that map :func:`generator` finds the equation of motion, which passes through the
    steps and drags averages, second moments and step counters along.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Any, over float64 parameters on one device.
    closure : callable
        What ``optimizer.step`` takes: calls ``backward`` and returns the loss, always on
        the same data. It finds no gradients.

    Returns
    -------
    StepMap
        v ↦ v', with the point where the optimizer stands now as ``start``.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If an argument is of the wrong kind, a parameter is not float64, or the state
        holds anything but numbers and dense real tensors that are not of low precision;
        if no parameter receives a gradient, the loss is random, step hooks are
        registered, or the state before the first step cannot be told (``SGD`` with
        ``dampening``: take one step first); if a step changes what is no coordinate.

    Notes
    -----
    The vector holds the parameters in the order of the groups, then every
    floating-point entry of the state in the order of its making, and Python integers
    and numbers in the groups that a step changes: averages, moments and step counters,
    all float64, because a motion has fractional ones. All else stays as it is.

    Optimizer and model are as before after each call, bit for bit, also when it
    raises; what the closure does elsewhere (batch statistics, random numbers) is not
    undone. Making the map takes four to eight steps. Several batches in a fixed order
    are the composition of their maps.

    **Which motion.** A memory that shrinks by a factor β a step has the exact rate
    :math:`\eta^{-1}\log\beta`, of which N differences know :math:`-\eta^{-1}\sum_{n\le N}
    (1-\beta)^n/n`. That tends to the logarithm in about 1/β terms and diverges for β = 0,
    but is negative whatever N is: memories decay under the truncated motion too, at a
    wrong rate. So started where the memory has settled (a few 1/(1 − β) steps after the
    start, or after any change), the motion stays on the slow manifold and follows the
    steps to :math:`O(\eta^N)`. Started elsewhere, what the transient leaves behind in
    the parameters is right only for memories that are linear and act weakly.

    Examples
    --------
    >>> w = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    >>> optimizer = torch.optim.SGD([w], lr=0.02, momentum=0.5)
    >>> step = step_map(optimizer, lambda: (w * w / 2).sum().backward())
    >>> step.start                                 # the weight, then its buffer
    tensor([1., 0.], dtype=torch.float64)
    >>> step(step.start)
    tensor([0.9800, 1.0000], dtype=torch.float64)
    """
    demand(optimizer=optimizer, closure=closure)
    for p in parameters_of(optimizer):
        require_float64("every parameter", p, _PRECISION)
    require_one_device(parameters_of(optimizer))
    for kind in ("pre", "post"):
        if getattr(optimizer, f"_optimizer_step_{kind}_hooks", None):
            raise ValueError(
                f"the optimizer has a step {kind}-hook, which would run at steps that "
                "nobody takes; remove it, or do its work in the closure"
            )
    points, starts = trial(optimizer, closure)
    maps = [StepMap(optimizer, closure, start) for start in starts]
    for found in maps:
        if found._meets(points):
            return found
    first, again = (maps[0](maps[0].start) for _ in range(2))
    if not _close(first, again):
        raise ValueError(
            "the step is not a function of parameters and state: two from the same "
            "point differ; fix the data and switch randomness off (model.eval())"
        )
    raise ValueError(
        f"the state of {type(optimizer).__name__} before its first step cannot be told "
        "from that step; take one step, then make the map"
    )


class StepMap:
    """What :func:`step_map` returns: v ↦ v', for float64 vectors of length n.

    ``start``, of shape (n,), is where the optimizer stood when the map was made, and
    ``count`` how many entries of the vector, the first ones, are parameters.
    """

    def __init__(
        self, optimizer: Optimizer, closure: Closure, entries: list[Entry]
    ) -> None:
        self._optimizer, self._closure, self._entries = optimizer, closure, entries
        self._settings = [e.slot for e in entries if isinstance(e.slot[0], Group)]
        parameters = parameters_of(optimizer)
        self.count = sum(p.numel() for p in parameters)
        self._sizes = [p.numel() for p in parameters] + [e.size for e in entries]
        self.start = self._vector(parameters, {e.slot: e.value for e in entries})

    def __repr__(self) -> str:
        rest = len(self.start) - self.count
        name = type(self._optimizer).__name__
        return f"StepMap({name}: {self.count} parameters, {rest} numbers of state)"

    def __call__(self, v: Tensor) -> Tensor:
        """The point after one step from ``v``; the optimizer stays as it is."""
        return self._walk(v, 1)[0]

    def parameters(self, v: Tensor) -> Tensor:
        """The parameters in points or velocities (…, n): a view, (…, count)."""
        return v[..., : self.count]

    def state(self, v: Tensor) -> list[dict[str, Tensor]]:
        """The state in a point or velocity of shape (n,): for each parameter, then
        for what else the state is kept by, views of ``v`` by name, in the shape that
        the optimizer keeps."""
        parameters = parameters_of(self._optimizer)
        found: dict[Any, dict[str, Tensor]] = {p: {} for p in parameters}
        pieces = v.split(self._sizes)[len(found) :]
        for entry, piece in zip(self._entries, pieces, strict=True):
            if entry.moves:
                key, name = entry.slot
                found.setdefault(key, {})[name] = piece.reshape(entry.shape)
        return list(found.values())

    def _walk(self, v: Tensor, steps: int) -> list[Tensor]:
        require_float64("v", v, _PRECISION)
        if v.shape != self.start.shape:
            raise ValueError(
                f"v must have shape {tuple(self.start.shape)} like start, "
                f"got {tuple(v.shape)}"
            )
        with Loan(self._optimizer) as loan:
            pieces = iter(v.detach().split(self._sizes))
            with torch.no_grad():
                for p in parameters_of(self._optimizer):
                    p.copy_(next(pieces).reshape(p.shape))
            for entry, piece in zip(self._entries, pieces, strict=True):
                key, name = entry.slot
                holder(self._optimizer, key)[name] = entry.at(piece)
            walk = []
            for _ in range(steps):
                take(self._optimizer, self._closure)
                walk.append(self._vector(*snapshot(self._optimizer, self._settings)))
            for slot in loan.changed_settings():
                if slot not in self._settings:
                    raise RuntimeError(
                        f"a step changed the setting {slot[1]!r} of a group, which "
                        "the first two steps had left as it was"
                    )
            return walk

    def _vector(self, parameters: list[Tensor], state: dict[Any, Any]) -> Tensor:
        kept = {entry.slot for entry in self._entries}
        for slot in kept ^ set(state):
            raise RuntimeError(
                f"a step {'dropped' if slot in kept else 'made'} the state "
                f"{slot[1]!r}; every entry must exist from the start"
            )
        pieces = [p.detach().reshape(-1) for p in parameters]
        device = pieces[0].device
        pieces += [entry.read(state[entry.slot], device) for entry in self._entries]
        return torch.cat(pieces)

    def _meets(self, points: list[Snapshot]) -> bool:
        walk = self._walk(self.start, len(points))
        ends = [self._vector(*point) for point in points]
        return all(map(_close, walk, ends))


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=0.0, equal_nan=True)
