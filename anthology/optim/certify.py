"""What a step really was: its length in a norm, and how steep it could have been.

Works on any `torch.optim.Optimizer` through its step hooks. Nothing is read back
from the device before somebody looks at the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from anthology.norms import Norm

from .core.sharding.layer import whole, whole_state
from .core.state import state_dtype
from .parts.kronecker.basis import ROTATED, turned_entry
from .parts.param_norm import as_points, must_fit, norm_for, spec

Norms = Norm | str | Mapping[str, Norm | str] | None


class StepCertificate(NamedTuple):
    """One tensor at one step; Δw is all that the step changed, ‖·‖ the norm.

    ``step`` counts from 1 since the certificates were asked for. ``name`` is the
    parameter's or, without names, ``"group.index"``; ``norm`` is text. ``size`` is
    ‖Δw‖; ``ratio`` is ‖Δw‖/‖w‖ with the weights before the step, inf if they were
    zero. ``dual`` is ‖g‖_*, the descent that a step of length 1 can give at most, and
    ``efficiency`` is −⟨g, Δw⟩/(‖g‖_*‖Δw‖), at most 1: the share of it that this step
    gave. ``average_efficiency`` is the same against the averaged gradient that the
    optimizer keeps (with Nesterov's look-ahead if it has one); one minus it is the
    relative dual gap of the step. An efficiency is NaN where its gradient or the step
    is zero, or where no average is kept.
    """

    step: int
    name: str
    norm: str
    size: float
    ratio: float
    dual: float
    efficiency: float
    average_efficiency: float


class Certificates:
    """The handle of `certificates`: results, and the way to stop.

    It is also a context manager that stops at its end.
    """

    def __init__(self, hooks: Sequence[RemovableHandle]) -> None:
        self._hooks = hooks
        self._rows: list[tuple[int, str, str, Tensor]] = []

    @property
    def records(self) -> list[StepCertificate]:
        """Everything so far, in order; reading it waits for the device.

        Returns
        -------
        list of StepCertificate
            One a tensor and step.
        """
        return [
            StepCertificate(step, name, norm, *figures.tolist())
            for step, name, norm, figures in self._rows
        ]

    def clear(self) -> None:
        """Forget the results; steps are counted on."""
        self._rows.clear()

    def remove(self) -> None:
        """Take the hooks off the optimizer; the results stay."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __str__(self) -> str:
        last = self._rows[-1][0] if self._rows else 0
        head = ("name", "norm", "size", "ratio", "efficiency", "of average")
        lines: list[tuple[str, ...]] = [head]
        for r in self.records:
            if r.step == last:
                figures = (r.size, r.ratio, r.efficiency, r.average_efficiency)
                lines.append((r.name, r.norm, *(f"{x:.4g}" for x in figures)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = (zip(line, widths, strict=True) for line in lines)
        return "\n".join("  ".join(c.ljust(w) for c, w in r).rstrip() for r in rows)


def certificates(
    optimizer: torch.optim.Optimizer, norms: Norms = None, *, every: int = 1
) -> Certificates:
    """Measure every step of an optimizer from now on.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Any one, of this package or not. Its steps are not changed.
    norms : Norm, str or mapping, optional
        One norm for all tensors, or norms by name, or their ``repr``. Tensors
        without one have that of their group (``metrize`` puts it there); else it
        goes by shape as in `SteepestDescent`.
    every : int
        Measure the first step and each `every`-th after it. Default 1: all.

    Returns
    -------
    Certificates
        ``records`` holds the results, ``str()`` shows those of the last step as a
        table, ``remove()`` ends it.

    Raises
    ------
    ValueError
        If a name is not one of the optimizer's, a norm cannot measure its tensor,
        or `every` is not a positive integer.
    TypeError
        If a norm is none.

    Notes
    -----
    A measured step keeps copies of weights and gradients while it runs, and takes one
    dual norm and two norms a tensor, for spectral norms that is three sets of singular
    values: on large models choose `every`. DTensors are measured whole, on every
    process; each must have a gradient on all of them or on none. Weight decay is part
    of Δw. The gradient is the one before the step, or, for a step with a closure, the
    last one computed.

    Examples
    --------
    >>> import torch
    >>> from anthology.norms import LInf
    >>> from anthology.optim import certificates
    >>> w = torch.zeros(2, requires_grad=True)
    >>> optimizer = torch.optim.AdamW([w], lr=0.5)
    >>> with certificates(optimizer, LInf()) as steps:
    ...     w.grad = torch.tensor([3.0, -1.0])
    ...     optimizer.step()
    >>> print(steps)
    name  norm    size  ratio  efficiency  of average
    0.0   LInf()  0.5   inf    1           1
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a positive integer, got {every!r}")
    _refuse_misfits(optimizer, norms)
    count = 0
    before: dict[Tensor, tuple[Tensor, Tensor | None]] = {}

    @torch.no_grad()
    def remember(_: Any, args: Any, kwargs: Any) -> None:
        nonlocal count
        count += 1
        before.clear()
        if (count - 1) % every == 0:
            evaluates = len(args) > 1 or kwargs.get("closure") is not None
            for _name, p, _group in _parameters(optimizer):
                if evaluates:
                    before[p] = (whole(p), None)
                elif p.grad is not None:
                    before[p] = (whole(p), whole(p.grad))

    @torch.no_grad()
    def measure(*_: Any) -> None:
        for name, p, group in _parameters(optimizer):
            if p not in before:
                continue
            old, kept = before.pop(p)
            g = p.grad if kept is None else kept
            if g is None:
                continue
            norm = norm_for(p, _wanted(name, group, norms))
            u = _average(p, whole_state(optimizer, p, group), group)
            g = g.detach() if kept is not None else whole(g)
            row = _figures(old, whole(p), g, u, norm, group)
            result._rows.append((count, name, repr(norm), row))

    hooks = (
        optimizer.register_step_pre_hook(remember),
        optimizer.register_step_post_hook(measure),
    )
    result = Certificates(hooks)
    return result


def _parameters(
    optimizer: torch.optim.Optimizer,
) -> list[tuple[str, Tensor, Mapping[str, Any]]]:
    """Name, tensor and group of everything that has entries."""
    found: list[tuple[str, Tensor, Mapping[str, Any]]] = []
    for number, group in enumerate(optimizer.param_groups):
        names = group.get("param_names")
        for index, p in enumerate(group["params"]):
            if p.numel():
                name = names[index] if names else f"{number}.{index}"
                found.append((name, p, group))
    return found


def _wanted(name: str, group: Mapping[str, Any], norms: Norms) -> Norm | str | None:
    own: Norm | str | None = group.get("norm")
    return norms.get(name, own) if isinstance(norms, Mapping) else norms or own


def _refuse_misfits(optimizer: torch.optim.Optimizer, norms: Norms) -> None:
    found = _parameters(optimizer)
    names = [name for name, _, _ in found]
    if isinstance(norms, Mapping) and (unknown := set(norms) - set(names)):
        raise ValueError(
            f"no parameter is called {', '.join(map(repr, sorted(unknown)))}; there "
            f"are {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
        )
    for name, p, group in found:
        must_fit(p, spec(_wanted(name, group, norms)))


def _average(
    p: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]
) -> Callable[[Tensor], Tensor] | None:
    """The direction an optimizer averaged, as a function of the gradient."""
    m = state.get("momentum_buffer", state.get("exp_avg"))
    if ROTATED in state:  # of SOAP
        m = turned_entry(state[ROTATED], dict(state), back=True)
    if not isinstance(m, Tensor) or m.shape != p.shape:
        return None
    beta = group.get("momentum")
    if not group.get("nesterov") or not isinstance(beta, float):
        return lambda g: m
    # torch.optim.SGD keeps a sum, recognised by its dampening; the others an average
    weight = 1.0 if "dampening" in group else 1 - beta
    return lambda g: weight * g.to(m.dtype) + beta * m


def _figures(
    old: Tensor,
    new: Tensor,
    g: Tensor,
    average: Callable[[Tensor], Tensor] | None,
    norm: Norm,
    group: Mapping[str, Any],
) -> Tensor:
    """Size, ratio, dual and the two efficiencies, on the device."""
    wide = state_dtype(old.dtype)
    g = (g.to_dense() if g.layout != torch.strided else g).to(wide)
    # torch.optim averages what it descends, the negated gradient
    g = -g if group.get("maximize") else g
    old, move = old.to(wide), new.to(wide) - old.to(wide)
    size, length = (norm.norm(as_points(x, norm)).max() for x in (move, old))
    dual = norm.dual(as_points(g, norm)).sum()
    share = _share(g, move, size, dual)
    of_average = torch.full_like(size, math.nan)
    if average is not None:
        u = average(g).to(wide)
        of_average = _share(u, move, size, norm.dual(as_points(u, norm)).sum())
    return torch.stack([size, size / length, dual, share, of_average])


def _share(g: Tensor, move: Tensor, size: Tensor, dual: Tensor) -> Tensor:
    """−⟨g, Δw⟩/(‖g‖_*‖Δw‖), each divided by its length before they meet."""
    return -((g / dual).conj() * (move / size)).sum().real
