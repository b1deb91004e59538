"""SOAP: Adam in the slowly turning eigenbasis of Shampoo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.cost.flops import QR, by_axes
from anthology.cost.work import Cost, Seen, Work, keeping

from .core import limits
from .core.base import BaseOptimizer, Params, hyperparameters
from .core.card import Card, SilentPenalty
from .core.rule import Group
from .core.state import State, States, Tensors, real
from .parts.kronecker import basis
from .parts.kronecker.roots import FACTORS
from .parts.kronecker.stacks import as_numbers, axes_of, in_stacks, rule_of_lists


def _soap_state(param: Tensor, group: Group) -> State:
    """Zeros: both averages, and a Gram matrix and a basis for each rotated axis."""
    axes = axes_of(param.shape, group)
    state = {
        n: torch.zeros_like(param)
        for n in (basis.average_of(axes, group), "exp_avg_sq")
    }
    for axis in axes:
        for name in ("gram", "basis"):
            state[f"{name}_{axis}"] = param.new_zeros(param.shape[axis : axis + 1] * 2)
    return state


def _soap_limit(grad: Tensor, group: Group) -> float:
    """Room for the squared length of the whole gradient."""
    return math.sqrt(torch.finfo(grad.dtype).max / (4 * max(grad.numel(), 1)))


def _soap(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Lists of tensors; those of equal shape and age go through as one stack."""
    moves = in_stacks(basis.adam_in_basis, [grads], states, as_numbers(steps), group)
    moved = [i for i, move in enumerate(moves) if move is not None]
    if moved:
        params = [params[i] for i in moved]
        torch._foreach_sub_(params, [moves[i] for i in moved])
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


@Cost
def _soap_cost(s: Seen) -> Work:
    axes = [shape[0] for shape in s.named("gram_")]
    every, square = s.group["refresh"], sum(d * d for d in axes)
    # m is kept in the old basis and turned when that turns, or turned at every step
    coupled = s.group["factors"] == "kl"  # L in its basis, and G by all but one
    turns = min(3.0, 2.0 + 2.0 / every) + coupled * (len(axes) - 1)
    cubic = (2 + QR) / every + 2 * coupled
    work = by_axes(s.numbers, axes, turns, cubic, s.symmetric)
    return keeping((2 * s.numbers + square, 2), (square, 1 + 1 / every), flops=work)


