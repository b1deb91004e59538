"""SIRF-Shampoo's factors on stacks of tensors: K with S⁻¹ = KKᵀ, packed, (n, size)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anthology.linalg import STRUCTURES, Structure, structure
from anthology.optim.core.limits import one_of
from anthology.optim.core.rule import Group

from .stacks import Kept, fold, unfold

Structures = str | Sequence[str] | Mapping[int, str | Sequence[str]]


def squeezed(shape: Sequence[int]) -> list[int]:
    """A shape without its axes of size one, or [1]."""
    return [length for length in shape if length != 1] or [1]


def kinds_for(
    dims: Sequence[int], given: Structures | None, max_dim: int = 2**63 - 1
) -> list[Structure]:
    """The structures of the factors of a tensor."""
    found = given.get(len(dims)) if isinstance(given, Mapping) else given
    if found is None or not isinstance(found, str) and len(found) != len(dims):
        found = "diagonal" if len(dims) == 1 else "dense"
    names = [found] * len(dims) if isinstance(found, str) else found
    pairs = zip(names, dims, strict=True)
    return [structure(n if d <= max_dim else "diagonal", d) for n, d in pairs]


def check_structures(given: Any) -> None:
    """Refuse unknown names, and lists of names that fit no number of axes."""
    if given is None:
        return
    entries: Mapping[Any, Any] = given if isinstance(given, Mapping) else {None: given}
    for axes, names in entries.items():
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


def inverse_free(g: Tensor, kept: Kept, step: Any, group: Group) -> Tensor:
    """Ĝ = G ×₁ K₁K₁ᵀ … ×_N K_NK_Nᵀ, for a matrix CCᵀGKKᵀ; first new factors, if due."""
    kinds = kinds_for(g.shape[1:], group["structures"], group["max_dim"])
    if group["steps_taken"] % group["refresh"] == 0:
        _refresh(g, kinds, kept, group)
    moved = g
    for axis in reversed(range(len(kinds))):
        kind = kinds[axis]
        if f"product_{axis}" in kept:
            product = kept[f"product_{axis}"]
            rows = kind.apply(product, unfold(moved, axis).to(product.dtype))
        else:
            k = kept[f"factor_{axis}"]
            rows = unfold(moved, axis).to(k.dtype)
            if kind.symmetric and kind.dim <= rows.shape[-1]:
                rows = kind.apply(kind.outer(k), rows)
            else:
                rows = kind.apply_outer(k, rows)
        moved = fold(rows, moved, axis)
    return moved.to(g.dtype)


def _refresh(grads: Tensor, kinds: list[Structure], kept: Kept, group: Group) -> None:
    """One update of all factors and their momenta, from the old factors."""
    factors = [kept[f"factor_{n}"] for n in range(len(kinds))]
    momenta = [kept[f"factor_momentum_{n}"] for n in range(len(kinds))]
    a = grads * math.sqrt(group["batch_size"] / math.prod(grads.shape[1:]))
    # A = G ×₁ K₁ᵀ … ×_N K_Nᵀ, for a matrix CᵀGK; the first axis last, as its product
    # leaves the entries of a matrix in their order
    for axis in reversed(range(len(kinds))):
        rows = unfold(a, axis).to(factors[axis].dtype)
        a = fold(kinds[axis].apply(factors[axis], rows, transpose=True), a, axis)
    pairs = list(zip(kinds, factors, strict=True))
    traces = [kind.frobenius(k).square() / kind.dim for kind, k in pairs]
    old, new = group["factor_momentum"], list[tuple[Tensor, Tensor]]()
    gain = torch.zeros_like(traces[0])
    for n, (kind, k) in enumerate(pairs):
        step = kind.project_gram(unfold(a, n).to(k.dtype)) * kind.dim
        if group["damping"]:
            others = torch.ones_like(traces[n])
            for m, trace in enumerate(traces):
                others = others * trace if m != n else others
            damping = (group["damping"] * others).to(k.dtype).unsqueeze(-1)
            step.addcmul_(kind.project_inner(k), damping)
        step.sub_(kind.identity(k))
        momentum = torch.add(old * momenta[n], step, alpha=(1 - old) / 2)
        size = kind.frobenius(momentum)
        unit = momentum / size.clamp(min=1.0).to(k.dtype).unsqueeze(-1)
        factor = torch.sub(k, kind.matmul(k, unit), alpha=group["factor_lr"])
        new.append((factor, momentum))
        gain = gain + 2 * kind.frobenius(factor).log() + 0 * size
    # whether no momentum has overflowed and no gradient could be made to
    good = (gain <= math.log(torch.finfo(grads.dtype).max) / 2).unsqueeze(-1)
    known = good.is_cpu and not torch.compiler.is_compiling() and bool(good.all())
    for n, (kind, k) in enumerate(pairs):
        factor, momentum = new[n]
        if not known:
            factor = torch.where(good, factor, k)
            momentum = torch.where(good, momentum, momenta[n])
        kept[f"factor_{n}"], kept[f"factor_momentum_{n}"] = factor, momentum
        if f"product_{n}" in kept:
            kept[f"product_{n}"] = kind.outer(factor)
