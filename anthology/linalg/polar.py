"""The polar factor of a matrix: UVᵀ, the duality map of the spectral norm.

One function: by the singular value decomposition, by the eigenvectors of the Gram
matrix, or by compositions of odd polynomials that need matrix products only.
"""

import torch
from torch import Tensor

from anthology.linalg.coefficients import coefficients
from anthology.linalg.decompositions import robust_svd, robust_svdvals
from anthology.linalg.gram import eigh_polar, gathered, gathers, gram_iteration
from anthology.linalg.normalizers import check_normalizers, normalized, renormalized
from anthology.linalg.products import gram, quadratic
from anthology.linalg.published import Coefficients
from anthology.linalg.safe import (
    guarded,
    peak,
    require_numeric,
    unit,
)

GRAM_STEPS = 7
"""Default steps of the method "gram"."""


def _tame(x: Tensor) -> Tensor:
    """Zeros in place of what is not finite: LAPACK raises on it, or never returns."""
    return torch.where(torch.isfinite(x), x, torch.zeros_like(x))


def singular_values(x: Tensor) -> Tensor:
    """Singular values of a matrix, largest first, whatever its scale."""
    scale = peak(x, (-2, -1))
    x = x / scale
    if 1 in x.shape[-2:]:
        # A single row or column: thousands of these make a depthwise convolution.
        values = torch.linalg.matrix_norm(x).unsqueeze(-1)
    else:
        values = robust_svdvals(_tame(x))
    out: Tensor = values * scale[..., 0]
    return out


