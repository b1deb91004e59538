"""Steps of many small tensors in one launch.

A launch costs the host some ten microseconds, in which the device steps a million
numbers; hundreds of small tensors are therefore stepped together, by a table of their
addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import tables
from .entrywise import BLOCK, check_step, constants, rounding_name, step
from .launch import must_launch


def step_many(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    averages: Sequence[list[Tensor]],
    numbers: Tensor,
    *,
    finite: Tensor | None = None,
    refused: Tensor | None = None,
    residuals: Sequence[Tensor] | None = None,
    seeds: Tensor | None = None,
    nesterov: bool = False,
    **settings: Any,
) -> None:
    """`anthology.kernels.entrywise.step` for many tensors in one launch.

    Two launches where some are not aligned to 16 bytes. While a CUDA graph is
    captured, lists of tensors that were not stepped before have a launch a tensor.

    Parameters
    ----------
    rule : str
        As for ``step``.
    params, grads, averages, residuals : sequence
        As for ``step``, an entry a tensor; one dtype of parameters and one of
        gradients, one device.
    numbers : Tensor
        (tensors, 3), contiguous; a row as for ``step`` each.
    finite, refused, seeds : Tensor, optional
        (tensors,), contiguous; an entry as for ``step`` each.
    nesterov : bool
        As for ``step``. Default False.
    **settings
        ``betas``, ``eps``, ``decay``, ``terms`` and ``limit`` of all of them.

    Raises
    ------
    RuntimeError
        If Triton or a CUDA device is missing.
    ValueError
        If the rule is unknown or a tensor does not fit; looked at when a list of
        addresses is new.

    Examples
    --------
    >>> import torch
    >>> from anthology.kernels.entrywise import step_eager
    >>> from anthology.kernels.launch import missing
    >>> from anthology.kernels.many import step_many
    >>> ws, gs = [torch.zeros(2), torch.ones(1)], [torch.ones(2), torch.ones(1)]
    >>> rows = torch.tensor([[0.5, 0.5, 1.0], [0.1, 0.1, 1.0]])
    >>> if missing(ws[0]):
    ...     for w, g, row in zip(ws, gs, rows, strict=True):
    ...         step_eager("descent", w, g, [], row)
    ... else:
    ...     step_many("descent", ws, gs, [[], []], rows)
    >>> ws
    [tensor([-0.5000, -0.5000]), tensor([0.9000])]
    """
    if not params:
        return
    first = params[0]
    if refused is None:
        refused = torch.zeros(len(params), device=first.device)
    everything = list(zip(params, grads, averages, residuals or params, strict=True))
    rows = [_row(i, *some) for i, some in enumerate(everything)]
    kinds = tuple((p.dtype, g.dtype) for p, g in zip(params, grads, strict=True))
    key = (rule, first.device, kinds, tuple(rows))
    found = tables.known(key, first.device)
    if found is None:
        for p, g, own, rest in everything:
            given = rest if residuals else None
            check_step(rule, p, g, own, numbers, given, seeds)
        if len(set(kinds)) > 1 or any(p.device != first.device for p in params):
            raise ValueError("step tensors of one dtype and one device together")
        must_launch(first)
        if tables.is_capturing(first.device):
            for i, (p, g, own, rest) in enumerate(everything):
                step(
                    rule,
                    p,
                    g,
                    own,
                    numbers[i],
                    finite=None if finite is None else finite[i],
                    refused=refused[i],
                    residual=rest if residuals else None,
                    seed=None if seeds is None else seeds[i],
                    nesterov=nesterov,
                    **settings,
                )
            return
        found = tables.made(key, rows, BLOCK, first.device)
    from .device.entrywise import entrywise_many

    rounding = rounding_name(residuals, seeds)
    with torch.no_grad(), torch.cuda.device_of(first):
        for table in found:
            entrywise_many[(len(table.owners),)](
                table.rows,
                table.owners,
                first,
                grads[0],
                residuals[0] if residuals else first,
                numbers if seeds is None else seeds,
                numbers,
                numbers if finite is None else finite.view(torch.uint8),
                *constants(**settings),
                refused,
                rule,
                nesterov,
                rounding,
                finite is not None,
                table.aligned,
                BLOCK,
            )


def _row(
    index: int, p: Tensor, g: Tensor, averages: list[Tensor], rest: Tensor
) -> tuple[int, ...]:
    m, v = (averages[0], averages[-1]) if averages else (p, p)
    return (
        p.data_ptr(),
        g.data_ptr(),
        m.data_ptr(),
        v.data_ptr(),
        rest.data_ptr(),
        index,
        p.numel(),
    )
