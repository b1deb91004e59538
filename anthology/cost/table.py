"""The table of costs: one line a class, keyed by its name.

A class that is not in it takes the line of the nearest class it derives from;
``torch.optim`` has the names and group keys of this package for SGD, Adam, AdamW and
Muon, so that one line serves both. A class of one's own states its cost with a method
``cost(subject) -> Work`` and needs no line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anthology.norms import Norm, Scaled, Split, Transpose
from anthology.norms.spectral import (
    Conv,
    FlatSpectral,
    Nuclear,
    Schatten,
    Spectral,
)
from anthology.optim.parts.kronecker.bounds import damps
from anthology.optim.parts.kronecker.roots import keeps_roots
from anthology.optim.parts.matrix.view import view_of
from anthology.optim.parts.param_norm import norm_for

from . import flops
from .work import Subject, Work

Line = Callable[[Subject], Work]


def averages(count: Callable[[Any], float]) -> Line:
    """A rule that keeps so many numbers for each of the parameter's."""
    return lambda s: Work(state=count(s.group) * s.numbers)


def _sgd(s: Subject) -> Work:
    kept = bool(s.group["momentum"]) * s.numbers
    if not s.group.get("normalised"):
        return Work(state=kept)
    # the length of all must be known before anything moves: one more read of m or g
    return Work(kept, 3 * kept, 1 + (not kept))


def _prodigy(s: Subject) -> Work:
    """Pass 1: g, w, w₀, s for the estimate. Pass 2: g, m, v, w for the step."""
    n, thin = s.numbers, math.ceil(s.numbers / s.group["slice_p"])
    beta2, beta3 = s.group["betas"][1], s.group["beta3"]
    first, remembers = bool(s.group["betas"][0]), (beta2 if beta3 is None else beta3)
    sums = thin * bool(remembers)
    averaged = n * (1 + first)
    return Work(
        state=averaged + thin + sums,
        state_moved=2 * averaged + thin + 2 * sums,
        grad_reads=1 + thin / n,
        param_moves=2 + thin / n,
    )


def _muon(s: Subject) -> Work:
    group = s.group
    if group.get("rule") == "adamw":
        return Work(state=2 * s.numbers)
    view = view_of({"kernel": "flatten", **group})
    shape = s.shape[:-1] if group.get("complex") else s.shape
    # torch.optim.Muon has no such key and multiplies in bfloat16
    dtype = group.get("ns_dtype", "bfloat16")
    work = 0.0
    for matrices in view(torch.empty(shape, device="meta"))[0]:
        rows, columns = matrices.shape[-2:]
        one = flops.polar(
            rows,
            columns,
            group.get("method", "muon"),
            group["ns_steps"],
            low_precision=dtype in ("bfloat16", "float16"),
            symmetric=s.symmetric,
        )
        work += math.prod(matrices.shape[:-2]) * one
    rows = math.prod(s.kept.get("row_avg_sq", (0,)))
    return Work(state=s.numbers + rows, flops=work, products=dtype)


def _shampoo(s: Subject) -> Work:
    group, factors = s.group, s.named("factor_")
    every, coupled = group["refresh"], group["factors"] == "kl"
    square = sum(math.prod(f) for f in factors)
    blocks: dict[str, list[int]] = {}
    for name, shape in s.kept.items():
        if name.startswith("factor_"):
            blocks.setdefault(name.split("_")[1], []).append(shape[0])
    # the vectors' diagonal factors need no products
    dense = all(len(f) == 2 for f in factors)
    work = 0.0
    for axes in blocks.values() if dense else ():
        cubic = (flops.EIGH + (1 if s.symmetric else 2)) / every
        one = group["sides"] == "one"
        work += flops.kronecker(
            s.numbers // len(blocks) if one else math.prod(axes),
            axes,
            grams=1,
            products=len(axes) if coupled else 1,  # a factor divides all others
            cubic=cubic,
            symmetric=s.symmetric,
        )
    extra = sum(
        (bool(group["betas"][0]), bool(group["momentum"]), group["grafting"] == "rms")
    )
    roots = square * (every > 1 or coupled)  # else they need not be kept
    return Work(
        state=extra * s.numbers + square + roots,
        state_moved=2 * (extra * s.numbers + square) + roots * (1 + 1 / every),
        flops=work,
    )


def _soap(s: Subject) -> Work:
    axes = [shape[0] for shape in s.named("gram_")]
    every, square = s.group["refresh"], sum(d * d for d in axes)
    averaged = 2 * s.numbers
    # m is kept in the old basis and turned when that turns, or turned at every step
    coupled = s.group["factors"] == "kl"  # L in its basis, and G by all but one
    turns = min(3.0, 2.0 + 2.0 / every) + coupled * (len(axes) - 1)
    work = flops.kronecker(
        s.numbers,
        axes,
        grams=1,
        products=turns,
        cubic=(2 + flops.QR) / every + 2 * coupled,
        symmetric=s.symmetric,
    )
    moved = 2 * averaged + 2 * square + square * (1 + 1 / every)
    return Work(state=averaged + 2 * square, state_moved=moved, flops=work)


