"""The claims of the chapter on the counter term."""

import math
from itertools import pairwise

import pytest
import torch
from torch.func import grad, jacfwd
from torch.nn.functional import cross_entropy

from anthology import lab
from anthology.lab.problems import two_weights
from anthology.motion import (
    counter_field,
    counter_terms,
    discretization_error,
    equation_of_motion,
    flow,
    generator,
    motion_terms,
    ravel_model,
    second_counter_term,
)


def quartic_gradient(w):
    """Of ½|w|² + ⅓s³ + ¼Σwᵢ⁴ with s = w₁ − w₂ + w₃.

    No factors: inside nested forward derivatives torch multiplies by a constant
    ten times slower than by another variable.
    """
    s = w[0] - w[1] + w[2]
    t = s * s
    return w + torch.stack([t, -t, t]) + w * w * w


QUARTIC = (quartic_gradient, torch.tensor([0.8, 0.6, 0.2], dtype=torch.float64))
TWO_WEIGHTS = (two_weights.gradient, two_weights.start())
PROBLEMS = pytest.mark.parametrize("problem", [QUARTIC, TWO_WEIGHTS], ids=["q", "w"])


def random_loss(seed):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(6, 4, generator=g, dtype=torch.float64)
    q = torch.rand(4, generator=g, dtype=torch.float64)
    w = torch.randn(4, generator=g, dtype=torch.float64)
    return grad(lambda w: (A @ w).logsumexp(0) + (q * w.cosh()).sum()), w


def random_two_weights(trials):
    g = torch.Generator().manual_seed(0)
    return 1.5 * torch.randn(trials, 2, generator=g, dtype=torch.float64)


