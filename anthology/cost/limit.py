"""The least time in which a machine can take one step of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .rates import Rates, device_rates
from .table import cost_of
from .work import Seen

Maker = Callable[[list[Tensor]], torch.optim.Optimizer]
COUNTERS = ("step", "skipped", "started", "d", "d_max", "numerator")


@dataclass(frozen=True)
class Limit:
    """What one step costs at least.

    `seconds` is the larger of bytes over bandwidth and `matrix_seconds`, as both can
    overlap. `bytes` move between memory and processor, `flops` are the operations of
    matrix products and decompositions, `matrix_seconds` their sum over the rates by
    dtype. `state_bytes` is what the rule must keep between two steps, `parameters` how
    many numbers move, and `bandwidth`, in bytes a second, that of a working set of
    this size.
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
        ``torch.optim``, or one with a ``cost``; or what makes one from a list of
        parameters, such as the class: then nothing of the model's size is allocated.
    model_or_params : Module or iterable of Tensor, optional
        Whose parameters move, all those that require a gradient. Default None: all
        of the optimizer's, which must be an instance then.
    device : torch.device or str, optional
        Whose rates count. Default None: that of the parameters.
    rates : Rates, optional
        Default None: those that `device_rates` measures, once a process, in a few
        seconds.
    symmetric : bool
        Whether a product with a symmetric result counts half, as it does for a
        kernel that computes one triangle. Default True.

    Raises
    ------
    TypeError, ValueError
        If the optimizer is unknown, or a parameter is missing or not one of its own.

    Notes
    -----
    No implementation can move fewer bytes, all else held in the processor: 20 for each
    single-precision parameter of SGD with momentum, 28 of AdamW, 48 of Prodigy (20
    to find the distance, 28 to step); without the search for gradients that are not
    finite. Muon's five quintics on m × n, m ≤ n, take 5(3m²n + m³) in half precision
    and 3m²n + 17m³, by the Gram form, in single. Decompositions count as if they ran
    at the rate of products, which they do not.

    Examples
    --------
    >>> from anthology.optim import AdamW
    >>> rates = Rates(((2**40, 1e9),), {"float32": 1e12})
    >>> found = limit(AdamW, torch.nn.Linear(1000, 1000, bias=False), rates=rates)
    >>> found.bytes, found.state_per_parameter, found.seconds
    (28000000.0, 8.0, 0.028)
    """
    held, counted, home = _counted(optimizer, model_or_params)
    if rates is None:
        home = home if device is None else torch.device(device)
        rates = device_rates("cpu" if home.type == "meta" else home)
    cost = cost_of(held)
    moved = resident = state = 0.0
    numbers, operations = 0, dict[str, float]()
    for group in held.param_groups:
        for p in group["params"]:
            if p.numel() == 0 or id(p) not in counted:
                continue
            subject = _subject(held, p, group, symmetric)
            work = cost(subject)
            n, wide = subject.numbers, subject.dtype.itemsize
            narrow = p.dtype.itemsize // (2 if p.is_complex() else 1)
            times = 2 * work.state if work.state_moved is None else work.state_moved
            moved += n * narrow * (work.grad_reads + work.param_moves) + times * wide
            resident += 2 * n * narrow + work.state * wide
            state += work.state * wide
            numbers += p.numel()
            name = str(work.products or subject.dtype).removeprefix("torch.")
            if work.flops:
                operations[name] = operations.get(name, 0.0) + work.flops
    bandwidth = rates.bandwidth(resident)
    products = sum(flops / rates.rate(name) for name, flops in operations.items())
    return Limit(
        seconds=max(moved / bandwidth, products),
        bytes=moved,
        flops=sum(operations.values()),
        state_bytes=state,
        parameters=numbers,
        bandwidth=bandwidth,
        matrix_seconds=products,
    )


def _counted(
    optimizer: torch.optim.Optimizer | Maker,
    model_or_params: torch.nn.Module | Iterable[Tensor] | None,
) -> tuple[torch.optim.Optimizer, set[int], torch.device]:
    """The optimizer, which of its parameters count, and where the first is."""
    if isinstance(model_or_params, torch.nn.Module):
        model_or_params = model_or_params.parameters()
    chosen = [p for p in model_or_params or () if p.requires_grad]
    counted = None if model_or_params is None else chosen
    if not isinstance(optimizer, torch.optim.Optimizer):
        if model_or_params is None:
            raise TypeError("a class has no parameters: limit(AdamW, model)")
        optimizer, counted = _made(optimizer, chosen), None
    own = [p for group in optimizer.param_groups for p in group["params"]]
    counts = {id(p) for p in (own if counted is None else counted)}
    if missing := counts - {id(p) for p in own}:
        raise ValueError(
            f"{len(missing)} of the parameters are not the optimizer's; leave "
            "them out, or give the optimizer's class to count them with it"
        )
    first = [p.device for p in (*chosen, *own)]
    return optimizer, counts, first[0] if first else torch.device("cpu")


def _made(maker: Maker, params: Sequence[Tensor]) -> torch.optim.Optimizer:
    """An optimizer of tensors of these shapes, which take no memory."""
    some = params or [torch.empty(0)]
    try:
        return maker(
            [torch.empty_like(p, device="meta").requires_grad_() for p in some]
        )
    except RuntimeError:  # fused=True asks for numbers: one for all entries
        ones = [torch.ones((), dtype=p.dtype, device=p.device) for p in some]
        pairs = zip(ones, some, strict=True)
        return maker([one.expand(p.shape).requires_grad_() for one, p in pairs])


def _subject(
    held: torch.optim.Optimizer, p: Tensor, group: Mapping[str, Any], symmetric: bool
) -> Seen:
    """A parameter as its rule sees it."""
    wide = torch.promote_types(p.dtype, torch.float32)
    seen = torch.empty(p.shape, dtype=wide, device="meta")
    seen = torch.view_as_real(seen) if seen.is_complex() else seen
    group = held.group_of(p, group) if hasattr(held, "group_of") else group
    group, kept = {**group, "complex": p.is_complex()}, {}
    if hasattr(held, "rule_of"):
        with torch.no_grad():
            state = held.rule_of(group).new_state(seen, group).items()
        kept = {k: tuple(x.shape) for k, x in state if k not in COUNTERS}
    return Seen(tuple(seen.shape), seen.dtype, group, kept, symmetric)
