r"""Convolution kernels as one flat matrix: what Muon and Scion measure.

`Conv` looks at each kernel position on its own. The published code of two
optimizers flattens a kernel (d_out, d_in, \*space) with K positions into one matrix
of shape (d_out, d_in·K) instead, which is another norm and another step.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from anthology.linalg.polar import raw_polar, singular_values
from anthology.norms.spectral import Conv


@dataclass(frozen=True, repr=False)
class FlatSpectral(Conv):
    """σ₁ of the flattened kernel, the norm under which Muon orthogonalises kernels.

    Dual norm: Σσ_i. Steepest step: UVᵀ, shaped as the kernel. For inputs whose
    pixels have length at most 1 a convolution makes pixels of length at most √K
    times this norm. Parameters as for `Conv`.

    Source: KellerJordan/Muon. Its factor √max(1, rows/columns) is taken of the last
    two axes of the kernel, not of the flat matrix, and is 1 for square kernels.
    """

    def _factor(self, x: Tensor) -> float:
        return 1.0

    def _flat(self, x: Tensor) -> Tensor:
        return x.flatten(-self.ndim + 1)

    def _norm(self, x: Tensor) -> Tensor:
        return singular_values(self._flat(x))[..., 0] * self._factor(x)

    def _dual(self, g: Tensor) -> Tensor:
        return singular_values(self._flat(g)).sum(-1) / self._factor(g)

    def _dualize(self, g: Tensor) -> Tensor:
        t = raw_polar(self._flat(g), self.method, self.steps)
        return t.reshape(g.shape) / self._factor(g)


@dataclass(frozen=True, repr=False)
class FlatConv(FlatSpectral):
    """K·√(d_in/d_out)·σ₁ of the flattened kernel, the norm of Scion's kernels.

    Dual norm: √(d_out/d_in)·Σσ_i/K. Steepest step: √(d_out/d_in)·UVᵀ/K, shaped as
    the kernel. Never less than `Conv`, so it bounds the convolution too; the step is
    smaller by a factor of up to √K. Parameters as for `Conv`.

    Source: Pethick et al. 2025 (arXiv 2502.07529) and LIONS-EPFL/scion, whose code
    flattens.
    """

    def _factor(self, x: Tensor) -> float:
        d_out, d_in, *space = x.shape[-self.ndim :]
        return math.prod(space) * math.sqrt(d_in / d_out)
