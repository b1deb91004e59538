"""The integrator and the discretization error: accuracy, blow-up, refusals."""

import builtins
import math

import pytest
import torch

from anthology.motion import (
    discretization_error,
    equation_of_motion,
    flow,
    generator,
)

W = torch.tensor([1.0, -0.5], dtype=torch.float64)


def cubic(w):
    return -(w**3)


def cubic_flow(w, t):
    return w / (1 + 2 * t * w**2).sqrt()


@pytest.mark.parametrize("t", [0.0, 1e-9, 0.3, 5.0, -0.2, 2])
@pytest.mark.parametrize("solver", ["dopri8", "dopri5"])
def test_a_known_flow_is_followed_in_both_directions(t, solver):
    end = flow(cubic, W, t, solver=solver)
    torch.testing.assert_close(end, cubic_flow(W, t), rtol=1e-10, atol=1e-11)


def test_several_times_land_on_each_of_them():
    times = [0.0, 0.1, 0.1, 0.25, 3.0]
    points = flow(cubic, W, times)
    assert points.shape == (5, 2)
    assert torch.equal(points[0], W)
    expected = torch.stack([cubic_flow(W, t) for t in times])
    torch.testing.assert_close(points, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
def test_the_shape_is_kept(shape):
    w = torch.ones(shape, dtype=torch.float64)
    assert flow(cubic, w, 0.1).shape == w.shape
    assert flow(cubic, w, [0.1, 0.2]).shape == (2, *shape)
    assert flow(cubic, w, []).shape == (0, *shape)


def test_a_point_that_requires_a_gradient_is_taken_by_value():
    w = W.clone().requires_grad_()
    assert not flow(cubic, w, 0.1).requires_grad
    assert w.grad is None


def test_the_steps_of_a_torch_optimizer_can_be_followed():
    def sgd(w):
        p = w.clone().requires_grad_()
        (p**4 / 4).sum().backward()
        torch.optim.SGD([p], lr=0.01).step()
        return p.detach()

    w = W
    for _ in range(50):
        w = sgd(w)
    end = flow(lambda v: generator(sgd, v, 5, 0.01), W, 0.5, rtol=1e-9, atol=1e-10)
    assert not end.requires_grad
    assert (end - w).abs().max() < 1e-8


def test_blow_up_in_finite_time_gives_nan_from_there_on():
    # ẇ = w² from 1 is 1/(1 − t)
    points = flow(lambda w: w * w, torch.ones(1, dtype=torch.float64), [0.5, 2.0, 3.0])
    torch.testing.assert_close(points[0], torch.tensor([2.0], dtype=torch.float64))
    assert points[1:].isnan().all()


def test_non_finite_starts_and_fields_give_nan_and_raise_nothing():
    w = torch.tensor([1.0, float("inf")], dtype=torch.float64)
    assert flow(cubic, w, 1.0).isnan().all()
    assert flow(lambda w: w * torch.nan, W, 1.0).isnan().all()


def test_too_little_work_allowed_is_an_error_that_says_so():
    with pytest.raises(RuntimeError, match="more than 20 evaluations"):
        flow(cubic, W, 5.0, max_evaluations=20)


def test_without_torchdiffeq_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name.startswith("torchdiffeq"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install torchdiffeq"):
        flow(cubic, W, 1.0)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((1, W, 1.0), {}, TypeError, "velocity must be a function"),
        ((cubic, W.float(), 1.0), {}, TypeError, r"convert it with w0.double\(\)"),
        ((cubic, W, math.nan), {}, ValueError, "times must be finite"),
        ((cubic, W, [0.2, 0.1]), {}, ValueError, "≥ 0 and increasing"),
        ((cubic, W, [-0.2, 0.1]), {}, ValueError, "≥ 0 and increasing"),
        ((cubic, W, 1.0), {"solver": "rk4"}, ValueError, "solver must be one of"),
        ((cubic, W, 1.0), {"rtol": -1.0}, ValueError, "rtol and atol"),
        ((cubic, W, 1.0), {"rtol": 0.0, "atol": 0.0}, ValueError, "not both 0"),
        ((cubic, W, 1.0), {"max_evaluations": 0}, ValueError, "at least 1"),
        ((lambda w: w[:1], W, 1.0), {}, ValueError, "velocity must return shape"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, text):
    with pytest.raises(error, match=text):
        flow(*arguments, **options)


def test_the_error_is_motion_minus_iterate():
    h, lr = torch.tensor([0.5, 2.0], dtype=torch.float64), 0.1
    errors = discretization_error(lambda w: h * w, W, lr, [0, 1, 7], 1)
    for row, k in zip(errors, [0, 1, 7], strict=True):
        exact = (torch.exp(-h * lr * k) - (1 - lr * h) ** k) * W
        torch.testing.assert_close(row, exact, rtol=1e-9, atol=1e-11)
    last = discretization_error(lambda w: h * w, W, lr, 7, 1)
    torch.testing.assert_close(last, errors[-1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", ["series", "differences"])
def test_at_a_minimum_there_is_no_error(method):
    zero = torch.zeros(2, dtype=torch.float64)
    error = discretization_error(torch.sin, zero, 0.1, 5, 3, method=method)
    assert torch.equal(error, zero)


def test_descent_that_diverges_gives_a_non_finite_error():
    error = discretization_error(lambda w: w**3, 100 * W, 1.0, 30, 1)
    assert not error.isfinite().any()


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"steps": 2.0}, TypeError, "steps must be an int"),
        ({"steps": [1, 0]}, ValueError, "increasing"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"order": 0}, ValueError, "order must be at least 1"),
        ({"method": "taylor"}, ValueError, "method must be one of"),
        ({"lr": 0.0}, ValueError, "Invalid learning rate"),
        ({"w0": W.float()}, TypeError, r"convert it with w0.double\(\)"),
    ],
)
def test_wrong_arguments_of_the_error_are_named(changes, error, text):
    given = {"gradient": torch.sin, "w0": W, "lr": 0.1, "steps": 2, "order": 1}
    with pytest.raises(error, match=text):
        discretization_error(**(given | changes))


def test_the_motion_is_checked_before_it_is_followed():
    with pytest.raises(TypeError, match="gradient must be a function"):
        equation_of_motion(None, 1, 0.1)
    assert equation_of_motion(torch.sin, 1, 0.1)(W).shape == W.shape
