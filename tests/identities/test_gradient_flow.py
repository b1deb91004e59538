"""What the chapter on gradient flow states: bounds, bounces, the central flow."""

import math

import pytest
import torch
from torch.func import grad, hessian, jacfwd

from anthology.lab.problems import two_weights
from anthology.motion import discretization_error, flow
from tests.counter_term_problems import QUARTIC, random_loss

FINE = {"rtol": 1e-9, "atol": 1e-11}


def path_bound(gradient, w0, times):
    """|E|, b′ = −h b + ½|Hg| with h the least curvature, and the path of the gradient."""
    n = len(w0)

    def velocity(z):
        w, E, b = z[:n], z[n : 2 * n], z[2 * n]
        g, H = gradient(w), jacfwd(gradient)(w)
        h, turn = torch.linalg.eigvalsh(H)[0], H @ g
        growth = turn.norm() / 2 - h * b
        return torch.cat([-g, turn / 2 - H @ E, growth[None], turn.norm()[None]])

    end = flow(velocity, torch.cat([w0, w0.new_zeros(n + 2)]), times, **FINE)
    return end[:, n : 2 * n].norm(dim=1), end[:, 2 * n], end[:, 2 * n + 1]


@pytest.mark.claim("gradient-path-bound", trials=5)
def test_the_leading_error_is_below_the_bound_by_the_least_curvature(claim):
    problems = [(two_weights.gradient, two_weights.start()), QUARTIC]
    problems += [(grad(f), w) for f, w in map(random_loss, range(claim.trials - 3))]
    # a start where the loss curves down, so that the exponent matters
    problems.append((two_weights.gradient, torch.tensor([0.3, 0.2]).double()))
    for gradient, w0 in problems:
        E, bound, travelled = path_bound(gradient, w0, [0.25, 0.5, 1.0, 2.0])
        assert (bound * (1 + 1e-9) > E).all()
        least = torch.linalg.eigvalsh(jacfwd(gradient)(w0))[0]
        if least > 0:  # these curve up all the way
            assert (travelled / 2 * (1 + 1e-9) > bound).all()
    assert least < 0
    assert (bound > travelled / 2).any()


@pytest.mark.claim("gradient-path-bound", tol=1e-8, trials=10)
def test_it_is_attained_on_one_curvature_downwards(claim):
    """On f = −½cw² the error is exactly ½c²t e^{ct} w₀, and so is the bound."""
    for c in torch.linspace(0.1, 1.0, claim.trials).double():
        gradient, w0 = lambda w, c=c: -c * w, torch.ones(1).double()
        E, bound, _ = path_bound(gradient, w0, [1.0, 2.0])
        exact = c**2 * torch.tensor([c.exp() / 2, (2 * c).exp()])
        assert ((bound / exact - 1).abs() < claim.tol).all()
        assert ((E / exact - 1).abs() < claim.tol).all()


@pytest.mark.claim("quadratic-flow-error", trials=200)
def test_on_a_quadratic_the_error_stays_below_one_number(claim):
    """For every ηh up to 1 and every number of steps."""
    steps = torch.arange(0, 4000).double()
    for x in torch.linspace(0.005, 1.0, claim.trials).double():
        error = (-x * steps).exp() - (1 - x) ** steps
        assert (error >= -1e-15).all()
        assert error.max() <= x / math.e + 1e-15


@pytest.mark.claim("quadratic-flow-error", tol=0.01, trials=4)
def test_and_to_leading_order_below_half_of_it(claim):
    for x in (0.01, 0.005, 0.002, 0.001)[: claim.trials]:
        steps = torch.arange(0, 8000).double()
        error = ((-x * steps).exp() - (1 - x) ** steps).max()
        assert abs(float(error) / (x / (2 * math.e)) - 1) < claim.tol


@pytest.mark.claim("quadratic-flow-error", tol=1e-9, trials=10)
def test_in_many_dimensions_the_largest_curvature_counts(claim):
    for seed in range(claim.trials):
        g = torch.Generator().manual_seed(seed)
        A = torch.randn(4, 6, generator=g).double()
        H = A.mT @ A  # two directions without curvature
        w0 = torch.randn(6, generator=g).double()
        L = float(torch.linalg.eigvalsh(H)[-1])
        lr = (1 + seed) / claim.trials / L
        e = discretization_error(
            lambda w, H=H: H @ w, w0, lr, [1, 2, 3, 5, 9, 30], 1, **FINE
        )
        assert (e.norm(dim=1) <= lr * L / math.e * w0.norm() + claim.tol).all()


def bounce(lr, Q):
    """ηλ − 2 of the minimum where descent from near another ends."""
    a = math.sqrt((math.sqrt(Q * Q + 4) + Q) / 2)
    b = 1 / a + 1e-6
    for _ in range(100_000):
        r = a * b - 1
        a, b = a - lr * r * b, b - lr * r * a
        if abs(r) < 1e-13:
            break
    return lr * (a * a + b * b) - 2


