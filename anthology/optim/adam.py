"""Adam and AdamW: steepest descent in the max norm, with averages put back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anthology.cost.work import averages

from .core.base import BaseOptimizer, Params, hyperparameters
from .core.card import Card, SilentPenalty
from .core.limits import at_least_zero, check_betas
from .core.rule import Group, Rule
from .core.state import State, States, Tensors
from .parts.arithmetic import (
    add_squares,
    alone,
    blend_,
    corrected_rates,
    decay,
    descend_over,
    over,
    over_root,
    plus,
    rest,
    scale,
    shift,
    value,
)

# What they silently penalise.
_SOFT = r"$\lVert\nabla f\rVert_1$, rounded at ε"
_FACTOR = r"(1+2\tau_1)$ ${}-(1+2\tau_2)\,\rho"


def _averages(param: Tensor, group: Group) -> State:
    """Zeros for ``exp_avg``, ``exp_avg_sq`` and, with amsgrad, its maximum."""
    names = ["exp_avg", "exp_avg_sq"]
    names += ["max_exp_avg_sq"] if group["amsgrad"] else []
    return {name: torch.zeros_like(param) for name in names}


def _root_of_largest(grad: Tensor, group: Group) -> float:
    """The largest number whose square is finite."""
    return math.sqrt(torch.finfo(grad.dtype).max)


def _adam(
    params: Tensors,
    grads: Tensors,
    states: States,
    steps: list[Any],
    group: Group,
    decoupled: bool,
) -> None:
    """Average g and g², correct both, decay and move; or by PyTorch's fused kernel."""
    lr, strength, dtype = group["lr"], group["weight_decay"], params[0].dtype
    beta1, beta2 = group["betas"]
    m, v = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq"))
    top = [s["max_exp_avg_sq"] for s in states] if group["amsgrad"] else []
    lists = (*params, *grads, *m)
    if group.get("fused") and all(x.is_contiguous() for x in lists):
        kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
        same = {x: group[x] for x in ("lr", "weight_decay", "eps", "amsgrad")}
        betas = {"beta1": beta1, "beta2": beta2}
        counters = [s["step"] for s in states]
        kernel(params, grads, m, v, top, counters, **same, **betas, maximize=False)
        return
    if decoupled:
        decay(params, lr, strength)
    elif strength:
        grads = plus(grads, params, strength)
    blend_(m, grads, beta1)
    scale(v, value(beta2))
    add_squares(v, grads, rest(beta2))
    if len(top) > 1:
        torch._foreach_maximum_(top, v)
    elif top:  # autograd needs the maximum that was
        top[0].copy_(torch.maximum(top[0].clone(), v[0]))
    below = over_root(over("sqrt", top or v), beta2, steps)
    shift(below, value(group["eps"]))
    descend_over(params, m, below, corrected_rates(lr, beta1, steps, dtype))


def _rule(decoupled: bool) -> Rule:
    """Adam's rule, its decay coupled to the gradient or not."""
    multi = partial(_adam, decoupled=decoupled)
    return Rule(
        alone(multi),
        multi,
        _averages,
        _root_of_largest,
        late=("max_exp_avg_sq",),
        entrywise=True,
        numbers=("betas", "eps", "weight_decay"),
        torch_kernel=True,
        triton="adamw" if decoupled else None,
    )


