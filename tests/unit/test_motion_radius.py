"""Sharpness against the dense Hessian, and what it says about a step size."""

import builtins
import importlib

import pytest
import torch
from torch import nn
from torch.func import hessian

from anthology.lab.problems import two_weights
from anthology.motion import ravel_model
from anthology.motion.radius import Radius, radius, sharpness


def quadratic(eigenvalues, seed=0):
    """A loss with the Hessian of these eigenvalues in random directions."""
    h = torch.as_tensor(eigenvalues, dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(len(h), len(h), dtype=h.dtype, generator=g)).Q
    w = torch.randn(len(h), dtype=h.dtype, generator=g)
    return (lambda w: ((Q.mT @ w).square() * h).sum() / 2), w


def network(width=8):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))
    x, y = torch.randn(20, 5).double(), torch.randint(3, (20,))
    return ravel_model(model, lambda net: nn.functional.cross_entropy(net(x), y))


def descending(x):
    return torch.as_tensor(x, dtype=torch.float64).sort(descending=True).values


def assert_near(actual, expected, tol=1e-7):
    expected = expected.to(actual.dtype)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tol * expected.abs().max()


@pytest.mark.parametrize("width", [2, 8, 20])
@pytest.mark.parametrize("count", [1, 4])
def test_on_a_network_it_is_the_dense_one(width, count):
    f, w = network(width)
    exact = descending(torch.linalg.eigvalsh(hessian(f)(w)))
    assert_near(sharpness(f, w, count), exact[:count])
    at = radius(f, w, 0.3)
    assert at.value == pytest.approx(0.3 * float(exact[0]), rel=1e-7)
    assert at.lowest == pytest.approx(0.3 * float(exact[-1]), rel=1e-7)


LARGE = torch.linspace(0.1, 5.0, 60, dtype=torch.float64)
SPECTRA = {
    "positive": LARGE,
    "negative": -LARGE,
    "saddle": torch.cat([LARGE, -2 * LARGE]),
    "one": torch.cat([torch.zeros(79, dtype=torch.float64), LARGE[-1:]]),
    "minus one": torch.cat([torch.zeros(79, dtype=torch.float64), -LARGE[-1:]]),
    "identity": torch.ones(70, dtype=torch.float64),
    "minus identity": -torch.ones(70, dtype=torch.float64),
    "double top": torch.cat([LARGE, LARGE[-1:]]),
    "cluster": torch.cat([LARGE, 5 + 1e-6 * LARGE[:5]]),
    "outlier": torch.cat([1e-6 * LARGE, 1e6 * LARGE[-1:]]),
}


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_largest_of_any_spectrum_of_any_scale(name, scale):
    f, w = quadratic(scale * SPECTRA[name])
    exact = descending(scale * SPECTRA[name])
    found = sharpness(f, w)
    assert (found - exact[:1]).abs() <= 1e-7 * exact.abs().max()


@pytest.mark.parametrize("name", ["positive", "negative", "saddle", "double top"])
def test_several_of_them(name):
    f, w = quadratic(SPECTRA[name])
    assert_near(sharpness(f, w, 5), descending(SPECTRA[name])[:5])


def test_all_of_them():
    f, w = quadratic(LARGE)
    assert_near(sharpness(f, w, 60), descending(LARGE))


@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 34, 100])
def test_any_size(n):
    h = torch.linspace(-1, 2, n, dtype=torch.float64)
    f, w = quadratic(h)
    assert_near(sharpness(f, w), descending(h)[:1])


@pytest.mark.parametrize("n", [1, 2, 40, 5000])
def test_a_loss_without_curvature(n):
    w = torch.ones(n, dtype=torch.float64)
    slopes = torch.arange(n, dtype=torch.float64)
    for f in (lambda w: (slopes * w).sum(), lambda w: 0 * w.sum() + 1):
        assert torch.equal(sharpness(f, w), torch.zeros(1, dtype=torch.float64))
    at = radius(lambda w: w.sum(), w, 0.1)
    assert (at.value, at.lowest) == (0, 0)
    assert at.motion
    assert at.series
    assert at.stable


@pytest.mark.parametrize("n", [3, 50])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_where_the_hessian_is_not_finite_it_is_nan_and_nothing_is_allowed(n, bad):
    w = torch.ones(n, dtype=torch.float64)
    w[1] = bad
    f = lambda w: w.pow(4).sum()
    assert sharpness(f, w, 2).isnan().all()
    at = radius(f, w, 0.1)
    assert not (at.motion or at.series or at.stable)


