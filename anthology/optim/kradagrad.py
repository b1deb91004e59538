"""KrADagrad: Shampoo's factors kept inverted, without inverting anything."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anthology.cost.flops import EIGH, by_axes
from anthology.cost.work import Cost, Seen, Work, keeping

from .core import limits
from .core.base import BaseOptimizer, Params, hyperparameters
from .core.card import Card, SilentPenalty
from .core.rule import Group
from .core.state import State, States, Tensors, real
from .parts.arithmetic import multiplied
from .parts.kronecker import bounds
from .parts.kronecker.roots import follow_roots, keeps_roots
from .parts.kronecker.stacks import (
    as_numbers,
    axes_of,
    grafted,
    heavy_ball,
    in_stacks,
    rule_of_lists,
)

BOUNDS = ("frobenius", "trace")
VARIANTS = ("star", "mm")


def _kradagrad_state(param: Tensor, group: Group) -> State:
    """Zeros for the momentum; factors (with their roots) as multiples of I."""
    state = {"momentum_buffer": torch.zeros_like(param)}
    for tag, block in bounds.blocks_of(param, group):
        x = param[block]
        for axis in axes_of(x.shape, group):
            eye = torch.eye(x.shape[axis], dtype=x.dtype, device=x.device)
            state[f"factor_{tag}{axis}"] = eye * group["initial"]
            if keeps_roots(group):
                root = group["initial"] ** (1 / bounds.power_of(x.ndim, group))
                state[f"root_{tag}{axis}"] = eye * root
    return state


def _kradagrad_limit(grad: Tensor, group: Group) -> float:
    """Room for the product of a factor and a Gram matrix."""
    largest = group["initial"]
    if group["beta2"] < 1:
        largest = max(largest, 1 / group["eps"])
    # "mm" multiplies G by the roots of the other axes first
    times = max(grad.ndim, 1) if group["variant"] == "mm" else 1
    room = max(largest, 1.0) ** times * max(grad.numel(), 1) ** 2
    return math.sqrt(torch.finfo(grad.dtype).max / room)


def _kradagrad(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Lists of tensors: blocks of equal shape and age go through as one stack."""
    moves = in_stacks(
        bounds.bounded, [grads], states, as_numbers(steps), group, bounds.blocks_of
    )
    if group["grafting"] == "sgd":
        moves = grafted(moves, grads)
    if group["weight_decay"]:
        # list operations would save the weights, which are overwritten
        pairs = zip(moves, params, strict=True)
        moves = [u + w * group["weight_decay"] for u, w in pairs]
    moves = heavy_ball(moves, states, group)
    torch._foreach_sub_(params, multiplied(moves, group["lr"]))


@Cost
def _kradagrad_cost(s: Seen) -> Work:
    axes = [shape[0] for shape in s.named("factor_")]
    every, square = s.group["refresh"], sum(d * d for d in axes)
    # GGᵀL and L times it; εL²; the root
    cubic = 2 + (1 if s.symmetric else 2) * (
        1 + bounds.damps(s.dtype, s.group) + 1 / every
    )
    cubic += EIGH / every
    work = by_axes(s.numbers, axes, 1, cubic, s.symmetric)
    roots = square * keeps_roots(s.group)
    return keeping((s.numbers + square, 2), (roots, 1 + 1 / every), flops=work)


