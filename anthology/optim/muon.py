"""Muon: steepest descent in the spectral norm, and AdamW for what is no matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.cost.flops import polar_factor
from anthology.cost.work import Cost, Seen, Work
from anthology.linalg.polar import check_method, check_normalizers

from .adam import AdamW
from .core.base import BaseOptimizer, Params, hyperparameters
from .core.batch import Batch
from .core.card import Card, SilentPenalty
from .core.limits import at_least_zero, below_one, check_betas, one_of, renamed
from .core.names import without_names
from .core.rule import Group, Rule
from .core.state import State, States, Tensors
from .parts.matrix.orthogonal import (
    ENTRY,
    KERNELS,
    PRODUCTS,
    SIDES,
    check_scale,
    descend_along,
    dtype_name,
    must_view,
    orthogonal,
    rows_of,
    view_of,
)
from .parts.matrix.routing import (
    ADAMW,
    MUON,
    RATE,
    adopt,
    check_routes,
    divided,
    for_torch,
    in_words,
    rates_settled,
    reference,
    rule_for,
    seen_by,
)
from .parts.param_norm import spec
from .parts.surfaces import (
    RADIUS,
    check_muon_surface,
    matrices_of,
    muon_along,
    must_have_place,
    no_radii,
    radii_made,
)

# Numbers whose matrices become batches; while one is computed it takes six times that.
CPU_TOGETHER = 2**19
DEVICE_TOGETHER = 2**26


def _momentum(param: Tensor, group: Group) -> State:
    """Zeros for ``momentum_buffer`` and for what is averaged of rows; the radius."""
    rows, radius = rows_of(param, group), no_radii(param, matrices_of, group)
    return {"momentum_buffer": torch.zeros_like(param), **rows, **radius}


def _room(grad: Tensor, group: Group) -> float:
    """Room for a difference of gradients, or for ‖U‖_*."""
    room = grad.numel() if group["step_rule"] == "steepest" else 1
    return torch.finfo(grad.dtype).max / (2 * room)


def _kept(group: Group) -> tuple[str, ...]:
    """An average of rows and the radius, where there are such."""
    rows = () if group["row_beta"] is None else (ENTRY,)
    return rows if group.get("constrain") is None else (*rows, RADIUS)


def _muon(param: Tensor, grad: Tensor, state: State, step: Any, group: Group) -> None:
    """One tensor; the definition."""
    lr, beta, m = group["lr"], group["momentum"], state["momentum_buffer"]
    m.lerp_(grad, 1 - beta)
    u = grad.lerp(m, beta) if group["nesterov"] else m
    if group.get("constrain") is not None:
        return muon_along(param, u, state, group)
    t = orthogonal(u, group, state.get(ENTRY))
    param.mul_(1 - lr * group["weight_decay"])
    param.sub_(t * lr)


def _muon_lists(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Lists of tensors; matrices of equal shape are orthogonalised together."""
    if group.get("constrain") is not None:
        for args in zip(params, grads, states, steps, strict=True):
            _muon(*args, group)
        return
    lr, beta = group["lr"], group["momentum"]
    m = [state["momentum_buffer"] for state in states]
    torch._foreach_lerp_(m, grads, 1 - beta)
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
    rows = None if group["row_beta"] is None else [state[ENTRY] for state in states]
    if group["nesterov"]:
        descend_along(params, grads, m, group, rows)
    else:
        descend_along(params, m, None, group, rows)


@Cost
def _muon_cost(s: Seen) -> Work:
    group = s.group
    if group.get("rule") == "adamw":
        return Work(2 * s.numbers)
    view = view_of({"kernel": "flatten", **group})
    shape = s.shape[:-1] if group.get("complex") else s.shape
    method, steps = group.get("method", "muon"), group["ns_steps"]
    # torch.optim.Muon has no such key and multiplies in bfloat16
    dtype = group.get("ns_dtype", "bfloat16")
    low = dtype in ("bfloat16", "float16")
    work = 0.0
    for matrices in view(torch.empty(shape, device="meta"))[0]:
        *many, rows, columns = matrices.shape
        one = polar_factor(rows, columns, method, steps, low, s.symmetric)
        work += math.prod(many) * one
    lengths = math.prod(s.kept.get("row_avg_sq", (0,)))
    return Work(s.numbers + lengths, flops=work, products=dtype)


