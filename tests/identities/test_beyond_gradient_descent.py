"""The claims about steps of any shape: one statement, and what it says of each."""

import math
from itertools import permutations

import pytest
import torch
from torch.func import grad, jacfwd, jvp
from torch.linalg import svdvals

from anthology import lab
from anthology.motion import (
    Penalty,
    averaged_terms,
    counter_terms,
    flow,
    half_square,
    modified_loss,
    motion_terms,
    reshuffled_loss,
    smooth_l1,
    smooth_l2,
    smooth_nuclear,
)
from anthology.norms import L2, LInf, Spectral
from tests.motion_steps import TIME, W0, gradient, quartic, run, slope


def smooth_three_halves(eps):
    """½‖·‖²_{3/2} with its kinks smoothed; what ½‖·‖₃² steepest descent uses."""
    value = lambda g: ((g * g + eps) ** 0.75).sum() ** (4 / 3) / 2
    return Penalty("smooth ½‖·‖²_{3/2}", value, grad(value))


def matrix_loss(W):
    """Regression with four outputs in a smooth, not quadratic loss; W is 3 × 2."""
    X = torch.tensor([[1.0, 0.3, -0.5, 0.2], [-0.4, 0.9, 0.7, -1.0]]).double()
    Y = torch.tensor([[0.5, -1, 0.2, 0.3], [0.1, 0.4, -0.6, 1], [1, 0, 0.5, -0.2]])
    return (W @ X - Y.double()).cosh().log().sum()


