"""Averages and Adam: shapes and types, special cases, wrong arguments."""

import math

import pytest
import torch
from torch.func import grad

from anthology.motion import (
    adam_braces,
    adam_sign_change,
    adam_terms,
    average_factor,
    averaged_terms,
    heavy_ball_terms,
    motion_terms,
    slow_start,
    smooth_l1,
)

W = torch.tensor([0.5, -1.0], dtype=torch.float64)
EVERY_METHOD = pytest.mark.parametrize(
    "options", [{}, {"nesterov": True}, {"nesterov": True, "point": "iterate"}]
)


def gradient(w):
    return w + 0.5 * w**3


def every_function(w, g=gradient):
    """One call of each, as lists of tensors."""
    return {
        "ball": heavy_ball_terms(g, w, 3, 0.5),
        "lookahead": heavy_ball_terms(g, w, 3, 0.5, nesterov=True),
        "iterate": heavy_ball_terms(g, w, 3, 0.5, nesterov=True, point="iterate"),
        "average": averaged_terms(g, smooth_l1(0.1).direction, w, 0.5, decay=0.1),
        "adam": adam_terms(g, w),
        "inside": adam_terms(g, w, eps_inside=True),
        "braces": [adam_braces(w)],
        "start": [slow_start(g, w, 0.1, 0.5)],
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,)])
def test_everything_keeps_shape_and_type(shape, dtype):
    w = torch.randn(shape, dtype=dtype)
    before = w.clone()
    for name, tensors in every_function(w).items():
        assert all(t.shape == shape for t in tensors), name
        assert all(t.dtype == dtype for t in tensors), name
    assert torch.equal(w, before)


