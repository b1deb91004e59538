"""SIRFShampoo: Shampoo's Kronecker factors without roots and without inverses."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from anthology.cost.work import Cost, Seen, Work, keeping

from .core import limits
from .core.base import BaseOptimizer, Params, hyperparameters
from .core.batch import Batch
from .core.card import Card, SilentPenalty
from .core.rule import Group
from .core.state import State, States, Tensors
from .parts.arithmetic import descend
from .parts.kronecker import inverse_free as factors
from .parts.kronecker.inverse_free import Structures
from .parts.kronecker.joined import matrix_like, must_pair, pair_batches
from .parts.kronecker.stacks import heavy_ball, in_stacks, rule_of_lists

FACTOR_DTYPES = ("bfloat16", "float32", "float64")
# what a group has beside the hyper-parameters
OF_GROUPS = {"joined": False, "steps_taken": 0}


def _sirf_shampoo_state(param: Tensor, group: Group) -> State:
    """Zeros for momenta, packed identities for factors and products; none for a bias."""
    if group["joined"]:
        if param.ndim < 2:
            return {}
        param = matrix_like(param)
    state = {"momentum_buffer": torch.zeros_like(param)}
    dtype = getattr(torch, group["factor_dtype"] or "", param.dtype)
    like = param.new_empty(0, dtype=dtype)
    kinds = factors.kinds_for(
        factors.squeezed(param.shape), group["structures"], group["max_dim"]
    )
    for n, kind in enumerate(kinds):
        state[f"factor_{n}"] = kind.identity(like)
        state[f"factor_momentum_{n}"] = torch.zeros_like(state[f"factor_{n}"])
        if kind.symmetric and group["refresh"] > 1:
            state[f"product_{n}"] = kind.identity(like)
    return state


def _warn_of_standstill(group: Group) -> None:
    """Whether rounding to bfloat16 undoes the steps of a factor of d rows."""
    rows = [
        d
        for p in group["params"]
        for d in factors.squeezed(p.shape)
        if getattr(torch, group["factor_dtype"] or "", p.dtype) == torch.bfloat16
    ]
    border = math.sqrt(max(rows, default=0)) / 256
    if 0 < float(group["factor_lr"]) <= border:
        warnings.warn(
            f"in bfloat16 a factor of {max(rows)} rows leaves the identity only with "
            f"factor_lr above {border:.3g}, got {group['factor_lr']:g}: smaller steps "
            "are rounded away, which leaves gradient descent. Raise factor_lr, or keep "
            'the factors in factor_dtype="float32"',
            stacklevel=6,
        )


def _sirf_shampoo_limit(grad: Tensor, group: Group) -> float:
    """The largest gradient for which B·g² is finite."""
    return math.sqrt(torch.finfo(grad.dtype).max / group["batch_size"]) / 2


def _sirf_shampoo(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Lists of tensors, those that are alike without axes of one as a stack."""
    seen = [g.reshape(factors.squeezed(g.shape)) for g in grads]
    ages = [0] * len(grads)  # when factors are due is counted for the whole group
    moves = in_stacks(factors.inverse_free, [seen], states, ages, group)
    moves = [u.reshape(g.shape) for u, g in zip(moves, grads, strict=True)]
    if group["weight_decay"]:
        # list operations would save the weights, which are overwritten
        pairs = zip(moves, params, strict=True)
        moves = [u.add(w, alpha=group["weight_decay"]) for u, w in pairs]
    descend(params, heavy_ball(moves, states, group), group["lr"])


# ρ of the silent penalty, σ² = 1, d = 2 and the default damping.
_RHO = 0.5 / 0.501


@Cost
def _sirf_shampoo_cost(s: Seen) -> Work:
    if not s.kept:  # a bias whose weight has the state of both
        return Work(0)
    every, shape = s.group["refresh"], s.kept["momentum_buffer"]
    n, dims = math.prod(shape), [d for d in shape if d != 1]
    free = [math.prod(f) for f in s.named("factor_")]
    kept = bool(s.named("product_")) or every > 1
    # KKᵀ formed once a refresh and kept, or applied in two products at every step
    half = 1 if s.symmetric else 2
    work = 0.0
    for d, size in zip(dims, free, strict=True):
        if size == d:
            continue  # a diagonal multiplies entries
        density = size / d**2
        update = (2 + half) * n * d + (half + 2) * d**3
        twice, once = 4 * n * d, 2 * n * d + half * d**3 / every
        work += density * (update / every + (once if kept else min(twice, once)))
    factors = 2 / every + (0 if kept else (1 - 1 / every) / 2)
    return keeping(
        (n * bool(s.group["momentum"]), 2),
        (2 * sum(free), factors),
        (sum(free) * kept, 1 + 1 / every),
        flops=work,
        products=s.group["factor_dtype"],
    )


