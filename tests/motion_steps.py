"""Steps with a memory, as maps of a state, and how far a motion is from them.

A state is one tensor: the parameters first, then what the step remembers.
Each builder gives a function from a step size to the step, and a start.
"""

import math
from itertools import pairwise

import torch

from anthology.motion import flow, smooth_l1

TIME = 0.15
W0 = torch.tensor([0.8, 0.6, 0.2], dtype=torch.float64)
SIGN = smooth_l1(0.5)


def quartic(w):
    """½|w|² + ⅓s³ + ¼Σwᵢ⁴ with s = w₁ − w₂ + w₃."""
    s = w[0] - w[1] + w[2]
    return (w @ w) / 2 + s**3 / 3 + (w**4).sum() / 4


def gradient(w):
    s = w[0] - w[1] + w[2]
    t = s * s
    return w + torch.stack([t, -t, t]) + w * w * w


def slope(errors):
    return [math.log2(a / b) for a, b in pairwise(errors)]


def run(step, state, steps):
    for _ in range(steps):
        state = step(state)
    return state


def order_of(make_step, start, velocity, steps=(40, 80), warm=True):
    """Slope of |motion − iterates| after a fixed time, between two step sizes.

    With ``warm`` the comparison begins after as many steps again, when the
    start of the averages is forgotten. The first n entries of a state are the
    parameters.
    """
    errors = []
    for count in steps:
        lr, n = TIME / count, len(W0)
        step = make_step(lr)
        state = run(step, start, count) if warm else start
        begin = state[:n]
        end = run(step, state, count)[:n]
        motion = flow(lambda w, lr=lr: velocity(w, lr), begin, TIME, rtol=1e-9)
        errors.append(float((motion - end).norm()))
    return slope(errors)[0]


def series(terms):
    return lambda w, lr: sum(term * lr**k for k, term in enumerate(terms(w)))


def heavy_ball(beta):
    def make(lr):
        def step(state):
            w, before = state.chunk(2)
            return torch.cat([w + beta * (w - before) - lr * gradient(w), w])

        return step

    return make, torch.cat([W0, W0])


def nesterov_iterate(beta):
    def make(lr):
        def step(state):
            w, before = state.chunk(2)
            y = w + beta * (w - before)
            return torch.cat([y - lr * gradient(y), w])

        return step

    return make, torch.cat([W0, W0])


def nesterov_lookahead(beta):
    """As torch.optim.SGD: the parameters are the look-ahead points."""

    def make(lr):
        def step(state):
            y, velocity = state.chunk(2)
            g = gradient(y)
            velocity = beta * velocity + g
            return torch.cat([y - lr * (g + beta * velocity), velocity])

        return step

    return make, torch.cat([W0, torch.zeros_like(W0)])


TWO_STEP = {
    "heavy ball": (heavy_ball, {}),
    "iterate": (nesterov_iterate, {"nesterov": True, "point": "iterate"}),
    "lookahead": (nesterov_lookahead, {"nesterov": True}),
}


def averaged(beta, nesterov, corrected, decay=0.0):
    """m ← βm + (1−β)g, w ← w − η(d(m) + κw); state (w, m, number of steps)."""

    def make(lr):
        def step(state):
            w, m, n = state[:3], state[3:6], state[6:] + 1
            g = gradient(w)
            m = beta * m + (1 - beta) * g
            mean = m / (1 - beta**n) if corrected else m
            if nesterov:
                mean = (1 - beta) * g + beta * mean
            return torch.cat([w - lr * (SIGN.direction(mean) + decay * w), m, n])

        return step

    m = torch.zeros_like(W0) if corrected else gradient(W0)
    return make, torch.cat([W0, m, W0.new_zeros(1)])


def adam(betas, eps, inside, corrected):
    b, r = betas

    def make(lr):
        def step(state):
            w, m, v, n = state[:3], state[3:6], state[6:9], state[9:] + 1
            g = gradient(w)
            m, v = b * m + (1 - b) * g, r * v + (1 - r) * g * g
            top, square = m, v
            if corrected:
                top, square = m / (1 - b**n), v / (1 - r**n)
            scale = (square + eps).sqrt() if inside else square.sqrt() + eps
            return torch.cat([w - lr * top / scale, m, v, n])

        return step

    g = gradient(W0)
    zero = torch.zeros_like(g)
    m, v = (zero, zero) if corrected else (g, g * g)
    return make, torch.cat([W0, m, v, W0.new_zeros(1)])
