"""Sign descent with a memory: Signum and Lion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anthology.cost.work import averages

from .core.base import BaseOptimizer, Params, hyperparameters
from .core.card import Card, SilentPenalty
from .core.limits import below_one, check_betas, check_nesterov
from .core.rule import Group, Rule
from .core.state import State, States, Tensors
from .parts.arithmetic import (
    alone,
    averaged,
    blend,
    blend_,
    decay,
    descend,
    momentum_entries,
    momentum_of,
    over,
)


def _half(grad: Tensor, group: Group) -> float:
    """Half of the largest number, so that g − m is finite."""
    return torch.finfo(grad.dtype).max / 2


def _signum(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Average, take signs, decay, move."""
    signs = over("sign", averaged(grads, states, group))
    decay(params, group["lr"], group["weight_decay"])
    descend(params, signs, group["lr"])


class Signum(BaseOptimizer):
    r"""Sign descent on the averaged gradient.

    One step solves :math:`\min \langle m, \Delta w\rangle` over
    :math:`\max_i |\Delta w_i| \le \eta`: every entry moves by η, or not at all.

    .. math::

       m \leftarrow \beta m + (1-\beta) g,\quad
       w \leftarrow (1-\eta\kappa) w,\quad
       \Delta w = -\eta\,\mathrm{sign}(m),\qquad m_0 = 0

    Parameters
    ----------
    lr : float or Tensor
        η, what every entry moves, in the units of the weights. Default 1e-3 (the
        paper gives none).
        Rate to try first: 0.001; ``metrize`` changes nothing.
    momentum : float
        β in [0, 1). Default 0.9; 0 is sign descent and keeps no state.
    nesterov : bool
        Look ahead: the sign of βm + (1−β)g instead of that of m. Default False.
    weight_decay : float
        κ, decoupled. Default 0.
    params, decay, foreach, maximize, capturable, differentiable, fused
        See :class:`BaseOptimizer`. The sign has no slope: autograd sees lr and decay only.

    Notes
    -----
    sign(0) = 0: an entry without a gradient stays. Complex numbers are pairs, each
    part with its own sign. The steps are those of `SteepestDescent` under ``LInf()``
    and of ``Lion(betas=(β, β))``.

    Source: Bernstein, Wang, Azizzadenesheli & Anandkumar 2018 (arXiv 1802.04434),
    Algorithm 2; as steepest descent, Bernstein & Newhouse 2024, Prop. 2.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import Signum
    >>> w = torch.zeros(3, requires_grad=True)
    >>> w.grad = torch.tensor([30.0, 0.0, -0.02])
    >>> Signum([w], lr=0.5).step()
    >>> w.detach()
    tensor([-0.5000,  0.0000,  0.5000])
    """

    card = Card(
        answer="keeps only the signs of an average: all weights move equally far.",
        update=r"$\Delta w=-\eta\operatorname{sign}(m)$",
        problem=r"$\min_{\Delta w} \langle m, \Delta w\rangle$ over "
        r"$\max_i\lvert\Delta w_i\rvert \le \eta$",
        norm=r"$\ell_\infty$ (largest entry)",
        average="gradient",
        state="1 (0 without momentum)",
        source="Bernstein et al. 2018 (1802.04434), Alg. 2",
    )
    cost = averages("momentum")
    silent = (SilentPenalty(r"$\lVert\nabla f\rVert_1$", r"1+2\tau", 19.0),)
    rule = Rule(
        alone(_signum),
        _signum,
        momentum_of,
        _half,
        momentum_entries,
        late=("step", "momentum_buffer"),
        entrywise=True,
        numbers=("momentum", "weight_decay"),
        triton="signum",
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
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
        """Refuse what the method cannot use; see the class for the limits."""
        super().check(group)
        below_one("momentum value", group["momentum"])
        check_nesterov(group)


def _average(param: Tensor, group: Group) -> State:
    """Zeros for ``exp_avg``."""
    return {"exp_avg": torch.zeros_like(param)}


def _lion(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Average by β₁ for the signs and by β₂ to keep, decay, move."""
    (beta1, beta2), m = group["betas"], [state["exp_avg"] for state in states]
    signs = over("sign_", blend(m, grads, beta1))
    blend_(m, grads, beta2)
    decay(params, group["lr"], group["weight_decay"])
    descend(params, signs, group["lr"])


class Lion(BaseOptimizer):
    r"""Sign descent on one average of the gradient, remembering another.

    One step solves :math:`\min \langle u, \Delta w\rangle` over
    :math:`\max_i |\Delta w_i| \le \eta`, u being the average as it would stand with
    coefficient β₁; what is kept is the slower average with β₂:

    .. math::

       u = \beta_1 m + (1-\beta_1) g,\quad
       w \leftarrow (1-\eta\kappa) w,\quad
       \Delta w = -\eta\,\mathrm{sign}(u),\quad
       m \leftarrow \beta_2 m + (1-\beta_2) g,\qquad m_0 = 0

    Parameters
    ----------
    lr : float or Tensor
        η, as for `Signum`. Default 1e-3 (measured; published 1e-4).
        Rate to try first: 0.001; ``metrize`` changes nothing.
    betas : tuple of float
        β₁, β₂ in [0, 1). Default (0.9, 0.99).
    weight_decay : float
        κ, decoupled. Default 0. The authors take lr 3 to 10 times smaller than for
        `AdamW`, and κ as many times larger.
    params, decay, foreach, maximize, capturable, differentiable, fused
        As for `Signum`.

    Notes
    -----
    sign(0) = 0. With β₁ = β₂ it is `Signum`; with betas=(0, 0) sign descent.

    Source: Chen et al. 2023 (arXiv 2302.06675), Algorithm 2.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import Lion
    >>> w = torch.zeros(2, requires_grad=True)
    >>> optimizer = Lion([w], lr=0.5)
    >>> for g in ([1.0, -1.0], [-0.05, 1.0]):
    ...     w.grad = torch.tensor(g)
    ...     optimizer.step()
    >>> w.detach()  # the first entry outweighs a small gradient against it
    tensor([-1.,  0.])
    """

    card = replace(
        Signum.card,
        answer="has Adam's ruler and bare signs: only the rate shortens a step.",
        update=r"$\Delta w=-\eta\operatorname{sign}(\beta_1m+(1-\beta_1)g)$",
        problem=r"$\min_{\Delta w} \langle u, \Delta w\rangle$ over "
        r"$\max_i\lvert\Delta w_i\rvert \le \eta$",
        average=r"gradient, with $\beta_1$ for the step and $\beta_2$ to keep",
        state="1",
        source="Chen et al. 2023 (2302.06675), Alg. 2",
    )
    cost = averages(1)
    silent = (
        SilentPenalty(r"$\lVert\nabla f\rVert_1$", r"1+2\tau", 181.0, steps=2000),
    )
    rule = Rule(
        alone(_lion),
        _lion,
        _average,
        _half,
        late=("step",),
        entrywise=True,
        numbers=("betas", "weight_decay"),
        triton="lion",
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
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
        """Refuse what the method cannot use; see the class for the limits."""
        super().check(group)
        check_betas(group["betas"])