class KrADagrad(BaseOptimizer):
    r"""Shampoo whose inverse factors are updated by products alone.

    One step minimises :math:`\langle G, \Delta W\rangle + \frac{1}{2\eta}
    \langle \Delta W, L^{-1/4}\,\Delta W\,R^{-1/4}\rangle` before momentum, where L is
    not the inverse of the sum of :math:`GG^\top` but a bound on it from above. With
    :math:`G_{(i)}` the matrix of G along axis i of k, and :math:`L_i` starting at
    ``initial`` times I:

    .. math::

       L_i \leftarrow L_i/\beta_2,\quad
       L_i \leftarrow L_i - \varepsilon L_i^2,\quad
       L_i \leftarrow L_i - \frac{L_i G_{(i)}G_{(i)}^\top L_i}
       {1 + \|G_{(i)}G_{(i)}^\top L_i\|}

    .. math::

       u = G \times_1 L_1^{1/2k} \cdots \times_k L_k^{1/2k},\quad
       m \leftarrow \mu m + u + \kappa W,\quad
       \Delta W = -\eta\,(u + \kappa W + \mu m)

    Parameters
    ----------
    lr : float or Tensor
        Step size η: that of gradient descent until the factors have shrunk, or, with
        grafting, always. Default 0.1 (measured; published 1, grafted).
        Rate to try first: 0.1; ``metrize`` changes nothing.
    momentum : float
        μ in [0, 1); heavy ball, not damped by 1 − μ. Default 0.9.
    nesterov : bool
        Step along u + κW + μm, as above; False steps along m. Default True.
    beta2 : float
        β₂ in [0.25, 1]; 1 (default) forgets nothing.
    eps : float
        ε ≥ 0, damping, in the units of the squared gradient: it adds about εI to the
        sum that L inverts. Positive where β₂ < 1. Default 1e-12.
    weight_decay : float
        κ, added to the preconditioned gradient and inside the momentum. Default 0.
    initial : float
        Diagonal of the first factors, in 1/gradient². Default 1.
    bound : str
        Size of :math:`GG^\top L`: "frobenius" (default) or "trace".
    refresh : int
        T: roots are recomputed at steps 1, 1+T, 1+2T, … Default 1.
    power : int, optional
        p of the exponents 1/p; None is 2k, and k gives online Newton steps (for "mm"
        2 and 1).
    max_dim : int
        Axes longer than this have no factor. Default 1024.
    vectors : str
        Tensors with one axis: "none" (default), no factor, or "full".
    variant : str
        "star" (default): the formulas above, KrADagrad* of the paper. "mm": its plain
        KrADagrad. A step updates one :math:`L_i`, with G preconditioned along the
        other axes in place of G, and the exponent is 1/2: the axes by turns, and
        after k² steps the longest in all but k of the steps between two squares.
    grafting : str
        Whose length a step has: "none" (default), its own, or "sgd", the gradient's.
    block_size : int, optional
        Tensors are cut into blocks of at most so many entries along an axis, each
        with factors of its own. Default None: they are not (published: 128).
    params, decay, foreach, maximize, capturable, differentiable
        See :class:`BaseOptimizer`; a `decay` other than "plain" is decoupled. Autograd takes
        the factors for constants; on CUDA reading the counters and the roots wait.

    Notes
    -----
    Exact for a gradient of rank one and "trace" (the formula of Sherman and Morrison);
    otherwise :math:`L - LGG^\top L/t \succeq (L^{-1}+GG^\top)^{-1}` for every t of at
    least one plus the largest eigenvalue of :math:`GG^\top L`, and both bounds are such.
    So L stays positive semi-definite and above the inverse of the sum, and undamped
    :math:`\langle G, u\rangle` is never below Shampoo's. Eigenvalues that rounding makes
    negative count as zero. A scalar has no factor. A complex tensor has its pairs (real,
    imaginary) as one more axis. A gradient whose products with L are not finite skips
    its tensor. The published code decays the momentum twice with Nesterov's look-ahead.

    Source: Mei, Moreno & Walters 2023 (arXiv 2305.19416), KrADagrad* and KrADagrad,
    and published code (factors, bound, damping, turns of "mm", defaults).

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import KrADagrad
    >>> w = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    >>> optimizer = KrADagrad([w], 1.0, 0.0, nesterov=False, bound="trace")
    >>> w.grad = torch.tensor([[0.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    >>> optimizer.step()
    >>> round(w[1, 1].item(), 6)  # -3/√10
    -0.948683
    """

    derived = "root_"
    rule = rule_of_lists(_kradagrad, _kradagrad_state, _kradagrad_limit)

    card = Card(
        answer="is Shampoo with its factors kept inverted, by products alone.",
        update=r"$\Delta W=-\eta\,m$, with $m\leftarrow\mu m+L^{1/4}GR^{1/4}$",
        problem=r"$\min_{\Delta W} \langle G,\Delta W\rangle + \tfrac{1}{2\eta}"
        r"\langle\Delta W, L^{-1/4}\Delta W R^{-1/4}\rangle$",
        norm=r"$\lVert L^{-1/8}\Delta W R^{-1/8}\rVert_F$, learned",
        average="a bound on the inverse of each summed Gram matrix; heavy ball on the "
        "step",
        state=r"$1 + d_\mathrm{out}/d_\mathrm{in} + d_\mathrm{in}/d_\mathrm{out}$, "
        "the factors twice if their roots are kept (T > 1)",
        source="Mei, Moreno & Walters 2023 (2305.19416), published code",
    )
    cost = _kradagrad_cost
    silent = (
        SilentPenalty(
            r"$\sum_l\sum_i\sigma_i$ where it grows, after $k=400$ steps",
            r"1+\tau-k",
            9.1 - 400,
            {"initial": 1e6},
            "charge",
        ),
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        beta2: float = 1.0,
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        initial: float = 1.0,
        bound: str = "frobenius",
        refresh: int = 1,
        power: int | None = None,
        max_dim: int = 1024,
        vectors: str = "none",
        variant: str = "star",
        grafting: str = "none",
        block_size: int | None = None,
        *,
        decay: str = "plain",
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, hyperparameters(locals()))

    def check(self, group: Group) -> None:
        """Refuse what KrADagrad cannot use; see the class for the limits."""
        super().check(group)
        limits.below_one("momentum value", group["momentum"])
        limits.check_nesterov(group)
        limits.at_least_zero("epsilon value", group["eps"])
        beta = limits.number("beta2", group["beta2"])
        if not 0.25 <= beta <= 1.0:
            raise ValueError(f"Invalid beta2: {beta}; it must be in [0.25, 1]")
        if beta < 1 and not group["eps"]:
            raise ValueError("beta2 below 1 needs eps above zero: factors would grow")
        if not 0.0 < limits.number("initial", group["initial"]) < math.inf:
            text = f"Invalid initial: {group['initial']}; it must be positive"
            raise ValueError(text)
        if group["initial"] * group["eps"] >= 1:
            raise ValueError("initial must be smaller than 1/eps, or it is damped away")
        limits.positive_integer("max_dim", group["max_dim"])
        limits.positive_integer("refresh", group["refresh"])
        for name in ("power", "block_size"):
            if group[name] is not None:
                limits.positive_integer(name, group[name])
        limits.one_of("bound", group["bound"], BOUNDS)
        limits.one_of("vectors", group["vectors"], ("full", "none"))
        limits.one_of("variant", group["variant"], VARIANTS)
        limits.one_of("grafting", group["grafting"], ("none", "sgd"))

    def state_of(self, p: Tensor, group: Group) -> State:
        """As in the base; roots are kept only where they are used again."""
        state, power = super().state_of(p, group), bounds.power_of(real(p).ndim, group)
        root = partial(bounds.positive_root, power=power)
        follow_roots(p, state, group, self.rule.new_state, root)
        return state