@pytest.mark.claim("edge-bounce", tol=2.0, trials=9)
def test_descent_ends_as_far_below_the_edge_as_it_started_above(claim):
    """To leading order: the rest is within 2 y²."""
    tried = 0
    for top in (3.0, 4.43, 6.0):
        for y in (0.01, 0.03, 0.1):
            end = bounce((2 + y) / top, math.sqrt(top**2 - 4))
            assert abs(end + y) < claim.tol * y * y
            tried += 1
    assert tried == claim.trials


@pytest.mark.claim("edge-bounce", tol=1e-10, trials=50)
def test_the_steps_in_residual_and_curvature(claim):
    """The closed map of ρ = ab − 1 and λ = a² + b² that the proof expands."""
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        w = torch.randn(2, generator=g, dtype=torch.float64)
        lr = float(torch.rand((), generator=g))
        after = w - lr * two_weights.gradient(w)
        rho, s = two_weights.residual(w), two_weights.sharpness(w)
        there = rho * (1 - lr * s + lr**2 * rho * (1 + rho))
        assert abs(two_weights.residual(after) - there) < claim.tol
        s2 = s * (1 + lr**2 * rho**2) - 4 * lr * rho * (1 + rho)
        assert abs(two_weights.sharpness(after) - s2) < claim.tol


@pytest.mark.claim("edge-bounce", tol=0.02, trials=3)
def test_two_steps_on_one_hyperbola(claim):
    """ρ″ = ρ(1 + 2y − 64ρ²/λ⁴ + …) where Q is held fast, at the edge y = 0."""
    for top in (3.0, 4.0, 6.0)[: claim.trials]:
        Q, lr = math.sqrt(top**2 - 4), 2 / top

        def step(rho, Q=Q, lr=lr):
            s = math.sqrt(Q * Q + 4 * (1 + rho) ** 2)
            return rho * (1 - lr * s + lr**2 * rho * (1 + rho))

        rho = 1e-3
        shrinks = (1 - step(step(rho)) / rho) / rho**2
        assert abs(shrinks / (64 / top**4) - 1) < claim.tol


def simple_top(f, w):
    """Largest curvature, its direction, its gradient T[u, u]."""
    values, vectors = torch.linalg.eigh(hessian(f)(w))
    u = vectors[:, -1]
    T = jacfwd(hessian(f))(w)
    return values[-1], u, torch.einsum("ijk,i,j->k", T, u, u)


@pytest.mark.claim("central-flow", tol=1e-9, trials=20)
def test_the_gradient_of_the_largest_curvature(claim):
    for seed in range(claim.trials):
        f, w = random_loss(seed)
        rise = simple_top(f, w)[2]
        top = lambda w, f=f: torch.linalg.eigvalsh(hessian(f)(w))[-1]
        assert (grad(top)(w) - rise).norm() < claim.tol * rise.norm()


@pytest.mark.claim("central-flow", tol=0.1, trials=10)
def test_the_mean_gradient_over_an_oscillation(claim):
    """g + ½x²∇λ up to x⁴; and f + ½λx² for the loss."""
    for seed in range(claim.trials):
        f, w = random_loss(seed)
        g, (top, u, rise) = grad(f), simple_top(f, w)
        misses = []
        for x in (0.04, 0.02):
            both = w + x * u, w - x * u
            mean = sum(map(g, both)) / 2 - g(w) - x * x / 2 * rise
            loss = sum(map(f, both)) / 2 - f(w) - top * x * x / 2
            misses.append((float(mean.norm()), abs(float(loss))))
        for large, small in zip(*misses, strict=True):
            assert abs(math.log2(large / small) - 4) < claim.tol


@pytest.mark.claim("central-flow", tol=1e-9, trials=20)
def test_the_variance_holds_the_curvature_and_is_a_projection(claim):
    held = 0
    for seed in range(claim.trials):
        f, w = random_loss(seed)
        g, (_, _, n) = grad(f)(w), simple_top(f, w)
        variance = max(0.0, float(n @ -g) / float(n @ n / 2))
        velocity = -(g + variance / 2 * n)
        rising = float(n @ velocity)
        assert rising <= claim.tol
        held += variance > 0
        if variance > 0:
            assert abs(rising) < claim.tol
        # no velocity that does not raise the curvature is nearer to −g
        rivals = velocity + 0.3 * torch.randn(200, len(w), dtype=w.dtype)
        allowed = rivals[rivals @ n <= 0]
        assert ((allowed + g).norm(dim=1) >= (velocity + g).norm()).all()
        # and the loss falls at the rate of the velocity squared
        assert abs(g @ velocity + velocity @ velocity) < claim.tol
    assert 0 < held < claim.trials
