"""The claims of the chapter on the counter term about the two-weight network."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from anthology.lab.problems import two_weights
from anthology.motion import counter_terms, discretization_error, flow, heavy_ball_terms
from tests.counter_term_problems import slope


def random_two_weights(trials):
    g = torch.Generator().manual_seed(0)
    return 1.5 * torch.randn(trials, 2, generator=g, dtype=torch.float64)


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


def times(x, y):
    """Product of two power series in η, cut off at their length."""
    return [sum(x[i] * y[k - i] for i in range(k + 1)) for k in range(len(x))]


def difference(p, q):
    """q − p, entry by entry and power by power."""
    return [
        [y - x for x, y in zip(*series, strict=True)]
        for series in zip(p, q, strict=True)
    ]


def exact_terms(w, count):
    """F_0, …, F_{count−1} at a rational point, without rounding.

    Forward differences of steps that calculate with power series in η: the
    n-th difference begins with η^n, so these coefficients are final.
    """
    point = [[x] + [Fraction(0)] * count for x in w]
    points = [point]
    for _ in range(count):
        a, b = points[-1]
        r = times(a, b)
        r[0] -= 1
        slopes = [Fraction(0), *times(r, b)], [Fraction(0), *times(r, a)]
        points.append(difference([s[: count + 1] for s in slopes], points[-1]))
    total = [[Fraction(0)] * (count + 1) for _ in w]
    for n in range(1, count + 1):
        points = [difference(p, q) for p, q in pairwise(points)]
        for series, nth in zip(total, points[0], strict=True):
            for k, x in enumerate(nth):
                series[k] += Fraction((-1) ** (n - 1), n) * x
    rows = [[float(x) for x in series[1:]] for series in total]
    return torch.tensor(rows, dtype=torch.float64).T


START = [Fraction(2), Fraction(1, 5)]


@pytest.mark.claim("counter-term", tol=1e-12, trials=6)
def test_the_recursion_gives_the_coefficients_of_the_power_series(claim):
    exact = exact_terms(START, claim.trials + 1)
    terms = torch.stack(
        counter_terms(two_weights.gradient, two_weights.start(), claim.trials)
    )
    assert (terms + exact[1:]).norm() < claim.tol * terms.norm()


@pytest.mark.claim("series-is-asymptotic", trials=40)
def test_the_terms_shrink_and_then_grow(claim):
    """Wherever ηλ < 1, the best truncation lies near the thirtieth term."""
    size = exact_terms(START, claim.trials).norm(dim=1)
    k = torch.arange(claim.trials)
    for lr in (0.1, 0.15, 0.2, 0.22):
        assert lr * float(two_weights.start().square().sum()) < 1
        term = size * lr**k
        best = int(term.argmin())
        assert 28 <= best < claim.trials - 1
        assert term[25] < term[0] / 50
    # what is left of geometric decay: the ratio of terms no longer settles
    ratio = size[1:] / size[:-1]
    assert ratio[:25].max() < 4.5
    assert ratio[-8:].max() > 10


@pytest.mark.claim("best-truncation", trials=14)
def test_too_many_differences_miss_by_more(claim):
    w = torch.tensor([0.5, 0.25], dtype=torch.float64)
    lr, steps = 0.4, 8
    loose = {"method": "differences", "rtol": 1e-8, "atol": 1e-10}
    errors = [
        discretization_error(two_weights.gradient, w, lr, steps, order, **loose)
        for order in range(1, claim.trials + 1)
    ]
    misses = [float(e.norm()) for e in errors]
    assert misses.index(min(misses)) == 4
    assert misses[-1] > 100 * misses[4]
    end = w
    for _ in range(steps):
        curvature = torch.linalg.eigvalsh(two_weights.hessian(end))
        assert lr * float(curvature.max()) < 1
        end = end - lr * two_weights.gradient(end)


@pytest.mark.claim("heavy-ball-start", tol=0.15, trials=3)
@pytest.mark.parametrize("momentum", [0.5, 0.8])
def test_heavy_ball_runs_late_by_the_age_of_its_gradients(claim, momentum):
    """Shifted in space or in time the motion is near to second order."""
    time, w0, age = 0.125, two_weights.start(), momentum / (1 - momentum)
    # in units of (1−μ)² the step sizes are the same for all μ
    rates = [time / k for k in (round(16 / (1 - momentum) ** 2) * 2**i for i in (1, 2))]
    for count in range(2, claim.trials + 1):
        errors = {"start": [], "space": [], "time": []}
        for lr in rates:
            w, m = w0, torch.zeros_like(w0)
            for _ in range(round(time / lr)):
                m = momentum * m + two_weights.gradient(w)
                w = w - lr * m

            def field(v, lr=lr, count=count):
                terms = heavy_ball_terms(two_weights.gradient, v, count, momentum)
                return sum(lr**k * term for k, term in enumerate(terms))

            behind = w0 + lr * age / (1 - momentum) * two_weights.gradient(w0)
            for name, start, t in (
                ("start", w0, time),
                ("space", behind, time),
                ("time", w0, time - lr * age),
            ):
                end = flow(field, start, t, rtol=1e-8, atol=1e-10)
                errors[name].append(float((end - w).norm()))
        assert abs(slope(errors["start"])[0] - 1) < claim.tol
        assert abs(slope(errors["space"])[0] - 2) < claim.tol
        assert abs(slope(errors["time"])[0] - 2) < claim.tol
