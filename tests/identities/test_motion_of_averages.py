"""The claims about momentum and averages: what motion their steps follow."""

import math

import pytest
import torch
from torch.func import grad, jacfwd

from anthology import lab
from anthology.motion import (
    average_factor,
    averaged_terms,
    flow,
    generator,
    heavy_ball_terms,
    modified_loss,
    motion_terms,
    slow_start,
)
from tests.motion_steps import (
    SIGN,
    TIME,
    TWO_STEP,
    W0,
    averaged,
    gradient,
    heavy_ball,
    order_of,
    quartic,
    run,
    series,
    slope,
)


def explicit():
    w = W0.double()
    return gradient(w), jacfwd(gradient)(w), jacfwd(jacfwd(gradient))(w)


@pytest.mark.claim("heavy-ball-motion", tol=0.15, trials=3)
def test_heavy_ball_follows_its_series_to_every_order(claim):
    make, start = heavy_ball(0.5)
    for order in range(1, claim.trials + 1):
        velocity = series(lambda w, o=order: heavy_ball_terms(gradient, w, o, 0.5))
        assert abs(order_of(make, start, velocity) - order) < claim.tol


@pytest.mark.claim("nesterov-motion", tol=0.15, trials=3)
@pytest.mark.parametrize("point", ["iterate", "lookahead"])
def test_nesterov_follows_its_series_to_every_order(claim, point):
    builder, options = TWO_STEP[point]
    make, start = builder(0.5)
    for order in range(1, claim.trials + 1):
        velocity = series(
            lambda w, o=order: heavy_ball_terms(gradient, w, o, 0.5, **options)
        )
        assert abs(order_of(make, start, velocity) - order) < claim.tol


@pytest.mark.claim("heavy-ball-motion", "nesterov-motion", tol=1e-12, trials=9)
def test_closed_forms_of_the_first_terms(claim):
    g, H, T = explicit()
    for i in range(claim.trials):
        b = i / 10
        first, second, third = heavy_ball_terms(gradient, W0, 3, b)
        assert lab.gap(first, -g / (1 - b)) < claim.tol
        assert lab.gap(second, -(1 + b) / (2 * (1 - b) ** 3) * H @ g) < claim.tol
        a = (1 + b) ** 2 / (2 * (1 - b) ** 5)
        c = 1 / (6 * (1 - b) ** 3)
        expected = -(a - c) * H @ H @ g - (a / 2 - c) * T @ g @ g
        assert lab.gap(third, expected) < claim.tol
        factor = (1 - b + 2 * b**2) / (2 * (1 - b) ** 3)
        for point in ("iterate", "lookahead"):
            terms = heavy_ball_terms(gradient, W0, 2, b, nesterov=True, point=point)
            assert lab.gap(terms[1], -factor * H @ g) < claim.tol


@pytest.mark.claim("nesterov-motion", tol=1e-12, trials=9)
def test_the_third_term_of_nesterov_and_where_its_two_points_part(claim):
    g, H, T = explicit()
    for i in range(claim.trials):
        b = i / 10
        k = 1 - b
        n = (1 - b + 2 * b**2) / (2 * k**3)
        y, w = (
            heavy_ball_terms(gradient, W0, 3, b, nesterov=True, point=p)[2]
            for p in ("lookahead", "iterate")
        )
        straight = n * (1 + b**2) / k**2 - (1 + 3 * b) / (6 * k**3)
        curved = n * (1 + b) / (2 * k**2) - (1 + 3 * b) / (6 * k**3)
        assert lab.gap(y, -straight * H @ H @ g - curved * T @ g @ g) < claim.tol
        parting = b * (1 + b) / (2 * k**3) * T @ g @ g
        assert (y - w - parting).norm() < claim.tol * y.norm()


@pytest.mark.claim("slow-motion-by-differences", tol=0.15, trials=4)
@pytest.mark.parametrize("name", TWO_STEP)
def test_recursion_and_differences_agree_to_their_order(claim, name):
    """On the state (parameters, memory), once it is on the slow motion."""
    builder, options = TWO_STEP[name]
    make, start = builder(0.5)
    for order in range(1, claim.trials + 1):
        gaps = []
        for count in (80, 160):
            lr = TIME / count
            step = make(lr)
            state = run(step, start, count)
            by_steps = generator(step, state, order, lr)[: len(W0)]
            terms = heavy_ball_terms(gradient, state[: len(W0)], order, 0.5, **options)
            gaps.append(
                float((by_steps - sum(t * lr**k for k, t in enumerate(terms))).norm())
            )
        assert abs(slope(gaps)[0] - order) < claim.tol


@pytest.mark.claim("slow-start", tol=0.15)
@pytest.mark.parametrize(
    ("name", "beta"),
    [("heavy ball", 0.5), ("heavy ball", 0.9), ("iterate", 0.5), ("lookahead", 0.5)],
)
def test_a_ball_that_starts_at_rest_joins_the_motion_beside_its_start(
    claim, name, beta
):
    builder, options = TWO_STEP[name]
    make, start = builder(beta)
    at_rest, shifted = [], []
    for count in (100, 200) if beta == 0.5 else (1200, 2400):
        lr = TIME / count
        end = run(make(lr), start, count)[: len(W0)]
        velocity = series(lambda w: heavy_ball_terms(gradient, w, 2, beta, **options))
        begin = slow_start(gradient, W0, lr, beta, nesterov=name == "lookahead")
        for errors, w in ((at_rest, W0), (shifted, begin)):
            motion = flow(lambda w, lr=lr, v=velocity: v(w, lr), w, TIME, rtol=1e-9)
            errors.append(float((motion - end).norm()))
    assert abs(slope(at_rest)[0] - 1) < claim.tol
    assert abs(slope(shifted)[0] - 2) < claim.tol


