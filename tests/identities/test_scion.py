"""Scion keeps weights in a ball of their norm, and is steepest descent with decay."""

import pytest
import torch
from torch import Tensor

from anthology.norms import LInf, Norm, RMSToRMS, from_spec, metrize
from anthology.optim import Scion, SteepestDescent, scion_norm
from anthology.optim.parts.param_norm import as_points

MATRIX = [
    repr(scion_norm(name, (5, 4)))
    for name in ("Spectral", "SpectralInput", "ColNorm", "Embedding", "RowNorm", "Sign")
]
CASES = [
    *((text, (5, 4)) for text in MATRIX),
    ("RMS()", (7,)),
    ("LInf()", (7,)),
    ("Conv(2)", (4, 3, 2, 2)),
    ("Split(RMSToRMS(), 3)", (6, 4)),
]


def size(w: Tensor, norm: Norm) -> float:
    return float(norm.norm(as_points(w.detach(), norm)))


def shove(optimizer: Scion, p: Tensor, drift: Tensor) -> None:
    """A step with a random gradient about a fixed one, which drives to the edge."""
    p.grad = drift + 0.3 * torch.randn_like(p)
    optimizer.step()


@pytest.mark.claim("scion-ball", tol=1e-12, trials=100)
@pytest.mark.parametrize(("text", "shape"), CASES)
def test_weights_in_the_ball_stay_in_the_ball(claim, text, shape):
    norm, radius = from_spec(text), 3.0
    for lr, momentum in ((0.1, 0.0), (0.1, 0.9), (1.0, 0.0)):
        p = torch.randn(shape, dtype=torch.float64)
        p = (p * (radius / size(p, norm))).requires_grad_()
        drift = torch.randn(shape, dtype=torch.float64)
        optimizer = Scion([p], lr, momentum, radius, norm=norm)
        for _ in range(claim.trials):
            shove(optimizer, p, drift)
            assert size(p, norm) <= radius * (1 + claim.tol)
        assert size(p, norm) > 0.8 * radius


@pytest.mark.claim("scion-ball", tol=1e-12, trials=100)
@pytest.mark.parametrize(("text", "shape"), CASES)
def test_weights_outside_come_nearer_by_one_factor(claim, text, shape):
    """‖W_t‖ − ρ ≤ (1−γ)ᵗ(‖W₀‖ − ρ), by the triangle inequality."""
    norm, radius, lr = from_spec(text), 0.5, 0.05
    p = torch.randn(shape, dtype=torch.float64)
    p = (p * (50.0 / size(p, norm))).requires_grad_()
    drift = torch.randn(shape, dtype=torch.float64)
    optimizer = Scion([p], lr, 0.5, radius, norm=norm)
    for t in range(1, claim.trials + 1):
        shove(optimizer, p, drift)
        bound = radius + (1 - lr) ** t * (50.0 - radius)
        assert size(p, norm) <= bound * (1 + claim.tol)


@pytest.mark.claim("scion-newton-schulz", tol=0.21, trials=20)
def test_an_inexact_map_lets_the_ball_grow(claim):
    """Five Newton-Schulz steps leave the ball, by at most their largest value."""
    left = 0
    for _ in range(claim.trials):
        p = torch.zeros(12, 8, dtype=torch.float64).requires_grad_()
        drift = torch.randn(12, 8, dtype=torch.float64)
        optimizer = Scion([p], 0.2, radius=3.0, norm=RMSToRMS(method="muon"))
        for _ in range(50):
            p.grad = drift.clone()
            optimizer.step()
        assert size(p, RMSToRMS()) <= 3.0 * (1 + claim.tol)
        left += size(p, RMSToRMS()) > 3.0 * 1.02
    assert left > claim.trials // 2


@pytest.mark.claim("scion-is-steepest", tol=1e-12, trials=100)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("unconstrained", [False, True])
@pytest.mark.parametrize(("text", "shape"), CASES)
def test_scion_is_steepest_descent_with_decay(
    claim, text, shape, momentum, unconstrained
):
    """Rate γρ and weight decay 1/ρ; without the average (β = 0) no memory is left."""
    lr, radius = 0.05, 4.0
    a = torch.randn(shape, dtype=torch.float64).requires_grad_()
    b = a.detach().clone().requires_grad_()
    one = Scion([a], lr, momentum, radius, unconstrained, norm=text)
    decay = 0.0 if unconstrained else 1 / radius
    other = SteepestDescent([b], lr * radius, momentum, weight_decay=decay, norm=text)
    for _ in range(claim.trials):
        a.grad = torch.randn(shape, dtype=torch.float64)
        b.grad = a.grad.clone()
        one.step()
        other.step()
        assert float((a - b).detach().abs().max()) < claim.tol


@pytest.mark.claim("scion-is-steepest", tol=1e-12, trials=30)
def test_and_so_for_the_groups_of_a_model(claim):
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        layers = (torch.nn.Linear(5, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 2))
        nets.append(torch.nn.Sequential(*layers).double())
    one = Scion(metrize(nets[0]), 0.1, 0.9, 5.0)
    other = SteepestDescent(metrize(nets[1]), 0.5, 0.9, weight_decay=0.2)
    for _ in range(claim.trials):
        x = torch.randn(16, 5, dtype=torch.float64)
        for net, optimizer in zip(nets, (one, other), strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert float((p - q).detach().abs().max()) < claim.tol


@pytest.mark.claim("scion-oracle", tol=1e-12, trials=200)
@pytest.mark.parametrize(("text", "shape"), CASES)
def test_the_target_is_the_lowest_point_of_the_ball(claim, text, shape):
    """With γ = 1 the weights are −ρ·dualize(g): value −ρ‖g‖_*, and none is lower."""
    norm, radius = from_spec(text), 2.5
    for _ in range(claim.trials):
        p = torch.randn(shape, dtype=torch.float64).requires_grad_()
        p.grad = torch.randn(shape, dtype=torch.float64)
        Scion([p], 1.0, radius=radius, norm=norm).step()
        lowest = -radius * float(norm.dual(as_points(p.grad, norm)))
        assert abs(float((p.detach() * p.grad).sum()) - lowest) < -claim.tol * lowest
        other = torch.randn(shape, dtype=torch.float64)
        other *= radius / size(other, norm)
        assert float((other * p.grad).sum()) > lowest


def test_a_zero_gradient_still_shrinks_a_constrained_weight():
    """Every point of the ball is lowest then; as published, the step goes to 0."""
    for unconstrained, share in ((False, 0.75), (True, 1.0)):
        p = torch.ones(3).requires_grad_()
        p.grad = torch.zeros(3)
        Scion([p], 0.25, unconstrained=unconstrained, norm=LInf()).step()
        assert torch.equal(p.detach(), torch.full((3,), share))
