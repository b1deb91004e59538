"""How a matrix optimizer sees a weight: as one matrix, or as several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anthology.norms import Norm, Split, Transpose, from_spec
from anthology.optim.core.limits import at_least_zero, number, one_of
from anthology.optim.core.state import Group

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
    return partial(_parts, norm=norm, kernel=kernel_of(group), axes=axes)


def _parts(
    x: Tensor, norm: Norm | None, kernel: str, axes: int | None
) -> tuple[list[Tensor], Back]:
    """The blocks of a tensor, each (…, out, in, *space), as matrices."""
    if isinstance(norm, Transpose):
        found, back = _parts(norm._turn(x), norm.base, kernel, axes)
        return found, lambda ys: norm._turn(back(ys))
    if isinstance(norm, Split):
        each = [_parts(block, norm.base, kernel, axes) for block in norm._blocks(x)]
        at = x.ndim - norm.ndim

        def joined(ys: Iterable[Tensor]) -> Tensor:
            rest = iter(ys)
            blocks = [back([next(rest) for _ in own]) for own, back in each]
            one = isinstance(norm.parts, int)
            return blocks[0].flatten(at, at + 1) if one else torch.cat(blocks, at)

        return [y for own, _ in each for y in own], joined
    lead = x.ndim - (axes or x.ndim)
    y, positions = x, False
    if kernel != "stack" and x.ndim - lead > 2:
        positions = kernel == "positions"
        y = x.flatten(lead + 2).movedim(-1, lead) if positions else x.flatten(lead + 1)

    def folded(ys: Iterable[Tensor]) -> Tensor:
        (t,) = ys
        return (t.movedim(-3, -1) if positions else t).reshape(x.shape)

    return [y], folded


def must_view(group: Group) -> None:
    """Refuse a norm that cannot say how a parameter is stored."""
    norm = group.get("norm")
    if norm is None:
        return
    must_fit(group["params"], norm)
    found = from_spec(norm)
    if not isinstance(found, Split | Transpose):
        return
    if group.get("role") == "stack" and found.ndim == 2:
        return
    for item in group["params"]:
        p = item[-1] if isinstance(item, tuple) else item
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
        η under `from_`.
    shape : sequence of int
        (d_out, d_in) of the matrix that is orthogonalised, leading axes ignored; of a
        kernel seen "flatten" (out, in · space).
    from_, to : str or float
        Of the table.

    Returns
    -------
    float or Tensor
        η times the ratio of the factors. It depends on the shape, so several shapes
        need a group for each. Weight decay multiplies by 1 − ηκ with the η that is not
        scaled: divide κ by the same ratio to keep it.

    Raises
    ------
    ValueError
        If there is no such convention, `lr` is out of range, or the shape is not that
        of a matrix with entries.
    TypeError
        If `lr` is not a number.

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
