"""The claims of the chapter on the counter term: the terms themselves."""

import pytest
import torch
from torch.func import grad, jacfwd, vmap

from anthology import lab
from anthology.lab.problems import two_weights
from anthology.motion import (
    counter_terms,
    discretization_error,
    flow,
    half_square,
    modified_loss,
    second_counter_term,
)
from tests.counter_term_problems import (
    PROBLEMS,
    descend,
    random_loss,
    slope,
)

BOTH = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


@pytest.mark.claim("counter-term", tol=0.02, trials=4)
@BOTH
def test_one_step_error_of_the_truncated_series(claim, problem):
    """It falls as η^(N+1), and η^(N+1) ξ_{N−1} is its first term."""
    gradient, w0 = problem
    exact = counter_terms(gradient, w0, claim.trials)
    for order in range(1, claim.trials + 1):
        rates = [0.005, 0.0025]
        local = [
            discretization_error(gradient, w0, lr, 1, order, rtol=1e-13, atol=1e-16)
            for lr in rates
        ]
        observed = slope([float(e.norm()) for e in local])[0]
        assert abs(observed - (order + 1)) < claim.tol * (order + 1)
        leading = local[-1] / rates[-1] ** (order + 1)
        gap = (leading - exact[order - 1]).norm() / exact[order - 1].norm()
        assert gap < claim.tol


@pytest.mark.claim("counter-term-closed-forms", tol=1e-10, trials=20)
def test_closed_forms_of_the_first_terms(claim):
    for seed in range(claim.trials):
        f, w = random_loss(seed)
        gradient = grad(f)
        g, H, T = gradient(w), jacfwd(gradient)(w), jacfwd(jacfwd(gradient))(w)
        first, second = counter_terms(gradient, w, 2)
        quarter = grad(lambda v, g=gradient: g(v).square().sum() / 4)(w)
        assert lab.gap(first, H @ g / 2) < claim.tol
        assert lab.gap(first, quarter) < claim.tol
        assert lab.gap(second, H @ H @ g / 3 + T @ g @ g / 12) < claim.tol


@pytest.mark.claim("counter-term-closed-forms", tol=1e-10, trials=20)
def test_closed_forms_in_one_dimension(claim):
    """½ g′g and ⅓ g′²g + (1/12) g″g²."""
    for seed in range(claim.trials):
        f, w = random_loss(seed, entries=1)
        gradient = grad(lambda x, f=f: f(x[None]))
        bend = grad(gradient)
        g, h, t = gradient(w[0]), bend(w[0]), grad(bend)(w[0])
        first, second = counter_terms(gradient, w[0], 2)
        assert lab.gap(first, h * g / 2) < claim.tol
        assert lab.gap(second, h * h * g / 3 + t * g * g / 12) < claim.tol


@pytest.mark.claim("third-counter-term", tol=1e-10, trials=20)
def test_coefficients_of_the_third_term(claim):
    """Fitted over random points; the fourth derivative has coefficient zero."""
    expected = torch.tensor([1 / 4, 1 / 12, 1 / 12, 0.0], dtype=torch.float64)
    columns, third = [], []
    for seed in range(claim.trials):
        f, w = random_loss(seed)
        g, H = grad(f)(w), jacfwd(grad(f))(w)
        T = jacfwd(jacfwd(grad(f)))(w)
        fourth = jacfwd(jacfwd(jacfwd(grad(f))))(w) @ g @ g @ g
        columns.append(
            torch.stack([H @ H @ H @ g, H @ (T @ g @ g), T @ g @ (H @ g), fourth], 1)
        )
        third.append(counter_terms(grad(f), w, 3)[2])
    A, b = torch.cat(columns), torch.cat(third)
    found = torch.linalg.lstsq(A, b[:, None]).solution[:, 0]
    assert (found - expected).abs().max() < claim.tol
    assert (A @ expected - b).norm() < claim.tol * b.norm()


@pytest.mark.claim("implicit-gradient-regularisation", tol=1e-10, trials=50)
def test_the_first_term_is_the_gradient_of_a_penalty(claim):
    g = torch.Generator().manual_seed(0)
    w = torch.randn(claim.trials, 2, generator=g, dtype=torch.float64)
    lr = 0.1
    modified = vmap(grad(modified_loss(two_weights, half_square(), lr)))(w)
    first = counter_terms(two_weights.gradient, w, 1)[0]
    assert lab.gap(modified, two_weights.gradient(w) + lr * first) < claim.tol
    # on this network the modified loss is f·(1 + ½η(a² + b²))
    loss = vmap(modified_loss(two_weights, half_square(), lr))(w)
    closed = two_weights(w) * (1 + lr / 2 * w.square().sum(-1))
    assert lab.gap(loss, closed) < claim.tol


@pytest.mark.claim("implicit-gradient-regularisation", tol=0.15, trials=4)
def test_descent_follows_the_modified_loss_to_second_order(claim):
    for seed in range(claim.trials):
        f, w0 = random_loss(seed)
        errors = {"f": [], "modified": []}
        for steps in (32, 64):
            lr = 0.25 / steps
            end = descend(grad(f), w0, lr, steps)
            losses = {"f": f, "modified": modified_loss(f, half_square(), lr)}
            for name, loss in losses.items():
                velocity = lambda w, loss=loss: -grad(loss)(w)
                errors[name].append(float((flow(velocity, w0, 0.25) - end).norm()))
        assert abs(slope(errors["f"])[0] - 1) < claim.tol
        assert abs(slope(errors["modified"])[0] - 2) < claim.tol
        assert errors["modified"][-1] < errors["f"][-1] / 5


@pytest.mark.claim("second-term-no-loss", tol=1e-10, trials=20)
def test_the_second_term_has_the_curl_of_a_commutator(claim):
    """And so no loss has it as its gradient."""
    for seed in range(claim.trials):
        f, w = random_loss(seed)
        gradient = grad(f)
        g, H, T = gradient(w), jacfwd(gradient)(w), jacfwd(jacfwd(gradient))(w)
        J = jacfwd(lambda v, gradient=gradient: second_counter_term(gradient, v))(w)
        Tg = T @ g
        assert lab.gap(J - J.mT, (H @ Tg - Tg @ H) / 6) < claim.tol
        assert (J - J.mT).norm() > 1e6 * claim.tol


@pytest.mark.claim("second-term-no-loss", tol=1e-10, trials=20)
def test_a_gradient_would_need_its_parts_two_to_one(claim):
    """∇(gᵀHg) = 2H²g + T[g,g], against 4 : 1 in the second term."""
    for seed in range(claim.trials):
        f, w = random_loss(seed)
        gradient = grad(f)
        g, H, T = gradient(w), jacfwd(gradient)(w), jacfwd(jacfwd(gradient))(w)
        bent = lambda v, gradient=gradient: (
            gradient(v) @ jacfwd(gradient)(v) @ gradient(v)
        )
        assert lab.gap(grad(bent)(w), 2 * H @ H @ g + T @ g @ g) < claim.tol
        second = counter_terms(gradient, w, 2)[1]
        assert lab.gap(second, (4 * H @ H @ g + T @ g @ g) / 12) < claim.tol