class Adam(BaseOptimizer):
    r"""Adam with coupled weight decay (an L2 term in the gradient).

    Without averages (``betas=(0, 0)``, ε → 0) one step is
    :math:`\Delta w = -\eta\,\mathrm{sign}(g)`, the steepest unit step under
    :math:`\max_i |\Delta w_i|`. The averages replace g by
    :math:`\hat m / (\sqrt{\hat v} + \varepsilon)`:

    .. math::

       m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
       v \leftarrow \beta_2 v + (1-\beta_2) g^2,\quad
       \Delta w = -\eta\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)}+\varepsilon}

    Parameters
    ----------
    lr : float or Tensor
        Step size η, in the units of the weights: about what an entry moves, and at
        most 7.3 η with the default betas. Default 1e-3.
        Rate to try first: 0.003; ``metrize`` changes nothing.
    betas : tuple of float
        β₁, β₂ in [0, 1). Default (0.9, 0.999).
    eps : float
        ε, outside the root, in the units of the gradient. Default 1e-8.
    weight_decay : float
        κ; g + κw takes the place of g. Default 0.
    amsgrad : bool
        Divide by the largest v so far. Default False.
    params, decay, foreach, maximize, capturable, differentiable, fused
        See :class:`BaseOptimizer`. "triton" is for `AdamW`; a kind of decay that is not
        "plain" is decoupled.

    Notes
    -----
    Equal to ``torch.optim.Adam`` step for step, and it loads its checkpoints. Where
    a gradient is not finite, or its square is not, the entry is left alone.

    Source: Kingma & Ba 2015, Algorithm 1; as steepest descent, Bernstein &
    Newhouse 2024, eqs. 3-8.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import Adam
    >>> w = torch.zeros(2, requires_grad=True)
    >>> w.grad = torch.tensor([30.0, -0.02])
    >>> Adam([w], lr=0.5).step()
    >>> w.detach()  # a first step is one of sign descent
    tensor([-0.5000,  0.5000])
    """

    card = Card(
        answer="measures a step by its largest entry, so the steepest step is the "
        "signs of the gradient; two averages then soften them.",
        update=r"$\Delta w=-\eta\,\hat m/(\sqrt{\hat v}+\varepsilon)$",
        problem=r"$\min_{\Delta w} \langle g, \Delta w\rangle$ over "
        r"$\max_i\lvert\Delta w_i\rvert \le \eta$",
        norm=r"$\ell_\infty$ (largest entry)",
        average="gradient and its square, bias corrected",
        state="2 (3 with amsgrad)",
        source="Kingma & Ba 2015, Alg. 1; Bernstein & Newhouse 2024, eqs. 3-8",
    )
    cost = averages("betas", 1, "amsgrad")
    silent = (SilentPenalty(_SOFT, _FACTOR, 19 - 1999.0, ask="charge", steps=10_000),)
    rule = _rule(decoupled=False)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decay: str = "plain",
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | str | None = None,
    ) -> None:
        super().__init__(params, hyperparameters(locals()))

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse what Adam cannot use; see the class for the limits."""
        super().check(group)
        at_least_zero("epsilon value", group["eps"])
        check_betas(group["betas"])


class AdamW(Adam):
    r"""Adam with decoupled weight decay: :math:`w \leftarrow (1-\eta\kappa)w` first.

    Parameters, shapes, units and errors as for `Adam`, but `weight_decay` is κ of
    the line above and defaults to 1e-2. Equal to ``torch.optim.AdamW`` step for
    step, and it loads its checkpoints.
    Rate to try first: 0.003; ``metrize`` changes nothing.

    Source: Loshchilov & Hutter 2019, Algorithm 2.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import AdamW
    >>> w = torch.tensor([4.0, 4.0], requires_grad=True)
    >>> w.grad = torch.tensor([30.0, 0.0])
    >>> AdamW([w], lr=0.5, weight_decay=0.5).step()
    >>> w.detach()  # both lose a quarter; only the first has a gradient
    tensor([2.5000, 3.0000])
    """

    card = replace(
        Adam.card,
        answer="is Adam with its weight decay taken out of the gradient.",
        source="Loshchilov & Hutter 2019, Alg. 2",
    )
    silent = (SilentPenalty(_SOFT, _FACTOR, 0.0, {"betas": (0.9, 0.9)}, "charge"),)
    rule = _rule(decoupled=True)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        decay: str = "plain",
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | str | None = None,
    ) -> None:
        BaseOptimizer.__init__(self, params, hyperparameters(locals()))
