"""The claims about Adam: what motion it follows, and when its braces turn."""

import math

import pytest
import torch
from torch.func import grad

from anthology import lab
from anthology.motion import (
    adam_braces,
    adam_sign_change,
    adam_terms,
    average_factor,
    averaged_terms,
    generator,
    heavy_ball_terms,
    ravel_model,
    step_map,
)
from tests.motion_steps import (
    SIGN,
    TIME,
    W0,
    adam,
    averaged,
    gradient,
    order_of,
    quartic,
    run,
    series,
    slope,
)


@pytest.mark.claim("adam-motion", tol=0.15)
@pytest.mark.parametrize("betas", [(0.0, 0.9), (0.8, 0.95), (0.9, 0.5)])
@pytest.mark.parametrize(("inside", "eps"), [(True, 0.1), (False, 0.3)])
def test_adam_follows_its_two_terms(claim, betas, inside, eps):
    make, start = adam(betas, eps, inside, corrected=False)
    terms = lambda w: adam_terms(gradient, w, betas, eps, inside)
    first = order_of(make, start, series(lambda w: terms(w)[:1]), (400, 800))
    second = order_of(make, start, series(terms), (400, 800))
    assert abs(first - 1) < claim.tol
    assert abs(second - 2) < claim.tol


@pytest.mark.claim("bias-correction-start", tol=0.15)
@pytest.mark.parametrize(("inside", "eps"), [(True, 0.1), (False, 0.3)])
def test_adam_needs_no_history(claim, inside, eps):
    betas = (0.8, 0.95)
    make, start = adam(betas, eps, inside, corrected=True)
    velocity = series(lambda w: adam_terms(gradient, w, betas, eps, inside))
    observed = order_of(make, start, velocity, (400, 800), warm=False)
    assert abs(observed - 2) < claim.tol


@pytest.mark.claim("slow-motion-by-differences", tol=0.15)
@pytest.mark.parametrize("name", ["average", "adam"])
def test_two_terms_and_two_differences_agree(claim, name):
    if name == "average":
        make, start = averaged(0.5, nesterov=False, corrected=False)
        terms = lambda w: averaged_terms(gradient, SIGN.direction, w, 0.5)
    else:
        make, start = adam((0.5, 0.8), 0.3, inside=False, corrected=False)
        terms = lambda w: adam_terms(gradient, w, (0.5, 0.8), 0.3)
    for order in (1, 2):
        gaps = []
        for count in (160, 320):
            lr = TIME / count
            state = run(make(lr), start, count)
            by_steps = generator(make(lr), state, order, lr)[:3]
            by_series = sum(t * lr**k for k, t in enumerate(terms(state[:3])[:order]))
            gaps.append(float((by_steps - by_series).norm()))
        assert abs(slope(gaps)[0] - order) < claim.tol


@pytest.mark.claim("adam-braces", tol=1e-12, trials=200)
@pytest.mark.parametrize("inside", [False, True])
def test_where_the_braces_of_adam_change_sign(claim, inside):
    g = torch.Generator().manual_seed(0)
    for _ in range(claim.trials):
        b, r = torch.rand(2, generator=g, dtype=torch.float64).tolist()
        eps = 10 ** (4 * float(torch.rand((), generator=g)) - 8)
        size = adam_sign_change((b, r), eps, inside)
        if b >= r:
            assert size == math.inf
            sizes = torch.logspace(-20, 20, 50, dtype=torch.float64)
            assert (adam_braces(sizes, (b, r), eps, inside) >= 0).all()
            continue
        around = size * torch.tensor([0.999, 1, 1.001], dtype=torch.float64)
        below, at, above = adam_braces(around, (b, r), eps, inside).tolist()
        assert below > 0 > above
        assert abs(at) < claim.tol * average_factor(r)
    extremes = torch.tensor([0.0, math.inf], dtype=torch.float64)
    tiny = adam_braces(extremes[:1], eps=1e-8, eps_inside=inside)
    assert lab.gap(tiny, 19.0) < claim.tol
    usual = adam_braces(extremes[:1] + 1e12, eps=1e-8, eps_inside=inside)
    assert lab.gap(usual, 19.0 - 1999.0) < claim.tol
    # with the usual averages, in units of ε or of √ε
    share = 19 / 1980
    unit = adam_sign_change(eps=1.0, eps_inside=inside)
    assert abs(unit - (math.sqrt(share) if inside else share)) < claim.tol


