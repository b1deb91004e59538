"""The cost of each rule, and a table of them by the name of a class.

A class that is not in the table takes the line of the nearest class it derives from;
``torch.optim`` has the names and group keys of this package for SGD, Adam, AdamW and
Muon, so that one line serves both. A class with an attribute ``cost`` (a `Cost`, or a
method ``cost(subject) -> Work``) needs no line.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from anthology.optim.parts.kronecker.bounds import damps
from anthology.optim.parts.kronecker.roots import keeps_roots
from anthology.optim.parts.matrix.orthogonal import view_of
from anthology.optim.parts.param_norm import norm_for

from . import flops
from .work import Cost, Subject, Work, averages, keeping


@Cost
def sgd(s: Subject) -> Work:
    kept = bool(s.group["momentum"]) * s.numbers
    # the length of all must be known before anything moves: one more read of m or g
    again = bool(s.group.get("normalised"))
    return keeping((kept, 2 + again), grad_reads=1 + (again and not kept))


@Cost
def prodigy(s: Subject) -> Work:
    """Pass 1: g, w, w₀, s for the estimate. Pass 2: g, m, v, w for the step."""
    n, thin = s.numbers, math.ceil(s.numbers / s.group["slice_p"])
    beta2, beta3 = s.group["betas"][1], s.group["beta3"]
    remembers = bool(beta2 if beta3 is None else beta3)
    averaged = n * (1 + bool(s.group["betas"][0]))
    moves = {"grad_reads": 1 + thin / n, "param_moves": 2 + thin / n}
    return keeping((averaged, 2), (thin, 1), (thin * remembers, 2), **moves)


@Cost
def muon(s: Subject) -> Work:
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
        one = flops.polar_factor(rows, columns, method, steps, low, s.symmetric)
        work += math.prod(many) * one
    lengths = math.prod(s.kept.get("row_avg_sq", (0,)))
    return Work(s.numbers + lengths, flops=work, products=dtype)


@Cost
def shampoo(s: Subject) -> Work:
    group, factors, n = s.group, s.named("factor_"), s.numbers
    every, coupled = group["refresh"], group["factors"] == "kl"
    blocks: dict[str, list[int]] = {}
    for name, shape in s.kept.items():
        if name.startswith("factor_"):
            blocks.setdefault(name.split("_")[1], []).append(shape[0])
    # the vectors' diagonal factors need no products
    dense, work = all(len(f) == 2 for f in factors), 0.0
    cubic = (flops.EIGH + (1 if s.symmetric else 2)) / every
    for axes in blocks.values() if dense else ():
        size = n // len(blocks) if group["sides"] == "one" else math.prod(axes)
        # of coupled factors one divides all others
        products = len(axes) if coupled else 1
        work += flops.by_axes(size, axes, products, cubic, s.symmetric)
    averaged = bool(group["betas"][0]) + bool(group["momentum"])
    averaged += group["grafting"] == "rms"
    square = sum(math.prod(f) for f in factors)
    roots = square * (every > 1 or coupled)  # else they need not be kept
    return keeping((averaged * n + square, 2), (roots, 1 + 1 / every), flops=work)


@Cost
def soap(s: Subject) -> Work:
    axes = [shape[0] for shape in s.named("gram_")]
    every, square = s.group["refresh"], sum(d * d for d in axes)
    # m is kept in the old basis and turned when that turns, or turned at every step
    coupled = s.group["factors"] == "kl"  # L in its basis, and G by all but one
    turns = min(3.0, 2.0 + 2.0 / every) + coupled * (len(axes) - 1)
    cubic = (2 + flops.QR) / every + 2 * coupled
    work = flops.by_axes(s.numbers, axes, turns, cubic, s.symmetric)
    return keeping((2 * s.numbers + square, 2), (square, 1 + 1 / every), flops=work)


@Cost
def kradagrad(s: Subject) -> Work:
    axes = [shape[0] for shape in s.named("factor_")]
    every, square = s.group["refresh"], sum(d * d for d in axes)
    # GGᵀL and L times it; εL²; the root
    cubic = 2 + (1 if s.symmetric else 2) * (1 + damps(s.dtype, s.group) + 1 / every)
    cubic += flops.EIGH / every
    work = flops.by_axes(s.numbers, axes, 1, cubic, s.symmetric)
    roots = square * keeps_roots(s.group)
    return keeping((s.numbers + square, 2), (roots, 1 + 1 / every), flops=work)


@Cost
def sirf(s: Subject) -> Work:
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


@Cost
def steepest(s: Subject) -> Work:
    kept = bool(s.group["momentum"]) * s.numbers
    rule, most = s.group["step_rule"], s.group["across"] == "max"
    # where one number of all layers must be known first: one more read of m or g
    again = rule == "polyak" or (rule == "steepest") == most
    reads = 1 + (again and not kept)
    return keeping((kept, 2 + again), grad_reads=reads, flops=_dualized(s))


@Cost
def free_steepest(s: Subject) -> Work:
    n, momentum, memory = s.numbers, bool(s.group["momentum"]), bool(s.group["beta3"])
    work = (1 + (momentum or memory)) * _dualized(s)
    moves = {"grad_reads": 2, "param_moves": 3}
    return keeping((n, 1), ((momentum + memory) * n, 2), flops=work, **moves)


def _dualized(s: Subject) -> float:
    """Operations of one duality map of the group's norm."""
    norm = norm_for(torch.empty(s.shape, device="meta"), s.group["norm"])
    return flops.dualized(norm, s.shape, s.symmetric)


TABLE: dict[str, Cost] = {
    "SGD": sgd,
    "Signum": averages("momentum"),
    "Lion": averages(1),
    "Adam": averages("betas", 1, "amsgrad"),
    "AdamW": averages("betas", 1, "amsgrad"),
    "RootFreeRMSProp": averages("momentum", 1),
    "RootFreeAdamW": averages("betas", 1),
    "Prodigy": prodigy,
    "Muon": muon,
    "Shampoo": shampoo,
    "SOAP": soap,
    "KrADagrad": kradagrad,
    "SIRFShampoo": sirf,
    "SteepestDescent": steepest,
    "FreeSteepestDescent": free_steepest,
}


def cost_of(optimizer: torch.optim.Optimizer) -> Callable[[Subject], Work]:
    """The cost of an optimizer's step on one parameter."""
    own: Callable[[Subject], Work] | None = getattr(optimizer, "cost", None)
    if callable(own):
        return own
    for cls in type(optimizer).__mro__:
        if cls.__name__ in TABLE:
            return TABLE[cls.__name__]
    raise TypeError(
        f"the cost of {type(optimizer).__name__} is not known; give it a method "
        "cost(subject) that returns anthology.cost.Work, or use one of "
        + ", ".join(TABLE)
    )
