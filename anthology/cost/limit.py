"""The least time in which a machine can take one step of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .rates import Rates, device_rates
from .table import line_for
from .work import Shapes, Subject

Maker = Callable[[list[Tensor]], torch.optim.Optimizer]
COUNTERS = ("step", "skipped", "started", "d", "d_max", "numerator")


@dataclass(frozen=True)
class Limit:
    """What one step costs at least.

    Attributes
    ----------
    seconds : float
        The larger of bytes over bandwidth and operations over rate; both can overlap.
    bytes : float
        Moved between the memory and the processor: each gradient read, each
        parameter read and written, and what the rule needs of the state.
    flops : float
        Operations of matrix products and decompositions.
    state_bytes : float
        What the rule must keep between two steps.
    parameters : int
        How many numbers move.
    bandwidth : float
        Bytes a second, as measured for a working set of this size.
    matrix_seconds : float
        The operations' share: the sum of operations over rate, by dtype.
    """

    seconds: float
    bytes: float
    flops: float
    state_bytes: float
    parameters: int
    bandwidth: float
    matrix_seconds: float

    @property
    def state_per_parameter(self) -> float:
        """Bytes of state for each number that moves; 0 without any."""
        return self.state_bytes / self.parameters if self.parameters else 0.0

    @property
    def bound_by(self) -> str:
        """``"memory"`` or ``"products"``, whichever takes longer."""
        moving = self.bytes / self.bandwidth
        return "memory" if moving >= self.matrix_seconds else "products"


@dataclass
class _Sum:
    """Running totals over the parameters."""

    bytes: float = 0.0
    resident: float = 0.0
    state: float = 0.0
    numbers: int = 0
    flops: dict[str, float] = field(default_factory=dict)


def limit(
    optimizer: torch.optim.Optimizer | Maker,
    model_or_params: torch.nn.Module | Iterable[Tensor] | None = None,
    device: torch.device | str | None = None,
    rates: Rates | None = None,
    *,
    symmetric: bool = True,
) -> Limit:
    """The least time, traffic, work and state of one step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer or callable
        One of this package, or ``SGD``, ``Adam``, ``AdamW`` or ``Muon`` of
        ``torch.optim``; or what makes one from a list of parameters, such as the
        class: then nothing of the size of the model is allocated.
    model_or_params : Module or iterable of Tensor, optional
        Whose parameters move, all those that require a gradient. Default None: all
        of the optimizer's, which must be an instance then.
    device : torch.device or str, optional
        Whose rates count. Default None: that of the parameters.
    rates : Rates, optional
        Rates to count with. Default None: those that `device_rates` measures, once a
        process, in a few seconds.
    symmetric : bool
        Whether a product with a symmetric result counts half, as it does for a
        kernel that computes one triangle. Default True.

    Returns
    -------
    Limit
        Zeros without parameters.

    Raises
    ------
    TypeError
        If the optimizer is unknown, or parameters are missing.
    ValueError
        If a parameter is not one of the optimizer's.

    Notes
    -----
    Bytes are those of a step that holds everything but parameters, gradients and
    state in the processor, so no implementation can move fewer: 20 for each
    single-precision parameter of SGD with momentum, 28 of AdamW, 48 of Prodigy (20
    to find the distance, 28 to step). The reading that finds gradients that are not
    finite is not part of it. Matrix products: Muon's five quintics on m × n, m ≤ n,
    take 5(3m²n + m³) in half precision and 3m²n + 17m³, by the Gram form, in single.
    Decompositions count as if they ran at the rate of products, which they do not.

    Examples
    --------
    >>> import torch
    >>> from anthology.cost import Rates, limit
    >>> from anthology.optim import AdamW
    >>> rates = Rates(((2**40, 1e9),), {"float32": 1e12})
    >>> found = limit(AdamW, torch.nn.Linear(1000, 1000, bias=False), rates=rates)
    >>> found.bytes, found.state_per_parameter, found.seconds
    (28000000.0, 8.0, 0.028)
    """
    held, params = _resolve(optimizer, model_or_params)
    if rates is None:
        first = device or (params[0].device if params else "cpu")
        rates = device_rates("cpu" if str(first) == "meta" else first)
    total = _Sum()
    line = line_for(held)
    wanted = None if model_or_params is None else {id(p) for p in params}
    for group in held.param_groups:
        for p in group["params"]:
            if (
                wanted is None
                or id(p) in wanted
                or not isinstance(optimizer, torch.optim.Optimizer)
            ):
                _add(total, _subject(held, p, group, symmetric), p, line)
    bandwidth = rates.bandwidth(total.resident)
    products = sum(flops / rates.rate(name) for name, flops in total.flops.items())
    return Limit(
        seconds=max(total.bytes / bandwidth, products),
        bytes=total.bytes,
        flops=sum(total.flops.values()),
        state_bytes=total.state,
        parameters=total.numbers,
        bandwidth=bandwidth,
        matrix_seconds=products,
    )


def _resolve(
    optimizer: torch.optim.Optimizer | Maker,
    model_or_params: torch.nn.Module | Iterable[Tensor] | None,
) -> tuple[torch.optim.Optimizer, list[Tensor]]:
    """The optimizer, and the parameters that count."""
    if isinstance(model_or_params, torch.nn.Module):
        model_or_params = model_or_params.parameters()
    chosen = [p for p in model_or_params or () if p.requires_grad]
    if isinstance(optimizer, torch.optim.Optimizer):
        own = [p for group in optimizer.param_groups for p in group["params"]]
        missing = {id(p) for p in chosen} - {id(p) for p in own}
        if missing:
            raise ValueError(
                f"{len(missing)} of the parameters are not the optimizer's; leave "
                "them out, or give the optimizer's class to count them with it"
            )
        return optimizer, own if model_or_params is None else chosen
    if model_or_params is None:
        raise TypeError("a class has no parameters: limit(AdamW, model)")
    meta = [
        torch.empty_like(p, device="meta").requires_grad_(p.requires_grad)
        for p in chosen
    ]
    return optimizer(meta or [torch.empty(0, device="meta")]), chosen


def _subject(
    optimizer: torch.optim.Optimizer,
    p: Tensor,
    group: Mapping[str, Any],
    symmetric: bool,
) -> Subject:
    """A parameter as its rule sees it."""
    wide = torch.promote_types(p.dtype, torch.float32)
    seen = torch.empty(p.shape, dtype=wide, device="meta")
    seen = torch.view_as_real(seen) if seen.is_complex() else seen
    group_of = getattr(optimizer, "group_of", lambda p, group: group)
    group = {**group_of(p, group), "complex": p.is_complex()}
    kept: Shapes = {}
    new_state = getattr(optimizer, "new_state", None)
    if callable(new_state):
        with torch.no_grad():
            found = new_state(seen, group).items()
        kept = {k: tuple(x.shape) for k, x in found if k not in COUNTERS}
    return Subject(tuple(seen.shape), seen.dtype, group, kept, symmetric)


def _add(total: _Sum, subject: Subject, p: Tensor, line: Any) -> None:
    """Count one parameter."""
    n = subject.numbers
    if not n:
        return
    work = line(subject)
    narrow = p.dtype.itemsize // (2 if p.is_complex() else 1)
    wide = subject.dtype.itemsize
    moved = 2 * work.state if work.state_moved is None else work.state_moved
    total.bytes += n * narrow * (work.grad_reads + work.param_moves) + moved * wide
    total.resident += 2 * n * narrow + work.state * wide
    total.state += work.state * wide
    total.numbers += p.numel()
    name = str(work.products or subject.dtype).removeprefix("torch.")
    if work.flops:
        total.flops[name] = total.flops.get(name, 0.0) + work.flops
