"""Surfaces on which weights may be told to stay, and the steepest steps along them.

Of all unit steps that touch the surface at W the steepest solves

    max ⟨G, A⟩ over ‖A‖ ≤ 1, A tangent  =  min ‖G + N‖_* over N normal,

and A = dualize(G + N) for the best N, where that is unique. The normals of a sphere and
of a spectral sphere are multiples of W and of u₁v₁ᵀ, so N is found on a line, under any
norm. Those of the Stiefel manifold are WS with S symmetric.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from anthology.linalg.polar import raw_polar, singular_values
from anthology.linalg.products import peak
from anthology.norms.base import Norm, Scaled
from anthology.norms.lp import L2, RMS, Frobenius
from anthology.norms.spectral import Spectral
from anthology.norms.stored import Split, Transpose, split_up

__all__ = ["CONSTRAINTS", "Constraint", "SpectralSphere", "Sphere", "Stiefel"]

# Halvings of the bracket of a multiplier; what is left of it is divided exactly.
HALVINGS = 24
# Alternating projections on the Stiefel manifold, and their penalty.
ROUNDS, PENALTY = 20, 3.0


class Constraint:
    """A surface ‖W‖ = R, or WᵀW = R²I, for each point of a tensor that a norm measures.

    The blocks of a `Split` (heads, fused weights) and the leading axes (experts) are
    points of their own, and `Transpose` turns them as it does for its norm. Tensors
    are real, in single precision at least. A step of length η is
    ``onto(w - η * dualize(g, w, norm), radius, norm)``.

    Source: the problem and its dual derived here; for each surface see its class.

    >>> import torch
    >>> from anthology import norms
    >>> W, G, norm = torch.eye(3, 2), torch.ones(3, 2), norms.Spectral()
    >>> surface = norms.Stiefel()
    >>> A = surface.dualize(G, W, norm)
    >>> bool((W.mT @ A + A.mT @ W).abs().max() < 1e-6)  # tangent: WᵀA is skew
    True
    >>> W = surface.onto(W - 0.5 * A, surface.radius(W, norm), norm)
    >>> bool((W.mT @ W - torch.eye(2)).abs().max() < 1e-6)
    True
    """

    name: ClassVar[str]

    def radius(self, w: Tensor, norm: Norm) -> Tensor:
        """R of every point of ``w``, in one axis: where it is now.

        ValueError if a point has no size (an empty or zero weight) or is not finite:
        it has no place on the surface.
        """
        points, _, _ = split_up(w, norm)
        found = torch.cat([self._size(x, norm.ndim).reshape(-1) for x in points])
        if not ((found > 0) & found.isfinite()).all():
            raise ValueError(
                f"a weight of shape {tuple(w.shape)} is zero, not finite or (for "
                "'stiefel') not of full rank, so "
                f"constrain={self.name!r} has no radius for it; initialise it, or leave "
                "its group without constrain"
            )
        return found

    def fits(self, norm: Norm) -> bool:
        """Whether what this norm measures can be told to stay on this surface."""
        while isinstance(norm, Scaled | Transpose | Split):
            norm = norm.base
        return self._fits(norm)

    def count(self, w: Tensor, norm: Norm) -> int:
        """How many points, and so radii, a tensor has."""
        points, _, _ = split_up(w, norm)
        return sum(math.prod(x.shape[: x.ndim - norm.ndim]) for x in points)

    def onto(self, w: Tensor, radius: Tensor, norm: Norm) -> Tensor:
        """``w`` brought back: the nearest point, but for `SpectralSphere`, which scales."""
        points, _, back = split_up(w, norm)
        moved = []
        for x in points:
            lead = x.shape[: x.ndim - norm.ndim]
            own, radius = radius.tensor_split([math.prod(lead)])
            size = own.reshape(*lead, *(1,) * norm.ndim)
            moved.append(self._nearest(x, norm.ndim) * size)
        return back(moved)

    def dualize(self, g: Tensor, w: Tensor, norm: Norm) -> Tensor:
        """The steepest step at ``w`` of ‖A‖ ≤ 1 along the surface, shaped like ``g``.

        Zero where ``g`` is normal to the surface. TypeError if this surface does not go
        with the norm.
        """
        points, own, back = split_up(g, norm)
        places, _, _ = split_up(w, norm)
        pairs = zip(points, places, strict=True)
        axes = tuple(range(-norm.ndim, 0))
        sized = [(x / peak(x, axes), at) for x, at in pairs]  # its size does not matter
        return back([self._steepest(x, at, own) for x, at in sized])

    def _fits(self, norm: Norm) -> bool:
        return norm.ndim == 2

    def _size(self, w: Tensor, ndim: int) -> Tensor:
        """R of each point."""
        raise NotImplementedError

    def _nearest(self, w: Tensor, ndim: int) -> Tensor:
        """Onto the surface of radius one."""
        raise NotImplementedError

    def _steepest(self, g: Tensor, w: Tensor, norm: Norm) -> Tensor:
        """The steepest tangent unit step."""
        raise NotImplementedError


class Sphere(Constraint):
    """‖W‖_F = R: the root of the sum of squares stays what it was.

    Under ℓ₂, Frobenius and RMS the step is G − ⟨G, W⟩W/R², made one long; under other
    norms the multiple of W that makes the step tangent is found by halving.

    Source: Hyperball (arXiv 2606.16899) for the surface; the tangent step derived here.
    """

    name = "sphere"

    def _fits(self, norm: Norm) -> bool:
        return True

    def _size(self, w: Tensor, ndim: int) -> Tensor:
        return _length(w, ndim)

    def _nearest(self, w: Tensor, ndim: int) -> Tensor:
        size = _length(w, ndim)
        return w / _shaped(torch.where(size > 0, size, 1), ndim)

    def _steepest(self, g: Tensor, w: Tensor, norm: Norm) -> Tensor:
        inner = norm.base if isinstance(norm, Scaled) else norm
        if isinstance(inner, L2 | RMS | Frobenius):
            normal = self._nearest(w, norm.ndim)
            flat = g - _shaped(_inner(g, normal, norm.ndim), norm.ndim) * normal
            return norm.dualize(_but_rounding(flat, g, norm.ndim))
        return _beside(g, self._nearest(w, norm.ndim), norm)


class SpectralSphere(Constraint):
    """σ₁(W) = R: the largest stretch stays what it was. For matrices.

    Source: arXiv 2601.08393; the exact tangent step derived here.
    """

    name = "spectral-sphere"

    def _size(self, w: Tensor, ndim: int) -> Tensor:
        _must_be_matrix(self, ndim)
        return singular_values(w)[..., 0]

    def _nearest(self, w: Tensor, ndim: int) -> Tensor:
        size = self._size(w, ndim)
        return w / _shaped(torch.where(size > 0, size, 1), ndim)

    def _steepest(self, g: Tensor, w: Tensor, norm: Norm) -> Tensor:
        _must_be_matrix(self, norm.ndim)
        u, _, vh = torch.linalg.svd(w, full_matrices=False)
        return _beside(g, u[..., :1] @ vh[..., :1, :], norm)


class Stiefel(Constraint):
    """All singular values are R: WᵀW = R²I of a tall matrix, WWᵀ = R²I of a wide one.

    R is the root mean square of the singular values at the start. For Frobenius, and for
    Spectral and RMSToRMS, of which a square matrix has the closed form W·polar(skew WᵀG);
    for the others alternating projections find the step, exactly tangent, with at
    least 99 % of the best descent (a test measures it).

    Source: manifold Muon (Bernstein 2025, Thinking Machines), solved another way here.
    """

    name = "stiefel"

    def _fits(self, norm: Norm) -> bool:
        return isinstance(norm, Frobenius | Spectral)

    def _size(self, w: Tensor, ndim: int) -> Tensor:
        _must_be_matrix(self, ndim)
        values = singular_values(w)
        full = values[..., -1] > torch.finfo(w.dtype).eps * values[..., 0]
        return values.square().mean(-1).sqrt() * full

    def _nearest(self, w: Tensor, ndim: int) -> Tensor:
        _must_be_matrix(self, ndim)
        return raw_polar(w)

    def _steepest(self, g: Tensor, w: Tensor, norm: Norm) -> Tensor:
        inner = norm.base if isinstance(norm, Scaled) else norm
        if not self._fits(inner):
            raise TypeError(
                "constrain='stiefel' goes with Frobenius, Spectral and RMSToRMS, got "
                f"{norm!r}"
            )
        wide = w.shape[-2] < w.shape[-1]
        g, w = (g.mT, w.mT) if wide else (g, w)
        frame = raw_polar(w)
        flat = _but_rounding(_along(g, frame), g, 2)
        step = flat if isinstance(inner, Frobenius) else _on_frames(flat, frame)
        step = step.mT if wide else step
        size = norm.norm(step)
        return step / _shaped(torch.where(size > 0, size, 1), 2)


CONSTRAINTS = {kind.name: kind() for kind in (Sphere, SpectralSphere, Stiefel)}


def _on_frames(g: Tensor, frame: Tensor) -> Tensor:
    """Steepest under the spectral norm, up to its length; ``g`` tangent, frame tall."""
    n = frame.shape[-1]
    if n == frame.shape[-2]:
        turn = frame.mT @ g
        whole: Tensor = frame @ raw_polar((turn - turn.mT) / 2)
        return whole
    # max ⟨G, X⟩ over ‖X‖ ≤ 1, X = Z, Z tangent, by multipliers (ADMM)
    mean = singular_values(g).mean(-1)[..., None, None]
    pull = g / (PENALTY * torch.where(mean > 0, mean, 1))
    step, gap = _along(raw_polar(g), frame), torch.zeros_like(g)
    for _ in range(ROUNDS):
        inside = _clipped(step - gap + pull)
        step = _along(inside + gap, frame)
        gap = gap + inside - step
    found: Tensor = step * (mean > 0)
    return found


def _clipped(x: Tensor) -> Tensor:
    """The nearest matrix of spectral norm at most one; ``x`` tall."""
    squares, v = torch.linalg.eigh(x.mT @ x)
    inside: Tensor = x @ (v * squares.clamp_min(1).rsqrt()[..., None, :]) @ v.mT
    return inside


def _along(x: Tensor, frame: Tensor) -> Tensor:
    """The nearest tangent of the Stiefel manifold: X − W sym(WᵀX)."""
    turn = frame.mT @ x
    return x - frame @ ((turn + turn.mT) / 2)


def _beside(g: Tensor, normal: Tensor, norm: Norm) -> Tensor:
    """Steepest where there is one normal N: dualize(G + λN) with ⟨N, A⟩ = 0."""
    # that product never falls as λ grows; where it jumps over zero the steps on both
    # sides are as good, and so is the mean of them that is tangent
    ndim = norm.ndim
    reach = 2 * norm.dual(g) / norm.dual(normal)
    low, high = -_shaped(reach, ndim), _shaped(reach, ndim)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = _shaped(_inner(normal, norm.dualize(g + middle * normal), ndim), ndim)
        low = torch.where(slope < 0, middle, low)
        high = torch.where(slope < 0, high, middle)
    steps = [norm.dualize(g + end * normal) for end in (low, high)]
    below, above = (_shaped(_inner(normal, t, ndim), ndim) for t in steps)
    width = above - below
    share = torch.where(width > 0, above / torch.where(width > 0, width, 1), 1)
    return share * steps[0] + (1 - share) * steps[1]


def _but_rounding(flat: Tensor, g: Tensor, ndim: int) -> Tensor:
    """What is left of a gradient, zero where that is the rounding of a difference."""
    noise = 32 * torch.finfo(g.dtype).eps * _length(g, ndim)
    return flat * _shaped(_length(flat, ndim) > noise, ndim)


def _inner(a: Tensor, b: Tensor, ndim: int) -> Tensor:
    product = a * b
    return (product.flatten(-ndim) if ndim > 1 else product).sum(-1)


def _length(x: Tensor, ndim: int) -> Tensor:
    flat = x.flatten(-ndim) if ndim > 1 else x
    found: Tensor = torch.linalg.vector_norm(flat, dim=-1)
    return found


def _shaped(values: Tensor, ndim: int) -> Tensor:
    """One number a point, with the axes of points."""
    return values.reshape(*values.shape, *(1,) * ndim)


def _must_be_matrix(constraint: Constraint, ndim: int) -> None:
    if ndim != 2:
        raise TypeError(
            f"constrain={constraint.name!r} is for matrices, and this weight is measured "
            f"by a norm on {ndim} {'axis' if ndim == 1 else 'axes'}"
        )
