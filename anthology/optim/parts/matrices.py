"""How a matrix optimizer sees a weight: as one matrix, or as several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from anthology.norms import Norm, Split, Transpose, from_spec
from anthology.optim.core.limits import at_least_zero, one_of

from .points import must_fit

SCALES = ("original", "match_rms_adamw", "rms_to_rms", "none")
KERNELS = ("flatten", "positions", "stack")


@dataclass(frozen=True)
class View:
    """One way to read a weight as matrices of shape (d_out, d_in).

    Attributes
    ----------
    parts : int
        How many weights the tensor stacks along its first axis.
    swapped : bool
        Whether it is stored in × out.
    kernel : str
        What to do with more than two axes: "flatten" reads out × (in · space), one
        matrix; "positions" one matrix for each kernel position; "stack" takes the
        last two axes, those before them being a stack of matrices.
    """

    parts: int = 1
    swapped: bool = False
    kernel: str = "flatten"

    def matrices(self, x: Tensor) -> Tensor:
        """The matrices.

        Parameters
        ----------
        x : Tensor
            A weight with two axes or more.

        Returns
        -------
        Tensor
            Shape (..., d_out, d_in).
        """
        lead = int(self.parts > 1)
        if lead:
            x = x.reshape(self.parts, x.shape[0] // self.parts, *x.shape[1:])
        if self.kernel == "stack":
            return x.mT if self.swapped else x
        x = x.transpose(lead, lead + 1) if self.swapped else x
        if x.ndim == lead + 2:
            return x
        if self.kernel == "flatten":
            return x.flatten(lead + 1)
        return x.flatten(lead + 2).movedim(-1, lead)

    def weight(self, y: Tensor, like: Tensor) -> Tensor:
        """The way back.

        Parameters
        ----------
        y : Tensor
            Shape as `matrices` returned.
        like : Tensor
            The weight.

        Returns
        -------
        Tensor
            Shape of the weight.
        """
        lead = int(self.parts > 1)
        if self.kernel == "stack":
            y = y.mT if self.swapped else y
            return y.flatten(0, 1) if lead else y
        space = like.shape[2:]
        if len(space) and self.kernel == "flatten":
            inner = like.shape[0] // self.parts if self.swapped else like.shape[1]
            y = y.reshape(*y.shape[: lead + 1], inner, *space)
        elif len(space) and self.kernel == "positions":
            y = y.movedim(lead, -1)
            y = y.reshape(*y.shape[:-1], *space)
        y = y.transpose(lead, lead + 1) if self.swapped else y
        return y.flatten(0, 1) if lead else y

    def share(self, like: Tensor) -> float:
        """What one matrix may use of the whole step: 1/K for K kernel positions.

        Parameters
        ----------
        like : Tensor
            The weight.

        Returns
        -------
        float
            1 for every view but "positions".
        """
        return 1 / math.prod(like.shape[2:]) if self.kernel == "positions" else 1.0


def view_of(group: Mapping[str, Any]) -> View:
    """The view that a group asks for.

    Parameters
    ----------
    group : mapping
        Its ``norm`` as text: `Split` and `Transpose` say how a weight is stored. Its
        ``kernel``, which the role "stack" overrules.

    Returns
    -------
    View
        Plain matrices for a group without norm.
    """
    norm = group.get("norm")
    found: Norm | None = from_spec(norm) if norm else None
    parts, swapped = 1, False
    while isinstance(found, Split | Transpose):
        parts *= found.parts if isinstance(found, Split) else 1
        swapped ^= isinstance(found, Transpose)
        found = found.base
    stack = group.get("role") == "stack"
    return View(parts, swapped, "stack" if stack else group["kernel"])


def must_view(group: Mapping[str, Any]) -> None:
    """Refuse a norm that cannot say how a parameter is stored.

    Parameters
    ----------
    group : mapping
        Its ``params``, or pairs of name and parameter; its ``norm`` as text; its
        ``role``.

    Raises
    ------
    ValueError
        In the words of the norm; or if it splits or transposes other axes than
        the first, save for a stack that is transposed.
    """
    norm, stack = group.get("norm"), group.get("role") == "stack"
    if norm is None:
        return
    must_fit(group["params"], norm)
    found = from_spec(norm)
    if stack and isinstance(found, Transpose) and not isinstance(found.base, Split):
        return
    for item in group["params"]:
        p = item[-1] if isinstance(item, tuple) else item
        if isinstance(found, Split | Transpose) and p.ndim != found.ndim:
            raise ValueError(
                f"{norm} measures {found.ndim} axes, got shape {tuple(p.shape)}: a "
                "stack of fused weights needs one tensor for each, one of transposed "
                "weights the role 'stack'"
            )


def scale_factor(scale: str, shape: Sequence[int]) -> float:
    """What a convention multiplies the polar factor of a matrix by.

    Parameters
    ----------
    scale : str
        See `convert_lr`.
    shape : sequence of int
        (..., d_out, d_in) of the matrix; leading axes do not count.

    Returns
    -------
    float
        Times the learning rate, the spectral norm of a step along UVᵀ.
    """
    rows, columns = shape[-2:]
    if scale == "original":
        return math.sqrt(max(1.0, rows / columns))
    if scale == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(rows / columns) if scale == "rms_to_rms" else 1.0


def convert_lr(
    lr: float | Tensor, shape: Sequence[int], from_: str, to: str
) -> float | Tensor:
    """The learning rate that gives the same step under another convention.

    A step along the polar factor of a (d_out, d_in) matrix is multiplied by

    ==================  =====================  ====================
    name                factor                 found in
    ==================  =====================  ====================
    "original"          √max(1, d_out/d_in)    Jordan's Muon, torch
    "match_rms_adamw"   0.2 √max(d_out, d_in)  Moonlight, torch
    "rms_to_rms"        √(d_out/d_in)          Modula, Scion, Dion
    "none"              1                      the definition
    ==================  =====================  ====================

    Parameters
    ----------
    lr : float or Tensor
        η under `from_`.
    shape : sequence of int
        (d_out, d_in) of the matrix that is orthogonalised, leading axes ignored. For
        a kernel seen "flatten" that is (out, in · space).
    from_, to : str
        Names of the table.

    Returns
    -------
    float or Tensor
        η times the ratio of the factors. The ratio depends on the shape, so a model
        with several shapes needs a group for each. Weight decay multiplies by
        1 − ηκ with the η that is not scaled: divide κ by the same ratio to keep it.

    Raises
    ------
    ValueError
        If a name is unknown, `lr` is out of range, or the shape is not that of a
        matrix with entries.
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
    one_of("from_", from_, SCALES)
    one_of("to", to, SCALES)
    at_least_zero("learning rate", lr)
    if len(shape) < 2 or not all(n > 0 for n in shape[-2:]):
        raise ValueError(f"shape must end in d_out, d_in of a matrix, got {shape}")
    return lr * (scale_factor(from_, shape) / scale_factor(to, shape))
