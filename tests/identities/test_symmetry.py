"""The claims on weights along a symmetry of the loss."""

import math

import pytest
import torch
from torch.func import grad, jacfwd

from anthology import lab
from anthology.motion import (
    counter_field,
    effective_rate,
    equilibrium_angle,
    flow,
    norm_equilibrium,
    norm_rate,
    norm_relaxation,
    norm_step,
    norm_velocity,
    translation_rate,
)

F64 = torch.float64


def scale_invariant(seed):
    """The gradient of a smooth function of w/|w| in five dimensions, and a point."""
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(7, 5, generator=g, dtype=F64)
    q = torch.randn(5, generator=g, dtype=F64)
    w = torch.randn(5, generator=g, dtype=F64)

    def f(w):
        u = w / w.norm()
        return (A @ u).logsumexp(0) + (q * u).sum() ** 3

    return grad(f), w


def constant_slope(w):
    """The gradient of the angle in the plane: ‖g‖‖w‖ = 1 everywhere."""
    return torch.stack([-w[1], w[0]]) / (w * w).sum()


def translation_invariant(seed):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(7, 5, generator=g, dtype=F64)
    A = A - A.mean(1, keepdim=True)
    w = torch.randn(5, generator=g, dtype=F64)
    return grad(lambda w: (A @ w).logsumexp(0) + (A @ w)[0].cos()), w


def decayed(gradient, decay):
    return lambda w: gradient(w) + decay * w


def descend(gradient, w, lr, decay, steps):
    path = [w]
    for _ in range(steps):
        w = (1 - lr * decay) * w - lr * gradient(w)
        path.append(w)
    return torch.stack(path)


@pytest.mark.claim("scale-euler", tol=1e-10, trials=20)
def test_euler_identities_of_scale_invariance(claim):
    for seed in range(claim.trials):
        gradient, w = scale_invariant(seed)
        H, T = jacfwd(gradient), jacfwd(jacfwd(gradient))
        g = gradient(w)
        assert abs(w @ g) < claim.tol * w.norm() * g.norm()
        assert lab.gap(H(w) @ w, -g) < claim.tol
        assert abs(w @ H(w) @ w) < claim.tol * H(w).norm() * w.norm() ** 2
        assert lab.gap(T(w) @ w, -2 * H(w)) < claim.tol
        c = 0.5 + seed / 5
        assert lab.gap(gradient(c * w), g / c) < claim.tol
        assert lab.gap(H(c * w), H(w) / c**2) < claim.tol


@pytest.mark.claim("scale-norm-step", tol=1e-12, trials=20)
def test_the_norm_after_each_step(claim):
    for seed in range(claim.trials):
        gradient, w = scale_invariant(seed)
        lr, decay = 0.05 + seed / 20, seed % 4 / 3
        path = descend(gradient, w, lr, decay, 30)
        s = path.square().sum(1)
        G = torch.stack([gradient(w) for w in path]).square().sum(1)
        predicted = norm_step(s[:-1], G[:-1], lr, decay)
        assert ((predicted - s[1:]) / s[1:]).abs().max() < claim.tol


@pytest.mark.claim("scale-norm-motion", tol=1e-10, trials=20)
def test_the_motion_of_the_norm_with_one_two_and_three_terms(claim):
    for seed in range(claim.trials):
        gradient, w = scale_invariant(seed)
        lr, decay = 0.3, 0.4 + seed / 10
        g, H = gradient(w), jacfwd(gradient)(w)
        for order in (1, 2, 3):
            F = counter_field(decayed(gradient, decay), w, order, lr)
            predicted = norm_velocity(
                w @ w, g @ g, lr, decay, order=order, bend=g @ H @ g
            )
            assert abs(predicted - 2 * w @ F) < claim.tol * abs(predicted)


@pytest.mark.claim("scale-direction", tol=1e-10, trials=20)
def test_the_direction_moves_without_the_decay_and_faster_for_short_weights(claim):
    for seed in range(claim.trials):
        gradient, w = scale_invariant(seed)
        lr, r = 0.3, w.norm()
        g, H = gradient(w), jacfwd(gradient)(w)
        P = torch.eye(5, dtype=F64) - torch.outer(w, w) / r**2
        for decay in (0.0, 0.7):
            field = decayed(gradient, decay)
            first = P @ counter_field(field, w, 1, lr) / r
            slow = -effective_rate(r**2, lr) / lr * gradient(w / r)
            assert lab.gap(first, slow) < claim.tol
            second = P @ counter_field(field, w, 2, lr) / r
            assert lab.gap(second, -P @ (g + lr / 2 * H @ g) / r) < claim.tol


