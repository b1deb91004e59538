"""Autograd follows the step of every class, through tensors of several shapes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from anthology.optim import functional
from tests.pure_forms import FORMS, NEEDED

SHAPES = {"weight": (4, 3), "bias": (4,), "kernel": (2, 3, 2, 2), "gain": ()}
# More branches of the rules: momenta, decay and what couples tensors.
OPTIONS: dict[str, dict[str, Any]] = {
    "steepest_descent": {"momentum": 0.5, "weight_decay": 0.1},
    "scion": {"momentum": 0.5},
    "sgd": {"momentum": 0.5, "weight_decay": 0.1},
    "shampoo": {"eps": 0.1, "weight_decay": 0.1},
    "prodigy": {"d0": 0.1, "weight_decay": 0.1},
    "free_steepest_descent": {"d0": 0.1, "momentum": 0.5},
}
# Whose bases or factors are constants to autograd, as their classes say.
CONSTANT = ("soap", "kradagrad")
CASES = {name: (name, OPTIONS.get(name, {})) for name in FORMS}
CASES |= {
    "steepest": ("steepest_descent", {"step": "steepest", "weight_decay": 0.1}),
    "steepest, l2": ("steepest_descent", {"step": "steepest", "across": "l2"}),
    "dualize, l2": ("steepest_descent", {"across": "l2", "momentum": 0.5}),
    "normalised": ("sgd", {"normalised": True, "momentum": 0.5}),
    "unconstrained": ("scion", {"unconstrained": True}),
}


def start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


def loss_after(
    name: str, options: dict[str, Any], params: dict[str, Tensor], lr: Tensor
) -> Tensor:
    """Two steps whose gradients depend on where they are taken, if they may."""
    moving = name not in CONSTANT
    fixed = start()
    given = {**NEEDED.get(name, {}), **options, "lr": 0.1, "differentiable": True}
    pure = getattr(functional, name)(**given)
    state = pure.init(params)
    for _ in range(2):
        here = params if moving else fixed
        grads = {n: p**3 / 10 + p for n, p in here.items()}
        params, state = pure.update(params, grads, state, lr=lr)
    return torch.stack([p.sin().sum() for p in params.values()]).sum()


@pytest.mark.parametrize("case", CASES)
def test_the_rate_and_the_start_have_slopes(case: str) -> None:
    name, options = CASES[case]
    lr = torch.tensor(0.1, dtype=torch.float64)
    leaves = {n: p.requires_grad_() for n, p in start().items()}
    rate = lr.clone().requires_grad_()
    loss = loss_after(name, options, leaves, rate)
    slopes = torch.autograd.grad(loss, [rate, *leaves.values()])
    assert all(bool(x.isfinite().all()) for x in slopes)

    def at(shift: float, along: str) -> Tensor:
        moved = start()
        if along in moved:
            moved[along] = moved[along] + shift * directions[along]
        with torch.no_grad():
            return loss_after(name, options, moved, lr + shift * (along == "lr"))

    generator = torch.Generator().manual_seed(1)
    directions = {
        n: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for n, p in leaves.items()
    }
    h = 1e-5
    for along, slope in zip(("lr", *leaves), slopes, strict=True):
        measured = (at(h, along) - at(-h, along)) / (2 * h)
        ours = slope if along == "lr" else (slope * directions[along]).sum()
        torch.testing.assert_close(ours, measured, rtol=1e-5, atol=1e-7)
    if case != "prodigy":
        assert slopes[0] != 0


@pytest.mark.parametrize("case", CASES)
def test_a_differentiable_step_is_the_step(case: str) -> None:
    name, options = CASES[case]
    plain = getattr(functional, name)(**{**NEEDED.get(name, {}), **options})
    through = getattr(functional, name)(
        **{**NEEDED.get(name, {}), **options, "differentiable": True}
    )
    one, two = start(), start()
    grads = {n: p.cos() for n, p in one.items()}
    for pure, params in ((plain, one), (through, two)):
        state = pure.init(params)
        for _ in range(2):
            new, state = pure.update(params, grads, state)
            params.update(new)
    for n in one:
        torch.testing.assert_close(two[n].detach(), one[n], rtol=1e-12, atol=1e-14)
