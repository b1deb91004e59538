"""Adaptive methods without the square root (Lin et al. 2024).

S estimates curvature, so the step divides by S itself; it averages B·g² from one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .core.base import BaseOptimizer, Params, hyperparameters
from .core.card import Card
from .core.limits import at_least_zero, below_one, check_betas, check_terms
from .core.rule import Group, Rule
from .core.state import State, States, Tensors
from .parts.arithmetic import (
    add_square,
    bias_correction,
    blend_,
    corrected_rate,
    descend,
    each,
    kept,
    plus,
    rest,
    scale,
    value,
)


def _check_curvature(group: Group) -> None:
    at_least_zero("epsilon value", group["eps"])
    check_terms(group)


def _state_with(average: str) -> Callable[[Tensor, Group], State]:
    """Zeros for an average of that name, ones for ``exp_avg_sq`` (S)."""

    def new_state(param: Tensor, group: Group) -> State:
        return {average: torch.zeros_like(param), "exp_avg_sq": torch.ones_like(param)}

    return new_state


def _room(grad: Tensor, group: Group) -> float:
    """The largest gradient for which B·g² is finite."""
    return math.sqrt(torch.finfo(grad.dtype).max / group["batch_size"])


def _rmsprop(
    param: Tensor, grad: Tensor, state: State, step: Any, group: Group
) -> None:
    """One tensor; the definition."""
    s, m, alpha = state["exp_avg_sq"], state["momentum_buffer"], group["alpha"]
    add_square(s.mul_(value(alpha)), grad, rest(alpha) * value(group["batch_size"]))
    m.mul_(value(group["momentum"])).addcdiv_(grad, s + value(group["eps"]))
    if group["weight_decay"]:
        m.copy_(plus(m, param, group["weight_decay"]))
    descend([param], [m], group["lr"])


def _rmsprop_lists(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Lists of tensors."""
    s = [state["exp_avg_sq"] for state in states]
    m = [state["momentum_buffer"] for state in states]
    alpha = group["alpha"]
    scale(s, alpha)
    torch._foreach_addcmul_(s, grads, grads, (1 - alpha) * group["batch_size"])
    scale(m, group["momentum"])
    torch._foreach_addcdiv_(m, grads, torch._foreach_add(s, group["eps"]))
    if group["weight_decay"]:
        torch._foreach_add_(m, params, alpha=group["weight_decay"])
    descend(params, m, group["lr"])


class RootFreeRMSProp(BaseOptimizer):
    r"""RMSProp without the root: the diagonal of a Newton-like step.

    One step minimises :math:`\langle g, \Delta w\rangle + \frac{1}{2\eta}
    \sum_i S_i \Delta w_i^2` before momentum:

    .. math::

       S \leftarrow \alpha S + (1-\alpha) B g^2,\quad
       m \leftarrow \mu m + \frac{g}{S+\varepsilon} + \kappa w,\quad
       \Delta w = -\eta\, m,\qquad S_0 = 1

    Parameters
    ----------
    params : iterable
        Parameters of any shape, named parameters, or groups.
    lr : float or Tensor
        η. A Newton-like step, so 1 is large; default 1e-2 (measured).
        Rate to try first: 0.01; ``metrize`` changes nothing.
    alpha : float
        α in [0, 1), the average of S. Default 0.99.
    eps : float
        ε, damping added to S, in the units of B·g². Default 1e-4.
    weight_decay : float
        κ, added after S and inside the momentum. Default 0.
    momentum : float
        μ in [0, 1); heavy ball, not damped by 1 − μ. Default 0.9.
    batch_size : float
        B, how many terms the loss averages; 1 if it sums. Required: a wrong value
        would rescale S silently. `count_batch_size` keeps it right where it varies.
    decay, foreach, maximize, capturable, differentiable, fused
        See :class:`BaseOptimizer`.

    Raises
    ------
    ValueError
        If a hyper-parameter is out of range, here or in a group.

    Notes
    -----
    No bias correction; S₀ = 1 makes the first steps those of gradient descent. A
    gradient that is exactly zero says nothing of the curvature (an expert that nobody
    chose) and is treated as None: weight, averages, counter and decay rest.

    Source: Lin et al. 2024 (arXiv 2402.03496); their code keeps s = S/B, s₀ = 1/B.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import RootFreeRMSProp
    >>> w = torch.tensor([5.0], requires_grad=True)
    >>> w.grad = torch.tensor([2.0])  # of the mean over four terms
    >>> RootFreeRMSProp([w], lr=1.0, alpha=0.75, eps=0.25, batch_size=4).step()
    >>> w.detach()  # S = 0.75 + 0.25·4·2² = 4.75; a step of 2/(4.75 + 0.25)
    tensor([4.6000])
    """

    card = Card(
        answer="leaves out Adam's square root, and learns its ruler on the way.",
        update=r"$\Delta w=-\eta\,m$, with $m\leftarrow\mu m+g/(S+\varepsilon)$",
        problem=r"$\min_{\Delta w} \langle g,\Delta w\rangle + "
        r"\tfrac{1}{2\eta}\sum_i S_i\,\Delta w_i^2$",
        norm=r"$\sqrt{\sum_i S_i\,\Delta w_i^2}$, learned",
        average=r"$B g^2$ from 1; heavy ball on the step",
        state="2",
        source="Lin et al. 2024 (2402.03496), published code",
    )
    rule = Rule(
        _rmsprop,
        _rmsprop_lists,
        _state_with("momentum_buffer"),
        _room,
        entrywise=True,
        numbers=("alpha", "eps", "weight_decay", "momentum", "batch_size"),
        triton="rmsprop",
        zero_is_none=True,
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        *,
        decay: str = "plain",
        batch_size: float,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | str | None = None,
    ) -> None:
        super().__init__(params, hyperparameters(locals()))

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse what the method cannot use; see the class for the limits."""
        super().check(group)
        _check_curvature(group)
        below_one("alpha value", group["alpha"])
        below_one("momentum value", group["momentum"])


def _adamw(param: Tensor, grad: Tensor, state: State, step: Any, group: Group) -> None:
    """One tensor; the definition."""
    (beta1, beta2), lr = group["betas"], group["lr"]
    m, s = state["exp_avg"], state["exp_avg_sq"]
    if group["weight_decay"]:
        param.mul_(kept(lr, group["weight_decay"]))
    blend_(m, grad, beta1)
    add_square(s.mul_(value(beta2)), grad, rest(beta2) * value(group["batch_size"]))
    if group["bias_correction"]:
        s = s / bias_correction(beta2, step, param.dtype)
        lr = corrected_rate(lr, beta1, step, param.dtype)
    rate, move = (-1.0, m * lr) if isinstance(lr, Tensor) else (-lr, m)
    param.addcdiv_(move, s + value(group["eps"]), value=rate)


def _adamw_lists(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Lists of tensors."""
    (beta1, beta2), lr, dtype = group["betas"], group["lr"], params[0].dtype
    m = [state["exp_avg"] for state in states]
    s = [state["exp_avg_sq"] for state in states]
    if group["weight_decay"]:
        scale(params, 1 - lr * group["weight_decay"])
    torch._foreach_lerp_(m, grads, 1 - beta1)
    scale(s, beta2)
    torch._foreach_addcmul_(s, grads, grads, (1 - beta2) * group["batch_size"])
    if group["bias_correction"]:
        weights = each(steps, lambda t: bias_correction(beta2, t, dtype))
        s = list(torch._foreach_div(s, weights))
        lr = each(steps, lambda t: lr / bias_correction(beta1, t, dtype))
    m = list(torch._foreach_mul(m, lr))
    torch._foreach_addcdiv_(params, m, torch._foreach_add(s, group["eps"]), -1.0)