@pytest.mark.claim("adam-braces", tol=1e-10, trials=20)
@pytest.mark.parametrize("inside", [False, True])
def test_the_second_term_of_adam_is_the_braces_times_a_one_norm(claim, inside):
    """∇Σ√(g² + ε), or ∇Σ(|g| − ε log(1 + |g|/ε)) outside, is Hd."""
    g = torch.Generator().manual_seed(0)
    betas, eps = (0.9, 0.99), 0.1
    for _ in range(claim.trials):
        w = torch.randn(3, generator=g, dtype=torch.float64)

        def one_norm(v):
            size = gradient(v).abs()
            if inside:
                return (size**2 + eps).sqrt().sum()
            return (size - eps * torch.log1p(size / eps)).sum()

        size = gradient(w).abs()
        scale = (size**2 + eps).sqrt() if inside else size + eps
        braces = adam_braces(gradient(w), betas, eps, inside)
        expected = -braces / (2 * scale) * grad(one_norm)(w)
        assert lab.gap(adam_terms(gradient, w, betas, eps, inside)[1], expected) < (
            claim.tol
        )


TORCHS = {
    "heavy ball": (
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.5),
        lambda w: heavy_ball_terms(gradient, w, 3, 0.5),
    ),
    "nesterov": (
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.5, nesterov=True),
        lambda w: heavy_ball_terms(gradient, w, 3, 0.5, nesterov=True),
    ),
    "adam": (
        lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.5, 0.8), eps=0.3),
        lambda w: adam_terms(gradient, w, (0.5, 0.8), 0.3),
    ),
}


@pytest.mark.claim("adam-motion", "heavy-ball-motion", "nesterov-motion", tol=0.15)
@pytest.mark.parametrize("name", TORCHS)
def test_the_terms_are_those_of_the_optimizers_of_torch(claim, name):
    """Read off their steps by differences, parameters and memory together."""
    make, terms = TORCHS[name]
    points = []
    for count in (160, 320):
        p = W0.clone().requires_grad_()
        optimizer = make([p], TIME / count)

        def closure(p=p, optimizer=optimizer):
            optimizer.zero_grad()
            quartic(p).backward()

        step = step_map(optimizer, closure)
        state = run(step, step.start, count)
        points.append((step, state, TIME / count, terms(step.parameters(state))))
    for order in range(1, len(points[0][3]) + 1):
        gaps = []
        for step, state, lr, series_terms in points:
            by_steps = step.parameters(generator(step, state, order, lr))
            by_series = sum(t * lr**k for k, t in enumerate(series_terms[:order]))
            gaps.append(float((by_steps - by_series).norm()))
        assert abs(slope(gaps)[0] - order) < claim.tol


@pytest.mark.claim("slow-motion-by-differences", tol=0.15, trials=3)
def test_recursion_and_differences_agree_on_a_network(claim):
    """A tanh network under heavy ball, once on its slow motion."""
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
    ).double()
    x, y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    f, w0 = ravel_model(net, lambda net: (net(x) - y).square().mean())
    slope_f, beta, n = grad(f), 0.3, len(w0)

    for order in range(1, claim.trials + 1):
        gaps = []
        for count in (40, 80):
            lr = 0.4 / count

            def step(state, lr=lr):
                w, before = state.chunk(2)
                return torch.cat([w + beta * (w - before) - lr * slope_f(w), w])

            state = run(step, torch.cat([w0, w0]), count)
            by_steps = generator(step, state, order, lr)[:n]
            terms = heavy_ball_terms(slope_f, state[:n], order, beta)
            by_series = sum(t * lr**k for k, t in enumerate(terms))
            gaps.append(float((by_steps - by_series).norm()))
        assert abs(slope(gaps)[0] - order) < claim.tol
