"""The claims of the chapter on the counter term: how far motion and steps are apart."""

import math

import pytest
import torch
from torch.func import jacfwd, jvp

from anthology.motion import (
    counter_field,
    counter_terms,
    discretization_error,
    flow,
)
from tests.counter_term_problems import PROBLEMS, descend, network, slope

BOTH = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def acceleration_integral(velocity, w, lr):
    """Where the motion is after η, and ∫₀^η (η−u) c(φ_u w) du on the way.

    c = (F·∇)F is the acceleration.
    """
    n = len(w)

    def extended(z):
        at = z[:n]
        c = jvp(velocity, (at,), (velocity(at),))[1]
        return torch.cat([velocity(at), (lr - z[-1]) * c, z.new_ones(1)])

    end = flow(extended, torch.cat([w, w.new_zeros(n + 1)]), lr)
    return end[:n], end[n:-1]


@pytest.mark.claim("functional-equation", tol=1e-11, trials=4)
@BOTH
def test_the_error_of_a_motion_by_the_functional_equation(claim, problem):
    """e' = e − η[g(w + e) − g(w)] + Λ(w + e), whatever the motion."""
    gradient, w = problem
    lr = 0.05
    for order in (1, 2, 3):
        velocity = lambda v, n=order: counter_field(gradient, v, n, lr)
        moving, e = w, torch.zeros_like(w)
        for _ in range(claim.trials):
            after, integral = acceleration_integral(velocity, moving, lr)
            counter = (-velocity(moving) - gradient(moving)) / lr
            gap = integral - lr**2 * counter
            e = e - lr * (gradient(moving) - gradient(moving - e)) + gap
            moving = after
        steps = descend(gradient, w, lr, claim.trials)
        assert (moving - steps - e).norm() < claim.tol
        assert e.norm() > 1e3 * claim.tol


@pytest.mark.claim("functional-equation", tol=1e-11, trials=10)
def test_the_functional_equation_holds_exactly_for_the_logarithm(claim):
    """On a quadratic Λ = 0 for the whole series, and the error is zero."""
    h = torch.linspace(0.1, 4.0, claim.trials, dtype=torch.float64)
    lr, w = 0.2, torch.ones_like(h)
    velocity = lambda v: (1 - lr * h).log() / lr * v
    after, integral = acceleration_integral(velocity, w, lr)
    counter = (-velocity(w) - h * w) / lr
    assert (integral - lr**2 * counter).abs().max() < claim.tol
    assert (after - (1 - lr * h) * w).abs().max() < claim.tol


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
@BOTH
def test_global_error_falls_as_the_order_says(claim, problem, method, steps):
    for order in range(1, claim.trials + 1):
        observed = global_slope(*problem, order, method, steps)
        assert abs(observed - order) < claim.tol, (order, observed)


@pytest.mark.claim("discretization-error", tol=0.1, trials=4)
@BOTH
def test_slopes_of_the_series_at_time_one(claim, problem):
    """From η = 0.1 to 0.0125, for gradient flow and 1 to 3 counter terms."""
    gradient, w0 = problem
    for order in range(1, claim.trials + 1):
        large, small = (
            discretization_error(gradient, w0, 1 / k, k, order, rtol=1e-8, atol=1e-10)
            for k in (10, 80)
        )
        observed = math.log2(float(large.norm() / small.norm())) / 3
        assert abs(observed - order) < claim.tol


@pytest.mark.claim("discretization-error", tol=0.4, trials=2)
@BOTH
def test_slopes_of_many_differences(claim, problem):
    """Orders 6 and 8, as far as rounding lets them be seen."""
    gradient, w0 = problem
    precise = {"method": "differences", "rtol": 1e-13, "atol": 1e-16}
    for order, steps in ((6, (32, 64)), (8, (20, 40)))[: claim.trials]:
        errors = [
            discretization_error(gradient, w0, 0.25 / k, k, order, **precise)
            for k in steps
        ]
        observed = slope([float(e.norm()) for e in errors])[0]
        assert abs(observed - order) < claim.tol


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
@BOTH
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
@BOTH
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


@pytest.mark.claim("step-size-for-one-step", tol=0.05, trials=3)
@BOTH
def test_the_step_size_that_keeps_one_step_within_a_tolerance(claim, problem):
    gradient, w0 = problem
    for order in range(1, claim.trials + 1):
        term = float(counter_terms(gradient, w0, order)[-1].norm())
        allowed = 1e-3**order * 1e-3 * term
        lr = (allowed / term) ** (1 / (order + 1))
        if order == 1:
            curve = jvp(gradient, (w0,), (gradient(w0),))[1]
            assert math.isclose(lr, math.sqrt(2 * allowed / float(curve.norm())))
        error = discretization_error(gradient, w0, lr, 1, order, rtol=1e-13, atol=1e-18)
        assert abs(float(error.norm()) / allowed - 1) < claim.tol


@pytest.mark.claim("motion-of-a-network", tol=0.3, trials=2)
def test_on_real_data_a_network_stays_nearer_to_the_motion_than_to_the_flow(claim):
    gradient, w0 = network()
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
