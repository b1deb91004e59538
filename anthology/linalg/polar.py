"""The polar factor UVᵀ of a matrix, the duality map of the spectral norm.

By decompositions or by odd polynomials; and how good a step is, measured.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from anthology.linalg.coefficients import coefficients
from anthology.linalg.decompositions import robust_eigh, robust_svd, robust_svdvals
from anthology.linalg.products import (
    commuting,
    gram,
    hermitian,
    or_one,
    peak,
    quadratic,
    tame,
    unit,
)
from anthology.linalg.published import Coefficients
from anthology.linalg.safe import (
    guarded,
    poison,
    require_numeric,
    require_steps,
    working_dtype,
)

GRAM_STEPS = 7
"""Default steps of the method "gram"."""
AT_ONCE = 4
"""How many polynomials it gathers before the Gram matrix is formed anew."""
NORMALIZERS = ("frobenius", "rows", "aol", "schatten4")
"""What ``polar`` may do to a matrix first, its argument ``normalize``."""
RENORMALIZERS = (None, "frobenius")
"""What it may do to the result, its argument ``renormalize``."""


def singular_values(x: Tensor) -> Tensor:
    """Singular values of a matrix, largest first, whatever its scale."""
    scale = peak(x, (-2, -1))
    x = x / scale
    if 1 in x.shape[-2:]:
        # A single row or column: thousands of these make a depthwise convolution.
        values = torch.linalg.matrix_norm(x).unsqueeze(-1)
    else:
        values = robust_svdvals(tame(x))
    out: Tensor = values * scale[..., 0]
    return out


def reduced_svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ/σ₁ and Vᴴ of a matrix, with rounding noise set to exact zeros."""
    u, s, vh = robust_svd(tame(x / peak(x, (-2, -1))))
    s = s / or_one(s[..., :1])
    noise = max(x.shape[-2:]) * torch.finfo(s.dtype).eps
    return u, torch.where(s > noise, s, torch.zeros_like(s)), vh


def _by_svd(x: Tensor) -> Tensor:
    if 1 in x.shape[-2:]:
        return unit(x)
    u, s, vh = reduced_svd(x)
    return (u * (s > 0).to(u.dtype)[..., None, :]) @ vh


def _by_eigh(x: Tensor) -> Tensor:
    """(XXᵀ)^(−1/2)X from an eigendecomposition, and one cubic step on it."""
    values, vectors = robust_eigh(hermitian(x @ x.mH))
    top = values[..., -1:]
    least = 2 * x.shape[-2] ** 0.5 * torch.finfo(values.dtype).eps
    base = torch.maximum(values, least * top)
    root = torch.where(top > 0, base, torch.ones_like(base)).rsqrt().to(x.dtype)
    x = (vectors * root[..., None, :]) @ (vectors.mH @ x)
    return 1.5 * x - 0.5 * (x @ x.mH) @ x


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


def gathers(x: Tensor, polynomials: Sequence[Coefficients]) -> bool:
    """Whether the Gram form gives the polynomials themselves, for less."""
    m, n = x.shape[-2:]
    slope = math.prod([p[0] for p in polynomials])
    wide = m >= 64 and 2 * n >= 3 * m and len(polynomials) > 1
    return wide and x.dtype == torch.float32 and slope <= 500


def gathered(y: Tensor, polynomials: Sequence[Coefficients]) -> Tensor:
    """The matrix by which the polynomials multiply X, from Y = XXᵀ."""
    found = None
    for k, (a, b, c) in enumerate(polynomials):
        h = quadratic(y, b, c)
        h.diagonal(dim1=-2, dim2=-1).add_(a)
        found = h if found is None else commuting(found, h)
        if k < len(polynomials) - 1:
            y = commuting(commuting(y, h), h)
    assert found is not None
    return found


