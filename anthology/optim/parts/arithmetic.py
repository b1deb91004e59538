"""The arithmetic of rules: averages, factors, and passes over lists of tensors.

In eager PyTorch a hyper-parameter is a float, and an operation takes it as it is. In
compiled code it is a `Coefficient`, so that a schedule compiles nothing.

Memory that is taken and given back at every operation is cleared by the system each
time it is used, which costs more than the operation. So a pass over a list takes one
piece, as large as the largest member.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core import batch as batching
from anthology.optim.core.batch import Batch
from anthology.optim.core.rule import Group, Multi, Single
from anthology.optim.core.state import Coefficient, State, States, Tensors

Rate = Any  # float, 0-d Tensor, or a list of either, one a tensor


def value(number: Any) -> Any:
    """A hyper-parameter as a factor."""
    return number.value if isinstance(number, Coefficient) else number


def rest(beta: Any) -> Any:
    """1 − β, exact where β is a number that compiled code reads."""
    return beta.rest if isinstance(beta, Coefficient) else 1 - beta


def kept(lr: Any, decay: Any) -> Any:
    """1 − ηκ, what a decoupled decay leaves."""
    return decay.kept if isinstance(decay, Coefficient) else 1 - lr * decay


# Rules are written for lists. One tensor goes by the operation of its own, which
# subclasses, autograd and compiled code know; several go by a list operation.


def alone(multi: Multi) -> Single:
    """A rule for lists as one for a single tensor."""

    def single(
        param: Tensor, grad: Tensor, state: State, step: Any, group: Group
    ) -> None:
        multi([param], [grad], [state], [step], group)

    return single


def over(name: str, xs: Tensors, *others: Any, **numbers: Any) -> Tensors:
    """An operation of `Tensor`, by its name, on each of a list."""
    if len(xs) > 1:
        found = getattr(torch, f"_foreach_{name}")(xs, *others, **numbers)
        return xs if found is None else list(found)
    own = [x[0] if isinstance(x, list) else x for x in others]
    return [getattr(xs[0], name)(*own, **numbers)]


def blend(ms: Tensors, gs: Tensors, beta: Any) -> Tensors:
    """βm + (1−β)g."""
    if isinstance(beta, Coefficient):
        # m − (1−β)m rather than βm: in single precision β and 1 − β do not add to 1
        pairs = zip(ms, gs, strict=True)
        return [m - m * beta.rest + g * beta.rest for m, g in pairs]
    return over("lerp", ms, gs, 1 - beta)


def blend_(ms: Tensors, gs: Tensors, beta: Any) -> Tensors:
    """The same, written into m."""
    if isinstance(beta, Coefficient):
        return over("copy_", ms, blend(ms, gs, beta))
    return over("lerp_", ms, gs, 1 - beta)


def averaged(grads: Tensors, states: States, group: Group) -> Tensors:
    """m ← βm + (1−β)g: what a step goes along, with ``nesterov`` a look ahead of m."""
    beta = group["momentum"]
    if not beta or not grads:
        return grads
    m = blend_([state["momentum_buffer"] for state in states], grads, beta)
    if not group["nesterov"]:
        return m
    if isinstance(beta, Coefficient):
        return blend(m, grads, beta)
    return over("lerp", grads, m, beta)


def momentum_of(param: Tensor, group: Group) -> State:
    """Zeros for ``momentum_buffer`` where there is a momentum."""
    return {"momentum_buffer": torch.zeros_like(param)} if group["momentum"] else {}


def momentum_entries(group: Group) -> tuple[str, ...]:
    """The momentum, where there is one."""
    return ("momentum_buffer",) if group["momentum"] else ()


def plus(xs: Tensors, ys: Tensors, rate: Any) -> Tensors:
    """x + rate·y, in one operation where the rate is a plain number."""
    if isinstance(rate, Coefficient):
        return [x + y * rate.value for x, y in zip(xs, ys, strict=True)]
    return over("add", xs, ys, alpha=rate)


def add_squares(averages: Tensors, gs: Tensors, rate: Any) -> None:
    """s ← s + rate·g², in one operation where the rate is a plain number."""
    if isinstance(rate, Tensor):
        for s, g in zip(averages, gs, strict=True):
            s.add_(g * g * rate)
    else:
        over("addcmul_", averages, gs, gs, value=rate)


def bias_correction(beta: Any, step: Any, dtype: torch.dtype) -> Any:
    """1 − βᵗ, the weight that an average started at zero has gathered."""
    if isinstance(beta, Coefficient):
        return beta.weight
    if not isinstance(step, Tensor):
        return 1 - beta**step
    log = math.log(beta) if beta > 0 else -math.inf
    return -torch.expm1(step.to(dtype) * log)


def over_root(xs: Tensors, beta: Any, steps: list[Any]) -> Tensors:
    """x/√(1 − βᵗ) of each; several are overwritten."""
    if isinstance(beta, Coefficient):
        return [x * beta.unroot for x in xs]
    dtype = xs[0].dtype
    roots = each(steps, lambda t: bias_correction(beta, t, dtype) ** 0.5)
    if len(xs) == 1:
        return [xs[0] / roots[0]]
    divide(xs, roots)
    return xs


def corrected_rates(
    lr: Any, beta: Any, steps: list[Any], dtype: torch.dtype
) -> list[Any]:
    """η/(1 − βᵗ) of each."""
    if isinstance(beta, Coefficient):
        return [beta.size]
    return each(steps, lambda t: lr / bias_correction(beta, t, dtype))


def each(steps: list[Any], compute: Callable[[Any], Any]) -> list[Any]:
    """A function of every step count: one operation where many are tensors."""
    if len(steps) > 1 and isinstance(steps[0], Tensor):
        return list(compute(torch.stack(steps)).unbind())
    return [compute(step) for step in steps]


def decay(params: Tensors, lr: Any, strength: Any) -> None:
    """w ← (1 − ηκ)w for a list."""
    if strength:
        scale(params, kept(lr, strength))


def descend(params: Tensors, moves: Tensors, lr: float | Tensor) -> None:
    """w ← w − η·move for a list, without a copy where η is a plain number."""
    if isinstance(lr, Tensor):
        over("sub_", params, multiplied(moves, lr))
    else:
        over("sub_", params, moves, alpha=lr)


def descend_over(
    params: Tensors, moves: Tensors, below: Tensors, rates: list[Any]
) -> None:
    """w ← w − η·move/below for lists, without a copy where the η are plain numbers."""
    if isinstance(rates[0], Tensor):
        over("addcdiv_", params, over("mul", moves, rates), below, value=-1.0)
    elif len(params) == 1:
        params[0].addcdiv_(moves[0], below[0], value=-rates[0])
    else:
        torch._foreach_addcdiv_(params, moves, below, [-rate for rate in rates])


def multiplied(xs: Tensors, factor: Any) -> Tensors:
    """factor·x for a list."""
    if isinstance(factor, Tensor) and factor.requires_grad:
        return [x * factor for x in xs]
    return over("mul", xs, factor)


def on_cpu(batch: Batch) -> bool:
    """Whether the passes of this file serve a batch."""
    here = batching.reads_flags_for_free(batch.params[0].device)
    return here and not batch.group["differentiable"]


class Room:
    """Memory for one temporary at a time."""

    def __init__(self, tensors: Tensors) -> None:
        self._flat = tensors[0].new_empty(max(x.numel() for x in tensors))
        self._views: dict[torch.Size, Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """The memory in the shape of a member; what it held is lost."""
        if x.shape not in self._views:
            self._views[x.shape] = self._flat[: x.numel()].view(x.shape)
        return self._views[x.shape]


def scale(xs: Tensors, factor: Rate) -> None:
    """x ← factor·x for a list."""
    if isinstance(factor, Tensor) and factor.requires_grad:
        for x in xs:  # the list operation gives it no slope
            x.mul_(factor)
        return
    _with_one("mul_", torch.ops.aten._foreach_mul_.Tensor, xs, factor)


def divide(xs: Tensors, divisor: Rate) -> None:
    """x ← x/divisor for a list."""
    _with_one("div_", torch.ops.aten._foreach_div_.Tensor, xs, divisor)


def shift(xs: Tensors, number: Any) -> None:
    """x ← x + number for a list."""
    _with_one("add_", partial(torch._foreach_add_, alpha=1.0), xs, number)


def _with_one(name: str, by_tensor: Any, xs: Tensors, rate: Rate) -> None:
    """A list operation, by one tensor for all where there is one."""
    one = _joint(xs, rate) if len(xs) > 1 else None
    if one is None:
        over(name, xs, rate)
    else:
        by_tensor(xs, one)


def _joint(xs: Tensors, rate: Rate) -> Tensor | None:
    """On a CPU a plain number, or a list of equal ones."""
    if isinstance(rate, list) and isinstance(rate[0], float) and len(set(rate)) == 1:
        rate = rate[0]
    if isinstance(rate, float) and xs[0].is_cpu:
        return torch.tensor(rate, dtype=xs[0].dtype)
    return None


def add_scaled(xs: Tensors, ys: Tensors, rate: Rate) -> None:
    """x ← x + rate·y for lists, without a copy where the rate is a plain number."""
    if isinstance(rate, Tensor | list):
        over("add_", xs, over("mul", ys, rate))
    else:
        over("add_", xs, ys, alpha=rate)


def mapped(rate: Rate, compute: Callable[[Any], Any]) -> Rate:
    """A function of a rate, or of each in a list."""
    return [compute(r) for r in rate] if isinstance(rate, list) else compute(rate)


def inner_of_differences(xs: Tensors, ys: Tensors, zs: Tensors) -> Tensors:
    """⟨x − y, z⟩ of each triple."""
    room, found = Room(xs), []
    for x, y, z in zip(xs, ys, zs, strict=True):
        gone = torch.sub(x, y, out=room.like(x))
        found.append(torch.dot(gone.view(-1), z.reshape(-1)))
    return found


def one_norms(xs: Tensors) -> Tensors:
    """‖x‖₁ of each; the sum of |x| is three times as fast as the norm."""
    room = Room(xs)
    return [torch.abs(x, out=room.like(x)).sum() for x in xs]


def divided_by_root(
    ws: Tensors, ms: Tensors, vs: Tensors, rate: Rate, eps: Any
) -> None:
    """w ← w − rate·m/(√v + ε) for lists."""
    room = Room(vs)
    rates = rate if isinstance(rate, list) else [rate] * len(ws)
    for w, m, v, size in zip(ws, ms, vs, rates, strict=True):
        below = torch.sqrt(v, out=room.like(v)).add_(eps)
        w.addcdiv_(m, below, value=-size)
