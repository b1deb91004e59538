"""Surfaces for weights: tangents, retractions, points and edges."""

import math

import pytest
import torch

from anthology import norms as N

SURFACES = list(N.CONSTRAINTS.values())
MATRICES = [N.Frobenius(), N.Spectral(), N.RMSToRMS(), 3 * N.Spectral()]
SHAPES = [(5, 3), (3, 5), (4, 4), (7, 7), (2, 6, 4), (3, 1), (1, 3)]
named = pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.name)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def start(surface, shape, norm, dtype=torch.float64):
    w = torch.randn(shape, dtype=dtype)
    return surface.onto(w, surface.radius(w, norm), norm)


def away(surface, w, a, norm, length=1e-4):
    """How far from the surface a step leads, over its length."""
    radius, moved = surface.radius(w, norm), w - length * a
    return (surface.onto(moved, radius, norm) - moved).norm() / length


@named
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", MATRICES, ids=repr)
def test_step_is_tangent_of_length_one_and_descends(surface, shape, norm):
    w, g = start(surface, shape, norm), torch.randn(shape, dtype=torch.float64)
    a = surface.dualize(g, w, norm)
    assert a.shape == g.shape
    assert away(surface, w, a, norm) < 1e-3
    inner = (a * g).sum((-2, -1))
    still = inner < 1e-9  # a point, or two signs: nowhere to go
    assert ((norm.norm(a) - 1).abs()[~still] < 1e-5).all()
    assert (inner > -1e-9).all()


@named
def test_what_is_normal_is_no_step(surface):
    w = start(surface, (5, 3), N.Spectral())
    normal = {"sphere": w, "stiefel": w @ torch.diag(torch.arange(3.0)).double()}
    u, _, vh = torch.linalg.svd(w)
    g = normal.get(surface.name, u[:, :1] @ vh[:1])
    for some in (g, -g, 0 * g):
        assert surface.dualize(some, w, N.Frobenius()).mul(g).sum().abs() < 1e-6


@named
def test_nearest_point_is_on_the_surface_and_stays(surface):
    norm = N.Spectral()
    w = start(surface, (6, 4), norm)
    radius = surface.radius(w, norm)
    assert torch.allclose(surface.onto(w, radius, norm), w, atol=1e-12)
    moved = surface.onto(w + 0.3 * torch.randn_like(w), radius, norm)
    assert torch.allclose(surface.radius(moved, norm), radius, atol=1e-12)


@named
@pytest.mark.parametrize("size", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_sizes_do_not_matter(surface, size):
    norm = N.Spectral()
    w = start(surface, (5, 3), norm, torch.float32)
    g = torch.randn(5, 3)
    a, b = surface.dualize(g, w, norm), surface.dualize(g * size, w, norm)
    assert (a - b).abs().max() < 1e-3


@named
def test_blocks_heads_and_experts_have_their_own_surface(surface):
    norm = N.Split(N.RMSToRMS(), 3)
    w = torch.randn(2, 12, 3, dtype=torch.float64)
    g = torch.randn_like(w)
    assert surface.radius(w, norm).shape == (6,)
    w = surface.onto(w, surface.radius(w, norm), norm)
    a = surface.dualize(g, w, norm)
    for expert in range(2):
        for head in range(3):
            at = expert, slice(4 * head, 4 * head + 4)
            alone = surface.dualize(g[at], w[at], N.RMSToRMS())
            assert torch.allclose(a[at], alone, atol=1e-9)


@named
def test_other_ways_to_store(surface):
    w, g = torch.randn(2, 9, 4, dtype=torch.float64)
    there = surface.dualize(g, w, N.RMSToRMS())
    turned = surface.dualize(g.mT.contiguous(), w.mT, N.Transpose(N.RMSToRMS()))
    assert torch.allclose(turned.mT, there, atol=1e-9)
    uneven = N.Split(N.Spectral(), (4, 5))
    parts = [
        surface.dualize(g[s], w[s], N.Spectral()) for s in ([*range(4)], [*range(4, 9)])
    ]
    assert torch.allclose(surface.dualize(g, w, uneven), torch.cat(parts), atol=1e-9)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
@named
def test_no_radius_without_a_size(surface, bad):
    with pytest.raises(ValueError, match=f"constrain='{surface.name}' has no radius"):
        surface.radius(torch.full((3, 2), bad), N.Spectral())


def test_low_rank_has_no_place_among_frames():
    with pytest.raises(ValueError, match="full rank"):
        N.Stiefel().radius(torch.ones(3, 2), N.Spectral())


def test_vectors_have_a_sphere_alone():
    w, g = torch.randn(2, 9, dtype=torch.float64)
    for norm in (N.L2(), N.RMS(), N.LInf(), N.L1(), N.Lp(3)):
        a = N.Sphere().dualize(g, w, norm)
        assert abs(a @ w) < 1e-6
        assert norm.norm(a) <= 1 + 1e-9
    for surface in (N.Stiefel(), N.SpectralSphere()):
        with pytest.raises(TypeError, match="is for matrices"):
            surface.radius(w, N.L2())
    with pytest.raises(TypeError, match="goes with Frobenius"):
        N.Stiefel().dualize(torch.eye(2), torch.eye(2), N.MaxAbs())
