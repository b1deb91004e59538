"""What is done to a matrix before the polynomials, and to their result after."""

import torch
from torch import Tensor

from anthology.linalg.products import gram
from anthology.linalg.safe import or_one, peak, unit

NORMALIZERS = ("frobenius", "rows", "aol", "schatten4")
"""What ``polar`` may do to a matrix first, its argument ``normalize``."""
RENORMALIZERS = (None, "frobenius")
"""What it may do to the result, its argument ``renormalize``."""


def check_normalizers(normalize: str, renormalize: str | None) -> None:
    """Raise ValueError unless ``polar`` knows both."""
    for name, value, known in (
        ("normalize", normalize, NORMALIZERS),
        ("renormalize", renormalize, RENORMALIZERS),
    ):
        if value not in known:
            choices = ", ".join(map(repr, known))
            raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def normalized(x: Tensor, how: str = "frobenius") -> Tensor:
    """A multiple of DX whose singular values are at most 1; D = 1 unless said."""
    if how == "rows":
        x = x / peak(x, -1)
        return unit(x / or_one(torch.linalg.vector_norm(x, dim=-1, keepdim=True)))
    x = unit(x)
    if how == "frobenius":
        return x
    tall = x.shape[-2] > x.shape[-1]
    y = (x.mH if tall else x).reshape(-1, *sorted(x.shape[-2:]))
    a = gram(y)
    if how == "schatten4":
        size = or_one(torch.linalg.matrix_norm(a, keepdim=True))
    else:
        size = or_one(a.abs().sum(-1, keepdim=True))
    y = y / size.sqrt()
    return (y.mH if tall else y).reshape(x.shape)


def renormalized(x: Tensor, how: str | None = None) -> Tensor:
    """The result of the polynomials, resized."""
    return x if how is None else unit(x) * min(x.shape[-2:]) ** 0.5
