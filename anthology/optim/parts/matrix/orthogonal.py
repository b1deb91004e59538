"""Weights as matrices, and steps along their polar factors, as groups of Muon ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anthology.linalg.polar import raw_polar
from anthology.norms import Norm, Split, Transpose, from_spec
from anthology.norms.stored import split_up
from anthology.optim.core.limits import at_least_zero, number, one_of
from anthology.optim.core.state import Group

from ..arithmetic import descend
from ..param_norm import must_fit

SCALES = ("original", "match_rms_adamw", "rms_to_rms", "none")
KERNELS = ("flatten", "positions", "stack")

Back = Callable[[Iterable[Tensor]], Tensor]
View = Callable[[Tensor], tuple[list[Tensor], Back]]


def kernel_of(group: Group) -> str:
    """How weights of a group with more than two axes become matrices."""
    return "stack" if group.get("role") == "stack" else str(group["kernel"])


def view_of(group: Group) -> View:
    """From a weight to its matrices (…, d_out, d_in), and how they become a weight.

    Those of equal shape that were one `Split` are one tensor.
    """
    spec = group.get("norm")
    norm = from_spec(spec) if spec else None
    axes = norm.ndim if isinstance(norm, Split | Transpose) else None
    return partial(_matrices, norm=norm, kernel=kernel_of(group), axes=axes)


def _matrices(
    x: Tensor, norm: Norm | None, kernel: str, axes: int | None
) -> tuple[list[Tensor], Back]:
    """The blocks of a tensor, each (…, out, in, *space), as matrices."""
    if not isinstance(norm, Split | Transpose):
        y, folded = _matrix(x, kernel, axes)
        return [y], lambda ys: folded(*ys)
    blocks, _, back = split_up(x, norm)
    found = [_matrix(block, kernel, axes) for block in blocks]

    def joined(ys: Iterable[Tensor]) -> Tensor:
        return back([folded(y) for (_, folded), y in zip(found, ys, strict=True)])

    return [y for y, _ in found], joined


def _matrix(
    x: Tensor, kernel: str, axes: int | None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A block as a matrix, and the way back."""
    lead = x.ndim - (axes or x.ndim)
    y, positions = x, False
    if kernel != "stack" and x.ndim - lead > 2:
        positions = kernel == "positions"
        y = x.flatten(lead + 2).movedim(-1, lead) if positions else x.flatten(lead + 1)

    def folded(t: Tensor) -> Tensor:
        return (t.movedim(-3, -1) if positions else t).reshape(x.shape)

    return y, folded


def must_view(group: Group) -> None:
    """Refuse a norm that cannot say how the matrices of a group are stored."""
    if (norm := group.get("norm")) is None:
        return
    must_fit(group["params"], norm)
    found = from_spec(norm)
    if not isinstance(found, Split | Transpose):
        return
    if group.get("role") == "stack" and found.ndim == 2:
        return
    for p in group["params"]:
        if p.ndim != found.ndim:
            raise ValueError(
                f"{norm} measures {found.ndim} axes, got shape {tuple(p.shape)}: a "
                "stack of fused or of transposed weights needs the role 'stack'"
            )


def check_scale(name: str, scale: Any) -> None:
    """Refuse what is no convention."""
    if isinstance(scale, str):
        one_of(name, scale, SCALES)
    elif isinstance(scale, Tensor | bool) or not 0 < number(name, scale) < math.inf:
        raise ValueError(
            f"Invalid {name}: {scale}; it must be one of {', '.join(SCALES)}, or a "
            "positive number r for r√max(d_out, d_in)"
        )


def scale_factor(scale: str | float, shape: Sequence[int]) -> float:
    """What a convention multiplies the polar factor of a matrix by."""
    rows, columns = shape[-2:]
    if scale == "original":
        return math.sqrt(max(1.0, rows / columns))
    if scale == "match_rms_adamw":
        scale = 0.2
    if not isinstance(scale, str):
        return scale * math.sqrt(max(rows, columns))
    return math.sqrt(rows / columns) if scale == "rms_to_rms" else 1.0


