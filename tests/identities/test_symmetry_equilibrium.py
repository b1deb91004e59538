"""Where lengths and angles of scale-invariant weights settle, whatever the start."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from anthology.motion import find_symmetries

F64 = torch.float64


def constant_slope(w):
    """The gradient of the angle in the plane: ‖g‖‖w‖ = 1 everywhere."""
    return torch.stack([-w[1], w[0]]) / (w * w).sum()


@pytest.mark.claim("scale-equilibrium-reached", tol=1e-10)
@pytest.mark.parametrize("product", [0.02, 0.1, 0.3, 0.6, 0.9, 1.3, 1.8])
def test_every_start_is_led_to_the_equilibrium(claim, product):
    lr, rho = 0.1, 1 - product
    w = torch.tensor([1.0, 0.0], dtype=F64)
    end = lr / math.sqrt(1 - rho**2)
    for start in (1e-3, 0.9, 1.1, 1e3):
        z = start
        for _ in range(2000):
            new = rho**2 * z + (1 - rho**2) / z
            assert abs(math.log(new)) <= max(abs(math.log(z)), claim.tol)
            z = new
        assert abs(z - 1) < claim.tol
    for _ in range(50):
        z = float(w @ w) / end
        w = rho * w - lr * constant_slope(w)
        expected = rho**2 * z + (1 - rho**2) / z
        assert abs(float(w @ w) / end / expected - 1) < claim.tol


@pytest.mark.claim("scale-equilibrium-reached", tol=1e-12)
def test_at_one_it_jumps_for_ever(claim):
    w = torch.tensor([0.3, 0.0], dtype=F64)
    lengths = []
    for _ in range(40):
        lengths.append(float(w @ w))
        w = -0.1 * constant_slope(w)
    assert abs(lengths[38] / lengths[0] - 1) < claim.tol
    assert abs(lengths[1] * lengths[0] / 0.01 - 1) < claim.tol


MIXED = torch.tensor([[3.0, 1.0], [-1.0, 2.0], [0.5, -2.5]], dtype=F64)


def noisy_slope(w, k):
    """Across w, from another loss in every step."""
    a = MIXED[k % 3] * (1 + 0.5 * math.sin(k))
    u = w / w.norm()
    return (a - (a @ u) * u) / w.norm()


@pytest.mark.claim("heavy-ball-angle", tol=2e-3)
@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
def test_heavy_ball_in_the_mean_over_changing_losses(claim, mu):
    lr, decay, m = 0.1, 0.5, torch.zeros(2, dtype=F64)
    w = torch.tensor([1.0, 0.5], dtype=F64)
    squares, moved = [], []
    for k in range(20000):
        m = mu * m + noisy_slope(w, k) + decay * w
        if k >= 1000:
            squares.append(float(w @ w))
            moved.append(float((lr * m) @ (lr * m)))
        w = w - lr * m
    ratio = sum(moved) / sum(squares)
    assert abs(ratio * (1 + mu) / (2 * lr * decay) - 1) < claim.tol
    assert max(squares) > 1.1 * min(squares)


@pytest.mark.claim("heavy-ball-angle", tol=1e-10)
@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
def test_the_turn_of_heavy_ball(claim, mu):
    w, m = torch.tensor([1.0, 0.0], dtype=F64), 0
    for _ in range(2000):
        m, old = mu * m + constant_slope(w) + 0.5 * w, w
        w = w - 0.1 * m
    cosine = w @ old / (w.norm() * old.norm())
    assert abs(cosine - (1 - 0.05 / (1 + mu))) < claim.tol


@pytest.mark.claim("average-angle", tol=1e-10)
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("product", [0.05, 0.3])
def test_the_turn_of_an_average(claim, beta, product):
    w, m, rho = torch.tensor([1.0, 0.0], dtype=F64), 0, 1 - product
    for _ in range(2000):
        m, old = beta * m + (1 - beta) * constant_slope(w), w
        w = rho * w - 0.1 * m
    cosine = w @ old / (w.norm() * old.norm())
    assert abs(cosine - (rho + beta) / (1 + rho * beta)) < claim.tol


@pytest.mark.claim("evaluation-mode-exchange")
def test_what_evaluation_mode_leaves_of_a_batch_normalisation():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(5, 3))
    x, y = torch.randn(12, 6), torch.arange(12) % 3

    def found():
        symmetries = find_symmetries(model, lambda net: cross_entropy(net(x), y))
        return [(s.kind, s.names) for s in symmetries if s.names[0] == "0.weight"]

    assert found() == [("scale", ("0.weight",))]
    model.eval()
    assert found() == [("exchange", ("0.weight", "1.weight"))]
    model[1].running_mean.normal_()
    assert found() == []
