"""How a matrix optimizer sees a weight: as one matrix, or as several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anthology.norms import Norm, Split, Transpose, from_spec
from anthology.optim.core.limits import at_least_zero, number, one_of

from ..param_norm import must_fit

SCALES = ("original", "match_rms_adamw", "rms_to_rms", "none")
KERNELS = ("flatten", "positions", "stack")


@dataclass(frozen=True)
class View:
    """One way to read a weight as matrices of shape (d_out, d_in)."""

    norm: Norm | None = None
    kernel: str = "flatten"

    def matrices(self, x: Tensor) -> list[Tensor]:
        """The matrices; those of equal shape that were one `Split` as one tensor."""
        axes = self._axes(x.shape)
        return [self._flat(block, axes) for block in self._blocks(x, self.norm)]

    def weight(self, matrices: Sequence[Tensor], like: Tensor) -> Tensor:
        """The way back."""
        return self._joined(iter(matrices), like.shape, self.norm)

    def share(self, like: Tensor) -> float:
        """What one matrix may use of the whole step: 1/K for K kernel positions."""
        return 1 / math.prod(like.shape[2:]) if self.kernel == "positions" else 1.0

    def _axes(self, shape: Sequence[int]) -> int:
        """How many trailing axes make one weight."""
        norm = self.norm
        return norm.ndim if isinstance(norm, Split | Transpose) else len(shape)

    def _blocks(self, x: Tensor, norm: Norm | None) -> list[Tensor]:
        """The weights in one tensor, each out × in × space behind axes of a batch."""
        match norm:
            case Transpose():
                return self._blocks(norm._turn(x), norm.base)
            case Split():
                blocks = norm._blocks(x)
                return [y for b in blocks for y in self._blocks(b, norm.base)]
        return [x]

    def _joined(
        self, found: Iterator[Tensor], shape: Sequence[int], norm: Norm | None
    ) -> Tensor:
        """The way back from the blocks of a tensor of this shape."""
        if not isinstance(norm, Split | Transpose):
            return self._folded(next(found), shape)
        at = len(shape) - norm.ndim
        lead, first, rest = shape[:at], shape[at], shape[at + 1 :]
        if isinstance(norm, Transpose):
            turned = (*lead, rest[0], first, *rest[1:])
            return norm._turn(self._joined(found, turned, norm.base))
        if isinstance(norm.parts, int):
            block = (*lead, norm.parts, first // norm.parts, *rest)
            return self._joined(found, block, norm.base).flatten(at, at + 1)
        sizes = [(*lead, n, *rest) for n in norm.parts]
        return torch.cat([self._joined(found, s, norm.base) for s in sizes], at)

    def _flat(self, x: Tensor, axes: int) -> Tensor:
        """Matrices of one block."""
        lead = x.ndim - axes
        if self.kernel == "stack" or axes == 2:
            return x
        if self.kernel == "flatten":
            return x.flatten(lead + 1)
        return x.flatten(lead + 2).movedim(-1, lead)

    def _folded(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """One block of its matrices."""
        if self.kernel == "positions" and y.shape != tuple(shape):
            y = y.movedim(-3, -1)
        return y.reshape(*shape)


def view_of(group: Mapping[str, Any]) -> View:
    """The view that a group asks for."""
    norm = group.get("norm")
    stack = group.get("role") == "stack"
    return View(
        from_spec(norm) if norm else None, "stack" if stack else group["kernel"]
    )


def must_view(group: Mapping[str, Any]) -> None:
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
        (d_out, d_in) of the matrix that is orthogonalised, leading axes ignored. For
        a kernel seen "flatten" that is (out, in · space).
    from_, to : str or float
        Of the table.

    Returns
    -------
    float or Tensor
        η times the ratio of the factors. The ratio depends on the shape, so a model
        with several shapes needs a group for each. Weight decay multiplies by
        1 − ηκ with the η that is not scaled: divide κ by the same ratio to keep it.

    Raises
    ------
    ValueError
        If there is no such convention, `lr` is out of range, or the shape is not that
        of a matrix with entries.
    TypeError
        If `lr` is not a number.

    Notes
    -----
    Source: the published code of Muon (Jordan 2024) and PyTorch; Liu et al. 2025,
    arXiv 2502.16982; Bernstein & Newhouse 2024, arXiv 2410.21265, for RMS→RMS.

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
