"""Three curvatures in one rule without a root, and each with a root beside it.

What is on trial: that once the root is gone the preconditioner need not be made of
squared gradients, and any approximation of curvature may be put in its place (Lin et
al. 2024). A perceptron with one hidden layer of 64 tanh units on the digits, batches
of 64, 200 steps, momentum 0.9, the rate falling linearly to zero. The rule is the same
for all: S averages a curvature (alpha 0.9) from one, and the step divides by S + eps
(eps 1e-4) to a power p, 1 or 1/2. Curvatures:

- "outer product": B g² of the batch, as in RootFreeRMSProp;
- "Gauss-Newton": the diagonal of the batch's Gauss-Newton matrix, exact;
- "Kronecker": for each layer the mean outer products of its inputs and of its output
  gradients under the model's own labels, sqrt(eps) on each factor.

Two more start at zero, without a root, with a bias correction: "outer product, from
zero" and "Gauss-Newton, from zero".

Every contestant tries the same eight rates, a factor of four apart, with the same five
seeds; its best rate is the one with the smallest median of the mean loss on all
training images after the last step. A run that is not finite counts as the worst.

Expected before the first run, at each contestant's best rate:
- all three train without a change of the rule: a loss below 0.1 for every seed;
- Gauss-Newton ends below the outer product, and Kronecker below both, in the median;
- the best rates of Gauss-Newton and Kronecker are at most one step of the grid apart:
  both are Newton-like, in the same units;
- without the root Kronecker is better than with it; for the two diagonals the root
  makes less than a factor of two, either way;
- from zero, Gauss-Newton ends within a factor of two of its start at one, and the
  outer product more than a factor of two above its own.

Added when the start at zero was seen to end lower than the start at one: the same two
without the bias correction, ", from zero, bare". Expected: the bare outer product ends
more than a factor of two above the corrected one, and at the rates above its best more
than ten times above the start at one; Gauss-Newton within a factor of two of its own.

    python experiments/invariance.py    # about two minutes

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from store import RESULTS, Store, provenance
from torch import Tensor, nn

from anthology import lab

CURVATURES = ("outer product", "Gauss-Newton", "Kronecker")
STARTS = [f"{n}, from zero{b}" for b in ("", ", bare") for n in CURVATURES[:2]]
CASES = [*itertools.product(CURVATURES, (1.0, 0.5)), *((n, 1.0) for n in STARTS)]
RATES = [4.0**k for k in range(-7, 1)]
SEEDS = (0, 1, 2, 3, 4)
STEPS, TERMS, ALPHA, MU, EPS = 200, 64, 0.9, 0.9, 1e-4
Weights = list[Tensor]


def start(seed: int) -> Weights:
    """Both layers of `lab.mlp`, each with its bias as a last column."""
    net = lab.mlp([64, 64, 10], activation=nn.Tanh, seed=seed)
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    return [torch.cat([x.weight, x.bias[:, None]], 1).detach() for x in layers]


def with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def forward(w: Weights, x: Tensor) -> tuple[Weights, Tensor]:
    """The inputs of both layers, and the logits."""
    first = with_one(x.flatten(1))
    second = with_one(torch.tanh(first @ w[0].T))
    return [first, second], second @ w[1].T


def backward(w: Weights, inputs: Weights, delta: Tensor) -> Weights:
    """The gradients of both layers' outputs, from those of the logits (..., n, 10)."""
    slope = 1 - inputs[1][:, :-1] ** 2
    return [delta @ w[1][:, :-1] * slope, delta]


def gradient(w: Weights, x: Tensor, y: Tensor) -> Weights:
    """Of the mean cross-entropy."""
    inputs, logits = forward(w, x)
    wrong = torch.softmax(logits, 1) - nn.functional.one_hot(y, 10)
    deltas = backward(w, inputs, wrong / len(y))
    return [d.T @ a for d, a in zip(deltas, inputs, strict=True)]


