"""The equation of motion of optimizers with a memory, on a small network."""

import math

import pytest
import torch
from torch import nn

from anthology.motion import flow, generator, step_map


def network_map(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    x = torch.randn(8, 2, dtype=torch.float64)
    y = x.sin().sum(1, keepdim=True)
    optimizer = make(list(model.parameters()))

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    return step_map(optimizer, closure)


def heavy_ball(lr):
    return lambda p: torch.optim.SGD(p, lr=lr, momentum=0.5)


def nesterov(lr):
    return lambda p: torch.optim.SGD(p, lr=lr, momentum=0.5, nesterov=True)


def adam(lr):
    return lambda p: torch.optim.Adam(p, lr=lr, betas=(0.5, 0.6), eps=1e-2)


def error(kind, lr, time, order, settle):
    """Distance of the motion from the steps, in the parameters, after a time."""
    step = network_map(kind(lr))
    v = step.start
    for _ in range(round(settle / lr)):
        v = step(v)
    end = v
    for _ in range(round(time / lr)):
        end = step(end)
    motion = flow(
        lambda u: generator(step, u, order, lr), v, time, rtol=1e-8, atol=1e-11
    )
    return float(step.parameters(motion - end).norm())


# settled for the same time at both rates, at least 40 and 60 steps: the memories
# have forgotten how they began
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "rates", "time", "settle"),
    [
        (heavy_ball, (0.02, 0.01), 0.4, 1.6),
        (nesterov, (0.02, 0.01), 0.4, 1.6),
        (adam, (0.01, 0.005), 0.08, 0.6),
    ],
)
def test_with_a_settled_memory_the_error_falls_as_the_order_says(
    kind, rates, time, settle, order
):
    coarse, fine = (error(kind, lr, time, order, settle) for lr in rates)
    assert abs(math.log2(coarse / fine) - order) < 0.15


def test_from_the_first_step_adam_is_not_followed_to_that_order():
    """Its transient is not linear: what the truncated motion makes of it stays."""
    coarse, fine = (error(adam, lr, 0.08, 3, 0.0) for lr in (0.01, 0.005))
    assert math.log2(coarse / fine) < 2
    assert coarse > 50 * error(adam, 0.01, 0.08, 3, 0.6)


@pytest.mark.parametrize("beta", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("order", [1, 3, 8])
def test_a_memory_decays_at_the_truncated_logarithm_of_its_factor(beta, order):
    """Of which the sum is less than the logarithm: it decays too slowly."""
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=beta)

    def closure():
        optimizer.zero_grad()
        loss = (0 * w).sum()
        loss.backward()
        return loss

    step = step_map(optimizer, closure)
    v = torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    rate = -sum((1 - beta) ** n / n for n in range(1, order + 1)) / 0.1
    buffer = step.state(generator(step, v, order, 0.1))[0]["momentum_buffer"]
    torch.testing.assert_close(buffer, rate * v[2:])
    assert 0 > rate >= math.log(beta) / 0.1 - 1e-12
