"""The optimizers of the package in the terms of PyTorch's own harness."""

import inspect
from typing import Any

import torch
from torch.testing._internal import common_optimizers as harness

from anthology import optim
from tests.examples import EXAMPLES, Example

# The harness forbids plain assignments to backend flags for the whole process.
setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)

# What torch refuses and this package takes, or refuses in other words.
TAKEN = {"lr as Tensor doesn't work with foreach & not capturable"}
REWORDED = "a tensor; betas must be floats"


def described(example: Example) -> harness.OptimizerInfo:
    """A class of the package in the terms of the harness."""
    kind, needed = example.kind, example.needs
    known = inspect.signature(kind).parameters

    def inputs(device: Any, dtype: Any = None) -> list[harness.OptimizerInput]:
        del device, dtype
        options: list[dict[str, Any]] = [{}, {"lr": 1e-2}, {"lr": torch.tensor(1e-3)}]
        options += [{"maximize": True}, {"capturable": True}, *example.harness]
        if "weight_decay" in known:
            options += [{"weight_decay": 0.1, "maximize": True}, {"weight_decay": 0.1}]
        if issubclass(kind, optim.Adam):
            theirs = harness.optim_inputs_func_adam("cpu", torch.float32)
            options += [given.kwargs for given in theirs]
        full = [{**needed, **example.roomy, **given} for given in options]
        return [harness.OptimizerInput(None, given, str(given)) for given in full]

    def errors(device: Any, dtype: Any) -> list[harness.ErrorOptimizerInput]:
        makers = {
            "betas": harness.optim_error_inputs_func_adam,
            "momentum": harness.optim_error_inputs_func_sgd,
        }
        listed = harness.get_error_inputs_for_all_optims
        for name, maker in makers.items():
            if name in known:
                listed = maker
                break
        found = listed(device, dtype)
        for error in found:
            asked = error.optimizer_error_input
            asked.kwargs = {**needed, **asked.kwargs}
        return found

    return harness.OptimizerInfo(
        kind,
        optim_inputs_func=inputs,
        optim_error_inputs_func=errors,
        supported_impls=("foreach", "differentiable"),
        has_capturable_arg=True,
    )


INFOS = {name: described(example) for name, example in EXAMPLES.items()}


def configurations(info: harness.OptimizerInfo) -> list[dict[str, Any]]:
    """Every configuration that can step a leaf, with foreach on and off."""
    asked = harness._get_optim_inputs_including_global_cliquey_kwargs(
        "cpu", torch.float64, info, ("differentiable",)
    )
    return [given.kwargs for given in asked]
