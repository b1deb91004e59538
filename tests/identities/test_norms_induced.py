"""What a matrix or a kernel does to vectors and images is what its norm says."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anthology import norms as N
from tests.norm_catalogue import INF, draw


def stretch(W: Tensor, x: Tensor, p_in, p_out) -> Tensor:
    """Length of Wx over length of x, for each column of x."""
    return p_out(W @ x) / p_in(x)


def lp(p: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.linalg.vector_norm(x, p, dim=0)


def rms(x: Tensor) -> Tensor:
    return x.square().mean(0).sqrt()


def norming(row: Tensor, p: float) -> Tensor:
    """The input of ℓp length 1 on which a row is largest (Hölder with equality)."""
    q = 1.0 if p == INF else INF if p == 1 else p / (p - 1)
    if q == INF:
        return torch.nn.functional.one_hot(row.abs().argmax(), len(row)) * row.sign()
    x = row.sign() * row.abs() ** (q - 1)
    return x / torch.linalg.vector_norm(x, p)


def corners(n: int) -> Tensor:
    """All vectors of signs, as columns."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * n).mT


BASIS = torch.eye(3, dtype=torch.float64)
INDUCED = [
    (N.OneTo(1), lp(1), lp(1), lambda W: BASIS),
    (N.OneTo(2), lp(1), lp(2), lambda W: BASIS),
    (N.OneTo(3), lp(1), lp(3), lambda W: BASIS),
    (N.ColumnL1(), lp(1), lp(1), lambda W: BASIS),
    (N.MaxAbs(), lp(1), lp(INF), lambda W: BASIS),
    (N.OneToRMS(), lp(1), rms, lambda W: BASIS),
    (N.RowL1(), lp(INF), lp(INF), lambda W: corners(3)),
    (N.ToInf(INF), lp(INF), lp(INF), lambda W: corners(3)),
    *(
        (
            N.ToInf(p),
            lp(p),
            lp(INF),
            lambda W, p=p: torch.stack([norming(r, p) for r in W], 1).double(),
        )
        for p in (1, 1.5, 2, 3)
    ),
    (N.RMSToInf(), rms, lp(INF), lambda W: W.mT),
    (N.Spectral(), lp(2), lp(2), lambda W: torch.linalg.eigh(W.mT @ W)[1]),
    (N.RMSToRMS(), rms, rms, lambda W: torch.linalg.eigh(W.mT @ W)[1]),
]


@pytest.mark.parametrize(
    ("norm", "p_in", "p_out", "best"), INDUCED, ids=[repr(r[0]) for r in INDUCED]
)
@pytest.mark.claim("induced-norms", tol=1e-12, trials=2000)
def test_an_induced_norm_is_the_largest_stretch(norm, p_in, p_out, best, claim) -> None:
    """No input is stretched more, and one of the extreme inputs is as much."""
    W = draw((4, 3), 1)
    size = norm.norm(W)
    inputs = draw((3, claim.trials), 2)
    assert (stretch(W, inputs, p_in, p_out) <= size * (1 + claim.tol)).all()
    reached = stretch(W, best(W), p_in, p_out).max()
    assert abs(reached - size) < claim.tol * size


def largest_gain(image: Tensor, output: Tensor) -> float:
    """Largest RMS of an output pixel over the largest RMS of an input pixel."""
    size = [x.square().mean(1).sqrt().max() for x in (output, image)]
    return (size[0] / size[1]).item()


@pytest.mark.claim("convolution-bound", tol=1e-12, trials=6)
@pytest.mark.parametrize(
    ("norm", "shape", "apply"),
    [
        (N.Conv(2), (6, 4, 3, 3), lambda x, w: F.conv2d(x, w, padding=1)),
        (
            N.Split(N.Conv(2), 2),
            (6, 2, 3, 3),
            lambda x, w: F.conv2d(x, w, padding=1, groups=2),
        ),
        (
            N.Split(N.Conv(2), 4),
            (4, 1, 3, 3),
            lambda x, w: F.conv2d(x, w, padding=1, groups=4),
        ),
        (N.Transpose(N.Conv(2)), (4, 6, 3, 3), F.conv_transpose2d),
        (
            N.Split(N.Transpose(N.Conv(2)), 2),
            (4, 3, 3, 3),
            lambda x, w: F.conv_transpose2d(x, w, groups=2),
        ),
    ],
    ids=["plain", "grouped", "depthwise", "transposed", "transposed-grouped"],
)
def test_the_norm_of_a_kernel_bounds_its_convolution(norm, shape, apply, claim) -> None:
    """Layout and groups are read the right way round, or the bound would fail."""
    closest = 0.0
    for seed in range(claim.trials):
        kernel = norm.dualize(draw(shape, seed))
        image = draw((2, 4, 8, 8), seed + 100)
        gain = largest_gain(image, apply(image, kernel))
        assert gain <= 1 + claim.tol
        # One matrix repeated at each position and its best input attain the bound.
        one = kernel[..., :1, :1].expand(shape).contiguous()
        one = one / norm.norm(one)
        best = best_input(one, image, apply)
        closest = max(closest, largest_gain(best, apply(best, one)))
        assert closest <= 1 + claim.tol
    assert closest > 1 - 1e-6


def best_input(kernel: Tensor, image: Tensor, apply) -> Tensor:
    """A constant image along the right singular vector, by the power method."""
    x = image.mean((0, 2, 3), keepdim=True).expand(1, -1, 8, 8).clone()
    for _ in range(200):
        x.requires_grad_()
        y = apply(x, kernel)[..., 3:5, 3:5].square().sum()
        (g,) = torch.autograd.grad(y, x)
        x = g.mean((2, 3), keepdim=True).expand(1, -1, 8, 8).clone()
        x = x / x.square().mean().sqrt()
    return x.detach()