MATRIX = torch.tensor([[0.8, -0.3], [0.5, 0.9], [-0.2, 0.4]], dtype=torch.float64)
CASES = {
    "gradient descent": (half_square(), quartic, W0),
    "smoothed sign": (smooth_l1(0.3), quartic, W0),
    "normalised": (smooth_l2(0.3), quartic, W0),
    "three halves": (smooth_three_halves(0.3), quartic, W0),
    "spectral": (smooth_nuclear(0.3), matrix_loss, MATRIX),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def random_point(like, generator):
    return like + 0.5 * torch.randn(like.shape, generator=generator, dtype=like.dtype)


def descent(f, phi):
    return lambda w: -phi.direction(grad(f)(w))


@pytest.mark.claim("unified-motion", tol=1e-9, trials=10)
@EVERY_CASE
def test_the_second_term_is_half_the_curvature_of_the_penalty(claim, case):
    """ξ₀ = ½∇²φ(g)H∇φ(g) = ½∇²φ(g) ∇_w φ(g(w)), by explicit matrices."""
    phi, f, like = CASES[case]
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        w = random_point(like, g)
        n = w.numel()
        slope_f = grad(f)(w)
        H = jacfwd(grad(f))(w).reshape(n, n)
        D = jacfwd(phi.direction)(slope_f).reshape(n, n)
        d = phi.direction(slope_f).reshape(n)
        assert lab.gap(D, D.mT) < claim.tol  # a Hessian
        xi = -motion_terms(descent(f, phi), w, 2)[1].reshape(n)
        assert lab.gap(xi, D @ H @ d / 2) < claim.tol
        penalty = grad(lambda v: phi(grad(f)(v)))(w).reshape(n)
        assert lab.gap(xi, D @ penalty / 2) < claim.tol
        closed = averaged_terms(grad(f), phi.direction, w)
        assert lab.gap(-closed[1].reshape(n), xi) < claim.tol


def orders(phi, f, w0, velocity, steps=(20, 40)):
    errors = []
    for count in steps:
        lr = 2 * TIME / count
        end = run(lambda w, lr=lr: w + lr * descent(f, phi)(w), w0, count)
        field = lambda w, lr=lr: velocity(w, lr)
        motion = flow(field, w0, 2 * TIME, solver="dopri5", rtol=1e-9)
        errors.append(float((motion - end).norm()))
    return slope(errors)[0]


@pytest.mark.claim("unified-motion", "implicit-penalty", tol=0.15)
@EVERY_CASE
def test_the_step_follows_the_same_map_on_the_modified_loss(claim, case):
    phi, f, w0 = CASES[case]

    def terms(count):
        def velocity(w, lr):
            all_terms = motion_terms(descent(f, phi), w, count)
            return sum(t * lr**k for k, t in enumerate(all_terms))

        return velocity

    def by_loss(w, lr):
        return descent(modified_loss(f, phi, lr), phi)(w)

    assert abs(orders(phi, f, w0, terms(1)) - 1) < claim.tol
    assert abs(orders(phi, f, w0, terms(2)) - 2) < claim.tol
    assert abs(orders(phi, f, w0, by_loss) - 2) < claim.tol


@pytest.mark.claim("implicit-penalty", tol=1e-6, trials=20)
def test_what_each_optimizer_penalises(claim):
    """The modified loss in the norm itself, and as the limit of the smoothed."""
    g = torch.Generator().manual_seed(0)
    lr, eps = 0.1, 1e-16
    for _ in range(claim.trials):
        w, W = random_point(W0, g), random_point(MATRIX, g)
        v, G = grad(quartic)(w), grad(matrix_loss)(W)
        table = [
            (quartic, w, half_square(), half_square(), v.square().sum() / 2),
            (quartic, w, LInf(), smooth_l1(eps), v.abs().sum()),
            (quartic, w, L2(), smooth_l2(eps), v.norm()),
            (matrix_loss, W, Spectral(), smooth_nuclear(eps), svdvals(G).sum()),
        ]
        for f, x, norm, smooth, phi in table:
            expected = f(x) + lr / 2 * phi
            assert lab.gap(modified_loss(f, norm, lr)(x), expected) < claim.tol
            assert lab.gap(modified_loss(f, smooth, lr)(x), expected) < claim.tol
        # with the size of the step, ‖g‖_*: a quarter of the squared dual norm
        loss = modified_loss(matrix_loss, half_square(Spectral()), lr)(W)
        expected = matrix_loss(W) + lr / 4 * svdvals(G).sum() ** 2
        assert lab.gap(loss, expected) < claim.tol


@pytest.mark.claim("sign-before-flip", tol=0.05, trials=10)
def test_the_second_term_of_sign_descent_vanishes_between_flips(claim):
    """As ε → 0 it falls as ε where no entry of the gradient is zero …"""
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        w = random_point(W0, g)
        sizes = [
            float(averaged_terms(gradient, smooth_l1(eps).direction, w)[1].norm())
            for eps in (1e-8, 1e-9)
        ]
        assert abs(sizes[0] / sizes[1] / 10 - 1) < claim.tol


@pytest.mark.claim("sign-before-flip", tol=1e-13)
def test_sign_descent_is_its_flow_until_the_first_flip(claim):
    """… and the steps lie on the straight line that the flow is."""
    lr, w = 0.01, W0
    signs, steps = gradient(W0).sign(), 0
    while (gradient(w).sign() == signs).all():
        line = W0 - steps * lr * signs
        assert (w - line).abs().max() < claim.tol
        w, steps = w - lr * gradient(w).sign(), steps + 1
    assert steps > 15


@pytest.mark.claim("sign-after-flip", tol=1e-12, trials=20)
def test_where_no_entry_moves_another_it_stays_within_one_step(claim):
    """Each entry goes straight to its minimum and then back and forth."""
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        start = torch.rand(4, generator=g, dtype=torch.float64) + 0.1
        lr, w = 0.01 + 0.05 * float(torch.rand((), generator=g)), start
        for k in range(1, 200):
            w = w - lr * (w + w**3).sign()
            assert (w - (start - k * lr).clamp(min=0)).abs().max() < lr + claim.tol
        assert (w.abs() > 0).all()  # and never comes to rest


@pytest.mark.claim("sign-after-flip", tol=2.0)
def test_after_the_first_flip_sign_descent_chatters_around_the_sliding_flow(claim):
    """On ½wᵀHw with H = [[2, 1], [1, 2]] from (0.3, 1), solved by hand.

    The first entry of the gradient is zero at t = 1.6/3; from there on the flow
    slides along 2a + b = 0, until it is at rest in the origin at t = 1.
    """
    H = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    start = torch.tensor([0.3, 1.0], dtype=torch.float64)

    def sliding(t):
        b = max(1 - t, 0.0)
        return start.new_tensor([0.3 - t if t < 1.6 / 3 else -b / 2, b])

    ratios = []
    for count in (70, 140, 280, 560):  # none meets the kinks of the flow exactly
        lr, w, worst = 1.5 / count, start, 0.0
        for k in range(1, count + 1):
            w = w - lr * (H @ w).sign()
            worst = max(worst, float((w - sliding(k * lr)).abs().max()))
        ratios.append(worst / lr)
    assert max(ratios) < claim.tol
    assert min(ratios) > 0.5  # of first order, and of no higher


@pytest.mark.claim("sign-after-flip", tol=0.05)
def test_the_series_is_meaningless_where_the_sign_flips(claim):
    """The second term grows as ε^(−1/2) where the gradient is about √ε."""
    sizes = []
    for eps in (1e-6, 1e-8):
        w = torch.full((1,), math.sqrt(eps), dtype=torch.float64)
        sizes.append(
            float(averaged_terms(lambda v: v, smooth_l1(eps).direction, w)[1].norm())
        )
    assert abs(sizes[1] / sizes[0] / 10 - 1) < claim.tol


@pytest.mark.claim("polar-has-counter-term", tol=1e-6, trials=20)
def test_the_polar_factor_keeps_a_second_term(claim):
    """ξ₀ → ½D[H d] with D[E] = U(X/(σ_i + σ_j))Vᵀ, X = UᵀEV − (UᵀEV)ᵀ."""
    g = torch.Generator().manual_seed(0)
    A = torch.randn(3, 3, 3, 3, generator=g, dtype=torch.float64)
    A = A.reshape(9, 9) @ A.reshape(9, 9).mT / 9

    def f(W):
        x = W.reshape(-1)
        return x @ A @ x / 2 + W.cosh().sum()

    for _ in range(claim.trials):
        W = torch.randn(3, 3, generator=g, dtype=torch.float64)
        U, s, Vh = torch.linalg.svd(grad(f)(W))
        E = U.mT @ jvp(grad(f), (W,), (U @ Vh,))[1] @ Vh.mT
        expected = -U @ ((E - E.mT) / (s[:, None] + s)) @ Vh / 2
        polar = smooth_nuclear(1e-18).direction
        term = averaged_terms(grad(f), polar, W)[1]
        assert lab.gap(term, expected) < claim.tol
        assert term.norm() > 1e-3


@pytest.mark.claim("reshuffling", tol=0.15)
def test_one_epoch_of_reshuffled_steps_in_the_mean(claim):
    """Exactly, over all 4! orders: the local error falls as η³, without as η²."""
    g = torch.Generator().manual_seed(0)
    A = torch.randn(4, 3, 3, generator=g, dtype=torch.float64)
    losses = [
        lambda w, a=a, i=i: (a @ w).cosh().log().sum() + quartic(w) * (i / 4)
        for i, a in enumerate(A)
    ]
    gradients = [grad(f) for f in losses]

    def mean_after_epoch(lr):
        ends = []
        for order in permutations(range(4)):
            w = W0
            for i in order:
                w = w - lr * gradients[i](w)
            ends.append(w)
        return torch.stack(ends).mean(0)

    plain = lambda lr: lambda w: sum(f(w) for f in losses) / 4
    whole = lambda lr: modified_loss(plain(lr), half_square(), lr)
    batches = lambda lr: reshuffled_loss(losses, lr)
    for loss, order in ((plain, 2), (whole, 2), (batches, 3)):
        errors = []
        for lr in (0.005, 0.0025):
            velocity = lambda w, lr=lr, loss=loss: -grad(loss(lr))(w)
            end = flow(velocity, W0, 4 * lr, rtol=1e-12, atol=1e-14)
            errors.append(float((end - mean_after_epoch(lr)).norm()))
        assert abs(slope(errors)[0] - order) < claim.tol


@pytest.mark.claim("reshuffling", tol=1e-12, trials=20)
def test_the_penalty_of_reshuffling_is_a_gradient_and_a_variance(claim):
    g = torch.Generator().manual_seed(0)
    A = torch.randn(5, 3, 3, generator=g, dtype=torch.float64)
    losses = [lambda w, a=a: (a @ w).cosh().log().sum() for a in A]
    lr, m = 0.1, len(losses)
    for _ in range(claim.trials):
        w = random_point(W0, g)
        G = torch.stack([grad(f)(w) for f in losses])
        f = sum(f(w) for f in losses) / m
        spread = (G - G.mean(0)).square().sum() / m
        expected = f + lr / 4 * (G.mean(0).square().sum() + spread)
        assert lab.gap(reshuffled_loss(losses, lr)(w), expected) < claim.tol


@pytest.mark.claim("decoupled-decay", "coupled-decay", tol=1e-10, trials=20)
@EVERY_CASE
def test_second_terms_under_weight_decay(claim, case):
    """½(DH + κ)(d + κw) decoupled; coupled it is ½(H + κ)(g + κw)."""
    phi, f, like = CASES[case]
    g = torch.Generator().manual_seed(0)
    decay = 0.3
    for _ in range(claim.trials):
        w = random_point(like, g)
        step = lambda v, phi=phi, f=f: descent(f, phi)(v) - decay * v
        exact = motion_terms(step, w, 2)
        terms = averaged_terms(grad(f), phi.direction, w, decay=decay)
        assert lab.gap(terms[0], exact[0]) < claim.tol
        assert lab.gap(terms[1], exact[1]) < claim.tol
        coupled = lambda v, f=f: f(v) + decay * v.square().sum() / 2
        first = counter_terms(grad(coupled), w, 1)[0]
        pull = grad(f)(w) + decay * w
        curve = jvp(grad(f), (w,), (pull,))[1]
        assert lab.gap(first, (curve + decay * pull) / 2) < claim.tol
