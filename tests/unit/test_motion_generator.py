"""Forward differences: exact cases, any step map, in-place steps, refusals."""

import math

import pytest
import torch

from anthology.motion import counter_field, equation_of_motion, generator

W = torch.tensor([1.0, -0.5], dtype=torch.float64)


def test_order_one_is_minus_the_gradient():
    velocity = generator(lambda w: w - 0.1 * w.sin(), W, 1, 0.1)
    torch.testing.assert_close(velocity, -W.sin())


@pytest.mark.parametrize("order", range(1, 7))
def test_on_a_quadratic_the_two_ways_are_the_same_polynomial(order):
    h, lr = torch.tensor([0.7, 2.0], dtype=torch.float64), 0.1
    by_steps = generator(lambda w: w - lr * h * w, W, order, lr)
    by_series = counter_field(lambda w: h * w, W, order, lr)
    torch.testing.assert_close(by_steps, by_series, rtol=1e-11, atol=1e-11)


def test_on_a_quadratic_the_sum_tends_to_the_logarithm():
    h, lr = torch.tensor([0.7, 2.0], dtype=torch.float64), 0.1
    velocity = equation_of_motion(lambda w: h * w, 20, lr, "differences")(W)
    exact = torch.log(1 - lr * h) / lr * W
    torch.testing.assert_close(velocity, exact, rtol=1e-10, atol=1e-10)


def test_a_step_that_is_a_flow_gives_back_its_field():
    # the flow of ẇ = −w³ is known: w(t) = w/√(1 + 2tw²)
    lr = 0.004
    velocity = generator(lambda w: w / (1 + 2 * lr * w**2).sqrt(), W, 8, lr)
    assert (velocity + W**3).abs().max() < 1e-10


@pytest.mark.parametrize("order", [8, 12, 16, 20])
def test_rounding_stays_below_the_documented_estimate(order):
    # the iterates of a flow, so that small steps leave nothing but rounding
    w, lr = torch.linspace(0.5, 1.5, 50, dtype=torch.float64), 1e-3
    velocity = generator(lambda w: w / (1 + 2 * lr * w**2).sqrt(), w, order, lr)
    error = (velocity + w**3).abs().max()
    assert error < 2**order * 2.2e-16 * 1.5 / (order * lr)


def test_iterates_and_displacements_give_the_same_velocity():
    lr = 0.05
    by_steps = generator(lambda w: w - lr * w.sinh(), W, 5, lr)
    by_gradients = equation_of_motion(torch.sinh, 5, lr, "differences")(W)
    torch.testing.assert_close(by_steps, by_gradients, rtol=1e-11, atol=1e-11)


def test_a_state_can_be_part_of_the_point():
    # heavy ball on ½w²: linear in (w, m), so the motion is a matrix logarithm
    lr, beta = 0.01, 0.9

    def step(z):
        m = beta * z[1] + z[0]
        return torch.stack([z[0] - lr * m, m])

    z = torch.tensor([1.0, 1 / (1 - beta)], dtype=torch.float64)
    M = torch.tensor([[1 - lr, -lr * beta], [1, beta]], dtype=torch.float64)
    values, vectors = torch.linalg.eig(M)
    log = vectors @ torch.diag(values.log()) @ torch.linalg.inv(vectors)
    exact = (log.real @ z) / lr
    velocity = generator(step, z, 12, lr)
    assert (velocity - exact).abs().max() < 1e-8 * exact.abs().max()


def test_a_step_that_works_in_place_is_handled():
    def in_place(w):
        return w.sub_(0.1 * w)

    w = W.clone()
    velocity = generator(in_place, w, 4, 0.1)
    assert torch.equal(w, W)
    torch.testing.assert_close(velocity, generator(lambda w: 0.9 * w, W, 4, 0.1))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_each_order_costs_one_step(order):
    calls = 0

    def step(w):
        nonlocal calls
        calls += 1
        return 0.9 * w

    generator(step, W, order, 0.1)
    assert calls == order


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_the_shape_is_kept(shape):
    w = torch.ones(shape, dtype=torch.float64)
    assert generator(lambda w: 0.9 * w, w, 3, 0.1).shape == w.shape


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_does_not_matter(scale):
    velocity = generator(lambda w: 0.9 * w, W * scale, 12, 0.1) / scale
    torch.testing.assert_close(velocity, math.log(0.9) / 0.1 * W, rtol=1e-8, atol=0)


def test_non_finite_iterates_give_a_non_finite_velocity():
    w = torch.tensor([1.0, float("nan")], dtype=torch.float64)
    velocity = generator(lambda w: 0.9 * w, w, 3, 0.1)
    assert velocity[0].isfinite() and velocity[1].isnan()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((None, W, 1, 0.1), TypeError, "step must be a function from a point"),
        ((torch.sin, W.float(), 1, 0.1), TypeError, r"convert it with w.double\(\)"),
        ((torch.sin, W, 0, 0.1), ValueError, "order must be at least 1, got 0"),
        ((torch.sin, W, 2.0, 0.1), TypeError, "order must be an int"),
        ((torch.sin, W, 1, 0.0), ValueError, "Invalid learning rate: 0.0"),
        ((lambda w: None, W, 1, 0.1), TypeError, "step must return a Tensor"),
        ((lambda w: w[:1], W, 1, 0.1), ValueError, r"got shape \(1,\)"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, text):
    with pytest.raises(error, match=text):
        generator(*arguments)
