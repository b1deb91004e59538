"""The optimizers of the package in the terms of PyTorch's own harness."""

import inspect
from typing import Any

import torch
from torch.testing._internal import common_optimizers as harness

from anthology import optim

# The harness forbids plain assignments to backend flags for the whole process.
setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)

REQUIRED = {"lr": 0.01, "batch_size": 8}  # where a class has no default
INSTEAD = {"Scion": {"radius": 20.0}}  # a ball that holds the start
EXTRA: dict[str, list[dict[str, Any]]] = {
    "SteepestDescent": [
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"step": "steepest", "lr": 1e-3},
        {"norm": "Spectral()", "across": "l2"},
    ],
    "Shampoo": [
        {"betas": (0.9, 0.95), "momentum": 0.5, "refresh": 3, "eps": 1e-2},
        {"eps": 1e-6, "root": "newton", "grafting": "sgd", "vectors": "diagonal"},
        {"max_dim": 4, "root": "newton-schulz", "grafting": "rms"},
        {"factors": "kl", "lr": 1e-2, "eps": 1e-2},
        {"sides": "one", "refresh": 2},
    ],
    "Scion": [{"unconstrained": True, "momentum": 0.9}, {"norm": "Spectral()"}],
    "SOAP": [
        {"skip_first": False, "refresh": 2, "relative_eps": True},
        {"factors": "kl"},
    ],
    "KrADagrad": [
        {"beta2": 0.9, "bound": "trace", "vectors": "full"},
        {"lr": 0.1, "variant": "mm", "grafting": "sgd"},
    ],
    "RootFreeAdamW": [{"bias_correction": True}],
    "RootFreeRMSProp": [{"momentum": 0.0}],
}
# What torch refuses and this package takes, or refuses in other words.
TAKEN = {"lr as Tensor doesn't work with foreach & not capturable"}
REWORDED = "a tensor; betas must be floats"


def described(kind: type) -> harness.OptimizerInfo:
    """A class of the package in the terms of the harness."""
    known = inspect.signature(kind).parameters
    needed = {k: v for k, v in REQUIRED.items() if k in known and _bare(known[k])}

    def inputs(device: Any, dtype: Any = None) -> list[harness.OptimizerInput]:
        del device, dtype
        options: list[dict[str, Any]] = [{}, {"lr": 1e-2}, {"lr": torch.tensor(1e-3)}]
        options += [{"maximize": True}, {"capturable": True}, *EXTRA.get(_name, [])]
        if "weight_decay" in known:
            options += [{"weight_decay": 0.1, "maximize": True}, {"weight_decay": 0.1}]
        if issubclass(kind, optim.Adam):
            theirs = harness.optim_inputs_func_adam("cpu", torch.float32)
            options += [given.kwargs for given in theirs]
        instead = INSTEAD.get(_name, {})
        full = [{**needed, **instead, **given} for given in options]
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

    _name = kind.__name__
    return harness.OptimizerInfo(
        kind,
        optim_inputs_func=inputs,
        optim_error_inputs_func=errors,
        supported_impls=("foreach", "differentiable"),
        has_capturable_arg=True,
    )


def _bare(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty


PUBLIC = [getattr(optim, name) for name in optim.__all__]
INFOS = {
    kind.__name__: described(kind)
    for kind in PUBLIC
    if isinstance(kind, type)
    and issubclass(kind, optim.BaseOptimizer)
    and kind is not optim.BaseOptimizer
}


def configurations(info: harness.OptimizerInfo) -> list[dict[str, Any]]:
    """Every configuration that can step a leaf, with foreach on and off."""
    asked = harness._get_optim_inputs_including_global_cliquey_kwargs(
        "cpu", torch.float64, info, ("differentiable",)
    )
    return [given.kwargs for given in asked]