def _composed(y: Tensor, polynomials: Sequence[Coefficients], at_once: int) -> Tensor:
    """Polynomials of singular values, so many at once; products on the smaller side."""
    shape = y.shape
    y = y.flatten(0, -3) if y.ndim > 2 else y[None]
    tall = y.shape[-2] > y.shape[-1]
    groups = -(-len(polynomials) // at_once)
    ends = [len(polynomials) * k // groups for k in range(groups + 1)]
    for start, end in pairwise(ends):
        small = gram(y.mH if tall else y)
        if y.dtype.itemsize < 4:
            # a on the diagonal of the mix would lose the digits of the mix
            a, b, c = polynomials[start]
            mix = quadratic(small, b, c)
            y = torch.baddbmm(y, *((y, mix) if tall else (mix, y)), beta=a)
        else:
            mix = gathered(small, polynomials[start:end])
            y = torch.bmm(y, mix) if tall else torch.bmm(mix, y)
    return y.reshape(shape)


def newton_schulz(
    x: Tensor,
    polynomials: tuple[Coefficients, ...],
    dtype: torch.dtype | None = None,
    normalize: str = "frobenius",
) -> Tensor:
    """Apply odd polynomials to the singular values of ``x``/‖x‖_F, one after another.

    The scale is divided out exactly, without an epsilon, so the result is the same for
    ``x`` and ``c·x``; zero stays zero. In single precision, where n ≥ 1.5 m and few
    polynomials are asked for, they are gathered in the Gram matrix, which is cheaper and
    differs by less than 1e-3.

    Parameters
    ----------
    x : Tensor
        Shape (..., m, n), in working precision; that of the result.
    polynomials : tuple of (a, b, c)
        p(σ) = aσ + bσ³ + cσ⁵, in the order of their application.
    dtype : torch.dtype, optional
        Precision of the products; None is that of ``x``. Muon uses bfloat16.
    normalize : str
        Another scaling than x/‖x‖_F (default), as for ``polar``.
    """
    y = normalized(x, normalize)
    y = y.to(dtype or y.dtype)
    wide = y.mT if y.shape[-2] > y.shape[-1] else y
    at_once = len(polynomials) if gathers(wide, polynomials) else 1
    return _composed(y, polynomials, at_once).to(x.dtype)


def check_method(method: str, steps: int | None) -> None:
    """Raise ValueError unless ``polar`` knows this method with these steps."""
    if method in ("svd", "eigh"):
        require_steps(method, steps)
    else:
        coefficients("polar-express" if method == "gram" else method, steps)


_polynomials = lru_cache(coefficients)  # asked for in every step


def raw_polar(
    x: Tensor,
    method: str = "svd",
    steps: int | None = None,
    dtype: torch.dtype | None = None,
    normalize: str = "frobenius",
    renormalize: str | None = None,
) -> Tensor:
    """``polar`` of a finite, non-empty matrix in working precision, without checks."""
    if method == "svd":
        found = _by_svd(x if normalize == "frobenius" else normalized(x, normalize))
    elif method in ("eigh", "gram"):
        tall = x.shape[-2] > x.shape[-1]
        y = normalized(x, normalize)
        y = tame(y.mH if tall else y)
        if method == "eigh":
            y = _by_eigh(y)
        else:
            polynomials = _polynomials("polar-express", steps or GRAM_STEPS)
            y = _composed(y, polynomials, AT_ONCE)
        found = (y.mH if tall else y).resolve_conj()
    else:
        found = newton_schulz(x, _polynomials(method, steps), dtype, normalize)
    return renormalized(found, renormalize)


def polar(
    G: Tensor,
    method: str = "svd",
    steps: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    normalize: str = "frobenius",
    renormalize: str | None = None,
) -> Tensor:
    """The polar factor UVᵀ of G = UΣVᵀ, or an approximation of it.

    It is the nearest semi-orthogonal matrix (Bernstein & Newhouse 2024, Prop. 4)
    and the steepest direction under the spectral norm. Where G has rank r below
    min(m, n) it is the partial isometry U_r V_rᵀ: of the maximisers of ⟨G, X⟩ over
    ‖X‖₂ ≤ 1 the one of least norm, which does not depend on a basis of the null space
    and is where the odd iterations go. Singular values below ``max(m, n)·eps·σ₁``
    count as zero.

    Parameters
    ----------
    G : Tensor
        Shape (..., m, n), any strides; leading axes are a batch.
    method : str
        "svd" (exact); "cubic", "pade", "muon", "you", "quintic", "cans", "cubic5",
        "aol", "deepseek" or "polar-express" (odd polynomials, whose sources and images
        ``COEFFICIENT_SETS`` gives); "gram" (those of "polar-express", gathered in the
        Gram matrix: cheap where n > 1.5 m); "eigh" (the inverse root of the Gram matrix,
        then one cubic step: right to 1e-4 for singular values above 1e-2 σ₁ in single
        precision, 1e-6 σ₁ in double; those below √(2 eps √m) σ₁ shrink in proportion).
        On CUDA "svd" and "eigh" wait for the device; the others never do.
    steps : int, optional
        Number of polynomials; None is the default of the method (20, 13, 5, 6, 5, 5, 5,
        4, 10, 6 and 7). Four of "polar-express" are cheaper than the five of "muon" and
        better aligned with G.
    dtype : torch.dtype, optional
        Precision of the products of an iteration, ``torch.bfloat16`` as Muon does; None
        is that of ``G``, single precision at least.
    normalize : str
        How singular values are brought below 1 before the polynomials. "frobenius"
        (default): G/‖G‖_F. "schatten4": G/‖GGᵀ‖_F^½, closer to 1, for one product
        more. Two that scale rows first, so that the limit is the polar factor of DG,
        D > 0 diagonal: still a direction of descent, for ⟨G, X⟩ > 0, but another one.
        "rows": every row to one length, as nanochat and MuonEq do. "aol": row i of the
        smaller side by (Σ_j abs(GGᵀ_ij))^(−½), as Turbo-Muon does, for one product more.
    renormalize : str, optional
        "frobenius": the result is resized to Frobenius norm √min(m, n), that of a
        semi-orthogonal matrix; its spectral norm may exceed 1. None (default) leaves it.

    Returns
    -------
    Tensor
        Shape and type of ``G``; zero gives zero, a non-finite entry NaN. ValueError for
        less than two axes and for ``dtype`` with "svd", "gram" or "eigh", TypeError for
        what is no dense floating or complex tensor or a ``dtype`` that cannot hold it.
    """
    require_numeric(G, "polar")
    if G.ndim < 2:
        raise ValueError(f"polar needs a matrix, got shape {tuple(G.shape)}")
    check_method(method, steps)
    check_normalizers(normalize, renormalize)
    if dtype is not None:
        if method in ("svd", "gram", "eigh"):
            raise ValueError(
                f"method {method!r} takes no dtype: it has no low precision"
            )
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, got {dtype!r}")
        if not dtype.is_complex and (G.is_complex() or not dtype.is_floating_point):
            raise TypeError(
                f"a polar factor of {G.dtype} cannot be computed in {dtype}"
            )
    how = method, steps, dtype, normalize, renormalize
    return guarded(G, 2, lambda x: raw_polar(x, *how), per_point=False)


class Certificate(NamedTuple):
    """How good an approximate polar factor is, each entry of the batch shape.

    ``efficiency`` is ⟨G, X⟩/(‖G‖_*·‖X‖₂) ≤ 1, the share of the steepest descent that a
    step along X attains, ``sigma_min`` and ``sigma_max`` the extreme singular values of
    X; all are 1 for the exact factor of a full-rank G.
    """

    efficiency: Tensor
    sigma_min: Tensor
    sigma_max: Tensor


def certificate(G: Tensor, X: Tensor) -> Certificate:
    """Measure X as a steepest direction for G under the spectral norm.

    Both have one shape (..., m, n) with m, n ≥ 1, or there is a ValueError; computed
    in the wider of their precisions, in single precision at least. The efficiency is 1
    if G is zero, otherwise 0 if X is; all is NaN where an entry is not finite.
    """
    require_numeric(G, "certificate")
    require_numeric(X, "certificate")
    if G.shape != X.shape or G.ndim < 2 or 0 in G.shape[-2:]:
        raise ValueError(
            "certificate needs two non-empty matrices of one shape, got "
            f"{tuple(G.shape)} and {tuple(X.shape)}"
        )
    dtype = working_dtype(torch.promote_types(G.dtype, X.dtype))
    g, x = G.to(dtype), X.to(dtype)
    spoiled = poison(g, 2) + poison(x, 2)
    sigma = singular_values(x)
    g, x = g / peak(g, (-2, -1)), x / peak(x, (-2, -1))
    gain = (g.conj() * x).sum((-2, -1)).real
    best = singular_values(g).sum(-1) * singular_values(x)[..., 0]
    share = torch.where(best > 0, gain / or_one(best), 0)
    share = torch.where(g.abs().amax((-2, -1)) > 0, share, 1)
    found = share, sigma[..., -1], sigma[..., 0]
    return Certificate(*(x + spoiled for x in found))
