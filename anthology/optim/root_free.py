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

from anthology.cost.work import averages

from .core.base import BaseOptimizer, Params, hyperparameters
from .core.card import Card, SilentPenalty
from .core.limits import at_least_zero, below_one, check_betas, check_terms
from .core.rule import Group, Rule
from .core.state import State, States, Tensors
from .parts.arithmetic import (
    add_scaled,
    add_squares,
    alone,
    bias_correction,
    blend_,
    corrected_rates,
    decay,
    descend,
    descend_over,
    each,
    over,
    rest,
    scale,
    value,
)

# What they silently penalise, and ρ at a gradient of one with the ε that they have.
_LOG = r"$\tfrac1{2B}\sum_i$ $\log(B\,\partial_if^2+\varepsilon)$"
_RHO = 1 / 1.0001


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


def _curvature(states: States, grads: Tensors, beta: Any, group: Group) -> Tensors:
    """S ← βS + (1−β)Bg²."""
    s = [state["exp_avg_sq"] for state in states]
    scale(s, value(beta))
    add_squares(s, grads, rest(beta) * value(group["batch_size"]))
    return s


def _rmsprop(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Average Bg², divide by it, average that, move."""
    s = _curvature(states, grads, group["alpha"], group)
    m = [state["momentum_buffer"] for state in states]
    scale(m, value(group["momentum"]))
    over("addcdiv_", m, grads, over("add", s, value(group["eps"])))
    if group["weight_decay"]:
        add_scaled(m, params, value(group["weight_decay"]))
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
    params, decay, foreach, maximize, capturable, differentiable, fused
        See :class:`BaseOptimizer`.

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
    cost = averages("momentum", 1)
    silent = (
        SilentPenalty(
            _LOG,
            r"(1+2\tau_1)$ $(1-2\rho)$ ${}-4\tau_2\rho",
            19 - 434 * _RHO,
            {"batch_size": 1},
            "charge",
            3000,
        ),
    )
    rule = Rule(
        alone(_rmsprop),
        _rmsprop,
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


def _adamw(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Decay, average g and Bg², correct both if asked to, move."""
    (beta1, beta2), lr, dtype = group["betas"], group["lr"], params[0].dtype
    decay(params, lr, group["weight_decay"])
    m = blend_([state["exp_avg"] for state in states], grads, beta1)
    s, rates = _curvature(states, grads, beta2, group), [lr] * len(params)
    if group["bias_correction"]:
        s = over("div", s, each(steps, lambda t: bias_correction(beta2, t, dtype)))
        rates = corrected_rates(lr, beta1, steps, dtype)
    descend_over(params, m, over("add", s, value(group["eps"])), rates)


class RootFreeAdamW(BaseOptimizer):
    r"""AdamW without the root.

    .. math::

       w \leftarrow (1-\eta\kappa) w,\quad
       m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
       S \leftarrow \beta_2 S + (1-\beta_2) B g^2,\quad
       \Delta w = -\eta\,\frac{m}{S+\varepsilon},\qquad S_0 = 1

    Parameters
    ----------
    lr : float or Tensor
        η. A Newton-like step, so 10 is large; default 1 (measured).
        Rate to try first: 1; ``metrize`` changes nothing.
    betas : tuple of float
        β₁, β₂ in [0, 1). Default (0.9, 0.999).
    eps : float
        ε, as for `RootFreeRMSProp`. Default 1e-4.
    weight_decay : float
        κ, decoupled. Default 0.
    bias_correction : bool
        Divide m and S by 1 − βᵗ. Default False: S starts at one, not at zero.
    batch_size : float
        B, as for `RootFreeRMSProp`. Required.
    params, decay, foreach, maximize, capturable, differentiable, fused
        See :class:`BaseOptimizer`.

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
    cost = averages("betas", 1)
    silent = (
        SilentPenalty(
            _LOG,
            r"(1+2\tau_1)$ ${}-2(1+2\tau_2)\,\rho",
            19 - 398 * _RHO,
            {"batch_size": 1, "betas": (0.9, 0.99)},
            "charge",
            3000,
        ),
    )
    rule = Rule(
        alone(_adamw),
        _adamw,
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
