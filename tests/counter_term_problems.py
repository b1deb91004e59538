"""Losses on which the claims about counter terms are tested."""

import math
from itertools import pairwise

import torch
from torch.func import grad
from torch.nn.functional import cross_entropy

from anthology import lab
from anthology.lab.problems import two_weights
from anthology.motion import ravel_model


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
PROBLEMS = {"quartic": QUARTIC, "two weights": TWO_WEIGHTS}


def random_loss(seed, entries=4):
    """A smooth convex loss, far from quadratic, and a point."""
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(6, entries, generator=g, dtype=torch.float64)
    q = torch.rand(entries, generator=g, dtype=torch.float64)
    w = torch.randn(entries, generator=g, dtype=torch.float64)
    return lambda w: (A @ w).logsumexp(0) + (q * w.cosh()).sum(), w


def network():
    """Gradient and start of a tanh perceptron 64-8-10 on 40 digits."""
    data = lab.digits(device="cpu")
    x, y = data.x[:40].double(), data.y[:40]
    model = lab.mlp([64, 8, 10], activation=torch.nn.Tanh)
    f, w0 = ravel_model(model, lambda net: cross_entropy(net(x), y))
    return grad(f), w0


def descend(gradient, w, lr, steps):
    for _ in range(steps):
        w = w - lr * gradient(w)
    return w


def slope(errors):
    """Orders observed between successive halvings of the step size."""
    return [math.log2(a / b) for a, b in pairwise(errors)]
