"""KrADagrad: Shampoo's factors kept inverted, without inverting anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.linalg.products import symmetric

from .core import limits
from .core.base import BaseOptimizer, Params, hyperparameters
from .core.card import Card
from .core.rule import Group
from .core.state import State, fresh_state, real
from .parts.kronecker.blocks import (
    dominate,
    gram,
    multiply,
    nonzero,
    positive_root,
)
from .parts.kronecker.grafting import lengths
from .parts.kronecker.schedule import (
    axes_of,
    blocks_of,
    damps,
    keeps_roots,
    power_of,
    turn_of,
)
from .parts.kronecker.stacked import stacked_rule

BOUNDS = ("frobenius", "trace")
VARIANTS = ("star", "mm")


def _inverted(param: Tensor, group: Group) -> State:
    """Zeros for the momentum; factors (with their roots) as multiples of I."""
    state = {"momentum_buffer": torch.zeros_like(param)}
    for tag, block in blocks_of(param, group):
        x = param[block]
        for axis in axes_of(x, group):
            eye = torch.eye(x.shape[axis], dtype=x.dtype, device=x.device)
            state[f"factor_{tag}{axis}"] = eye * group["initial"]
            if keeps_roots(group):
                root = group["initial"] ** (1 / power_of(x, group))
                state[f"root_{tag}{axis}"] = eye * root
    return state


def _room(grad: Tensor, group: Group) -> float:
    """Room for the product of a factor and a Gram matrix."""
    largest = group["initial"]
    if group["beta2"] < 1:
        largest = max(largest, 1 / group["eps"])
    # "mm" multiplies G by the roots of the other axes first
    times = max(grad.ndim, 1) if group["variant"] == "mm" else 1
    room = max(largest, 1.0) ** times * max(grad.numel(), 1) ** 2
    return math.sqrt(torch.finfo(grad.dtype).max / room)


def _advance(w: Tensor, g: Tensor, state: State, step: int, group: Group) -> None:
    """Tensors of equal shape and age, stacked; the definition."""
    u = torch.zeros_like(w)
    for tag, block in blocks_of(w[0], group):
        part = (slice(None), *block)
        u[part] = _preconditioned(g[part], state, tag, step, group)
    if group["grafting"] == "sgd":
        size = lengths(g) / nonzero(lengths(u))
        u = u * size.reshape(-1, *(1,) * (w.ndim - 1))
    if group["weight_decay"]:
        u = u + w * group["weight_decay"]
    m = state["momentum_buffer"]
    m.mul_(group["momentum"]).add_(u)
    w.sub_((u + m * group["momentum"] if group["nesterov"] else m) * group["lr"])


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
    params : iterable
        Parameters of any shape, named parameters, or groups.
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
    decay : str
        Default "plain"; "cautious", "corrected" or "cautious+corrected", see
        `BaseOptimizer`, are decoupled.
    foreach : bool, optional
        Treat tensors of equal shape together; None chooses what is faster.
    maximize, capturable, differentiable : bool
        As for `Adam`. Default False. Autograd takes the factors for constants; on
        CUDA reading the counters and the roots wait for the device.

    Raises
    ------
    ValueError
        If a hyper-parameter is out of range, here or in a group.
    TypeError
        If one is not a number.

    Notes
    -----
    Exact for a gradient of rank one and "trace", where it is the formula of Sherman
    and Morrison; otherwise :math:`L - LGG^\top L/t \succeq (L^{-1}+GG^\top)^{-1}` for
    every t of at least one plus the largest eigenvalue of :math:`GG^\top L`, and
    both bounds are such. So L stays positive semi-definite and above the inverse of
    the sum, and undamped :math:`\langle G, u\rangle` is never below Shampoo's.
    Eigenvalues that rounding makes negative count as zero. A scalar has no factor.
    A complex tensor has its pairs (real, imaginary) as one more axis. A gradient whose products with L are not finite skips its tensor.
    The published code decays the momentum twice with Nesterov's look-ahead; not so
    here.

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

    rule = stacked_rule(_advance, new_state=_inverted, gradient_limit=_room)

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

    def check(self, group: Mapping[str, Any]) -> None:
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

    def state_of(self, p: Tensor, group: Mapping[str, Any]) -> State:
        """As in the base; roots are kept only where they are used again."""
        state = super().state_of(p, group)
        factors = [name for name in state if name.startswith("factor_")]
        roots = [name.replace("factor", "root") for name in factors]
        keeps = keeps_roots(group)
        if all((root in state) == keeps for root in roots):
            return state
        fresh = fresh_state(p, group, self.rule.new_state) if keeps else {}
        for name, root in zip(factors, roots, strict=True):
            state.pop(root, None)
            if keeps:
                last = positive_root(real(state[name]), power_of(real(p), group))
                real(fresh[root]).copy_(last)
                state[root] = fresh[root]
        return state


def _preconditioned(
    g: Tensor, state: State, tag: str, step: int, group: Mapping[str, Any]
) -> Tensor:
    """The gradients of a block, stacked; its factors learn of them first."""
    order, axes = g.ndim - 1, axes_of(g[0], group)
    u, others = g, list[int]()
    if group["variant"] == "mm" and axes:
        turn = turn_of(step - 1, axes, g.shape[1:])
        others = [axis for axis in axes if axis != turn]
        axes = [turn]
    for axis in others:
        root = state[f"root_{tag}{axis}"]
        # what autograd keeps must not be refreshed below
        root = root.clone() if group["differentiable"] else root
        u = multiply(u, root, axis, order)
    seen = u.detach()
    due = (step - 1) % group["refresh"] == 0
    for axis in axes:
        factor = state[f"factor_{tag}{axis}"]
        if group["beta2"] < 1:
            factor.div_(group["beta2"])
        if damps(factor.dtype, group):
            factor.sub_(symmetric(factor, factor), alpha=group["eps"])
        factor.copy_(dominate(factor, gram(seen, axis, order), group["bound"]))
    roots = {}
    for axis in axes + others * (group["refresh"] > 1) if due else []:
        fresh = positive_root(state[f"factor_{tag}{axis}"], power_of(g[0], group))
        roots[axis] = fresh
        if keeps_roots(group):
            state[f"root_{tag}{axis}"].copy_(fresh)
    for axis in axes:
        root = roots[axis] if axis in roots else state[f"root_{tag}{axis}"]
        u = multiply(u, root, axis, order)
    return u
