"""The error of a truncated motion, predicted without a step."""

import importlib
import math

import pytest
import torch

from anthology.motion import counter_terms, discretization_error
from anthology.motion.discretization import leading_error

W = torch.tensor([0.8, 0.6, 0.2], dtype=torch.float64)
BOTH = pytest.mark.parametrize("method", ["series", "differences"])


def quartic(w):
    """Gradient of ½|w|² + ⅓s³ + ¼Σwᵢ⁴ with s = w₁ − w₂ + w₃."""
    s = w[0] - w[1] + w[2]
    t = s * s
    return w + torch.stack([t, -t, t]) + w * w * w


@BOTH
@pytest.mark.parametrize("order", [1, 2, 3])
def test_what_it_leaves_over_is_of_the_next_order(order, method):
    gaps = []
    for steps in (40, 80):
        lr = 0.5 / steps
        e = discretization_error(quartic, W, lr, steps, order, method=method)
        predicted = leading_error(quartic, W, lr, steps, order, method=method)
        gaps.append(float((e - predicted).norm()))
        assert gaps[-1] < 0.2 * float(e.norm())
    assert abs(math.log2(gaps[0] / gaps[1]) - (order + 1)) < 0.15


@BOTH
@pytest.mark.parametrize("order", [1, 2, 3])
def test_after_one_step_it_is_the_local_error(order, method):
    lr = 1e-3
    predicted = leading_error(quartic, W, lr, 1, order, method=method) / lr ** (
        order + 1
    )
    if method == "series":
        source = counter_terms(quartic, W, order)[-1]
        assert (predicted - source).norm() < 0.01 * source.norm()
    local = discretization_error(
        quartic, W, 0.02, 1, order, method=method, rtol=1e-13, atol=1e-15
    )
    predicted = leading_error(quartic, W, 0.02, 1, order, method=method)
    assert (predicted - local).norm() < 0.2 * local.norm()


@BOTH
@pytest.mark.parametrize("order", [1, 2, 3])
def test_on_a_quadratic_it_has_a_closed_form(order, method):
    # both sources are h^(N+1) w/(N+1), and w = e^(−ht) w₀, so ε = t·source
    h = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    lr, counts = 0.05, [0, 1, 7, 20]
    errors = leading_error(lambda w: h * w, W, lr, counts, order, method=method)
    for row, k in zip(errors, counts, strict=True):
        t = lr * k
        exact = lr**order * t * h ** (order + 1) / (order + 1) * torch.exp(-h * t) * W
        torch.testing.assert_close(row, exact, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
@BOTH
def test_shapes_and_counts_are_those_of_the_error(shape, method):
    w = torch.ones(shape, dtype=torch.float64)
    for steps in (3, [1, 3], []):
        predicted = leading_error(torch.sin, w, 0.1, steps, 2, method=method)
        measured = discretization_error(torch.sin, w, 0.1, steps, 2, method=method)
        assert predicted.shape == measured.shape


@BOTH
def test_at_a_minimum_and_after_no_step_there_is_none(method):
    zero = torch.zeros(2, dtype=torch.float64)
    assert not leading_error(torch.sin, zero, 0.1, 5, 3, method=method).any()
    assert not leading_error(torch.sin, W, 0.1, 0, 3, method=method).any()


def test_where_the_flow_leaves_the_numbers_it_is_nan():
    w = torch.tensor([1.0, float("inf")], dtype=torch.float64)
    assert leading_error(torch.sin, w, 0.1, 2, 1).isnan().all()
    blow_up = leading_error(
        lambda w: -w * w, W, 0.1, 100, 1, method="differences", rtol=1e-6, atol=1e-6
    )
    assert blow_up.isnan().all()


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@BOTH
def test_the_number_of_gradient_calls_is_the_documented_one(order, method):
    calls, evaluations = 0, 0

    def counted(w):
        nonlocal calls
        calls += 1
        return w**3

    discretization = importlib.import_module("anthology.motion.discretization")

    def one_evaluation(velocity, w, times):
        nonlocal evaluations
        velocity(w)
        evaluations += 1
        return torch.stack([w for _ in times])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discretization, "flow", one_evaluation)
        leading_error(counted, W, 0.1, 1, order, method=method)
    assert evaluations == 1
    assert calls == 1 + (2**order if method == "series" else order + 1)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"gradient": 1}, TypeError, "gradient must be a function of a Tensor"),
        ({"gradient": lambda w: w.sum()}, ValueError, "gradient must return shape"),
        ({"w0": W.float()}, TypeError, r"convert it with w0.double\(\)"),
        ({"w0": [1.0]}, TypeError, "w0 must be a Tensor"),
        ({"lr": 0.0}, ValueError, "Invalid learning rate"),
        ({"steps": 2.0}, TypeError, "steps must be an int"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"steps": [2, 1]}, ValueError, "increasing"),
        ({"order": 0}, ValueError, "order must be at least 1"),
        ({"method": "taylor"}, ValueError, "method must be one of"),
    ],
)
def test_wrong_arguments_are_named(changes, error, text):
    given = {"gradient": torch.sin, "w0": W, "lr": 0.1, "steps": 2, "order": 1}
    with pytest.raises(error, match=text):
        leading_error(**(given | changes))