def slope(errors):
    """Orders observed between successive halvings of the step size."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.claim("counter-term", tol=0.15, trials=4)
@PROBLEMS
def test_one_step_error_of_the_truncated_series(claim, problem):
    """It falls as η^(N+1), and η^(N+1) ξ_{N−1} is its first term."""
    gradient, w0 = problem
    exact = counter_terms(gradient, w0, claim.trials)
    for order in range(1, claim.trials + 1):
        rates = [0.02, 0.01]
        local = [
            discretization_error(gradient, w0, lr, 1, order, rtol=1e-13, atol=1e-15)
            for lr in rates
        ]
        observed = slope([float(e.norm()) for e in local])[0]
        assert abs(observed - (order + 1)) < claim.tol
        leading = local[-1] / rates[-1] ** (order + 1)
        gap = (leading - exact[order - 1]).norm() / exact[order - 1].norm()
        assert gap < claim.tol


@pytest.mark.claim("counter-term-closed-forms", tol=1e-10, trials=20)
def test_closed_forms_of_the_first_terms(claim):
    for seed in range(claim.trials):
        gradient, w = random_loss(seed)
        g, H, T = gradient(w), jacfwd(gradient)(w), jacfwd(jacfwd(gradient))(w)
        first, second = counter_terms(gradient, w, 2)
        quarter = grad(lambda v, g=gradient: g(v).square().sum() / 4)(w)
        assert lab.gap(first, H @ g / 2) < claim.tol
        assert lab.gap(first, quarter) < claim.tol
        assert lab.gap(second, H @ H @ g / 3 + T @ g @ g / 12) < claim.tol


@pytest.mark.claim("second-term-no-loss", tol=1e-10, trials=20)
def test_the_second_term_has_the_curl_of_a_commutator(claim):
    """And so no loss has it as its gradient."""
    for seed in range(claim.trials):
        gradient, w = random_loss(seed)
        g, H, T = gradient(w), jacfwd(gradient)(w), jacfwd(jacfwd(gradient))(w)
        J = jacfwd(lambda v, gradient=gradient: second_counter_term(gradient, v))(w)
        Tg = T @ g
        assert lab.gap(J - J.mT, (H @ Tg - Tg @ H) / 6) < claim.tol
        assert (J - J.mT).norm() > 1e6 * claim.tol


@pytest.mark.claim("forward-differences", tol=0.15, trials=5)
@PROBLEMS
def test_the_two_ways_agree_to_their_order(claim, problem):
    """Their difference at a point falls as η^N; its first term is known."""
    gradient, w0 = problem
    for order in range(1, claim.trials + 1):
        gaps = []
        for lr in (0.01, 0.005):
            step = lambda w, lr=lr: w - lr * gradient(w)
            by_steps = generator(step, w0, order, lr)
            by_series = counter_field(gradient, w0, order, lr)
            gaps.append(float((by_steps - by_series).norm()))
        if order == 1:  # both are exactly −g
            assert max(gaps) < 1e-12
        else:
            assert abs(slope(gaps)[0] - order) < claim.tol


@pytest.mark.claim("forward-differences", tol=1e-10, trials=50)
def test_forward_differences_are_exact_on_short_polynomials(claim):
    """If the iterates lie on a polynomial in t of degree N, so is its velocity."""
    g = torch.Generator().manual_seed(0)
    for trial in range(claim.trials):
        order, lr = 1 + trial % 6, 0.1
        c = torch.randn(order + 1, generator=g, dtype=torch.float64)
        powers = torch.arange(order + 1, dtype=torch.float64)

        def step(z, c=c, powers=powers, lr=lr):  # the point holds time and value
            t = z[0] + lr
            return torch.stack([t, (c * t**powers).sum()])

        start = torch.stack([torch.zeros_like(c[0]), c[0]])
        assert abs(float(generator(step, start, order, lr)[1] - c[1])) < claim.tol


def global_slope(gradient, w0, order, method, steps, time=0.25):
    errors = [
        discretization_error(
            gradient, w0, time / k, k, order, method=method, rtol=1e-9, atol=1e-11
        )
        for k in steps
    ]
    return slope([float(e.norm()) for e in errors])[0]


@pytest.mark.claim("discretization-error", tol=0.15, trials=5)
@pytest.mark.parametrize(
    ("method", "steps"), [("series", (8, 16)), ("differences", (32, 64))]
)
@PROBLEMS
def test_global_error_falls_as_the_order_says(claim, problem, method, steps):
    for order in range(1, claim.trials + 1):
        observed = global_slope(*problem, order, method, steps)
        assert abs(observed - order) < claim.tol, (order, observed)


def next_local_error(gradient, w, order, method):
    """e_1/η^(N+1) to leading order, by either way."""
    if method == "series":
        return counter_terms(gradient, w, order)[-1]
    # D_{N+1,0}, the (N+1)-th derivative of plain gradient flow along itself
    derivative = lambda v: -gradient(v)
    for _ in range(order):
        inner = derivative
        derivative = lambda v, inner=inner: torch.func.jvp(
            inner, (v,), (-gradient(v),)
        )[1]
    return (-1) ** (order + 1) * derivative(w) / (order + 1)


@pytest.mark.claim("discretization-error", tol=0.05, trials=2)
@pytest.mark.parametrize("method", ["series", "differences"])
@PROBLEMS
def test_the_leading_global_error_solves_its_own_equation(claim, problem, method):
    gradient, w0 = problem
    n = len(w0)
    for order in range(1, claim.trials + 1):

        def both(z, order=order):
            w, eps = z[:n], z[n:]
            curve = torch.func.jvp(gradient, (w,), (eps,))[1]
            source = next_local_error(gradient, w, order, method)
            return torch.cat([-gradient(w), source - curve])

        eps = flow(both, torch.cat([w0, torch.zeros_like(w0)]), 0.5)[n:]
        steps = 200
        lr = 0.5 / steps
        error = discretization_error(gradient, w0, lr, steps, order, method=method)
        assert (error / lr**order - eps).norm() < claim.tol * eps.norm()


@pytest.mark.claim("learning-rate-bound", trials=8)
@PROBLEMS
def test_the_bound_on_the_error_of_gradient_flow(claim, problem):
    """Leading order of the bound, with L and M measured along the path."""
    gradient, w0 = problem
    lr, time = 0.002, 1.0
    counts = [round(time / lr * (i + 1) / claim.trials) for i in range(claim.trials)]
    for order in (1, 2):
        errors = discretization_error(gradient, w0, lr, counts, order)
        path = flow(lambda w: -gradient(w), w0, [i / 20 for i in range(21)])
        L = max(float(torch.linalg.matrix_norm(jacfwd(gradient)(w), 2)) for w in path)
        M = max(float(counter_terms(gradient, w, order)[-1].norm()) for w in path)
        for k, e in zip(counts, errors, strict=True):
            bound = lr**order * M * math.expm1(L * lr * k) / L
            # 5% for the next order, which the leading-order bound leaves out
            assert float(e.norm()) < 1.05 * bound


@pytest.mark.claim("two-weights-drift", tol=1e-12, trials=200)
def test_imbalance_is_conserved_by_the_flow_and_not_by_the_steps(claim):
    w, lr = random_two_weights(claim.trials), 0.1
    g, r, Q = two_weights.gradient(w), two_weights.residual(w), two_weights.imbalance(w)
    grad_Q = 2 * w * torch.tensor([1.0, -1.0], dtype=w.dtype)
    scale = 1 + w.norm(dim=-1) ** 8  # rounding in numbers of this size
    assert ((grad_Q * g).sum(-1).abs() / scale).max() < claim.tol
    stepped = two_weights.imbalance(w - lr * g)
    assert ((stepped - (1 - (lr * r) ** 2) * Q).abs() / scale).max() < claim.tol


@pytest.mark.claim("two-weights-drift", tol=1e-12, trials=200)
def test_the_counter_terms_hold_the_drift_of_the_imbalance(claim):
    w = random_two_weights(claim.trials)
    r, Q = two_weights.residual(w), two_weights.imbalance(w)
    s = two_weights.sharpness(w)
    grad_Q = 2 * w * torch.tensor([1.0, -1.0], dtype=w.dtype)
    first, second = counter_terms(two_weights.gradient, w, 2)
    scale = 1 + w.norm(dim=-1) ** 8
    assert (((grad_Q * first).sum(-1) - r**2 * Q).abs() / scale).max() < claim.tol
    error = (grad_Q * second).sum(-1) - r**2 * s * Q
    assert (error.abs() / scale).max() < claim.tol


@pytest.mark.claim("two-weights-limit", tol=0.02, trials=20)
def test_how_far_the_two_minima_are_apart(claim):
    """log(Q∞/Q₀)/η against the closed form, at a small step from many starts."""
    lr, g = 1e-3, torch.Generator().manual_seed(0)
    shares = torch.rand(2, claim.trials, generator=g, dtype=torch.float64)
    # a > b throughout: balanced weights have no imbalance to lose
    w = torch.stack([1.5 + shares[0], 0.1 + 0.9 * shares[1]], -1)
    Q = two_weights.imbalance(w)

    def J(u):
        return torch.asinh(2 * u / Q) / 2 - (Q**2 + 4 * u**2).sqrt() / 4

    predicted = J(torch.ones_like(Q)) - J(w.prod(-1))
    for _ in range(20_000):
        w = w - lr * two_weights.gradient(w)
    assert two_weights.residual(w).abs().max() < 1e-9
    lost = -(two_weights.imbalance(w) / Q).log() / lr
    assert ((lost - predicted).abs() / predicted.abs()).max() < claim.tol


@pytest.mark.claim("quadratic-motion", tol=1e-9, trials=50)
def test_on_a_quadratic_the_motion_is_a_logarithm(claim):
    g = torch.Generator().manual_seed(0)
    w = torch.ones((), dtype=torch.float64)
    for _ in range(claim.trials):
        h = 5 * torch.rand((), generator=g, dtype=torch.float64) + 0.1
        for k, term in enumerate(counter_terms(lambda v, h=h: h * v, w, 4)):
            assert lab.gap(term / h ** (k + 2), 1 / (k + 2)) < claim.tol
        # ηh up to 0.6, where 30 terms are exact to rounding
        lr = float(0.6 * torch.rand((), generator=g, dtype=torch.float64) / h)
        velocity = equation_of_motion(lambda v, h=h: h * v, 30, lr, "differences")
        exact = math.log1p(-lr * float(h)) / lr
        assert abs(float(velocity(w)) - exact) < claim.tol * abs(exact) * 1e3
        # and its flow is where gradient descent is
        end = w * math.exp(7 * lr * exact)
        assert lab.gap(end, (1 - lr * h) ** 7) < claim.tol


@pytest.mark.claim("quadratic-motion", trials=40)
def test_on_a_quadratic_the_series_diverges_where_the_step_overshoots(claim):
    w = torch.ones(1, dtype=torch.float64)
    for lr in (1.0, 1.1, 1.5, 1.9):  # h = 1
        rates = []
        for order in range(1, claim.trials + 1):
            rates.append(sum(lr**n / n for n in range(1, order + 1)))
            if order <= 5:
                field = counter_field(lambda v: v, w, order, lr)
                assert lab.gap(lr * field, -rates[-1] * w) < 1e-12
        # the multiplier exp(−rate) of the motion falls towards 0 with each
        # term, while the descent multiplies by 1 − η ≤ 0
        assert all(a < b for a, b in pairwise(rates))
        assert rates[-1] > 4
        assert 1 - lr <= 0


@pytest.mark.claim("no-real-motion", tol=1e-9, trials=10)
def test_a_flow_preserves_orientation(claim):
    """det Dφ = exp ∫ div F, so it is positive; checked on random fields."""
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        A = torch.randn(2, 2, generator=g, dtype=torch.float64)
        b = torch.randn(2, generator=g, dtype=torch.float64)

        def field(w, A=A, b=b):
            return torch.tanh(A @ w + b) - 0.5 * w

        def extended(z, field=field):
            w, D = z[:2], z[2:6].reshape(2, 2)
            J = jacfwd(field)(w)
            return torch.cat([field(w), (J @ D).reshape(-1), J.trace()[None]])

        eye = torch.eye(2, dtype=torch.float64).reshape(-1)
        w = torch.randn(2, generator=g, dtype=torch.float64)
        end = flow(extended, torch.cat([w, eye, w.new_zeros(1)]), 1.0)
        D, divergence = end[2:6].reshape(2, 2), end[6]
        assert lab.gap(torch.linalg.det(D), divergence.exp()) < claim.tol
        assert torch.linalg.det(D) > 0


@pytest.mark.claim("no-real-motion", tol=1e-9, trials=50)
def test_a_step_across_the_valley_reverses_orientation(claim):
    """On the hyperbola det(I − ηH) = 1 − ηλ, negative where 1/λ < η < 2/λ."""
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        a = 0.3 + 2 * torch.rand((), generator=g, dtype=torch.float64)
        w = two_weights.minimum(a)
        share = 1 + torch.rand((), generator=g, dtype=torch.float64)
        lr = float(share / two_weights.sharpness(w))
        step = lambda w, lr=lr: w - lr * two_weights.gradient(w)
        D = jacfwd(step)(w)
        assert lab.gap(torch.linalg.det(D), 1 - share) < claim.tol
        assert torch.linalg.eigvals(D).abs().max() <= 1 + claim.tol


@pytest.mark.claim("no-real-motion", tol=1e-9, trials=10)
def test_two_equal_directions_can_overshoot_together_on_a_real_flow(claim):
    """The exception: a half turn carries both across, though the series does not."""
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        lr = float(1.1 + 0.8 * torch.rand((), generator=g, dtype=torch.float64))
        R = torch.tensor([[0.0, -math.pi], [math.pi, 0.0]], dtype=torch.float64)
        A = (math.log(lr - 1) * torch.eye(2, dtype=torch.float64) + R) / lr
        w = torch.randn(2, generator=g, dtype=torch.float64)
        assert lab.gap(flow(lambda w, A=A: A @ w, w, lr), (1 - lr) * w) < claim.tol


def smoothed_sign(w):
    g = quartic_gradient(w)
    return -g / (g * g + 0.5).sqrt()


@pytest.mark.claim("motion-of-any-step", tol=0.15, trials=3)
def test_a_step_that_is_no_gradient_step_has_its_motion_too(claim):
    """Smoothed sign descent: the terms of its map, and the differences."""
    w0 = QUARTIC[1]
    for order in range(1, claim.trials + 1):
        terms = motion_terms(smoothed_sign, w0, order)
        errors, gaps = [], []
        for steps in (16, 32):
            lr = 0.25 / steps

            def step(w, lr=lr):
                return w + lr * smoothed_sign(w)

            def field(w, step=step, order=order, lr=lr):
                return generator(step, w, order, lr)

            w = w0
            for _ in range(steps):
                w = step(w)
            errors.append(float((flow(field, w0, 0.25) - w).norm()))
            series = sum(t * lr**k for k, t in enumerate(terms))
            gaps.append(float((field(w0) - series).norm()))
        assert abs(slope(errors)[0] - order) < claim.tol
        assert order == 1 or abs(slope(gaps)[0] - order) < claim.tol


@pytest.mark.claim("motion-of-a-network", tol=0.3, trials=2)
def test_on_real_data_a_network_stays_nearer_to_the_motion_than_to_the_flow(claim):
    data = lab.digits(device="cpu")
    x, y = data.x[:40].double(), data.y[:40]
    model = lab.mlp([64, 8, 10], activation=torch.nn.Tanh)
    f, w0 = ravel_model(model, lambda net: cross_entropy(net(x), y))
    gradient = grad(f)
    for method in ("series", "differences"):
        errors = {}
        for order in range(1, claim.trials + 1):
            for steps in (8, 16):
                e = discretization_error(
                    gradient, w0, 2 / steps, steps, order, method=method,
                    solver="dopri5", rtol=1e-7, atol=1e-9,
                )  # fmt: skip
                errors[order, steps] = float(e.norm())
            halving = slope([errors[order, 8], errors[order, 16]])[0]
            assert abs(halving - order) < claim.tol
        assert errors[2, 16] < errors[1, 16] / 5
