"""Kernels as flat matrices, and stacks of experts as matrices."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anthology import norms as N
from anthology.norms import metrize
from anthology.optim import SteepestDescent
from tests.norm_catalogue import draw, inner

SHAPES = [(3, 4, 5), (6, 2, 2, 3), (2, 3, 1, 2, 2), (1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [N.FlatSpectral, N.FlatConv])
@pytest.mark.claim("flat-kernels", tol=1e-10, trials=30)
def test_flat_norms_are_those_of_the_flat_matrix(claim, kind, shape) -> None:
    norm = kind(len(shape) - 2)
    d_out, d_in, *space = shape
    k = math.prod(space)
    s = 1.0 if kind is N.FlatSpectral else k * math.sqrt(d_in / d_out)
    g = draw((2, *shape))
    u, sigma, vh = torch.linalg.svd(g.reshape(2, d_out, -1), full_matrices=False)
    t = norm.dualize(g)
    assert (t - (u @ vh).reshape(g.shape) / s).abs().max() < claim.tol
    assert (norm.norm(g) / (s * sigma[:, 0]) - 1).abs().max() < claim.tol
    assert (norm.dual(g) / (sigma.sum(-1) / s) - 1).abs().max() < claim.tol
    assert (norm.norm(t) - 1).abs().max() < claim.tol
    assert (inner(g, t, len(shape)) / norm.dual(g) - 1).abs().max() < claim.tol
    for trial in range(claim.trials):
        other = draw(shape, 9 + trial)
        bound = norm.dual(g) * norm.norm(other)
        assert (inner(g, other, len(shape)).abs() <= bound * (1 + claim.tol)).all()
        scion, conv = N.FlatConv(len(space)).norm(other), N.Conv(len(space)).norm(other)
        assert conv <= scion * (1 + claim.tol)
        assert scion <= conv * math.sqrt(k) * (1 + claim.tol)


def test_edges_and_text() -> None:
    for norm in (N.FlatSpectral(2), N.FlatConv(1, "muon", 3)):
        assert N.from_spec(repr(norm)) == norm
    zero = torch.zeros(2, 3, 2, 2)
    assert torch.equal(N.FlatConv(2).dualize(zero), zero)
    tiny = draw((2, 3, 2, 2)) * 1e-30
    assert (N.FlatConv(2).norm(N.FlatConv(2).dualize(tiny)) - 1).abs() < 1e-10
    with pytest.raises(ValueError, match="at least 4 axes"):
        N.FlatSpectral(2).norm(torch.ones(3, 3))
    with pytest.raises(ValueError, match="at least 1"):
        N.FlatConv(0)


def test_the_flat_norm_bounds_the_convolution() -> None:
    for trial in range(50):
        x, w = draw((1, 4, 6, 6), trial), draw((5, 4, 3, 3), 99 + trial)
        x = x / x.square().sum(1, keepdim=True).sqrt()
        longest = F.conv2d(x, w, padding=1).square().sum(1).sqrt().max()
        assert longest <= 3 * N.FlatSpectral(2).norm(w) * (1 + 1e-12)


def test_kernels_by_override_in_metrize_and_an_optimizer() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Flatten())
    groups = metrize(model, [(nn.Conv2d, N.FlatConv(2))])
    assert groups.rows[0].norm == N.FlatConv(2)
    before = model[0].weight.detach().clone()
    optimizer = SteepestDescent(groups, lr=0.5)
    model(torch.randn(2, 2, 4, 4)).square().sum().backward()
    optimizer.step()
    step = before - model[0].weight.detach()
    assert abs(N.FlatConv(2).norm(step) - 0.5) < 1e-5


class Experts(nn.Module):
    """Four linear maps in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw((4, 3, 5)).float())

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("eoi,bi->ebo", self.weight, x)


def test_a_stack_of_experts_is_one_matrix_each() -> None:
    model = nn.Sequential(Experts())
    groups = metrize(model)
    (row,) = groups.rows
    assert (row.role, row.norm) == ("stack", N.RMSToRMS())
    before = model[0].weight.detach().clone()
    optimizer = SteepestDescent(groups, lr=0.5)
    model(torch.randn(7, 5)).square().sum().backward()
    alone = [N.RMSToRMS().dualize(g) for g in model[0].weight.grad]
    optimizer.step()
    step = before - model[0].weight.detach()
    for t, expert in zip(step, alone, strict=True):
        assert torch.allclose(t, 0.5 * expert, rtol=0, atol=1e-6)
