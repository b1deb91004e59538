"""Prodigy: sign descent that learns how far it may go, with averages put back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.cost.work import Cost, Seen, Work, keeping

from .core.base import Params, hyperparameters
from .core.batch import Batch
from .core.card import Card, SilentPenalty
from .core.limits import at_least_zero, check_betas
from .core.rule import Group, Rule, coupled
from .core.state import State
from .parts.arithmetic import add_scaled, mapped, on_cpu, one_norms, scale
from .parts.prodigy.distance import _DistanceEstimate, estimate_entries, estimate_state
from .parts.prodigy.passes import two_passes
from .parts.prodigy.totals import counted, factor, top_rate
from .parts.prodigy.update import corrected, move


def _averages_and_estimate(param: Tensor, group: Group) -> State:
    """As for the estimate, and ``exp_avg_sq`` and, if β₁ > 0, ``exp_avg``."""
    names = ["exp_avg_sq"] + ["exp_avg"] * (group["betas"][0] > 0)
    averages = {name: torch.zeros_like(param) for name in names}
    return {**averages, **estimate_state(param, group)}


def _room(grad: Tensor, group: Group) -> float:
    """Room for the square of dg, for any d up to a million."""
    return 2.0**-20 * math.sqrt(torch.finfo(grad.dtype).max)


@Cost
def _prodigy_cost(s: Seen) -> Work:
    """Pass 1: g, w, w₀, s for the estimate. Pass 2: g, m, v, w for the step."""
    n, thin = s.numbers, math.ceil(s.numbers / s.group["slice_p"])
    beta2, beta3 = s.group["betas"][1], s.group["beta3"]
    remembers = bool(beta2 if beta3 is None else beta3)
    averaged = n * (1 + bool(s.group["betas"][0]))
    moves = {"grad_reads": 1 + thin / n, "param_moves": 2 + thin / n}
    return keeping((averaged, 2), (thin, 1), (thin * remembers, 2), **moves)


class Prodigy(_DistanceEstimate):
    r"""Adam whose step size is an estimate of the distance to the minimum.

    Without averages (``betas=(0, 0)``, ε → 0) it is sign descent, the steepest step
    under :math:`\max_i |\Delta w_i|`, with a step size that finds itself:

    .. math::

       w \leftarrow w - \eta\,\mathrm{sign}(g),\qquad
       \eta \leftarrow \max\Bigl(\eta,
       \frac{\langle g, w_0 - w\rangle}{\|g\|_1}\Bigr)

    where the fraction takes w before the step. The averages put in, with
    :math:`c = d^2\gamma` and γ the learning rate:

    .. math::

       m \leftarrow \beta_1 m + (1-\beta_1)\, d g,\quad
       v \leftarrow \beta_2 v + (1-\beta_2)\, d^2 g^2,\quad
       r \leftarrow \beta_3 r + c \langle g, w_0 - w\rangle,\quad
       s \leftarrow \beta_3 s + c\, g,

       d_+ = \max(d, r/\|s\|_1),\qquad
       \Delta w = -\gamma d\,\frac{m}{\sqrt{v} + d_+\varepsilon},\qquad
       d \leftarrow d_+

    For a convex loss, d never exceeds :math:`\|w_0 - w_*\|_\infty`.

    Parameters
    ----------
    params : iterable
        Parameters of any shape, named parameters, or groups.
    lr : float or Tensor
        γ, a factor without units; what a schedule multiplies. Default 1.
        Rate to try first: 0.1; ``metrize`` changes nothing.
    betas : tuple of float
        β₁, β₂ in [0, 1). Default (0.9, 0.999).
    beta3 : float, optional
        β₃ in [0, 1), the memory of r and s. Default None: √β₂.
    eps : float
        ε, outside the root, in the units of the gradient. Default 1e-8.
    weight_decay : float
        κ of w ← (1−γdκ)w, before the step. Default 0.
    use_bias_correction : bool
        Multiply γ by √(1−β₂ᵗ)/(1−β₁ᵗ), which undoes the first steps' factor
        (1−β₁)/√(1−β₂) = 3.16. Default False.
    safeguard_warmup : bool
        Leave γ out of the weights of s, so that steps of a warm-up count less.
        Default False.
    d0 : float
        d at the start, in the units of the weights. Default 1e-6.
    d_coef : float
        Multiplies r/‖s‖₁. Default 1; 0.5 and 2 are the usual ways to tune.
    growth_rate : float
        Largest factor by which d grows in one step, from its second growth on.
        Default infinity.
    slice_p : int
        Take w₀, r and s from every p-th number of each tensor only. Default 1; at 11
        two of the four numbers kept for each parameter become 2/11.
    per_group : bool
        Give each group a d of its own. Default False: one for all.
    decay, foreach, maximize, capturable, differentiable
        See :class:`BaseOptimizer`.
    fused : bool or str, optional
        Two passes over the memory: "compile" (or True) takes `torch.compile`,
        "triton" the kernels of this package on CUDA. Not for ``slice_p`` above 1.

    Raises
    ------
    ValueError
        If a hyper-parameter is out of range, here or in a group, or if groups that
        share d disagree on ``d0``, ``d_coef`` or ``growth_rate``.
    RuntimeError
        If `fused` is combined with `foreach` or `differentiable`.

    Notes
    -----
    ``optimizer.d`` is the estimate; only reading it waits for the device. w₀ is where
    a parameter stood at its first gradient. Groups may have different rates; r and s
    are weighted with the largest, and a group at rate 0 stays out of them. So does a
    tensor without a gradient or with one that is not finite: the others go on.

    Equal to the authors' ``prodigyopt`` step for step, except that its
    ``betas=(0, β₂)`` puts d₊ where the paper has d. A bfloat16 parameter loses steps
    below 1/500 of its size, and r with them: such models need a larger ``d0``.

    Source: Mishchenko & Defazio 2024, Algorithm 4, in the form of Bernstein &
    Newhouse 2024, eqs. 22-27; without averages, ibid., eqs. 28-29.

    Examples
    --------
    >>> import torch
    >>> w = torch.zeros(2, requires_grad=True)
    >>> optimizer = Prodigy([w])
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     (w - torch.tensor([3.0, -1.0])).square().sum().backward()
    ...     optimizer.step()
    >>> 0.1 < optimizer.d <= 3.0
    True
    >>> bool((w.detach() - torch.tensor([3.0, -1.0])).abs().max() < 0.1)
    True
    """

    rule = Rule(
        coupled,
        new_state=_averages_and_estimate,
        gradient_limit=_room,
        entries=estimate_entries,
        late=("d_max",),
        passes=True,
    )

    card = Card(
        answer="has Adam's ruler and finds its own step length, an estimate of how far "
        "the minimum is.",
        update=r"$\Delta w=-\eta\,d\,m/(\sqrt v+d\varepsilon)$, with $d$ learned",
        problem=r"$\min_{\Delta w} \langle g, \Delta w\rangle$ over "
        r"$\max_i\lvert\Delta w_i\rvert \le d$, with $d$ below "
        r"$\lVert w_0 - w_*\rVert_\infty$",
        norm=r"$\ell_\infty$ (largest entry)",
        average="gradient, its square, and the sums that give $d$",
        state="4 ($2 + 2/p$ with slice_p)",
        source="Mishchenko & Defazio 2024; Bernstein & Newhouse 2024, eqs. 22-29",
    )
    cost = _prodigy_cost
    silent = (
        SilentPenalty(
            r"$\lVert\nabla f\rVert_1$, rounded at ε, with $\eta d$ for $\eta$ once $d$ "
            "stands still",
            r"(1+2\tau_1)$ ${}-(1+2\tau_2)\,\rho",
            19 - 199.0,
            {"d0": 1.0, "betas": (0.9, 0.99)},
            "charge",
            2000,
        ),
    )

    _shelves: dict[Any, Any] | None = None

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        slice_p: int = 1,
        per_group: bool = False,
        *,
        decay: str = "plain",
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | str | None = None,
    ) -> None:
        super().__init__(params, hyperparameters(locals()))

    @property
    def shelves(self) -> dict[Any, Any]:
        """How small tensors are laid end to end; see `Shelf`. Not part of the state."""
        if self._shelves is None:
            self._shelves = {}
        return self._shelves

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse what Prodigy cannot use; see the class for the limits."""
        super().check(group)
        at_least_zero("epsilon value", group["eps"])
        check_betas(group["betas"])

    def needs_whole(self, group: Mapping[str, Any]) -> bool:
        """Only to take every p-th number of a tensor."""
        return bool(group["slice_p"] > 1)

    def apply(self, batches: list[Batch]) -> None:
        """Average, let d grow over all tensors that share it, and move."""
        for scope, ready in self.opened(two_passes(self, batches)):
            d, top = self.current(scope), top_rate(scope)
            parts, products, lengths = [], [], []
            for part in ready:
                r, length = self._observed(part, d, top)
                if r:
                    parts.append(part)
                    products.append(r)
                    lengths.append(length)
            if not parts:
                continue
            self.tell_rates(scope, d)
            new = self.grow(parts, d, *self.jointly(products, lengths))
            for part in parts:
                if isinstance(part, Batch):
                    move(part, factor(d, part), factor(new, part))
                else:
                    part.move(d, new)
        for batch in batches:
            batch.close(self)

    def _observed(
        self, part: Any, d: Tensor, top: Any
    ) -> tuple[list[Tensor], list[Tensor]]:
        if not isinstance(part, Batch):
            both: tuple[list[Tensor], list[Tensor]] = part.observe(d, top)
            return both
        r, length = self._observe(part, factor(d, part), factor(top, part))
        return counted(part, r), counted(part, length)

    def _observe(
        self, batch: Batch, d: Any, top: Any
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Put the gradients into m, v, r and s; return r and ‖s‖₁ of each tensor."""
        group = batch.group
        beta1, beta2 = group["betas"]
        v = [state["exp_avg_sq"] for state in batch.states]
        if beta1:
            m = [state["exp_avg"] for state in batch.states]
            scale(m, beta1)
            add_scaled(m, batch.grads, d * (1 - beta1))
        scale(v, beta2)
        if isinstance(d, float) and 1e-15 < d < 1e15:  # whose square can be trusted
            grads = batch.grads
            torch._foreach_addcmul_(v, grads, grads, (1 - beta2) * d * d)
        else:
            scaled = torch._foreach_mul(batch.grads, d)
            torch._foreach_addcmul_(v, scaled, scaled, 1 - beta2)
        # over d0, which keeps r and s far from underflow while d is small
        unit = (group["lr"] > 0) * d / group["d0"]
        rate = mapped(corrected(batch, d * top), lambda size: unit * size)
        of_grads = unit * d if group["safeguard_warmup"] else rate
        r, s = self.remember(batch, rate, of_grads)
        return r, one_norms(s) if on_cpu(batch) else list(torch._foreach_norm(s, 1))