def convert_lr(
    lr: float | Tensor, shape: Sequence[int], from_: str | float, to: str | float
) -> float | Tensor:
    """The learning rate that gives the same step under another convention.

    A step along the polar factor of a (d_out, d_in) matrix is multiplied by

    ==================  =====================  ======================================
    name                factor                 found in
    ==================  =====================  ======================================
    "original"          √max(1, d_out/d_in)    Jordan's Muon, torch, optax, nanochat
    "match_rms_adamw"   0.2 √max(d_out, d_in)  Moonlight, torch, Keras, timm
    "rms_to_rms"        √(d_out/d_in)          Modula, Scion, Dion
    "none"              1                      the definition
    a number r          r √max(d_out, d_in)    1: Emerging-Optimizers; 0.18: DeepSeek
    ==================  =====================  ======================================

    The entries of a full-rank step have, times the rate, the root mean square r.

    Parameters
    ----------
    lr : float or Tensor
        η under `from_`. A TypeError if it is no number.
    shape : sequence of int
        (d_out, d_in) of the matrix that is orthogonalised, leading axes ignored; of a
        kernel seen "flatten" (out, in · space). A ValueError if one is not positive.
    from_, to : str or float
        Of the table. A ValueError for what is not.

    Returns
    -------
    float or Tensor
        η times the ratio of the factors. It depends on the shape, so several shapes
        need a group for each. Weight decay multiplies by 1 − ηκ with the η that is not
        scaled: divide κ by the same ratio to keep it.

    Notes
    -----
    Source: code of Muon (Jordan 2024) and PyTorch; Liu et al. 2025, arXiv 2502.16982;
    Bernstein & Newhouse 2024, arXiv 2410.21265, for RMS→RMS.

    Examples
    --------
    >>> from anthology.optim import convert_lr
    >>> convert_lr(0.02, (1024, 256), "original", "rms_to_rms")
    0.02
    >>> convert_lr(0.02, (100, 400), "rms_to_rms", "match_rms_adamw")
    0.0025
    """
    check_scale("from_", from_)
    check_scale("to", to)
    at_least_zero("learning rate", lr)
    if len(shape) < 2 or not all(n > 0 for n in shape[-2:]):
        raise ValueError(f"shape must end in d_out, d_in of a matrix, got {shape}")
    return lr * (scale_factor(from_, shape) / scale_factor(to, shape))


PRODUCTS = ("float16", "bfloat16", "float32", "float64")

# An average of the squares of each row, by which NorMuon evens out its steps. Before it
# the rows of a polar factor may differ in length, by leverage where there are more rows
# than columns, by the error of the polynomials where there are not.
SIDES = ("out", "longer")
ENTRY = "row_avg_sq"
EPS = 1e-10


def orthogonal(point: Tensor, group: Group, rows: Tensor | None = None) -> Tensor:
    """The step of one weight along its polar factor, for η = −1."""
    u = _as_complex(point, group)
    found, back = view_of(group)(u)
    pairs = zip(_stages(found, group, rows), factors(u, group), strict=True)
    t = back([x * s for x, s in pairs])
    return torch.view_as_real(t) if t.is_complex() else t


def descend_along(
    params: list[Tensor],
    points: list[Tensor],
    others: list[Tensor] | None,
    group: Group,
    rows: list[Tensor] | None = None,
) -> None:
    """w ← w − ηs·polar(u) for a list; matrices of equal shape go as one batch."""
    view = view_of(group)
    alike: dict[torch.Size, list[int]] = {}
    for index, u in enumerate(points):
        alike.setdefault(u.shape, []).append(index)
    for members in alike.values():
        seen = [view(_as_complex(points[i], group)) for i in members]
        stacks = [torch.stack(x) for x in zip(*(own for own, _ in seen), strict=True)]
        if others is not None:
            ahead = [view(_as_complex(others[i], group))[0] for i in members]
            for stack, parts in zip(stacks, zip(*ahead, strict=True), strict=True):
                torch._foreach_lerp_(list(stack.unbind()), parts, group["momentum"])
        first, *rest = factors(_as_complex(points[members[0]], group), group)
        kept = None if rows is None else torch.stack([rows[i] for i in members])
        found = _stages(stacks, group, kept)
        if rows is not None and kept is not None:
            torch._foreach_copy_([rows[i] for i in members], list(kept.unbind()))
        for t, size in zip(found[1:], rest, strict=True):
            t.mul_(size / first)
        moves = [seen[0][1](x) for x in zip(*(t.unbind() for t in found), strict=True)]
        if group["complex"]:
            moves = [torch.view_as_real(t) for t in moves]
        descend([params[i] for i in members], moves, group["lr"] * first)