def test_the_two_weights_have_the_sharpness_of_the_book():
    w = two_weights.minimum(torch.tensor(0.5, dtype=torch.float64))
    assert_near(sharpness(two_weights, w), (w * w).sum().reshape(1), 1e-12)
    assert_near(
        sharpness(two_weights, two_weights.start(), 2),
        descending(torch.linalg.eigvalsh(two_weights.hessian(two_weights.start()))),
        1e-12,
    )


@pytest.mark.parametrize("n", [6, 60])
def test_float32_and_any_shape(n):
    h = torch.linspace(1.0, 3.0, n)
    loss = lambda w: (h.to(w.dtype) * w.reshape(-1).square()).sum() / 2
    w = torch.ones(2, n // 2).mT
    found = sharpness(loss, w)
    assert found.dtype == torch.float64
    assert abs(float(found[0]) - 3) < 1e-4
    assert abs(float(sharpness(loss, w.double())[0]) - 3) < 1e-8


def test_equal_calls_give_equal_numbers_and_touch_nothing():
    f, w = network()
    w.requires_grad_()
    state = torch.get_rng_state()
    assert torch.equal(sharpness(f, w, 3), sharpness(f, w, 3))
    assert torch.equal(state, torch.get_rng_state())
    assert w.grad is None


@pytest.mark.parametrize(
    ("lr", "motion", "series", "stable"),
    [
        (0.2, True, True, True),
        (0.3, True, False, True),  # 0.9, but -1.2 on the way down
        (0.4, False, False, True),
        (0.7, False, False, False),
    ],
)
def test_what_a_step_size_allows(lr, motion, series, stable):
    f, w = quadratic([3.0, 1.0, -4.0])
    at = radius(f, w, lr)
    assert at.value == pytest.approx(3 * lr)
    assert (at.motion, at.series, at.stable) == (motion, series, stable)


def test_the_bounds_themselves_are_outside():
    assert not Radius(1.0, 0.0).motion
    assert not Radius(2.0, 0.0).stable
    assert not Radius(0.5, -1.0).series
    with pytest.raises(AttributeError):
        Radius(1.0, 0.0).value = 2.0


def test_an_empty_point():
    empty = torch.zeros(0, dtype=torch.float64)
    assert radius(lambda w: w.sum(), empty, 0.1) == Radius(0.0, 0.0)
    with pytest.raises(ValueError, match="count must be at most 0"):
        sharpness(lambda w: w.sum(), empty)


W = torch.ones(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((None, W), TypeError, "f must be a loss, a function of a Tensor, got None"),
        ((torch.sum, [1.0]), TypeError, "w must be a Tensor, got list"),
        ((torch.sum, W.long()), TypeError, "w must be real floating point"),
        ((torch.sum, W.half()), TypeError, "w must be float32 or float64, got torch.f"),
        ((torch.sin, W), ValueError, r"f must return a scalar, got shape \(3,\)"),
        ((lambda w: 1.0, W), TypeError, "f must return a Tensor, got float"),
        ((torch.sum, W, 0), ValueError, "count must be at least 1"),
        ((torch.sum, W, 4), ValueError, "count must be at most 3, the size of w"),
        ((torch.sum, W, 1.0), TypeError, "count must be an int, got float"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, text):
    with pytest.raises(error, match=text):
        sharpness(*arguments)


def test_a_step_size_that_is_none_is_refused():
    with pytest.raises(ValueError, match="Invalid learning rate: 0"):
        radius(torch.sum, W, 0)


def test_without_scipy_small_problems_work_and_large_ones_say_what_to_install(
    monkeypatch,
):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    f, w = quadratic([1.0, 2.0])
    assert_near(sharpness(f, w), torch.tensor([2.0], dtype=torch.float64))
    f, w = quadratic(LARGE)
    with pytest.raises(ImportError, match="pip install scipy"):
        sharpness(f, w)


def test_no_convergence_is_an_error_that_says_so(monkeypatch):
    linalg = importlib.import_module("scipy.sparse.linalg")
    real = linalg.eigsh
    monkeypatch.setattr(linalg, "eigsh", lambda *a, **k: real(*a, **k, maxiter=1))
    f, w = quadratic(torch.linspace(0, 1, 400))
    with pytest.raises(RuntimeError, match="Lanczos' method found"):
        sharpness(f, w, 3)