@pytest.mark.claim("heavy-ball-loss", tol=0.15)
def test_heavy_ball_descends_a_modified_loss(claim):
    """ẇ = −∇f̃/(1−β) with f̃ = f + η(1+β)/(4(1−β)²)|∇f|²."""
    beta = 0.5
    make, start = heavy_ball(beta)

    def velocity(w, lr):
        half = lambda g: g @ g / 2
        loss = modified_loss(quartic, half, lr / (1 - beta), momentum=beta)
        return -grad(loss)(w) / (1 - beta)

    assert abs(order_of(make, start, velocity) - 2) < claim.tol


@pytest.mark.claim("average-factor", tol=0.15)
@pytest.mark.parametrize("beta", [0.5, 0.8])
@pytest.mark.parametrize("nesterov", [False, True])
def test_an_average_multiplies_the_second_term(claim, beta, nesterov):
    make, start = averaged(beta, nesterov, corrected=False)
    terms = lambda w: averaged_terms(gradient, SIGN.direction, w, beta, nesterov)
    steps = (100, 200)
    first = order_of(make, start, series(lambda w: terms(w)[:1]), steps)
    second = order_of(make, start, series(terms), steps)

    def by_loss(w, lr):
        loss = modified_loss(quartic, SIGN, lr, beta, nesterov)
        return -SIGN.direction(grad(loss)(w))

    assert abs(first - 1) < claim.tol
    assert abs(second - 2) < claim.tol
    assert abs(order_of(make, start, by_loss, steps) - 2) < claim.tol


@pytest.mark.claim("average-factor", tol=1e-12, trials=9)
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_factor_is_that_of_heavy_ball_in_other_units(claim, nesterov):
    """Identity direction, η = η_HB/(1−β), and a clock that runs 1/(1−β) as fast."""
    for i in range(claim.trials):
        b = i / 10
        average = averaged_terms(gradient, lambda g: g, W0, b, nesterov)
        ball = heavy_ball_terms(gradient, W0, 2, b, nesterov)
        assert lab.gap(average[0] / (1 - b), ball[0]) < claim.tol
        assert lab.gap(average[1] / (1 - b) ** 2, ball[1]) < claim.tol
    values = [average_factor(b, nesterov) for b in (0.9, 0.95, 0.99)]
    expected = [17.2, 37.1, 197.02] if nesterov else [19.0, 39.0, 199.0]
    assert max(abs(a - b) for a, b in zip(values, expected, strict=True)) < claim.tol


@pytest.mark.claim("average-factor", tol=0.15)
def test_only_the_mean_age_of_the_average_counts(claim):
    """Lion's average β₁m + (1−β₁)g of the old m has mean age β₁/(1−β₂)."""
    b1, b2 = 0.9, 0.8

    def make(lr):
        def step(state):
            w, m = state.chunk(2)
            g = gradient(w)
            w = w - lr * SIGN.direction(b1 * m + (1 - b1) * g)
            return torch.cat([w, b2 * m + (1 - b2) * g])

        return step

    age = b1 / (1 - b2)
    same_age = age / (1 + age)  # as a simple average
    terms = lambda w: averaged_terms(gradient, SIGN.direction, w, same_age)
    start = torch.cat([W0, gradient(W0)])
    assert abs(order_of(make, start, series(terms), (150, 300)) - 2) < claim.tol


@pytest.mark.claim("bias-correction-start", tol=0.15)
@pytest.mark.parametrize("nesterov", [False, True])
def test_bias_correction_starts_on_the_motion(claim, nesterov):
    """Without history and without correction the error is of first order."""
    terms = lambda w: averaged_terms(gradient, SIGN.direction, w, 0.8, nesterov)
    corrected = averaged(0.8, nesterov, corrected=True)
    observed = order_of(*corrected, series(terms), (200, 400), warm=False)
    make, _ = averaged(0.8, nesterov, corrected=False)
    from_zero = torch.cat([W0, torch.zeros_like(W0), W0.new_zeros(1)])
    raw = order_of(make, from_zero, series(terms), (200, 400), warm=False)
    assert abs(observed - 2) < claim.tol
    assert abs(raw - 1) < claim.tol


@pytest.mark.claim("decoupled-decay", tol=0.15)
@pytest.mark.parametrize("nesterov", [False, True])
def test_decoupled_decay_under_an_average(claim, nesterov):
    beta, decay = 0.5, 0.7
    make, start = averaged(beta, nesterov, corrected=False, decay=decay)

    def terms(w):
        return averaged_terms(gradient, SIGN.direction, w, beta, nesterov, decay=decay)

    def by_loss(w, lr):
        loss = modified_loss(quartic, SIGN, lr, beta, nesterov, decay)
        pull = SIGN.direction(grad(loss)(w)) + decay * w
        return -(1 + lr * decay / 2) * pull

    for velocity in (series(terms), by_loss):
        observed = order_of(make, start, velocity, (100, 200))
        assert abs(observed - 2) < claim.tol


@pytest.mark.claim("pure-decay", tol=1e-12, trials=6)
def test_decay_alone_is_faster_than_its_rate(claim):
    """ẇ = log(1 − ηκ)/η·w passes through w(1 − ηκ)^k."""
    lr, decay = 0.4, 0.5
    terms = motion_terms(lambda w: -decay * w, W0, claim.trials)
    for k, term in enumerate(terms):
        assert lab.gap(term, -(decay ** (k + 1)) / (k + 1) * W0) < claim.tol
    rate = -math.log1p(-lr * decay) / lr
    for k in (1, 5, 20):
        assert lab.gap(W0 * (1 - lr * decay) ** k, W0 * math.exp(-rate * lr * k)) < (
            claim.tol
        )