class RootFreeAdamW(BaseOptimizer):
    r"""AdamW without the root.

    .. math::

       w \leftarrow (1-\eta\kappa) w,\quad
       m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
       S \leftarrow \beta_2 S + (1-\beta_2) B g^2,\quad
       \Delta w = -\eta\,\frac{m}{S+\varepsilon},\qquad S_0 = 1

    Parameters
    ----------
    params : iterable
        Parameters of any shape, named parameters, or groups.
    lr : float or Tensor
        η. A Newton-like step, so 10 is large; default 1 (measured).
        Rate to try first: 1; ``metrize`` changes nothing.
    betas : tuple of float
        β₁, β₂ in [0, 1). Default (0.9, 0.999).
    eps : float
        ε, damping added to S, in the units of B·g². Default 1e-4.
    weight_decay : float
        κ, decoupled. Default 0.
    bias_correction : bool
        Divide m and S by 1 − βᵗ. Default False: S starts at one, not at zero.
    batch_size : float
        B, how many terms the loss averages; 1 if it sums. Required;
        `count_batch_size` keeps it right where it varies.
    decay, foreach, maximize, capturable, differentiable, fused
        See :class:`BaseOptimizer`.

    Raises
    ------
    ValueError
        If a hyper-parameter is out of range, here or in a group.

    Notes
    -----
    A gradient that is exactly zero is treated as None, as by `RootFreeRMSProp`.

    Source: Lin et al. 2024 (arXiv 2402.03496), published code.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import RootFreeAdamW
    >>> w = torch.tensor([5.0], requires_grad=True)
    >>> w.grad = torch.tensor([2.0])  # of the mean over four terms
    >>> betas, eps = (0.5, 0.75), 0.25
    >>> RootFreeAdamW([w], lr=1.0, betas=betas, eps=eps, batch_size=4).step()
    >>> w.detach()  # m = 1 and S = 4.75
    tensor([4.8000])
    """

    card = replace(
        RootFreeRMSProp.card,
        answer="is AdamW without its square root.",
        update=r"$\Delta w=-\eta\,m/(S+\varepsilon)$",
        average=r"gradient; $B g^2$ from 1",
    )
    rule = Rule(
        _adamw,
        _adamw_lists,
        _state_with("exp_avg"),
        _room,
        entrywise=True,
        numbers=("betas", "eps", "weight_decay", "batch_size"),
        triton="rootfree",
        zero_is_none=True,
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        bias_correction: bool = False,
        *,
        decay: str = "plain",
        batch_size: float,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | str | None = None,
    ) -> None:
        super().__init__(params, hyperparameters(locals()))

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse what the method cannot use; see the class for the limits."""
        super().check(group)
        _check_curvature(group)
        check_betas(group["betas"])