class Muon(BaseOptimizer):
    r"""Orthogonalised momentum for matrices, AdamW for all other parameters.

    With m the average of the gradients G of a weight of shape (d_out, d_in),

    .. math::

       M \leftarrow \beta M + (1-\beta) G,\quad
       U = \beta M + (1-\beta) G \text{ (Nesterov) or } M,\quad
       \Delta W = -\eta\,s\,\operatorname{polar}(U)

    Without averages one step solves :math:`\min\langle G,\Delta W\rangle` over
    spectral norm at most :math:`\eta s`; s = s(d_out, d_in) is a convention, see
    `convert_lr`.

    Parameters
    ----------
    params : iterable
        Parameters of any shape, named parameters, or groups such as those of
        ``metrize(model)``. Each tensor gets a rule (see Notes); ``print(optimizer)``
        shows which, and a group may decide with ``rule="muon"`` or ``"adamw"``.
    lr : float or Tensor
        η of the matrices: a step has the spectral norm ηs. Default 1e-3. A schedule
        writes here, and the rate of AdamW follows.
        Rate to try first: 0.01; with ``metrize`` 0.01.
    weight_decay : float
        κ of w ← (1−ηκ)w, before the step, with the η of either rule. Default 0.1.
    momentum : float
        β in [0, 1). Default 0.95.
    nesterov : bool
        Orthogonalise βM + (1−β)G, not M. Default True.
    ns_steps : int, optional
        Number of polynomials; None is the default of the method (5 for "muon"). Four
        of "polar-express" cost less and descend more steeply than those.
    method, normalize, renormalize : str
        How the polar factor is found, what is done to U before and to the result
        after, as for ``anthology.linalg.polar``. Default "muon", "frobenius", None.
        Any ``normalize`` that scales rows moves the target to the polar factor of
        DU, D > 0 diagonal.
    step : str
        "dualize" (default) or "steepest": times ⟨U, X⟩, X being the factor found, so
        about ‖U‖_*, for each matrix alone (PolarGrad).
    row_beta : float, optional
        β₂ in [0, 1) of v ← β₂v + (1−β₂)·mean X², one number a row; X/(√v + 1e-10)
        takes the place of X, at its Frobenius norm (NorMuon: 0.95). Default None.
    row_side : str
        "out" (default): a row an output; "longer": an input where there are more.
    adjust_lr_fn : str or float, optional
        s by name, the names of `convert_lr`, or a number r for s = r√max(d_out, d_in).
        Default "original"; None is the same.
    ns_dtype : str or torch.dtype, optional
        Precision of the products of an iterative method, "bfloat16" in the published
        code. Default None: that of the parameter, float32 at least.
    kernel : str
        How weights with more than two axes become matrices: "flatten" (default) is
        out × (in · space), "positions" one matrix a kernel position, its step
        divided by their number, "stack" the last two axes of each, as always for
        the role "stack".
    adamw_lr : float or Tensor
        η of the tensors with the rule "adamw", as long as ``lr`` is the one given
        with it; when that changes the two keep their ratio. Default 3e-3 (measured;
        published 3e-4).
    adamw_betas, adamw_eps
        β₁, β₂ and ε of that rule, as for `AdamW`. Default (0.9, 0.95) and 1e-10.
    decay, foreach, maximize, capturable, differentiable
        See :class:`BaseOptimizer`.

    Raises
    ------
    ValueError
        If a tensor with less than two axes is given the rule "muon"; if a group with
        an ``lr`` of its own holds tensors of both rules and does not say ``adamw_lr``.

    Notes
    -----
    A tensor with less than two axes gets "adamw". So does one whose group has the
    role "embedding", "head", "gain", "bias", "entrywise" or "depthwise", which
    ``metrize`` finds; by shape alone an embedding table is a matrix like any other.
    Groups may carry ``scale``, which divides the step of a matrix, and ``norm``, of
    which only `Split` (fused weights are orthogonalised apart) and `Transpose` count.

    A group stays one, whatever its tensors, and its ``lr`` is that of the matrices.
    AdamW steps at ``adamw_lr * lr / adamw_at``, where ``adamw_at`` is the lr that came
    with ``adamw_lr`` (1e-3 for 0, which has no ratio): so a schedule moves both,
    whether it multiplies (``LambdaLR``) or writes (``OneCycleLR``); `rates` has both
    as they are, for a log. In a group of AdamW's tensors alone an ``lr`` without
    ``adamw_lr`` is their rate.

    Stages, each an option, in their order: ``normalize`` → ``method`` → ``renormalize``
    → ``row_beta``. Each keeps descent, ⟨U, ΔW⟩ < 0 for U ≠ 0, as long as the polynomials
    are positive, and together they do where they scale the same side: rows before and
    columns after (``row_side="longer"`` of a wide weight) may climb. The bound ηs on
    the spectral norm is kept by the first two, up to the error of the polynomials; the
    others keep the Frobenius norm of a semi-orthogonal matrix, and with ``row_beta``
    the spectral norm may be up to √min(d_out, d_in) times ηs.

    With "match_rms_adamw" a step has about the size of AdamW's, whose η and κ then
    serve both rules; with "rms_to_rms" η is meant to carry over from one width to
    another. `convert_lr` makes η of one convention that of another.

    The polar factor ignores the size of its argument, so M ← βM + G with U = G + βM,
    as Muon is often written, gives the same steps; there is no ε, and zero gives zero.
    Checkpoints load from ``torch.optim.Muon`` and, with equal options, into it.

    Source: Jordan et al. 2024, Muon (published code); Bernstein & Newhouse 2024,
    Prop. 5. AdamW: Loshchilov & Hutter 2019.

    Examples
    --------
    >>> import torch
    >>> from anthology.norms import metrize
    >>> from anthology.optim import Muon
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> optimizer = Muon(metrize(model), lr=0.02)
    >>> print(optimizer)
    0.weight  8×4  muon   lr 0.02   UVᵀ × 1.414
    0.bias    8    adamw  lr 0.003
    1.bias    2    adamw  lr 0.003
    1.weight  2×8  adamw  lr 0.003
    """

    # the counter of matrices is not used
    rule = Rule(_muon, _muon_lists, _momentum, _room, _kept, ("step", ENTRY, RADIUS))

    card = Card(
        answer="averages the gradients of a matrix and brings all their singular values "
        "near one, by a few products: Shampoo's steepest step without its roots.",
        update=r"$\Delta W=-\eta s\operatorname{polar}(\beta M+(1-\beta)G)$",
        problem=r"$\min_{\Delta W}\langle G,\Delta W\rangle$ over "
        r"$\sigma_{\max}(\Delta W)\le\eta s$",
        norm=r"spectral; $\ell_\infty$ for what is no matrix",
        average="gradient, with Nesterov's look-ahead",
        state="1 (2 for what is no matrix)",
        source="Jordan et al. 2024, code; Bernstein & Newhouse 2024, Prop. 5",
    )
    cost = _muon_cost
    silent = (SilentPenalty(r"$\sum_l\sum_i\sigma_i(\nabla_lf)$", r"1+2\tau", 37.1),)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = RATE,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int | None = None,
        *,
        decay: str = "plain",
        method: str = "muon",
        normalize: str = "frobenius",
        renormalize: str | None = None,
        step: str = "dualize",
        row_beta: float | None = None,
        row_side: str = "out",
        adjust_lr_fn: str | float | None = "original",
        ns_dtype: str | torch.dtype | None = None,
        kernel: str = "flatten",
        adamw_lr: float | Tensor = 3e-3,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-10,
        constrain: str | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = hyperparameters(locals())
        defaults["ns_dtype"] = dtype_name(ns_dtype)
        defaults["step_rule"] = defaults.pop("step")
        defaults["adamw_at"] = reference(lr)
        super().__init__(params, defaults)

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse what Muon cannot use; see the class for the limits."""
        super().check(group)
        check_routes(group)
        below_one("momentum value", group["momentum"])
        if group["adjust_lr_fn"] is not None:
            check_scale("adjust_lr_fn", group["adjust_lr_fn"])
        one_of("kernel", group["kernel"], KERNELS)
        one_of("step", group["step_rule"], ("dualize", "steepest"))
        one_of("row_side", group["row_side"], SIDES)
        if group["row_beta"] is not None:
            below_one("row_beta value", group["row_beta"])
        check_method(group["method"], group["ns_steps"])
        check_normalizers(group["normalize"], group["renormalize"])
        if group["ns_dtype"] is not None:
            one_of("ns_dtype", dtype_name(group["ns_dtype"]), PRODUCTS)
            if group["method"] in ("svd", "eigh", "gram"):
                raise ValueError(
                    "ns_dtype is for the products of an iterative method, not for "
                    f"{group['method']!r}"
                )
        at_least_zero("epsilon value", group["adamw_eps"])
        check_betas(group["adamw_betas"])
        check_muon_surface(group)

    def __str__(self) -> str:
        return in_words(self.param_groups)

    def rule_of(self, group: Mapping[str, Any]) -> Rule:
        """That of AdamW for tensors that are no matrices."""
        return AdamW.rule if group["rule"] == ADAMW else self.rule

    def together(self, group: Mapping[str, Any]) -> int:
        """Matrices of equal shape want to be one batch, as far as memory allows."""
        if group["rule"] == ADAMW:
            return super().together(group)
        return CPU_TOGETHER if group["params"][0].is_cpu else DEVICE_TOGETHER

    def apply(self, batches: list[Batch]) -> None:
        """As in the base; the rule must know which pairs are complex numbers."""
        for batch in batches:
            batch.group = {**batch.group, "complex": batch.is_complex}
        super().apply(batches)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group."""
        if isinstance(param_group, dict):
            param_group = renamed(param_group)
            self.check({**self.defaults, **param_group})
            param_group = rates_settled(param_group)
            if "norm" in param_group:
                param_group["norm"] = spec(param_group["norm"])
                tensors = without_names(param_group["params"])
                matrices = [p for p in tensors if rule_for(p, param_group) == MUON]
                must_view({**param_group, "params": matrices})
            group = {**self.defaults, **param_group}
            if group["constrain"] is not None:
                group["params"] = params = without_names(param_group["params"])
                matrices = [p for p in params if rule_for(p, group) == MUON]
                must_have_place(matrices, matrices_of, group)
        super().add_param_group(param_group)

    def state_made(
        self, p: Tensor, state: State, missing: set[str], group: Group
    ) -> None:
        """As in the base; a new radius is that of the weight as it is."""
        radii_made(p, state, missing, matrices_of, group)

    @property
    def arguments(self) -> dict[str, Any]:
        """The defaults under the names that the constructor has for them."""
        return {**self.defaults, "step": self.defaults["step_rule"]}

    def state_dict(self) -> dict[str, Any]:
        """As in the base; groups that ``torch.optim.Muon`` can step hold its names."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            group.update(for_torch(group))
        return saved

    def adopted(
        self, group: dict[str, Any], own: Group, states: list[Group]
    ) -> dict[str, Any]:
        """A group of a checkpoint, which may be PyTorch's."""
        return adopt(group, own, states)

    @property
    def rates(self) -> list[dict[str, float | Tensor]]:
        """The learning rates as they are now."""
        groups = [divided(group) for group in self.param_groups]
        return [{part["rule"]: part["lr"] for part in parts} for parts in groups]

    def group_of(self, p: Tensor, group: Group) -> Group:
        """With the rule of that tensor, its rate as ``lr``, and if it is complex."""
        seen = seen_by(rule_for(p, group), group)
        return {**seen, "complex": p.is_complex()}

    @property
    def rule_groups(self) -> list[dict[str, Any]]:
        """Each group in tensors for Muon and tensors for AdamW."""
        return [part for group in self.param_groups for part in divided(group)]
