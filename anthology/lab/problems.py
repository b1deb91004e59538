"""The model problems of the book, small enough to see and to solve by hand.

>>> from anthology.lab.problems import two_weights
>>> w = two_weights.start()
>>> two_weights(w)                # the loss, shape of w without its last axis
tensor(0.1800, dtype=torch.float64)
>>> two_weights.gradient(w)       # closed form, shape of w
tensor([-0.1200, -1.2000], dtype=torch.float64)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Device = torch.device | str | None


class TwoWeights:
    r"""The two-weight network: :math:`f(a, b) = \tfrac12 (ab - 1)^2`."""

    def __call__(self, w: Tensor) -> Tensor:
        """The loss; shape (..., 2) → (...)."""
        return 0.5 * self.residual(w) ** 2

    def residual(self, w: Tensor) -> Tensor:
        """ab − 1; shape (..., 2) → (...)."""
        a, b = _two(w)
        return a * b - 1

    def gradient(self, w: Tensor) -> Tensor:
        """(ab − 1)·(b, a); shape (..., 2) → (..., 2)."""
        return self.residual(w).unsqueeze(-1) * w.flip(-1)

    def hessian(self, w: Tensor) -> Tensor:
        """[[b², 2ab − 1], [2ab − 1, a²]]; shape (..., 2) → (..., 2, 2)."""
        a, b = _two(w)
        off = 2 * a * b - 1
        rows = [torch.stack([b * b, off], -1), torch.stack([off, a * a], -1)]
        return torch.stack(rows, -2)

    def start(
        self, dtype: torch.dtype = torch.float64, device: Device = None
    ) -> Tensor:
        """Where every optimizer of the book starts: (2, 0.2), shape (2,)."""
        return torch.tensor([2.0, 0.2], dtype=dtype, device=device)

    def minimum(self, a: Tensor) -> Tensor:
        """The minimum (a, 1/a) above a ≠ 0; shape (...) → (..., 2)."""
        return torch.stack([a, 1 / a], -1)

    def sharpness(self, w: Tensor) -> Tensor:
        """a² + b², at a minimum the one non-zero eigenvalue of the Hessian."""
        return w.square().sum(-1)

    def imbalance(self, w: Tensor) -> Tensor:
        """a² − b², which gradient flow conserves; shape (..., 2) → (...)."""
        a, b = _two(w)
        return a * a - b * b

    def flow_limit(self, w: Tensor) -> Tensor:
        """The minimum where gradient flow from w ends; shape (..., 2) both."""
        a, b = _two(w)
        c = self.imbalance(w)
        larger = ((c.abs() + (c * c + 4).sqrt()) / 2).sqrt()
        first = torch.where(c >= 0, larger, 1 / larger)
        return torch.sign(a + b).unsqueeze(-1) * self.minimum(first)


two_weights = TwoWeights()


@dataclass(frozen=True)
class TwoMatrices:
    r"""The two-matrix network: :math:`f(A, B) = \tfrac12 \|BA - M\|_F^2`."""

    target: Tensor
    start: tuple[Tensor, Tensor]

    def __call__(self, A: Tensor, B: Tensor) -> Tensor:
        """The loss; batched over leading axes, shape (...)."""
        return 0.5 * (B @ A - self.target).square().sum((-2, -1))

    def gradient(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """(Bᵀ(BA − M), (BA − M)Aᵀ), in the shapes of A and B."""
        residual = B @ A - self.target
        return B.mT @ residual, residual @ A.mT


def two_matrices(
    d_in: int = 4,
    hidden: int = 3,
    d_out: int = 3,
    *,
    seed: int = 0,
    device: Device = None,
) -> TwoMatrices:
    """A seeded two-matrix network in float64."""
    g = torch.Generator().manual_seed(seed)
    sizes = ((d_out, d_in), (hidden, d_in), (d_out, hidden))
    M, A, B = (_gaussian(g, *size).to(device) for size in sizes)
    return TwoMatrices(M, (0.5 * A, 0.5 * B))


@dataclass(frozen=True)
class LinearRegression:
    r"""One linear layer: :math:`f(W) = \frac{1}{2 n d_{out}} \sum \|y_i - W x_i\|^2`.

    The ``inputs`` (n, d_in) have rows of RMS exactly 1, so that the spectral norm
    majorises it with the constant d_in/d_out, its ``sharpness`` (Bernstein & Newhouse
    2024, Prop. 6). The ``outputs`` are (n, d_out), and the ``start`` is W = 0.
    """

    inputs: Tensor
    outputs: Tensor
    start: Tensor
    sharpness: float

    def __call__(self, W: Tensor) -> Tensor:
        """The loss of W of shape (..., d_out, d_in); shape (...)."""
        return 0.5 * self._residual(W).square().mean((-2, -1))

    def gradient(self, W: Tensor) -> Tensor:
        """The gradient, in the shape of W."""
        return self._residual(W).mT @ self.inputs / self.outputs.numel()

    def _residual(self, W: Tensor) -> Tensor:
        return self.inputs @ W.mT - self.outputs


def linear_regression(
    n: int = 50, d_in: int = 6, d_out: int = 4, *, seed: int = 0, device: Device = None
) -> LinearRegression:
    """A seeded regression in float64 with noisy outputs of a Gaussian map."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d_in, generator=g, dtype=torch.float64)
    x = x / x.square().mean(-1, keepdim=True).sqrt()
    y = x @ _gaussian(g, d_out, d_in).mT
    y = y + 0.1 * torch.randn(n, d_out, generator=g, dtype=torch.float64)
    W = torch.zeros(d_out, d_in, dtype=torch.float64, device=device)
    return LinearRegression(x.to(device), y.to(device), W, d_in / d_out)


def _gaussian(g: torch.Generator, rows: int, columns: int) -> Tensor:
    sample = torch.randn(rows, columns, generator=g, dtype=torch.float64)
    out: Tensor = sample / columns**0.5
    return out


def _two(w: Tensor) -> tuple[Tensor, Tensor]:
    if w.ndim == 0 or w.shape[-1] != 2:
        right = "a point of the two-weight network has shape (..., 2)"
        raise ValueError(f"{right}, got {tuple(w.shape)}")
    return w[..., 0], w[..., 1]