class SIRFShampoo(BaseOptimizer):
    r"""Structured, inverse-free and root-free Shampoo.

    One step minimises :math:`\langle G, \Delta W\rangle + \frac{1}{2\eta}
    \langle \Delta W, S_C\,\Delta W S_K\rangle` before momentum, with learned
    :math:`S_C^{-1} = CC^\top`, :math:`S_K^{-1} = KK^\top` that start at the identity.
    For a matrix, with :math:`A = C^\top G K` and Π̂ the projection of the structure:

    .. math::

       m_K &\leftarrow \alpha m_K + \tfrac{1-\alpha}{2}\,\hat\Pi\big[
       \tfrac{B}{d_{out}} A^\top A + \lambda \tfrac{\operatorname{tr} C^\top C}{d_{out}}
       K^\top K - I\big],\\
       K &\leftarrow K - \tfrac{\beta}{\max(1, \lVert m_K\rVert_F)} K m_K,\\
       m &\leftarrow \mu m + CC^\top G KK^\top + \kappa W,\qquad \Delta W = -\eta\, m

    and likewise for C, both from the old factors. A tensor of N axes has N factors.

    Parameters
    ----------
    lr : float or Tensor
        η. A Newton-like step, so 1 is large; default 3e-2 (measured; published 1e-3).
        Rate to try first: 0.03; ``metrize`` changes nothing.
    factor_lr : float
        β in [0, 1), the step size of the factors (``beta2`` of the authors).
        Default 0.01, as published; some hundred steps want more, up to 0.2, since
        steps of a d × d factor are up to √d times shorter.
    momentum : float
        μ in [0, 1) (``alpha1``); heavy ball, not damped by 1 − μ. Default 0.9.
    factor_momentum : float
        α in [0, 1) (``alpha2``), of the factors; an average. Default 0.5.
    damping : float
        λ (``lam``), in the units of B·g²: where gradients vanish, the step is
        amplified up to G/λ, as an ε would. Default 1e-3.
    weight_decay : float
        κ (``kappa``), added to the preconditioned gradient. Default 0.
    refresh : int
        T: the factors are updated in every T-th step, the first included, and kept
        with their products KKᵀ between. Default 1.
    structures : str, sequence of str, or mapping, optional
        A name of `anthology.linalg.structure` for every factor; or one name an axis,
        for tensors with so many axes; or such entries by number of axes, as
        ``{1: "diagonal", 2: ("dense", "lower")}``. What is not said is diagonal for
        one axis, dense otherwise. Default None: nothing is said.
    factor_dtype : str, optional
        ``"bfloat16"``, ``"float32"`` or ``"float64"``, of the factors and of the
        products with them. Default None: that of the other state. In bfloat16 a
        change below 2⁻⁹ of an entry is rounded away: a dense factor of d rows leaves
        the identity only if `factor_lr` exceeds √d/256, 0.0625 for 256 rows and
        0.125 for 1024. Below that it stands still, and a warning is given.
    max_dim : int
        Longer axes have a diagonal factor, whatever `structures` says. Default 1024.
    batch_size : float
        B, how many terms the loss averages; 1 if it sums. Required;
        `count_batch_size` keeps it right where it varies.
    params, decay, foreach, maximize, capturable, differentiable
        See :class:`BaseOptimizer`; a `decay` other than "plain" is decoupled. A captured step
        cannot choose, so it needs ``refresh=1``.

    Notes
    -----
    Weight and bias of a layer have factors apart, as in the authors' package; with
    the groups of `joined` they are one matrix. Axes of size one get no factor. A dense
    factor of d entries keeps 2d² numbers, 8 MB at `max_dim`. The authors' package makes
    all dense, vectors too; with ``structures="dense"`` and a large `max_dim` the steps
    are equal. The pairs of a complex parameter are one more axis. Factors that would
    overflow stay as they were. A gradient that is exactly zero (of a pair, both) is
    treated as None.

    Source: Lin et al. 2024 (arXiv 2402.03496), published code.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import SIRFShampoo
    >>> layer = torch.nn.Linear(3, 2)
    >>> optimizer = SIRFShampoo(layer.parameters(), lr=0.1, batch_size=8)
    >>> layer(torch.ones(8, 3)).square().mean(0).sum().backward()
    >>> optimizer.step()
    >>> [tuple(optimizer.state[layer.weight][f"factor_{n}"].shape) for n in (0, 1)]
    [(4,), (9,)]
    """

    before = (("max_dim", 2**63 - 1),)
    rule = rule_of_lists(
        _sirf_shampoo, _sirf_shampoo_state, _sirf_shampoo_limit, zero_is_none=True
    )

    card = Card(
        answer="is Shampoo without roots and inverses; it learns its ruler's factors.",
        update=r"$\Delta W=-\eta\,m$, with $m\leftarrow\mu m+CC^\top GKK^\top$",
        problem=r"$\min_{\Delta W} \langle G,\Delta W\rangle + "
        r"\tfrac{1}{2\eta}\langle \Delta W, S_C\,\Delta W S_K\rangle$",
        norm=r"$\sqrt{\langle \Delta W, S_C\,\Delta W S_K\rangle}$, learned",
        average="factors on their group, with momentum; heavy ball on the step",
        state="1, and 2 to 3 for each free entry of a factor",
        source="Lin et al. 2024 (2402.03496), published code",
    )
    cost = _sirf_shampoo_cost
    silent = (
        SilentPenalty(
            r"$\tfrac d{2B}\sum_i$ $\log(\tfrac Bd\sigma_i^2+\lambda)$ of square "
            "matrices, where it grows",
            r"(1+2\tau_1)$ $(1-2\rho)$ ${}-4\tau_2\rho",
            19 - 234 * _RHO,
            {"batch_size": 1},
            "growth",
            600,
        ),
        SilentPenalty(
            "the same, where it turns",
            r"1+2\tau_1",
            19.0,
            {"batch_size": 1},
            "turn",
            600,
        ),
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 3e-2,
        factor_lr: float = 0.01,
        momentum: float = 0.9,
        factor_momentum: float = 0.5,
        damping: float = 1e-3,
        weight_decay: float = 0.0,
        refresh: int = 1,
        structures: Structures | None = None,
        factor_dtype: str | None = None,
        max_dim: int = 1024,
        *,
        decay: str = "plain",
        batch_size: float,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, {**hyperparameters(locals()), **OF_GROUPS})

    def check(self, group: Group) -> None:
        """Refuse what the method cannot use; see the class for the limits."""
        super().check(group)
        limits.below_one("factor_lr", group["factor_lr"])
        limits.below_one("momentum value", group["momentum"])
        limits.below_one("factor_momentum value", group["factor_momentum"])
        limits.at_least_zero("damping", group["damping"])
        limits.positive_integer("refresh", group["refresh"])
        limits.positive_integer("max_dim", group["max_dim"])
        if group["refresh"] > 1 and group["capturable"]:
            raise ValueError("capturable=True needs refresh=1: a graph cannot choose")
        if group["factor_dtype"] is not None:
            limits.one_of("factor_dtype", group["factor_dtype"], FACTOR_DTYPES)
        limits.check_terms(group)
        factors.check_structures(group["structures"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in the base; a group with ``joined=True`` must hold pairs.

        Warns where bfloat16 would round away the steps of the factors.
        """
        if isinstance(param_group, dict) and param_group.get("joined"):
            pairs = must_pair(param_group["params"])
            param_group = {**param_group, "params": pairs}
        super().add_param_group(param_group)
        _warn_of_standstill(self.param_groups[-1])

    def apply(self, batches: list[Batch]) -> None:
        """Run the rule; then count the step, by which `refresh` is decided."""
        alone = [batch for batch in batches if not batch.group["joined"]]
        with pair_batches(self) as pairs:
            super().apply(alone + pairs)
        for group in self.param_groups:
            group["steps_taken"] += 1