def _kradagrad(s: Subject) -> Work:
    axes = [shape[0] for shape in s.named("factor_")]
    every, square = s.group["refresh"], sum(d * d for d in axes)
    # GGᵀL and L times it; εL²; the root
    cubic = 2 + (1 if s.symmetric else 2) * (1 + damps(s.dtype, s.group) + 1 / every)
    work = flops.kronecker(
        s.numbers,
        axes,
        grams=1,
        products=1,
        cubic=cubic + flops.EIGH / every,
        symmetric=s.symmetric,
    )
    roots = square * keeps_roots(s.group)
    moved = 2 * (s.numbers + square) + roots * (1 + 1 / every)
    return Work(state=s.numbers + square + roots, state_moved=moved, flops=work)


def _sirf(s: Subject) -> Work:
    if not s.kept:  # a bias whose weight has the state of both
        return Work(state=0)
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
    products = sum(free) * kept
    state = n * bool(s.group["momentum"]) + 2 * sum(free) + products
    moved = 2 * n * bool(s.group["momentum"])
    moved += 4 * sum(free) / every + products * (1 + 1 / every)
    moved += 0 if kept else sum(free) * (1 - 1 / every)
    return Work(state, moved, flops=work, products=s.group["factor_dtype"])


def _dualized(s: Subject) -> float:
    """Operations of one duality map of the group's norm."""
    like = torch.empty(s.shape, device="meta")
    norm: Norm = norm_for(like, s.group["norm"])
    shape = (*s.shape, *(1,) * (norm.ndim - len(s.shape)))
    work = 0.0
    for block, base in _blocks(norm, torch.empty(shape, device="meta")):
        if isinstance(base, Conv):
            space = block.shape[-(base.ndim - 2) :]
            rows, columns = block.shape[-base.ndim], block.shape[1 - base.ndim]
            flat = isinstance(base, FlatSpectral)
            columns *= math.prod(space) if flat else 1
        elif isinstance(base, Spectral | Schatten | Nuclear):
            rows, columns = block.shape[-2:]
        else:
            continue
        method, steps = getattr(base, "method", "svd"), getattr(base, "steps", None)
        one = flops.polar(rows, columns, method, steps, symmetric=s.symmetric)
        work += one * (block.numel() // max(rows * columns, 1))
    return work


def _blocks(norm: Norm, x: Tensor) -> list[tuple[Tensor, Norm]]:
    """What a norm made of others measures apart, and by which norm."""
    match norm:
        case Scaled():
            return _blocks(norm.base, x)
        case Transpose():
            return _blocks(norm.base, norm._turn(x))
        case Split():
            return [y for b in norm._blocks(x) for y in _blocks(norm.base, b)]
    return [(x, norm)]


def _steepest(s: Subject) -> Work:
    kept = bool(s.group["momentum"]) * s.numbers
    rule, most = s.group["step_rule"], s.group["across"] == "max"
    together = rule == "polyak" or (rule == "steepest") == most
    again = kept if kept and together else 0
    reads = 1 + (together and not kept)
    return Work(kept, 2 * kept + again, reads, flops=_dualized(s))


def _free(s: Subject) -> Work:
    n = s.numbers
    momentum, memory = bool(s.group["momentum"]), bool(s.group["beta3"])
    maps = 1 + (momentum or memory)
    return Work(
        state=n * (1 + momentum + memory),
        state_moved=n * (1 + 2 * momentum + 2 * memory),
        grad_reads=2,
        param_moves=3,
        flops=maps * _dualized(s),
    )


TABLE: dict[str, Line] = {
    "SGD": _sgd,
    "Signum": averages(lambda group: bool(group["momentum"])),
    "Lion": averages(lambda group: 1),
    "Adam": averages(lambda group: bool(group["betas"][0]) + 1 + group["amsgrad"]),
    "AdamW": averages(lambda group: bool(group["betas"][0]) + 1 + group["amsgrad"]),
    "RootFreeRMSProp": averages(lambda group: bool(group["momentum"]) + 1),
    "RootFreeAdamW": averages(lambda group: bool(group["betas"][0]) + 1),
    "Prodigy": _prodigy,
    "Muon": _muon,
    "Shampoo": _shampoo,
    "SOAP": _soap,
    "KrADagrad": _kradagrad,
    "SIRFShampoo": _sirf,
    "SteepestDescent": _steepest,
    "FreeSteepestDescent": _free,
}
"""What each optimizer does at least, by the name of its class."""


def line_for(optimizer: torch.optim.Optimizer) -> Line:
    """The cost of an optimizer's step on one parameter."""
    own = getattr(optimizer, "cost", None)
    if callable(own):
        found: Line = own
        return found
    for cls in type(optimizer).__mro__:
        if cls.__name__ in TABLE:
            return TABLE[cls.__name__]
    raise TypeError(
        f"the cost of {type(optimizer).__name__} is not known; give it a method "
        "cost(subject) that returns anthology.cost.Work, or use one of "
        + ", ".join(TABLE)
    )