class SOAP(BaseOptimizer):
    r"""Adam run in the eigenbasis of averaged Gram matrices.

    Without averages (``betas=(0, 0)``, ``basis_eps=0``, ε → 0) the first step of a
    matrix is :math:`\Delta W = -\eta\,UV^\top`, the steepest unit step under
    the spectral norm: in the basis of its own singular vectors the gradient is
    diagonal, and Adam makes every entry of the diagonal one. With
    :math:`G_{(i)}` the matrix of G along axis i, :math:`L_i` its averaged Gram matrix
    and :math:`Q_i` an orthogonal basis near its eigenvectors:

    .. math::

       m \leftarrow \beta_1 m + (1-\beta_1) G,\quad
       v \leftarrow \beta_2 v + (1-\beta_2) (G \times_i Q_i^\top)^2,\quad
       \Delta W = -\eta\,c_t\,\Bigl(
       \frac{m \times_i Q_i^\top}{\sqrt v + \varepsilon}\Bigr) \times_i Q_i

    with :math:`c_t = \sqrt{1-\beta_2^t}/(1-\beta_1^t)`, all axes i at once; then
    :math:`W \leftarrow (1-\eta\kappa) W` and
    :math:`L_i \leftarrow \beta L_i + (1-\beta)\,G_{(i)}G_{(i)}^\top`.

    Parameters
    ----------
    lr : float or Tensor
        Step size η, in the units of the weights: about what an entry moves in the
        eigenbasis. Default 3e-3.
        Rate to try first: 0.01; ``metrize`` changes nothing.
    betas : tuple of float
        β₁, β₂ in [0, 1). Default (0.95, 0.95).
    eps : float
        ε, outside the root, a share of the tensor's largest √v. Default 0.03.
    weight_decay : float
        κ, decoupled, after the step. Default 1e-2.
    gram_beta : float, optional
        β in [0, 1) of the Gram matrices; None is β₂.
    refresh : int
        T: the bases take one step towards the eigenvectors at every T-th step (the
        published ``precondition_frequency``). Default 10.
    max_dim : int
        Axes longer than this keep their own basis, Q = I. Default 1024 (published:
        10000, whose two matrices are 800 MB).
    vectors : str
        Basis of tensors with one axis: "diagonal" (default), their own, which is
        Adam; or "full".
    relative_eps : bool
        Default True; False: ε in the units of the gradient (published, 1e-8).
    basis_eps : float
        ρ ≥ 0, a share of the largest entry of :math:`L_i`: the first basis is that of
        :math:`L_i` plus a diagonal that falls from ρ to zero, and a refresh multiplies
        by :math:`L_i + ρI`, so it turns slowly where eigenvalues are below ρ. Default
        0.1; 0 is as published.
    skip_first : bool
        The first gradient of a tensor only sets its bases. Default True, as published,
        and told in ``warmup_steps``; False also moves, and averages from there.
    factors : str
        What is averaged: "sum" (default): :math:`G_{(i)}G_{(i)}^\top`; "kl":
        :math:`G_{(i)}S^{-1}G_{(i)}^\top/d` with S the averages of all other axes that
        have one, in their bases and before the step, plus ρ times their largest
        eigenvalue, and d the lengths of the others multiplied.
    params, decay, foreach, maximize, capturable, differentiable
        See :class:`BaseOptimizer`. Autograd takes the bases for constants; on CUDA reading
        the counters and the first basis wait for the device.

    Notes
    -----
    A refresh is one power step and a QR decomposition, with the columns in falling
    order of :math:`q^\top L q`; v follows that order but is not rotated. The basis of a
    step is that of the gradients before (save for a first step that moves). Where
    gradients leave a direction out, or do not tell two apart, rounding chooses, and
    Adam with a tiny ε makes whole steps of it: one batch, and the same in two halves,
    lead up to 50 η apart in ten steps as published, and 0.2 η with the defaults here
    (``experiments/rounding.py``). A scalar or a vector is treated by Adam with ε outside
    the correction. A complex tensor has its pairs (real, imaginary) as one more axis. A
    gradient whose Gram matrix is not finite skips its tensor.

    Source: Vyas et al. 2024 (arXiv 2409.11321), Algorithms 3 and 4, and published
    code; the limit, Bernstein & Newhouse 2024, eqs. 12-16; KL averages, Lin et al.
    2025 (arXiv 2509.03378), who average the eigenvalues, each in the basis of its time.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import SOAP
    >>> w = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    >>> w.grad = torch.tensor([[0.0, 3.0], [4.0, 0.0]], dtype=torch.float64)
    >>> off = {"betas": (0.0, 0.0), "eps": 1e-8, "basis_eps": 0.0}
    >>> SOAP([w], lr=1.0, weight_decay=0.0, skip_first=False, **off).step()
    >>> [[abs(round(x, 6)) for x in row] for row in w.tolist()]
    [[0.0, 1.0], [1.0, 0.0]]
    """

    rule = rule_of_lists(_soap, _soap_state, _soap_limit)

    card = Card(
        answer="runs Adam in the directions that Shampoo finds; without memory its "
        "step is Shampoo's, which stretches every direction equally.",
        update=r"$\Delta W=-\eta\,Q_L\,\mathrm{Adam}(Q_L^\top GQ_R)\,Q_R^\top$",
        problem=r"$\min_{\Delta W} \langle G, \Delta W\rangle$ over "
        r"$\lVert\Delta W\rVert_{2\to2} \le \eta$",
        norm="spectral (largest singular value)",
        average="gradient; its square in the eigenbasis; its Gram matrix along each "
        "axis",
        state=r"$2 + 2\,(d_\mathrm{out}/d_\mathrm{in} + "
        r"d_\mathrm{in}/d_\mathrm{out})$",
        source="Vyas et al. 2024 (2409.11321), Alg. 3-4, published code",
    )
    cost = _soap_cost
    silent = (
        SilentPenalty(
            r"$\sum_l\sum_i\sigma_i(\nabla_lf)$, where it grows",
            r"2(\tau_1-\tau_2)",
            0.0,
            ask="growth",
        ),
        SilentPenalty("rewards turns: its basis is older than its averages"),
    )
    before = (("basis_eps", 0.0), ("factors", "sum"))

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 0.03,
        weight_decay: float = 1e-2,
        gram_beta: float | None = None,
        refresh: int = 10,
        max_dim: int = 1024,
        vectors: str = "diagonal",
        relative_eps: bool = True,
        basis_eps: float = 0.1,
        skip_first: bool = True,
        factors: str = "sum",
        *,
        decay: str = "plain",
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, hyperparameters(locals()))

    def check(self, group: Group) -> None:
        """Refuse what SOAP cannot use; see the class for the limits."""
        super().check(group)
        limits.check_betas(group["betas"])
        limits.at_least_zero("epsilon value", group["eps"])
        limits.at_least_zero("basis_eps value", group["basis_eps"])
        if group["gram_beta"] is not None:
            limits.below_one("gram_beta value", group["gram_beta"])
        limits.positive_integer("refresh", group["refresh"])
        limits.positive_integer("max_dim", group["max_dim"])
        limits.one_of("vectors", group["vectors"], ("full", "diagonal"))
        limits.one_of("factors", group["factors"], FACTORS)

    @property
    def warmup_steps(self) -> int:
        """1 where ``skip_first`` is on, which is the default; else 0."""
        return int(any(group["skip_first"] for group in self.param_groups))

    def state_of(self, p: Tensor, group: Group) -> State:
        """As in the base; turns an average that was not kept as it is now."""
        state = super().state_of(p, group)
        name = basis.average_of(axes_of(real(p).shape, group), group)
        kept = "exp_avg" if "exp_avg" in state else basis.ROTATED
        if kept == name:
            state.pop(basis.ROTATED if name == "exp_avg" else "exp_avg", None)
            return state
        with torch.no_grad():
            back = name == "exp_avg"
            state[name] = basis.turned_entry(state.pop(kept), state, back=back)
        return state

    def awaited(self, fresh: State, saved: Mapping[str, Any]) -> State:
        """As in the base; an average kept in the other basis is turned at a step."""
        swap = {"exp_avg": basis.ROTATED, basis.ROTATED: "exp_avg"}
        other = {a: b for a, b in swap.items() if a not in saved and b in saved}
        return {other.get(name, name): x for name, x in fresh.items()}
