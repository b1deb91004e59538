"""Kronecker factors without roots and inverses: K with S⁻¹ = KKᵀ, on every axis.

Everything works on stacks: gradients of shape (n, d₁, …, d_N), and for each axis one
`Structure` and one packed matrix a tensor, (n, size).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anthology.linalg import STRUCTURES, Structure, structure
from anthology.optim.core.limits import one_of

Structures = str | Sequence[str] | Mapping[int, str | Sequence[str]]


def squeezed(shape: Sequence[int]) -> list[int]:
    """A shape without its axes of size one, or [1]."""
    return [length for length in shape if length != 1] or [1]


def kinds_for(
    dims: Sequence[int], given: Structures | None, max_dim: int = 2**63 - 1
) -> list[Structure]:
    """The structures of the factors of a tensor."""
    names: str | Sequence[str] = "diagonal" if len(dims) == 1 else "dense"
    if isinstance(given, str):
        names = given
    elif isinstance(given, Mapping):
        names = given.get(len(dims), names)
    elif given is not None and len(given) == len(dims):
        names = given
    if isinstance(names, str):
        names = [names] * len(dims)
    pairs = zip(names, dims, strict=True)
    return [structure(n if d <= max_dim else "diagonal", d) for n, d in pairs]


def check_structures(given: Any) -> None:
    """Refuse unknown names, and lists of names that fit no number of axes."""
    entries: Mapping[Any, Any] = given if isinstance(given, Mapping) else {None: given}
    for axes, names in entries.items():
        if names is None and axes is None:
            continue
        if not isinstance(names, str | Sequence):
            raise ValueError(  # noqa: TRY004 - as for other values
                f"Invalid structures: {names!r}; it must be a name or a list of names"
            )
        for name in [names] if isinstance(names, str) else names:
            one_of("structure", name, tuple(STRUCTURES))
        if axes is not None and (isinstance(axes, bool) or not isinstance(axes, int)):
            raise ValueError(f"Invalid structures: {axes!r} is no number of axes")
        if axes is not None and not isinstance(names, str) and len(names) != axes:
            raise ValueError(f"Invalid structures: {len(names)} names for {axes} axes")


def unfold(x: Tensor, axis: int) -> Tensor:
    """The matrix whose rows are the slices along an axis."""
    return x.movedim(axis + 1, 1).reshape(len(x), x.shape[axis + 1], -1)


def fold(rows: Tensor, like: Tensor, axis: int) -> Tensor:
    """Undo `unfold`."""
    moved = like.movedim(axis + 1, 1)
    return rows.reshape(moved.shape).movedim(1, axis + 1)


def transport(x: Tensor, kinds: list[Structure], factors: list[Tensor]) -> Tensor:
    """A = G ×₁ K₁ᵀ … ×_N K_Nᵀ, for a matrix CᵀGK."""
    # the first axis last: its product leaves the entries of a matrix in their order
    for axis in reversed(range(len(kinds))):
        rows = unfold(x, axis).to(factors[axis].dtype)
        x = fold(kinds[axis].apply(factors[axis], rows, transpose=True), x, axis)
    return x


def precondition(
    x: Tensor,
    kinds: list[Structure],
    factors: list[Tensor] | None,
    products: list[Tensor | None],
) -> Tensor:
    """Ĝ = G ×₁ K₁K₁ᵀ … ×_N K_NK_Nᵀ, for a matrix CCᵀGKKᵀ."""
    moved = x
    for axis in reversed(range(len(kinds))):
        kind, kept = kinds[axis], products[axis]
        if kept is None and factors is not None:
            k = factors[axis]
            rows = unfold(moved, axis).to(k.dtype)
            if kind.symmetric and kind.dim <= rows.shape[-1]:
                rows = kind.apply(kind.outer(k), rows)
            else:
                rows = kind.apply_outer(k, rows)
        elif kept is not None:
            rows = kind.apply(kept, unfold(moved, axis).to(kept.dtype))
        moved = fold(rows, moved, axis)
    return moved.to(x.dtype)


def refreshed(
    grads: Tensor,
    kinds: list[Structure],
    factors: list[Tensor],
    momenta: list[Tensor],
    group: Mapping[str, Any],
) -> tuple[list[Tensor], list[Tensor]]:
    """Factors and their momenta after one update, all from the old factors."""
    dims = [kind.dim for kind in kinds]
    scale = math.sqrt(group["batch_size"] / math.prod(dims))
    a = transport(grads * scale, kinds, factors)
    pairs = list(zip(kinds, factors, strict=True))
    traces = [kind.frobenius(k).square() / kind.dim for kind, k in pairs]
    old, kept = group["factor_momentum"], group["factor_lr"]
    new_factors, new_momenta, sizes = [], [], []
    for n, (kind, k) in enumerate(pairs):
        others = torch.ones_like(traces[n])
        for m, trace in enumerate(traces):
            others = others * trace if m != n else others
        step = kind.project_gram(unfold(a, n).to(k.dtype)) * kind.dim
        if group["damping"]:
            damping = (group["damping"] * others).to(k.dtype).unsqueeze(-1)
            step.addcmul_(kind.project_inner(k), damping)
        step.sub_(kind.identity(k))
        momentum = torch.add(old * momenta[n], step, alpha=(1 - old) / 2)
        size = kind.frobenius(momentum)
        unit = momentum / size.clamp(min=1.0).to(k.dtype).unsqueeze(-1)
        new_factors.append(torch.sub(k, kind.matmul(k, unit), alpha=kept))
        new_momenta.append(momentum)
        sizes.append(size)
    good = _representable(kinds, new_factors, sizes, grads.dtype).unsqueeze(-1)
    if good.is_cpu and not torch.compiler.is_compiling() and bool(good.all()):
        return new_factors, new_momenta
    return (
        [torch.where(good, x, y) for x, y in zip(new_factors, factors, strict=True)],
        [torch.where(good, x, y) for x, y in zip(new_momenta, momenta, strict=True)],
    )


def _representable(
    kinds: list[Structure],
    factors: list[Tensor],
    sizes: list[Tensor],
    dtype: torch.dtype,
) -> Tensor:
    """Whether no momentum has overflowed and no gradient could be made to."""
    gain = torch.zeros_like(sizes[0])
    for kind, k, size in zip(kinds, factors, sizes, strict=True):
        gain = gain + 2 * kind.frobenius(k).log() + 0 * size
    return gain <= math.log(torch.finfo(dtype).max) / 2
