"""Shampoo: spectral descent with the two Gram matrices averaged over time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from anthology.cost.flops import EIGH, by_axes
from anthology.cost.work import Cost, Seen, Work, keeping
from anthology.linalg import ROOT_METHODS

from .core import limits
from .core.base import BaseOptimizer, Params, hyperparameters
from .core.card import Card, SilentPenalty
from .core.rule import Group
from .core.state import State, States, Tensors
from .parts.arithmetic import descend
from .parts.kronecker import roots
from .parts.kronecker.stacks import (
    as_numbers,
    grafted,
    heavy_ball,
    in_stacks,
    rule_of_lists,
)


def _shampoo_state(param: Tensor, group: Group) -> State:
    """Zeros: averages, and factors and roots by number of block and axis."""
    state = {name: torch.zeros_like(param) for name in roots.averages_of(group)}
    kinds = ("factor", "root") if roots.keeps_roots(group) else ("factor",)
    many = 1 if group["vectors"] == "diagonal" and param.ndim < 2 else 2
    whole = param.reshape(param.shape or (1,))
    for tag, block in roots.numbered(whole, group):
        shape = whole[block].shape
        for a in sorted(roots.sides(shape, group)):
            for kind in kinds:
                state[f"{kind}_{tag}{a}"] = param.new_zeros(shape[a : a + 1] * many)
    return state


def _shampoo_limit(grad: Tensor, group: Group) -> float:
    """Room for a million Gram matrices, each a sum over the entries."""
    room = 2.0**20 * max(grad.numel(), 1)
    return float((torch.finfo(grad.dtype).max / room) ** 0.5)


def _shampoo(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Lists of tensors: blocks of equal shape and age go through as one stack."""
    averages = roots.first_moments(grads, states, steps, group)
    seen = [[x.reshape(x.shape or (1,)) for x in xs] for xs in (grads, averages)]
    waits = group["refresh"] > 1 and not group["capturable"]
    ages = as_numbers(steps) if waits else steps
    moves = in_stacks(roots.preconditioned, seen, states, ages, group, roots.numbered)
    moves = [u.reshape(g.shape) for u, g in zip(moves, grads, strict=True)]
    if group["grafting"] != "none":
        others = averages
        if group["grafting"] == "rms":
            others = roots.adam_steps(averages, grads, states, steps, group)
        moves = grafted(moves, others)
    moves = heavy_ball(moves, states, group) if group["momentum"] else moves
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
    descend(params, moves, group["lr"])


# Of which the table of silent penalties speaks beside the default.
_AVERAGED = {"betas": (0.9, 0.98)}


@Cost
def _shampoo_cost(s: Seen) -> Work:
    group, factors, n = s.group, s.named("factor_"), s.numbers
    every, coupled = group["refresh"], group["factors"] == "kl"
    blocks: dict[str, list[int]] = {}
    for name, shape in s.kept.items():
        if name.startswith("factor_"):
            blocks.setdefault(name.split("_")[1], []).append(shape[0])
    # the vectors' diagonal factors need no products
    dense, work = all(len(f) == 2 for f in factors), 0.0
    cubic = (EIGH + (1 if s.symmetric else 2)) / every
    for axes in blocks.values() if dense else ():
        size = n // len(blocks) if group["sides"] == "one" else math.prod(axes)
        # of coupled factors one divides all others
        products = len(axes) if coupled else 1
        work += by_axes(size, axes, products, cubic, s.symmetric)
    averaged = bool(group["betas"][0]) + bool(group["momentum"])
    averaged += group["grafting"] == "rms"
    square = sum(math.prod(f) for f in factors)
    roots = square * (every > 1 or coupled)  # else they need not be kept
    return keeping((averaged * n + square, 2), (roots, 1 + 1 / every), flops=work)


