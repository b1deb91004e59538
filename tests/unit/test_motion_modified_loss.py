"""Modified losses and penalties: values, gradients, limits, wrong arguments."""

import math

import pytest
import torch
from torch.func import grad, jacfwd, jvp

from anthology.motion import (
    Penalty,
    average_factor,
    half_square,
    modified_loss,
    reshuffled_loss,
    smooth_l1,
    smooth_l2,
    smooth_nuclear,
)
from anthology.norms import L1, L2, LInf, Nuclear, RMSToRMS, Spectral

SMOOTH = [smooth_l1, smooth_l2, smooth_nuclear]
NORMS = [LInf(), L2(), L1(), Spectral(), RMSToRMS(), Nuclear()]


def loss(W):
    return W.cosh().log().sum() + (W @ W.mT).sum()


def draw(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (3, 3), (1, 4), (1, 1), (2, 3, 2)])
@pytest.mark.parametrize(
    "phi",
    [half_square(), half_square(Spectral()), half_square(LInf())]
    + [make(0.01) for make in SMOOTH],
    ids=repr,
)
def test_the_direction_is_the_gradient_of_the_penalty(phi, shape):
    g = draw(*shape)
    torch.testing.assert_close(grad(phi)(g), phi.direction(g))


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (3, 3), (4, 1), (2, 4, 3)])
@pytest.mark.parametrize("eps", [1.0, 1e-4, 1e-12])
def test_smooth_nuclear_against_singular_values(shape, eps):
    G = draw(*shape)
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    rounded = (s * s + eps).sqrt()
    torch.testing.assert_close(smooth_nuclear(eps)(G), rounded.sum())
    expected = U @ ((s / rounded)[..., None] * Vh)
    torch.testing.assert_close(smooth_nuclear(eps).direction(G), expected)


@pytest.mark.parametrize(
    "G", [torch.zeros(3, 2), torch.eye(3), torch.ones(3, 3)], ids=["0", "I", "ones"]
)
def test_smooth_nuclear_where_singular_values_coincide(G):
    """It has no singular vectors to lose: two derivatives stay finite."""
    direction = smooth_nuclear(0.01).direction
    assert jacfwd(direction)(G.double()).isfinite().all()
    assert jacfwd(jacfwd(direction))(G.double()).isfinite().all()
    scale = jacfwd(smooth_nuclear(0.01).direction)(torch.zeros(1, 1).double())
    assert float(scale) == pytest.approx(10)  # 1/√ε


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("make", SMOOTH)
def test_penalties_keep_type_and_scale(make, size, dtype):
    g = (draw(3, 2) * size).to(dtype)
    phi = make(1e-2)
    assert phi(g).dtype == dtype
    assert phi(g).shape == ()
    assert phi(g).isfinite()
    direction = phi.direction(g)
    assert direction.dtype == dtype
    assert direction.shape == g.shape
    assert float(direction.double().abs().max()) <= 1.01
    if size == 1e30:  # the smoothing is gone
        exact = {smooth_l1: LInf(), smooth_l2: L2(), smooth_nuclear: Spectral()}[make]
        flat = g if exact.ndim == 2 else g.reshape(-1)
        torch.testing.assert_close(phi(g), exact.dual(flat), rtol=1e-2, atol=0)