def _as_complex(point: Tensor, group: Group) -> Tensor:
    """Pairs as complex numbers, where they are."""
    return torch.view_as_complex(point.contiguous()) if group["complex"] else point


def factors(p: Tensor, group: Group) -> list[float]:
    """What the polar factors of a weight are multiplied by, η apart."""
    scale, rest = group["adjust_lr_fn"] or "original", 1 / group.get("scale", 1.0)
    if kernel_of(group) == "positions":  # K of them share one step
        rest /= math.prod(p.shape[2:])
    found, _ = view_of(group)(torch.empty_like(p, device="meta"))
    return [scale_factor(scale, x.shape) * rest for x in found]


def rows_of(param: Tensor, group: Group) -> dict[str, Tensor]:
    """What is kept of the rows of a weight, if anything."""
    if group["row_beta"] is None:
        return {}
    shape = param.shape[:-1] if group.get("complex") else param.shape
    found, _ = view_of(group)(torch.empty(shape, device="meta"))
    places = [(x.shape, -3 - _averaged_over(x, group)) for x in found]
    count = sum(math.prod(shape[:-2]) * shape[axis] for shape, axis in places)
    return {ENTRY: param.new_zeros(count)}


def _averaged_over(x: Tensor, group: Group) -> int:
    """The axis along which squares are averaged."""
    return -2 if group["row_side"] == "longer" and x.shape[-2] < x.shape[-1] else -1


def dtype_name(dtype: str | torch.dtype | None) -> str | None:
    """A dtype as plain text, for checkpoints."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _stages(points: list[Tensor], group: Group, rows: Tensor | None) -> list[Tensor]:
    """All that makes steps of matrices, but their factor; `rows` is written."""
    name, how = group["ns_dtype"], (group["normalize"], group["renormalize"])
    found, kept, start = [], [], 0
    for u in points:
        # no complex numbers of half precision can be multiplied
        dtype = None if name is None or u.is_complex() else getattr(torch, name)
        t = raw_polar(u, group["method"], group["ns_steps"], dtype, *how)
        size = None
        if group["step_rule"] == "steepest":  # ‖u‖_*, up to the error of the factor
            size = (u.conj() * t).real.sum((-2, -1), keepdim=True)
        if rows is not None:
            axis = _averaged_over(t, group)
            mean = (t * t.conj()).real.mean(axis)
            own = mean.flatten(rows.ndim - 1)
            before = rows[..., start : start + own.shape[-1]]
            kept.append(before.lerp(own, 1 - group["row_beta"]))
            t = _even(t, kept[-1].reshape(mean.shape).unsqueeze(axis))
            start += own.shape[-1]
        found.append(t if size is None else t * size)
    if rows is not None:
        rows.copy_(torch.cat(kept, -1))
    return found


def _even(t: Tensor, squares: Tensor) -> Tensor:
    """Rows over the root of their average square, at the size that was."""
    some = squares > 0  # elsewhere there is nothing to divide, nor a slope of the root
    even = t * torch.where(some, 1 / (torch.where(some, squares, 1).sqrt() + EPS), 0)
    size = torch.linalg.matrix_norm(even, keepdim=True)
    whole = torch.linalg.matrix_norm(t, keepdim=True)
    out: Tensor = even * (whole / torch.where(size > 0, size, 1))
    return out