class Shampoo(BaseOptimizer):
    r"""Shampoo with one factor for each axis of a tensor.

    Without averages (``betas=(0, 0)``, ``eps=0``) one step of a matrix is
    :math:`\Delta W = -\eta\,UV^\top`, the steepest unit step under the spectral
    norm. The averages accumulate the Gram matrices; for a tensor of order k with
    :math:`G_{(i)}` its matrix along axis i:

    .. math::

       L_i \leftarrow \beta_2 L_i + (1-\beta_2)\,G_{(i)}G_{(i)}^\top,\quad
       m \leftarrow \beta_1 m + (1-\beta_1)\,G,\quad
       \Delta W = -\eta\,\hat m \times_1 (\hat L_1+\varepsilon I)^{-1/2k} \cdots
       \times_k (\hat L_k+\varepsilon I)^{-1/2k}

    With β₂ = 1 the factors are plain sums, as in AdaGrad. Hats divide by
    :math:`1-\beta^t` (not for a sum).

    Parameters
    ----------
    lr : float or Tensor
        Step size η: the spectral norm of a step without averages, in the units of
        the weights. Default 0.3 (measured; published 1e-2).
        Rate to try first: 0.3; ``metrize`` changes nothing.
    betas : tuple of float
        β₁ in [0, 1) of the gradient, β₂ in [0, 1] of the factors. Default (0.9, 1).
    eps : float
        ε ≥ 0, added to the eigenvalues of a factor inside the root, as a share of its
        largest entry; 0 takes pseudo-inverse roots. Default 1e-4.
    relative_eps : bool
        Default True; False: ε in the units of the squared gradient (published, 1e-12).
    weight_decay : float
        κ of w ← (1−ηκ)w, before the step. Default 0.
    momentum : float
        μ in [0, 1) of b ← μb + u for the preconditioned step u. Default 0.
    nesterov : bool
        Step along u + μb instead of b. Default False.
    max_dim : int
        Tensors are cut into blocks with at most so many entries along an axis, each
        with factors of its own. Default 1024.
    refresh : int
        T: roots are recomputed at steps 1, 1+T, 1+2T, … Default 1.
    root : str
        Method of `inverse_root`: "eigh" (default), "newton" or "newton-schulz".
    power : int, optional
        p of the exponents −1/p; None is 2k, with k the number of axes.
    vectors : str
        Factor of tensors with one axis: "full" (default), a matrix as for any
        other, or "diagonal", which is AdaGrad or RMSProp, :math:`m/\sqrt{v+ε}`.
    grafting : str
        Whose length a step has: "none" (default): its own; "sgd": that of m̂; "rms":
        that of :math:`\hat m/(\sqrt{\hat v}+ε_g)`, Adam's. Measured over a tensor.
    grafting_beta, grafting_eps : float
        β in [0, 1) of v and ε_g of "rms". Default 0.999 and 1e-8.
    factors : str
        What a factor gathers. "sum" (default): :math:`G_{(i)}G_{(i)}^\top`. "kl":
        :math:`G_{(i)}S^{-1}G_{(i)}^\top/d`, with S the factors of all other axes before
        the step, d their lengths multiplied, and exponents −1/2. Steps are then of
        Adam's size, :math:`\sqrt{\max(m,n)}\,UV^\top` at first: divide the rate
        by that root.
    sides : str
        "all" axes have factors (default), or "one": the shorter of a matrix, the first
        of a tensor with more, with the exponent −1/2.
    params, decay, foreach, maximize, capturable, differentiable
        See :class:`BaseOptimizer`. On CUDA ``root="eigh"`` waits for the device, and so does
        reading the counters for T > 1 unless capturable.

    Notes
    -----
    For T > 1 a direction that first appears between two refreshes is multiplied by
    ε^(−1/p) along each axis, together ε^(−1/2), a hundred with the default ε, and
    1/ε with ``factors="kl"``: raise it, or graft, before T.

    A complex tensor has its pairs (real, imaginary) as one more axis. A scalar is a
    vector of one entry. Without averages a matrix in several blocks has the polar
    factor of each, and a tensor with k > 2 none, as the exponents do not undo the Gram
    matrices one by one. The powers of a Gram matrix cost half of the digits: in single
    precision singular values below 3e-4 of the largest are rounding, and gradients
    below 1e-19 count as zero. A gradient whose square is not finite skips its tensor.

    Source: Gupta, Koren & Singer 2018, Algorithms 1 and 2; the limit, Bernstein &
    Newhouse 2024, eqs. 12-16; averages, ε inside the root, defaults and blocks, Shi
    et al. 2023 (Distributed Shampoo); grafting, Agarwal et al. 2020; KL factors, Lin
    et al. 2025 (arXiv 2509.03378), who start both at 0.1 I, update them after their
    use and bound the roots; one side, An et al. 2025 (ASGO, arXiv 2503.20762), with ε
    outside the root.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import Shampoo
    >>> w = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64)).requires_grad_()
    >>> optimizer = Shampoo([w], lr=1.0, betas=(0.0, 0.0), eps=0.0)
    >>> w.square().sum().backward()
    >>> optimizer.step()
    >>> [round(x, 6) for x in w.detach().diagonal().tolist()]
    [2.0, 3.0]
    """

    derived = "root_"
    rule = rule_of_lists(
        _shampoo,
        _shampoo_state,
        _shampoo_limit,
        entries=roots.averages_of,
        late=("exp_avg", "exp_avg_sq", "momentum_buffer"),
    )

    card = Card(
        answer="measures a matrix by how far it can stretch a vector, so the steepest "
        "step stretches every direction equally; two running sums then soften it.",
        update=r"$\Delta W=-\eta\,L^{-1/4}\,\hat M\,R^{-1/4}$",
        problem=r"$\min_{\Delta W} \langle G, \Delta W\rangle$ over "
        r"$\lVert\Delta W\rVert_{2\to2} \le \eta$",
        norm="spectral (largest singular value)",
        average="gradient; its Gram matrix along each axis, summed or averaged",
        state=r"$d_\mathrm{out}/d_\mathrm{in} + d_\mathrm{in}/d_\mathrm{out}$, twice "
        "if the roots are kept (T > 1), and 1 for the gradient's average",
        source="Gupta, Koren & Singer 2018, Alg. 1-2; Bernstein & Newhouse 2024, "
        "eqs. 12-16",
    )
    cost = _shampoo_cost
    silent = (
        SilentPenalty(
            r"$\sum_l\sum_i\sigma_i$ where it grows, after $k=400$ steps",
            r"1+2\tau-k",
            19 - 400.0,
            ask="growth",
        ),
        SilentPenalty(
            r"$\sum_l\sum_i\sigma_i(\nabla_lf)$, where it grows",
            r"2(\tau_1-\tau_2)",
            19 - 99.0,
            _AVERAGED,
            "growth",
            600,
        ),
        SilentPenalty(
            "the same, where it turns", r"1+2\tau_1", 19.0, _AVERAGED, "turn", 600
        ),
    )
    before = (("relative_eps", False), ("factors", "sum"), ("sides", "all"))

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.3,
        betas: tuple[float, float] = (0.9, 1.0),
        eps: float = 1e-4,
        relative_eps: bool = True,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        nesterov: bool = False,
        max_dim: int = 1024,
        refresh: int = 1,
        root: str = "eigh",
        power: int | None = None,
        vectors: str = "full",
        grafting: str = "none",
        grafting_beta: float = 0.999,
        grafting_eps: float = 1e-8,
        factors: str = "sum",
        sides: str = "all",
        *,
        decay: str = "plain",
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, hyperparameters(locals()))

    def check(self, group: Group) -> None:
        """Refuse what Shampoo cannot use; see the class for the limits."""
        super().check(group)
        limits.check_betas(group["betas"], sums=True)
        limits.at_least_zero("epsilon value", group["eps"])
        limits.at_least_zero("grafting epsilon", group["grafting_eps"])
        limits.below_one("momentum value", group["momentum"])
        limits.below_one("grafting beta", group["grafting_beta"])
        limits.check_nesterov(group)
        limits.positive_integer("max_dim", group["max_dim"])
        limits.positive_integer("refresh", group["refresh"])
        if group["power"] is not None:
            limits.positive_integer("power", group["power"])
        limits.one_of("root", group["root"], ROOT_METHODS)
        limits.one_of("vectors", group["vectors"], ("full", "diagonal"))
        limits.one_of("grafting", group["grafting"], roots.GRAFTING)
        limits.one_of("factors", group["factors"], roots.FACTORS)
        limits.one_of("sides", group["sides"], roots.SIDES)
        if group["factors"] == "kl" and group["power"] not in (None, 2):
            raise ValueError(
                f"Invalid power: {group['power']}; with factors='kl' the exponents "
                "are -1/2, power=2 or None"
            )

    def state_of(self, p: Tensor, group: Group) -> State:
        """As in the base; averages may start later, and roots come and go."""
        state = super().state_of(p, group)
        order = max(p.ndim + p.is_complex(), 1)

        def root(factor: Tensor) -> Tensor:
            return roots.inverted(factor[None], float(state["step"]), order, group)[0]

        roots.follow_roots(p, state, group, self.rule.new_state, root)
        return state