def reduced_svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ/σ₁ and Vᴴ of a matrix, with rounding noise set to exact zeros."""
    u, s, vh = robust_svd(_tame(x / peak(x, (-2, -1))))
    top = s[..., :1]
    s = s / torch.where(top > 0, top, torch.ones_like(top))
    noise = max(x.shape[-2:]) * torch.finfo(s.dtype).eps
    return u, torch.where(s > noise, s, torch.zeros_like(s)), vh


def _exact(x: Tensor) -> Tensor:
    if 1 in x.shape[-2:]:
        return unit(x)
    u, s, vh = reduced_svd(x)
    return (u * (s > 0).to(u.dtype)[..., None, :]) @ vh


def newton_schulz(
    x: Tensor,
    polynomials: tuple[Coefficients, ...],
    dtype: torch.dtype | None = None,
    normalize: str = "frobenius",
) -> Tensor:
    """Apply odd polynomials to the singular values of ``x``/‖x‖_F, one after another.

    The products are formed on the smaller side. The scale is divided out exactly
    (largest entry first, then the Frobenius norm, no epsilon), so the result is
    the same for ``x`` and ``c·x``; zero stays zero.

    Parameters
    ----------
    x : Tensor
        Shape (..., m, n), in working precision.
    polynomials : tuple of (a, b, c)
        p(σ) = aσ + bσ³ + cσ⁵, in the order of their application.
    dtype : torch.dtype, optional
        Precision of the products; None is that of ``x``. Muon uses bfloat16.
    normalize : str
        Another scaling than x/‖x‖_F (default), as for ``polar``.

    Returns
    -------
    Tensor
        Shape and type of ``x``.

    Notes
    -----
    In single precision, where n ≥ 1.5 m and few polynomials are asked for, they are
    gathered in the Gram matrix, which is cheaper and differs by less than 1e-3; see
    ``anthology.linalg.gram``.
    """
    y = normalized(x, normalize)
    y = y if dtype is None else y.to(dtype)
    y = y.flatten(0, -3) if y.ndim > 2 else y[None]
    tall = y.shape[-2] > y.shape[-1]
    if gathers(y.mT if tall else y, polynomials):
        h = gathered(gram(y.mT if tall else y), polynomials)
        y = torch.bmm(y, h) if tall else torch.bmm(h, y)
    else:
        for p in polynomials:
            y = _applied(p, y, tall)
    return y.reshape(x.shape).to(x.dtype)


def _applied(p: Coefficients, y: Tensor, tall: bool) -> Tensor:
    """One polynomial; the matrix it multiplies by stands on the smaller side."""
    a, b, c = p
    mix = quadratic(gram(y.mH if tall else y), b, c)
    if y.dtype.itemsize < 4:
        # a on the diagonal of the mix would lose the digits of the mix
        if tall:
            return torch.baddbmm(y, y, mix, beta=a)
        return torch.baddbmm(y, mix, y, beta=a)
    mix.diagonal(dim1=-2, dim2=-1).add_(a)
    return torch.bmm(y, mix) if tall else torch.bmm(mix, y)


def check_method(method: str, steps: int | None) -> None:
    """Raise ValueError unless ``polar`` knows this method with these steps."""
    if method == "gram":
        coefficients("polar-express", steps)
    elif method not in ("svd", "eigh"):
        coefficients(method, steps)
    elif steps is not None:
        raise ValueError(
            f"method {method!r} is exact and takes no steps, got {steps!r}"
        )


def raw_polar(
    x: Tensor,
    method: str = "svd",
    steps: int | None = None,
    dtype: torch.dtype | None = None,
    normalize: str = "frobenius",
    renormalize: str | None = None,
) -> Tensor:
    """``polar`` of a finite, non-empty matrix in working precision, without checks."""
    if method in ("svd", "eigh", "gram"):
        found = _of_gram_or_svd(x, method, steps, normalize)
    else:
        found = newton_schulz(x, coefficients(method, steps), dtype, normalize)
    return renormalized(found, renormalize)


def _of_gram_or_svd(x: Tensor, method: str, steps: int | None, how: str) -> Tensor:
    if method == "svd":
        return _exact(x if how == "frobenius" else normalized(x, how))
    tall = x.shape[-2] > x.shape[-1]
    y = normalized(x, how)
    y = _tame(y.mH if tall else y)
    if method == "eigh":
        y = eigh_polar(y)
    else:
        y = gram_iteration(y, coefficients("polar-express", steps or GRAM_STEPS))
    return (y.mH if tall else y).resolve_conj()


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
    and the steepest direction under the spectral norm. When G has rank r less
    than min(m, n), it is the partial isometry U_r V_rᵀ: directions that G does not
    have get no step. Among the maximisers of ⟨G, X⟩ over ‖X‖₂ ≤ 1 it is the one of
    least norm, it does not depend on the basis LAPACK happens to choose for the
    null space, and it is where the odd iterations go. Singular values below
    ``max(m, n)·eps·σ₁`` count as zero.

    Parameters
    ----------
    G : Tensor
        Shape (..., m, n), any strides; leading axes are a batch.
    method : str
        "svd" (exact); "cubic", "pade", "muon", "you", "quintic", "cans", "cubic5",
        "aol", "deepseek" or "polar-express" (odd polynomials, whose sources and images
        ``COEFFICIENT_SETS`` gives); "gram" (those of "polar-express", gathered in the Gram matrix:
        cheap where n > 1.5 m); "eigh" (the inverse root of the Gram matrix, then one
        cubic step: right to 1e-4 for singular values above 1e-2 σ₁ in single precision,
        1e-6 σ₁ in double; those below √(2 eps √m) σ₁ shrink in proportion). On CUDA
        "svd" and "eigh" wait for the device; the others never do.
    steps : int, optional
        Number of polynomials for the iterative methods; None is the default of
        the method (20, 13, 5, 6, 5, 5, 5, 4, 10, 6 and 7). Four of "polar-express" are cheaper than
        the five of "muon" and better aligned with G.
    dtype : torch.dtype, optional
        Precision of the products of an iterative method, for example
        ``torch.bfloat16`` as Muon does. None computes in the precision of ``G``,
        in single precision at least.
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
        Shape and type of ``G``. Zero gives zero; a matrix with a non-finite entry
        gives NaN.

    Raises
    ------
    ValueError
        Unknown method, steps, ``normalize`` or ``renormalize``, less than two axes,
        ``dtype`` with "svd", "gram" or "eigh".
    TypeError
        Not a dense floating or complex tensor, or a ``dtype`` that cannot hold it.
    """
    require_numeric(G, "polar")
    if G.ndim < 2:
        raise ValueError(f"polar needs a matrix, got shape {tuple(G.shape)}")
    check_method(method, steps)
    check_normalizers(normalize, renormalize)
    _check_dtype(G, method, dtype)
    how = method, steps, dtype, normalize, renormalize
    return guarded(G, 2, lambda x: raw_polar(x, *how), per_point=False)


def _check_dtype(G: Tensor, method: str, dtype: torch.dtype | None) -> None:
    if dtype is None:
        return
    if method in ("svd", "gram", "eigh"):
        raise ValueError(f"method {method!r} takes no dtype: it has no low precision")
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, got {dtype!r}")
    if not dtype.is_complex and (G.is_complex() or not dtype.is_floating_point):
        raise TypeError(f"a polar factor of {G.dtype} cannot be computed in {dtype}")