def own_labels(w: Weights, x: Tensor) -> tuple[Weights, Weights]:
    """Inputs (n, d), and output gradients (10, n, d) for each label of the model's.

    Those of label c are multiplied by the root of its probability: the sum over labels
    of their squares is then the expectation.
    """
    inputs, logits = forward(w, x)
    p = torch.softmax(logits, 1)
    wrong = p - torch.eye(10, dtype=p.dtype)[:, None]
    return inputs, backward(w, inputs, p.T[..., None].sqrt() * wrong)


def curvature(kind: str, w: Weights, x: Tensor, grads: Weights) -> list[Weights]:
    """For each layer one tensor of its shape, or two factors (outputs, inputs)."""
    if kind == "outer product":
        return [[len(x) * g**2] for g in grads]
    pairs = list(zip(*own_labels(w, x), strict=True))
    if kind == "Gauss-Newton":
        return [[(d**2).sum(0).T @ a**2 / len(x)] for a, d in pairs]
    return [
        [torch.einsum("cni,cnj->ij", d, d) / len(x), a.T @ a / len(x)] for a, d in pairs
    ]


def divide(g: Tensor, s: Weights, p: float) -> Tensor:
    """(S + ε)⁻ᵖ g for a diagonal S, or with √ε on each of two factors."""
    if len(s) == 1:
        return g / (s[0] + EPS) ** p
    left, right = (f + math.sqrt(EPS) * torch.eye(len(f), dtype=f.dtype) for f in s)
    if p == 1:
        return torch.linalg.solve(right, torch.linalg.solve(left, g).T).T
    (h, u), (k, v) = map(torch.linalg.eigh, (left, right))
    return u @ (u.T @ g @ v / torch.outer(h, k) ** p) @ v.T


def run(data: lab.Images, case: str, p: float, lr: float, seed: int) -> dict:
    """One training run: the loss on all training images, the share of right answers."""
    kind, _, zero = case.partition(", ")
    w, m, s = start(seed), [0.0, 0.0], None
    batches = data.batches(TERMS, seed)
    for k, (x, y) in zip(range(STEPS), batches, strict=False):
        grads = gradient(w, x, y)
        new = curvature(kind, w, x, grads)
        if s is None:
            one = torch.ones_like if len(new[0]) == 1 else lambda f: torch.eye(len(f))
            s = [[0 * f if zero else one(f) for f in layer] for layer in new]
        s = [
            [ALPHA * a + (1 - ALPHA) * b for a, b in zip(*pair, strict=True)]
            for pair in zip(s, new, strict=True)
        ]
        full = 1 - ALPHA ** (k + 1) if zero == "from zero" else 1.0
        try:
            steps = [
                divide(g, [f / full for f in f2], p)
                for g, f2 in zip(grads, s, strict=True)
            ]
        except torch.linalg.LinAlgError:
            return {"loss": None, "right": None}
        m = [MU * a + b for a, b in zip(m, steps, strict=True)]
        w = [a - lr * (1 - k / STEPS) * b for a, b in zip(w, m, strict=True)]
    loss = float(lab.cross_entropy(forward(w, data.x)[1], data.y))
    right = (forward(w, data.x_test)[1].argmax(1) == data.y_test).double().mean()
    if not math.isfinite(loss):
        return {"loss": None, "right": None}
    return {"loss": float(f"{loss:.4g}"), "right": round(float(right), 4)}


def key(case: str, p: float, lr: float, seed: int) -> str:
    return f"{case}/power {p:g}/rate {lr:g}/seed {seed}"


def main() -> None:
    torch.set_num_threads(1)
    facts = provenance("invariance.py") | {"seeds": list(SEEDS)}
    store, data = Store(RESULTS / "invariance.json", facts), lab.digits()
    for (case, p), lr, seed in itertools.product(CASES, RATES, SEEDS):
        store.once(
            key(case, p, lr, seed),
            lambda c=case, p=p, lr=lr, s=seed: run(data, c, p, lr, s),
        )


if __name__ == "__main__":
    main()