@pytest.mark.claim("scale-equilibrium", tol=1e-10)
@pytest.mark.parametrize("product", [0.005, 0.05, 0.25, 1.2])
def test_the_norm_at_which_gradient_descent_settles(claim, product):
    """From both sides; gradient flow would go on to zero."""
    lr, decay = 0.1, product / 0.1
    end = norm_equilibrium(1.0, lr, decay)
    for start in (0.3, 1.5):
        w = torch.tensor([start, 0.0], dtype=F64)
        s = descend(constant_slope, w, lr, decay, 2000)[-1].square().sum()
        assert abs(s / end - 1) < claim.tol
    assert norm_equilibrium(1.0, lr, decay, order=1) == 0


def equilibrium_of_motion(lr, decay, order):
    """‖w‖⁴ at which the truncated motion neither grows nor shrinks, by bisection."""

    def growth(r):
        w = torch.tensor([r, 0.0], dtype=F64)
        return float(w @ counter_field(decayed(constant_slope, decay), w, order, lr))

    middle = math.sqrt(norm_equilibrium(1.0, lr, decay))
    low, high = 0.7 * middle, 1.4 * middle
    assert growth(low) > 0 > growth(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if growth(middle) > 0 else (low, middle)
    return middle**4


@pytest.mark.claim("scale-equilibrium-motion", tol=0.1)
@pytest.mark.parametrize("product", [0.005, 0.05])
def test_the_first_counter_term_gives_only_the_leading_equilibrium(claim, product):
    """It misses ‖w‖⁴ by the fraction ηκ, twice what η/2κ alone misses it by."""
    lr, decay = 0.1, product / 0.1
    exact = norm_equilibrium(1.0, lr, decay) ** 2
    predicted = norm_equilibrium(1.0, lr, decay, order=2) ** 2
    assert abs(equilibrium_of_motion(lr, decay, 2) / predicted - 1) < 1e-9
    missed = {N: equilibrium_of_motion(lr, decay, N) / exact - 1 for N in (2, 3, 4)}
    leading = lr / (2 * decay) / exact - 1
    assert abs(missed[2] / -product - 1) < claim.tol
    assert abs(leading / (-product / 2) - 1) < claim.tol
    # the slope is constant, so ⟨g, Hg⟩ = 0 and the second changes nothing; the
    # third puts it right
    assert abs(missed[3] / -product - 1) < claim.tol
    assert abs(missed[4]) < claim.tol * product


@pytest.mark.claim("scale-relaxation", tol=5e-5)
def test_the_way_to_the_equilibrium(claim):
    """‖w‖⁴ from 1; at the end gradient flow has missed all of the 0.01 left."""
    lr, decay, steps = 0.01, 0.5, 400
    w = torch.tensor([1.0, 0.0], dtype=F64)
    u = descend(constant_slope, w, lr, decay, steps).square().sum(1) ** 2
    times = lr * torch.arange(steps + 1, dtype=F64)
    by_motion = norm_relaxation(1.0, 1.0, times, lr, decay) ** 2
    by_flow = norm_relaxation(1.0, 1.0, times, lr, decay, order=1) ** 2
    assert (by_motion - u).abs().max() < claim.tol
    assert (by_flow - u).abs().max() > 9e-3
    field = decayed(constant_slope, decay)
    end = flow(lambda v: counter_field(field, v, 2, lr), w, float(times[-1]))
    assert abs(end.square().sum() ** 2 / by_motion[-1] - 1) < 1e-8


@pytest.mark.claim("scale-relaxation-rate", tol=1e-3)
@pytest.mark.parametrize("product", [0.005, 0.05, 0.2])
def test_the_rate_close_to_the_equilibrium(claim, product):
    """That of gradient descent is 4κ(1 + 3ηκ/2 + …), not 4κ(1 + ηκ/2)."""
    lr, decay = 0.1, product / 0.1
    end = norm_equilibrium(1.0, lr, decay)
    w = torch.tensor([math.sqrt(end) * (1 + 1e-6), 0.0], dtype=F64)
    u = descend(constant_slope, w, lr, decay, 3).square().sum(1) ** 2 / end**2 - 1
    rate = norm_rate(lr, decay)
    observed = -torch.log(u[1:] / u[:-1]) / lr
    assert ((observed / rate - 1).abs() < claim.tol).all()
    if product == 0.005:
        assert abs((rate / (4 * decay) - 1) / product - 1.5) < 0.05
        assert abs(
            (norm_rate(lr, decay, order=2) / (4 * decay) - 1) / product - 0.5
        ) < (1e-9)


@pytest.mark.claim("scale-angle", tol=1e-3)
@pytest.mark.parametrize("product", [0.005, 0.05, 0.25])
def test_the_angle_of_a_step_at_equilibrium(claim, product):
    w = torch.tensor([0.6, 0.4], dtype=F64)
    path = descend(constant_slope, w, 0.1, product / 0.1, 2000)[-2:]
    s = path.square().sum(1)
    assert abs(s[1] / s[0] - 1) < 1e-10
    angle = torch.arccos(path[0] @ path[1] / s.prod().sqrt())
    assert abs(angle / math.acos(1 - product) - 1) < claim.tol
    assert abs(equilibrium_angle(0.1, product / 0.1) / angle - 1) < claim.tol


@pytest.mark.claim("scale-angle-mean", tol=1e-10)
@pytest.mark.parametrize("product", [0.005, 0.05, 0.25])
def test_the_geometric_mean_of_the_cosines_where_nothing_settles(claim, product):
    """About a minimum the weights shrink, until the steps throw them out again."""
    curve = torch.tensor([3.0, 1.0, 0.5], dtype=F64)
    gradient = grad(lambda w: (curve * w * w).sum() / (w * w).sum())
    w = torch.tensor([0.6, 0.4, 0.5], dtype=F64)
    path = descend(gradient, w, 0.1, product / 0.1, 4000)
    r = path.norm(dim=1)
    cosines = (path[1:] * path[:-1]).sum(1) / (r[1:] * r[:-1])
    assert (cosines - (1 - product) * r[:-1] / r[1:]).abs().max() < claim.tol
    late = r[2000:]
    assert late.max() > 1.2 * late.min()
    mean = float(cosines[2000:].log().mean().exp())
    assert abs(mean - (1 - product)) < 1e-3


@pytest.mark.claim("translation-decay", tol=1e-12, trials=20)
def test_the_sum_decays_and_the_rest_does_not_notice(claim):
    ones = torch.ones(5, dtype=F64)
    P = torch.eye(5, dtype=F64) - torch.outer(ones, ones) / 5
    for seed in range(claim.trials):
        gradient, w = translation_invariant(seed)
        g, H = gradient(w), jacfwd(gradient)(w)
        assert abs(ones @ g) < claim.tol * g.norm()
        assert (H @ ones).norm() < claim.tol * H.norm()
        lr, decay, steps = 0.05, 0.2 + seed / 5, 30
        path = descend(gradient, w, lr, decay, steps)
        factor = (1 - lr * decay) ** torch.arange(steps + 1, dtype=F64)
        assert ((path @ ones - factor * (ones @ w)).abs()).max() < claim.tol
        rate = translation_rate(lr, decay)
        assert (
            torch.exp(-rate * lr * torch.arange(steps + 1, dtype=F64)) - factor
        ).abs().max() < (claim.tol)
        quotient = descend(gradient, P @ w, lr, decay, steps)
        assert (path @ P - quotient).abs().max() < claim.tol


@pytest.mark.claim("translation-rate", tol=1e-10, trials=5)
def test_the_rate_of_the_truncated_motion(claim):
    ones = torch.ones(5, dtype=F64)
    gradient, w = translation_invariant(3)
    lr, decay = 0.3, 0.8
    for order in range(1, claim.trials + 1):
        F = counter_field(decayed(gradient, decay), w, order, lr)
        rate = translation_rate(lr, decay, order=order)
        assert abs(ones @ F + rate * (ones @ w)) < claim.tol
    assert translation_rate(lr, decay, order=1) == decay
    exact = translation_rate(lr, decay)
    assert abs(translation_rate(lr, decay, order=80) / exact - 1) < claim.tol