@pytest.mark.parametrize("make", SMOOTH)
def test_empty_zero_and_not_finite_gradients(make):
    phi = make(0.25)
    assert phi.direction(torch.zeros(0, 3)).shape == (0, 3)
    assert phi(torch.zeros(0, 3)).isfinite()
    assert torch.equal(phi.direction(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert phi(torch.zeros(1, 1)) == 0.5
    for value in (math.nan, math.inf):
        g = torch.eye(2).clone()
        g[0, 1] = value
        assert not phi(g).isfinite()
        assert not phi.direction(g)[0, 1].isfinite()


@pytest.mark.parametrize("norm", NORMS, ids=repr)
def test_a_norm_stands_for_its_dual(norm):
    W, lr = draw(3, 3), 0.1
    G = grad(loss)(W)
    flat = norm.ndim == 1
    dual = norm.dual(G.reshape(-1) if flat else G)
    modified = modified_loss(loss, norm, lr)
    torch.testing.assert_close(modified(W), loss(W) + lr / 2 * dual)
    # its gradient is ∇f + (η/2)·H·dualize(∇f) where the dual norm is smooth
    step = norm.dualize(G.reshape(-1)).reshape(3, 3) if flat else norm.dualize(G)
    expected = G + lr / 2 * jvp(grad(loss), (W,), (step,))[1]
    torch.testing.assert_close(grad(modified)(W), expected)


def test_a_stack_of_matrices_sums_its_dual_norms():
    W = draw(2, 3, 3)
    total = modified_loss(loss, Spectral(), 0.1)(W)
    duals = Spectral().dual(grad(loss)(W)).sum()
    torch.testing.assert_close(total, loss(W) + 0.05 * duals)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_and_decay(nesterov):
    W, lr, decay = draw(3, 3), 0.1, 0.3
    G, factor = grad(loss)(W), average_factor(0.9, nesterov)
    extra = G.abs().sum() + decay * ((G * W).sum() - loss(W))
    modified = modified_loss(loss, LInf(), lr, 0.9, nesterov, decay)
    torch.testing.assert_close(modified(W), loss(W) + lr / 2 * factor * extra)


def test_ordinary_backward_works_too():
    W = draw(3, 3).requires_grad_()
    modified = modified_loss(loss, half_square(), 0.1)
    modified(W).backward()
    torch.testing.assert_close(W.grad, grad(modified)(W.detach()))


def test_losses_with_one_element_and_any_axes():
    w = draw(3)
    one = modified_loss(lambda w: (w @ w).reshape(1, 1), half_square(), 0.1)(w)
    assert one.shape == ()
    torch.testing.assert_close(one, (w @ w) * 1.1)


def test_one_batch_is_gradient_descent():
    W = draw(3, 3)
    expected = modified_loss(loss, half_square(), 0.2)(W)
    torch.testing.assert_close(reshuffled_loss([loss], 0.2)(W), expected)


def test_names_say_what_was_made():
    assert repr(smooth_l1(0.5)) == "smooth_l1(0.5)"
    assert repr(half_square(2 * LInf())) == "half_square(Scaled(LInf(), 2.0))"
    custom = Penalty("mine", lambda g: g.sum(), torch.ones_like)
    assert custom(torch.ones(3)) == 3


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: modified_loss(3, LInf(), 0.1), "f must be a loss"),
        (lambda: modified_loss(loss, 3, 0.1), "penalty must be a Norm or"),
        (lambda: modified_loss(loss, LInf, 0.1), r"write LInf\(...\)"),
        (lambda: modified_loss(loss, LInf(), None), "lr must be a float"),
        (lambda: modified_loss(lambda w: w, LInf(), 0.1)(draw(2)), "one element"),
        (lambda: modified_loss(loss, abs, 0.1)(draw(2, 2)), "penalty must return"),
        (lambda: modified_loss(loss, LInf(), 0.1)(3), "w must be a Tensor"),
        (lambda: reshuffled_loss(loss, 0.1), "losses must be a sequence"),
        (lambda: reshuffled_loss([loss, 3], 0.1), "each of losses"),
        (lambda: reshuffled_loss([abs], 0.1)(draw(2)), "one element"),
        (lambda: smooth_l1("1"), "eps must be a float"),
        (lambda: half_square(3), "must be an anthology Norm"),
        (lambda: smooth_l2(1.0)([1.0]), "g must be a Tensor"),
        (lambda: smooth_l1(1.0)(torch.ones(2, dtype=torch.int)), "floating point"),
    ],
)
def test_wrong_kinds_of_arguments(call, text):
    with pytest.raises(TypeError, match=text):
        call()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: modified_loss(loss, LInf(), 0.0), "learning rate"),
        (lambda: modified_loss(loss, LInf(), 0.1, momentum=1.0), "momentum must be"),
        (lambda: modified_loss(loss, LInf(), 0.1, decay=-1.0), "decay must be"),
        (lambda: modified_loss(torch.sum, Spectral(), 0.1)(draw(2)), "matrices"),
        (lambda: reshuffled_loss([], 0.1), "at least one loss"),
        (lambda: reshuffled_loss([loss], math.inf), "learning rate"),
        (lambda: smooth_l1(0.0), "eps must be positive"),
        (lambda: smooth_nuclear(math.nan), "eps must be positive"),
        (lambda: smooth_nuclear(1.0)(draw(3)), "at least 2 axes"),
    ],
)
def test_wrong_values_of_arguments(call, text):
    with pytest.raises(ValueError, match=text):
        call()