def test_a_view_gives_the_terms_of_its_copy():
    view = torch.randn(6, dtype=torch.float64)[::2]
    copy = every_function(view.clone())
    for name, tensors in every_function(view).items():
        for a, b in zip(tensors, copy[name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(value):
    w = torch.tensor([value, 1.0], dtype=torch.float64)
    for name, tensors in every_function(w).items():
        if name == "braces" and value == math.inf:
            continue  # the braces of an infinite entry are those of a huge one
        assert not any(t[0].isfinite() for t in tensors), name


@EVERY_METHOD
def test_without_momentum_it_is_gradient_descent(options):
    expected = motion_terms(lambda w: -gradient(w), W, 4)
    for a, b in zip(
        heavy_ball_terms(gradient, W, 4, 0.0, **options), expected, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch.equal(slow_start(gradient, W, 0.1, 0.0), W)


@EVERY_METHOD
def test_on_a_quadratic_the_motion_is_the_logarithm_of_the_larger_root(options):
    """The two-step rule of wᵢ₊₁ = ρwᵢ is ρ² − (1+β−ηh)ρ + β = 0 for heavy ball."""
    beta, lr, h = 0.5, 0.004, 1.0
    nesterov = bool(options)
    middle = (1 + beta) * (1 - lr * h) if nesterov else 1 + beta - lr * h
    last = beta * (1 - lr * h) if nesterov else beta
    root = (middle + math.sqrt(middle**2 - 4 * last)) / 2
    terms = heavy_ball_terms(
        lambda w: h * w, torch.ones(1, dtype=torch.float64), 5, beta, **options
    )
    rate = float(sum(t * lr**k for k, t in enumerate(terms)))
    assert abs(rate - math.log(root) / lr) < 1e-7


def test_no_terms_and_one_term():
    assert heavy_ball_terms(gradient, W, 0, 0.5) == []
    (only,) = heavy_ball_terms(gradient, W, 1, 0.5)
    torch.testing.assert_close(only, -2 * gradient(W))


def test_the_terms_can_be_differentiated():
    """They are made of torch operations."""
    energy = lambda w: heavy_ball_terms(gradient, w, 2, 0.5)[1].square().sum()
    assert grad(energy)(W).isfinite().all()


def test_factors():
    assert average_factor(0) == 1
    assert average_factor(0.5) == 3
    assert average_factor(0.5, nesterov=True) == 2


def test_decay_without_a_direction_is_a_quadratic():
    terms = averaged_terms(gradient, torch.zeros_like, W, 0.9, decay=0.2)
    torch.testing.assert_close(terms[0], -0.2 * W)
    torch.testing.assert_close(terms[1], -0.02 * W)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_braces_of_extreme_gradients(inside, size):
    g = torch.tensor([size, -size], dtype=torch.float32)
    expected = 19.0 if size < 1 else 19.0 - 1999.0
    # float32 rounds β₂ = 0.999 nowhere: the factors are Python floats
    torch.testing.assert_close(
        adam_braces(g, eps_inside=inside), torch.full_like(g, expected)
    )
    first = adam_terms(lambda w: w, g, eps_inside=inside)[0]
    assert first.isfinite().all()
    assert first.abs().max() <= 1


@pytest.mark.parametrize("inside", [False, True])
def test_adam_without_eps(inside):
    """Sign descent away from zero, undefined at zero."""
    w = torch.tensor([2.0, 0.0], dtype=torch.float64)
    first, second = adam_terms(gradient, w, (0.0, 0.0), 0.0, inside)
    assert first[0] == -1
    assert second[0] == 0
    assert first[1].isnan()
    assert second[1].isnan()


def test_sign_change_at_its_limits():
    assert adam_sign_change((0.9, 0.9)) == math.inf
    assert adam_sign_change((0.95, 0.9), eps=0.0) == math.inf
    assert adam_sign_change(eps=0.0) == 0
    assert adam_sign_change([0.0, 0.5], eps=1.0) == pytest.approx(0.5)


@pytest.mark.parametrize("momentum", [1, 1.5, -0.1, math.nan, math.inf])
def test_momentum_out_of_range(momentum):
    for call in (
        lambda: heavy_ball_terms(gradient, W, 1, momentum),
        lambda: averaged_terms(gradient, torch.tanh, W, momentum),
        lambda: slow_start(gradient, W, 0.1, momentum),
        lambda: average_factor(momentum),
        lambda: adam_terms(gradient, W, (momentum, 0.9)),
        lambda: adam_braces(W, (0.9, momentum)),
    ):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            call()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: heavy_ball_terms(3, W, 1, 0.5), "gradient must be a function"),
        (lambda: heavy_ball_terms(gradient, 3, 1, 0.5), "w must be a Tensor"),
        (lambda: heavy_ball_terms(gradient, W.int(), 1, 0.5), "real floating"),
        (lambda: heavy_ball_terms(gradient, W, 1.0, 0.5), "count must be an int"),
        (lambda: heavy_ball_terms(gradient, W, 1, "0.5"), "momentum must be a float"),
        (lambda: heavy_ball_terms(gradient, W, 1, True), "momentum must be a float"),
        (lambda: heavy_ball_terms(lambda w: 3, W, 1, 0.5), "must return a Tensor"),
        (lambda: averaged_terms(gradient, 3, W), "direction must be a function"),
        (lambda: averaged_terms(gradient, lambda g: 3, W), "direction must return"),
        (lambda: adam_terms(gradient, W, 0.9), "betas must be two floats"),
        (lambda: adam_terms(gradient, W, (0.9, None)), "each of betas"),
        (lambda: adam_braces(W.int()), "g must be real floating point"),
        (lambda: slow_start(gradient, W, "0.1", 0.5), "lr must be a float"),
    ],
)
def test_wrong_kinds_of_arguments(call, text):
    with pytest.raises(TypeError, match=text):
        call()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: heavy_ball_terms(gradient, W, -1, 0.5), "count must be at least 0"),
        (lambda: heavy_ball_terms(gradient, W, 1, 0.5, point="y"), "point must be"),
        (lambda: heavy_ball_terms(lambda w: w[:1], W, 1, 0.5), "must return shape"),
        (lambda: averaged_terms(gradient, lambda g: g[:1], W), "must return shape"),
        (lambda: averaged_terms(gradient, torch.tanh, W, decay=-1.0), "decay must be"),
        (lambda: adam_terms(gradient, W, eps=-1.0), "eps must be at least 0"),
        (lambda: adam_sign_change(eps=math.nan), "eps must be at least 0"),
        (lambda: slow_start(gradient, W, 0.0, 0.5), "learning rate"),
    ],
)
def test_wrong_values_of_arguments(call, text):
    with pytest.raises(ValueError, match=text):
        call()
