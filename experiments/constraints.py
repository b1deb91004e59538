"""Does a constraint train better than weight decay, or than nothing?

Contestants: Muon's step (average, Nesterov, spectral norm in the units of a layer) on the
hidden matrices, and after it nothing ("plain"), weight decay ("decay"), or a surface on
which each matrix stays at the size it started with: "sphere", "spectral-sphere" and
"stiefel" take the steepest tangent step, "hyperball" the step that plain takes, made
long in Frobenius norm, and goes back to the sphere. "hyperball-2" is the same on a
sphere of twice the radius, and so on. All else has AdamW at one rate, without decay.

Problems: digits as in problems.py; text with 200 steps. The budget is the same for all:
seven rates a factor of two apart with one seed, then five other seeds at the best. A
difference counts by the rule of race_statistics.py. The runs of a contestant are trained
side by side as one stack of models: the surfaces and the norms take stacks.

    python experiments/constraints.py    # about five minutes of one core

What we expect, written down before the first run:

1. digits: every surface is behind plain; nothing normalises these layers, and in muon.py
   they grew sixfold. Decay lies between.
2. text: the surfaces tie with plain or beat it, since norms stand before the matrices.
3. sphere and hyperball tie on both problems: the exact tangent step buys nothing.
4. stiefel is behind sphere on both: it forbids unequal singular values.
5. hyperball-2 beats hyperball on digits and ties with it on text.
6. At four times its best rate hyperball has lost less than plain has, on both.

Added when digits had been run with "plain", "decay", "hyperball" and "hyperball-2", and
plain had grown ninefold while hyperball ended at a loss of 1.7:

7. "hyperball-8", on a sphere of eight times the radius, ties with plain on digits: what
   hurts is the radius, not the surface.

Cut for time, before any surface but the sphere had been run: "spectral-sphere" and
"stiefel" on digits, so that predictions 1 and 4 are tested on the others there.

Of the second matrix a run keeps the size at the end, relative to the start, the angle by
which it turns in a step, midway, and how even its singular values are: the nuclear norm
over √r times the Frobenius norm, one if they are equal.

Each stack of runs is stored as soon as it ends; started again, the script goes on where
it stopped.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from problems import Problem, problem
from race_declaration import SEARCH_SEED, SEEDS, WARMUP
from store import RESULTS, Store, provenance
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from anthology import norms
from anthology.norms import constraints

PATH = RESULTS / "constraints.json"
RATES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
STEPS = {"digits": 400, "text": 200}
SURFACES = ("sphere", "spectral-sphere", "stiefel")
# What each contestant does, and by how much its weights are enlarged at the start.
KINDS = {kind: (kind, 1) for kind in ("plain", "decay", "hyperball", *SURFACES)}
KINDS |= {"hyperball-2": ("hyperball", 2), "hyperball-8": ("hyperball", 8)}
ONLY = {"hyperball-8": "digits", "spectral-sphere": "text", "stiefel": "text"}
BETA, DECAY, ADAMW = 0.95, 0.1, 3e-3
# The polynomials find the polar factor to about one part in a thousand.
LAYER = norms.RMSToRMS(method="polar-express")
# So do ten halvings find the multiplier; the step is exactly tangent in any case.
HALVINGS = 10


class Hidden:
    """One hidden matrix of all models of a stack, and its step."""

    def __init__(self, w: Tensor, norm: norms.Norm, kind: str, rates: Tensor) -> None:
        self.w, self.norm, (self.kind, times) = w, norm, KINDS[kind]
        self.rates, self.m = rates[:, None, None], torch.zeros_like(w)
        w.mul_(times)
        self.surface = norms.CONSTRAINTS.get(self.kind, norms.Sphere())
        self.radius = self.surface.radius(w, norm)
        if self.kind in SURFACES:
            w.copy_(self.surface.onto(w, self.radius, norm))

    def step(self, g: Tensor, share: float) -> Tensor:
        """One step at this share of the rates; the angles by which it turns."""
        w, eta, before = self.w, share * self.rates, self.w.clone()
        self.m.lerp_(g, 1 - BETA)
        u = g.lerp(self.m, BETA)
        if self.kind in SURFACES:
            moved = w - eta * self.surface.dualize(u, w, self.norm)
        else:
            t = self.norm.dualize(u)
            if self.kind == "hyperball":
                t = self.surface.onto(t, self.radius, self.norm)
            keep = 1 - eta * DECAY if self.kind == "decay" else 1
            moved = keep * w - eta * t
        if self.kind not in ("plain", "decay"):
            moved = self.surface.onto(moved, self.radius, self.norm)
        w.copy_(moved)
        return angles(before, w)


def angles(a: Tensor, b: Tensor) -> Tensor:
    """Between the matrices of two stacks, by the chord, which is exact when small."""
    a, b = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (a, b))
    return 2 * ((a - b).norm(dim=1) / 2).clamp(max=1).asin()


def train(
    p: Problem, kind: str, rates: Sequence[float], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """One stack of runs, a rate and a seed for each."""
    usual, constraints.HALVINGS = constraints.HALVINGS, HALVINGS
    try:
        return _trained(p, kind, rates, seeds)
    finally:
        constraints.HALVINGS = usual


def _trained(
    p: Problem, kind: str, rates: Sequence[float], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    models = [p.model(seed=seed) for seed in seeds]
    params, _ = stack_module_state(models)
    base = models[0].to("meta")
    hidden, rest = divide(models[0], params, kind, torch.tensor(rates))
    adamw = torch.optim.AdamW(rest, ADAMW, (0.9, 0.95), 1e-10, weight_decay=0.0)
    streams = {seed: p.batches(seed=seed) for seed in set(seeds)}
    start = [h.w.flatten(1).norm(dim=1) for h in hidden]
    turned = []

    def losses(x: Tensor, y: Tensor) -> Tensor:
        def one(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            logits = functional_call(base, weights, (x,)).flatten(0, -2)
            return nn.functional.cross_entropy(logits, y.flatten())

        found: Tensor = vmap(one)(params, x, y)
        return found

    for k in range(p.steps):
        share = min((k + 1) / (p.steps // WARMUP), 1) * (1 - k / p.steps)
        batch = {seed: next(stream) for seed, stream in streams.items()}
        x, y = (torch.stack([batch[s][i] for s in seeds]) for i in (0, 1))
        adamw.zero_grad()
        matrices = [h.w.requires_grad_() for h in hidden]
        losses(x, y).sum().backward()
        gradients = [w.grad for w in matrices]
        with torch.no_grad():
            for w in matrices:
                w.requires_grad_(False).grad = None
            turns = [h.step(g, share) for h, g in zip(hidden, gradients, strict=True)]
        adamw.param_groups[0]["lr"] = share * ADAMW
        adamw.step()
        if 0.4 * p.steps <= k < 0.5 * p.steps:
            turned.append(turns[1])
    with torch.no_grad():
        x, y = (t.expand(len(seeds), *t.shape) for t in p.test)
        end = losses(x, y)
        length = hidden[1].w.flatten(1).norm(dim=1)
        values = torch.linalg.svdvals(hidden[1].w)
        even = values.sum(1) / length / values.shape[1] ** 0.5
    angle = torch.stack(turned).mean(0)
    return [
        {
            "loss": round(float(loss), 5) if math.isfinite(loss) else None,
            "size": round(float(s), 4),
            "angle": round(float(a), 5),
            "even": round(float(e), 4),
        }
        for loss, s, a, e in zip(end, length / start[1], angle, even, strict=True)
    ]


def divide(
    model: nn.Module, params: dict[str, Tensor], kind: str, rates: Tensor
) -> tuple[list[Hidden], list[Tensor]]:
    """The matrices that get the step on trial, and what gets AdamW."""
    hidden, rest = [], []
    for group in norms.metrize(model):
        for name in group["param_names"]:
            w = params[name]
            if group["role"] in ("linear", "qkv"):
                w = w.detach()
                params[name] = w
                norm = norms.Split(LAYER, 3) if group["role"] == "qkv" else LAYER
                hidden.append(Hidden(w, norm, kind, rates))
            else:
                rest.append(w)
    return hidden, rest


def known(where: str) -> Problem:
    """The problem, with the number of steps it has here."""
    return replace(problem(where), steps=STEPS[where])


def contestants(where: str) -> list[str]:
    """Who runs on this problem."""
    return [kind for kind in KINDS if ONLY.get(kind, where) == where]


def stored() -> dict[str, list[dict[str, Any]]]:
    """What has been run: a list over rates, or over seeds, under each key."""
    return Store(PATH, provenance("constraints.py")).runs


def best(runs: dict[str, list[dict[str, Any]]], where: str, kind: str) -> float:
    """The rate that the search chose."""
    found = [row["loss"] for row in runs[f"{where}/{kind}/search"]]
    return RATES[min(range(len(RATES)), key=lambda i: found[i] or math.inf)]


def main() -> None:
    """Make the runs that are missing, and tell the best."""
    store = Store(PATH, provenance("constraints.py"))
    for where in STEPS:
        p = known(where)
        for kind in contestants(where):
            same = [SEARCH_SEED] * len(RATES)
            store.once(f"{where}/{kind}/search", lambda: train(p, kind, RATES, same))  # noqa: B023
            lr = best(store.runs, where, kind)
            each = [lr] * len(SEEDS)
            store.once(f"{where}/{kind}/seeds", lambda: train(p, kind, each, SEEDS))  # noqa: B023


if __name__ == "__main__":
    main()
