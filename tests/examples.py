"""Every optimizer of the package, once: how tests and benchmarks build it.

Adding an optimizer is adding an `Example`. ``Example(optim.Toy)`` alone enters a class
in every list: the contract, the stored steps, PyTorch's harness, devices, several
processes, checkpoints, pure forms, the probe and the benchmarks. What else an entry
says is a setting in which the class goes another way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import Tensor

from anthology import optim
from anthology.norms import LInf, MaxAbs, RMSToRMS, Spectral

Options = dict[str, Any]
Make = Callable[..., Any]
Forms = Mapping[str, Options | Make]


@dataclass(frozen=True)
class Example:
    """A class, and the settings in which the tests try it.

    A setting is a dictionary of options beside those that the class needs, or a
    function of the parameters. Where an entry is None, the class stands in that list
    under its own name with nothing said but what the list says of all.

    Attributes
    ----------
    kind : type
        The class.
    needs : dict
        The arguments that have no default.
    contract : mapping
        By name, for the contract and the stored steps.
    blind : tuple of str
        Which of those keep it too where the host cannot read flags; by default the
        first.
    device : mapping
        By name, so that a step on a device waits for nothing.
    matrices : tuple of str
        Which of those take matrices only.
    chooses : bool
        Whether its step waits however it is set, because the host chooses.
    sharded : mapping
        By name, each form that goes its own way where tensors are sharded.
    harness : tuple of dict
        Further settings for PyTorch's own harness.
    roomy : dict
        What lets it come from where the harness starts to the minimum.
    compiled : dict
        With which options compiled code is tried under schedules.
    alike : tuple of str
        Classes that keep entries of the same names and shapes, so that a checkpoint
        which does not name its class may be of either.
    spared : tuple of str
        Entries that a checkpoint may lack for all tensors of a group.
    measured : bool
        Whether experiments with stored runs have it: the race and the first rates.
    """

    kind: Any
    needs: Options = field(default_factory=dict)
    contract: Forms | None = None
    blind: tuple[str, ...] | None = None
    device: Forms | None = None
    matrices: tuple[str, ...] = ()
    chooses: bool = False
    sharded: Forms | None = None
    harness: tuple[Options, ...] = ()
    roomy: Options = field(default_factory=dict)
    compiled: Options = field(default_factory=dict)
    alike: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()
    measured: bool = True

    @property
    def name(self) -> str:
        """That of the class."""
        return str(self.kind.__name__)

    def make(self, **options: Any) -> Make:
        """The class with what it needs, and with options."""
        return partial(self.kind, **{**self.needs, **options})

    def forms(self, forms: Forms | None, **common: Any) -> dict[str, Make]:
        """What builds it in each of some settings."""
        return {
            name: form if callable(form) else self.make(**common, **form)
            for name, form in ({self.name: {}} if forms is None else forms).items()
        }


class ToldOne(optim.SteepestDescent):
    """Polyak's step where nobody says the loss: it is one above the best."""

    def heard(self, loss: object) -> None:
        one = -1.0 if self.param_groups[0]["maximize"] else 1.0
        super().heard(one if loss is None else loss)


class Told(optim.SteepestDescent):
    """Polyak's step with a loss that falls, and which every process knows a part of.

    Their mean is what one process alone is told.
    """

    def heard(self, loss: object) -> None:
        rank, size = 0, 1
        if dist.is_initialized():
            rank, size = dist.get_rank(), dist.get_world_size()
        self.told = getattr(self, "told", 2.0) / 2
        super().heard(self.told * (1 + rank - (size - 1) / 2))


def _halves(params: list[Tensor]) -> list[Options]:
    """Two groups, of which the second is sliced."""
    return [{"params": params[:3]}, {"params": params[3:], "slice_p": 2}]


def _joined(params: list[Tensor]) -> list[Options]:
    """Two layers with their biases, each one matrix; and the rest."""
    return [{"params": params[:4], "joined": True}, {"params": params[4:]}]


_polyak = partial(ToldOne, lr=0.01, step="polyak")
_MUON = "RMSToRMS(method='muon')"
_MEMORY = {"momentum": 0.5, "beta3": 0.5, "across": "l2"}
_PER_GROUP = partial(optim.Prodigy, d0=1e-2, eps=1e-3, per_group=True, growth_rate=1.5)
_KL = {"lr": 0.1, "eps": 1e-2, "factors": "kl"}
_SOAP = {"lr": 0.1, "refresh": 2, "eps": 1e-2, "skip_first": False}

_ALL = (
    Example(
        optim.SteepestDescent,
        needs={"lr": 0.01},
        contract={
            "by shape": {},
            "by shape, momentum": {
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 0.1,
            },
            "steepest, max": {"step": "steepest", "momentum": 0.9},
            "steepest, l2": {"step": "steepest", "across": "l2"},
            "dualize, l2": {"across": "l2", "momentum": 0.5},
            "loop": {"foreach": False, "step": "steepest"},
            "polyak": _polyak,
            "polyak, l2": partial(
                _polyak, across="l2", weight_decay=0.1, foreach=False
            ),
            **{
                f"{norm!r}": {"norm": norm, "momentum": 0.9}
                for norm in (LInf(), MaxAbs(), Spectral(), RMSToRMS(method="muon"))
            },
            **{
                norm: {"norm": norm}
                for norm in (
                    *("L1()", "L2()", "Transpose(OneToRMS())"),
                    *("RMSToInf()", "Conv(2)"),
                )
            },
        },
        blind=("by shape, momentum", "steepest, max", "polyak", "polyak, l2"),
        device={
            "SteepestDescent": {"lr": 0.1, "norm": _MUON},
            "SteepestDescent, max": {
                "lr": 0.1,
                "norm": "LInf()",
                "step": "steepest",
                "momentum": 0.9,
            },
        },
        matrices=("SteepestDescent",),
        sharded={
            "SteepestDescent": {"lr": 0.1, "momentum": 0.5},
            "SteepestDescent max": {
                "lr": 0.1,
                "momentum": 0.5,
                "nesterov": True,
                "step": "steepest",
                "weight_decay": 0.1,
            },
            "SteepestDescent l2": {"lr": 0.1, "momentum": 0.5, "across": "l2"},
            "SteepestDescent each": {"lr": 0.1, "across": "l2", "step": "steepest"},
            "SteepestDescent sphere": {
                "lr": 0.1,
                "momentum": 0.5,
                "constrain": "sphere",
            },
            "SteepestDescent polyak": partial(
                Told, lr=1.0, step="polyak", weight_decay=0.1
            ),
            "SteepestDescent polyak l2": partial(
                Told, lr=1.0, step="polyak", across="l2"
            ),
        },
        harness=(
            {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            {"step": "steepest", "lr": 1e-3},
            {"norm": "Spectral()", "across": "l2"},
        ),
        alike=("SGD", "Signum", "Scion"),
        spared=("step",),
    ),
    Example(
        optim.FreeSteepestDescent,
        contract={"free": {}, "free, memory": {**_MEMORY, "foreach": False}},
        blind=("free", "free, memory"),
        device={"FreeSteepestDescent": {"norm": "LInf()"}},
        sharded={
            "FreeSteepestDescent": {"d0": 1e-2},
            "FreeSteepestDescent memory": {**_MEMORY, "d0": 1e-2, "growth_rate": 1.5},
        },
        spared=("step",),
    ),
    Example(
        optim.SGD,
        contract={
            "SGD": {"lr": 0.01},
            "SGD momentum": {
                "lr": 0.01,
                "momentum": 0.9,
                "dampening": 0.1,
                "weight_decay": 0.1,
            },
            "SGD loop": {
                "lr": 0.01,
                "momentum": 0.9,
                "nesterov": True,
                "foreach": False,
            },
            "SGD normalised": {"lr": 0.01, "momentum": 0.9, "normalised": True},
        },
        blind=("SGD momentum", "SGD normalised"),
        device={
            "SGD": {},
            "SGD momentum": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            "SGD dampened": {"momentum": 0.9, "dampening": 0.1},
            "SGD normalised": {"momentum": 0.9, "normalised": True},
        },
        sharded={
            "SGD": {
                "lr": 0.1,
                "momentum": 0.9,
                "dampening": 0.5,
                "weight_decay": 0.1,
            },
            "SGD normalised": {"lr": 0.1, "momentum": 0.9, "normalised": True},
        },
        compiled={"momentum": 0.9, "dampening": 0.1},
        alike=("Signum", "Scion"),
        spared=("step",),
    ),
    Example(
        optim.Signum,
        contract={
            "Signum": {},
            "Signum nesterov": {
                "nesterov": True,
                "weight_decay": 0.1,
                "foreach": False,
            },
            "sign descent": {"momentum": 0.0},
        },
        blind=("Signum nesterov",),
        device={"Signum": {"nesterov": True}},
        compiled={"nesterov": True},
        alike=("Scion",),
        spared=("step", "momentum_buffer"),
    ),
    Example(
        optim.Lion,
        contract={"Lion": {"lr": 1e-3}, "Lion loop": {"lr": 1e-3, "foreach": False}},
        device={"Lion": {"weight_decay": 0.1}},
        spared=("step",),
    ),
    Example(
        optim.Adam,
        contract={
            "Adam": {},
            "Adam loop": {"foreach": False},
            "Adam amsgrad": {"amsgrad": True},
        },
        device={"Adam": {"weight_decay": 0.1, "amsgrad": True}},
        sharded={"Adam": {"lr": 0.1, "amsgrad": True}},
    ),
    Example(
        optim.AdamW,
        contract={
            "AdamW": {},
            "AdamW fused": {"fused": True},
            "AdamW capturable": {"capturable": True},
        },
        blind=("AdamW fused",),
        device={"AdamW": {"maximize": True}},
        sharded={"AdamW": {"lr": 0.1, "weight_decay": 0.1}},
    ),
    Example(
        optim.Shampoo,
        contract={
            "Shampoo": {},
            "Shampoo, averages, grafting": {
                "betas": (0.9, 0.99),
                "eps": 1e-8,
                "momentum": 0.5,
                "nesterov": True,
                "weight_decay": 0.1,
                "max_dim": 2,
                "refresh": 3,
                "vectors": "diagonal",
                "grafting": "rms",
            },
            "Shampoo newton": {
                "root": "newton",
                "grafting": "sgd",
                "refresh": 2,
                "capturable": True,
            },
            "Shampoo kl": {"lr": 0.01, "factors": "kl"},
            "Shampoo kl loop": {
                "lr": 0.01,
                "betas": (0.9, 0.95),
                "factors": "kl",
                "refresh": 2,
                "max_dim": 2,
                "foreach": False,
            },
            "Shampoo one-sided": {"sides": "one"},
            "Shampoo loop": {"foreach": False, "eps": 0.0, "root": "newton-schulz"},
        },
        blind=(
            "Shampoo",
            "Shampoo, averages, grafting",
            "Shampoo newton",
            "Shampoo kl",
        ),
        device={
            "Shampoo": {"root": "newton", "capturable": True, "refresh": 3},
            "Shampoo grafted": {
                "root": "newton-schulz",
                "grafting": "rms",
                "momentum": 0.9,
                "betas": (0.9, 0.99),
            },
            "Shampoo kl": {
                "root": "newton",
                "capturable": True,
                "factors": "kl",
                "eps": 1e-2,
            },
            "Shampoo one-sided": {"root": "newton", "sides": "one"},
        },
        sharded={
            "Shampoo": {
                "lr": 0.1,
                "betas": (0.9, 0.9),
                "eps": 1e-2,
                "grafting": "rms",
            },
            "Shampoo kl": _KL,
            "Shampoo one-sided": {"lr": 0.1, "eps": 1e-2, "sides": "one"},
        },
        harness=(
            {"betas": (0.9, 0.95), "momentum": 0.5, "refresh": 3, "eps": 1e-2},
            {"eps": 1e-6, "root": "newton", "grafting": "sgd", "vectors": "diagonal"},
            {"max_dim": 4, "root": "newton-schulz", "grafting": "rms"},
            {"factors": "kl", "lr": 1e-2, "eps": 1e-2},
            {"sides": "one", "refresh": 2},
        ),
        spared=("exp_avg",),
    ),
    Example(
        optim.SOAP,
        contract={
            "SOAP": {},
            "SOAP at once": {"skip_first": False},
            "SOAP loop": {
                "skip_first": False,
                "foreach": False,
                "relative_eps": True,
                "vectors": "full",
            },
            "SOAP kl": {"factors": "kl"},
        },
        chooses=True,
        sharded={"SOAP": _SOAP, "SOAP kl": {**_SOAP, "factors": "kl"}},
        harness=(
            {"skip_first": False, "refresh": 2, "relative_eps": True},
            {"factors": "kl"},
        ),
    ),
    Example(
        optim.KrADagrad,
        contract={
            "KrADagrad": {},
            "KrADagrad mm": {"variant": "mm", "refresh": 2, "vectors": "full"},
            "KrADagrad grafted": {"lr": 1.0, "grafting": "sgd", "block_size": 2},
            "KrADagrad loop": {
                "foreach": False,
                "bound": "trace",
                "beta2": 0.9,
                "vectors": "full",
            },
        },
        chooses=True,
        sharded={"KrADagrad": {"lr": 0.1, "weight_decay": 0.1}},
        harness=(
            {"beta2": 0.9, "bound": "trace", "vectors": "full"},
            {"lr": 0.1, "variant": "mm", "grafting": "sgd"},
        ),
    ),
    Example(
        optim.Muon,
        contract={
            "Muon": {},
            "Muon loop": {"foreach": False, "nesterov": False},
            "Muon svd": {"method": "svd", "adjust_lr_fn": "rms_to_rms"},
            "Muon bf16": {
                "ns_dtype": "bfloat16",
                "kernel": "positions",
                "capturable": True,
            },
            "Muon rows": {"row_beta": 0.95, "row_side": "longer"},
            "Muon stages": {
                "method": "polar-express",
                "ns_steps": 5,
                "normalize": "rows",
                "renormalize": "frobenius",
                "row_beta": 0.9,
                "row_side": "longer",
                "adjust_lr_fn": 0.18,
            },
            "Muon steepest": {
                "lr": 0.01,
                "step": "steepest",
                "row_beta": 0.9,
                "foreach": False,
            },
        },
        blind=("Muon rows",),
        device={
            "Muon": {},
            "Muon gram": {"method": "gram", "weight_decay": 0.1},
            "Muon rows": {"row_beta": 0.95, "step": "steepest"},
        },
        matrices=("Muon", "Muon gram", "Muon rows"),
        sharded={
            "Muon": {"lr": 0.1, "weight_decay": 0.1},
            "Muon stiefel": {"lr": 0.1, "constrain": "stiefel"},
            "Muon rows": {
                "lr": 0.1,
                "row_beta": 0.9,
                "step": "steepest",
                "normalize": "rows",
            },
            "Muon cautious": {
                "lr": 0.1,
                "weight_decay": 0.1,
                "decay": "cautious+corrected",
            },
        },
    ),
    Example(
        optim.Scion,
        contract={  # balls that hold the minimum
            "Scion": {"lr": 0.01, "radius": 20.0},
            "Scion loop": {
                "lr": 0.01,
                "momentum": 0.9,
                "radius": 20.0,
                "foreach": False,
            },
            "Scion unconstrained": {"lr": 0.01, "momentum": 0.9, "unconstrained": True},
        },
        device={"Scion": {"norm": _MUON, "momentum": 0.9}},
        matrices=("Scion",),
        sharded={"Scion": {"lr": 0.1, "momentum": 0.5}},
        harness=({"unconstrained": True, "momentum": 0.9}, {"norm": "Spectral()"}),
        roomy={"radius": 20.0},
        spared=("step",),
    ),
    Example(
        optim.Prodigy,
        contract={
            "Prodigy": {},
            "Prodigy loop": {"foreach": False, "slice_p": 3},
            "Prodigy per group": {
                "per_group": True,
                "use_bias_correction": True,
                "growth_rate": 2.0,
            },
        },
        blind=("Prodigy", "Prodigy per group"),
        device={
            "Prodigy": {"use_bias_correction": True},
            "Prodigy per group": {"per_group": True, "weight_decay": 0.1},
        },
        sharded={
            "Prodigy": {"d0": 1e-2, "weight_decay": 0.1, "eps": 1e-3},
            "Prodigy sliced": {"d0": 1e-2, "slice_p": 2, "eps": 1e-3},
            "Prodigy per group": lambda params: _PER_GROUP(_halves(params)),
        },
        compiled={"d0": 0.1},
    ),
    Example(
        optim.RootFreeRMSProp,
        needs={"batch_size": 8},
        harness=({"momentum": 0.0},),
    ),
    Example(
        optim.RootFreeAdamW,
        needs={"batch_size": 8},
        device={"RootFreeAdamW": {"bias_correction": True}},
        sharded={"RootFreeAdamW": {"lr": 0.1, "bias_correction": True}},
        harness=({"bias_correction": True},),
        compiled={"bias_correction": True},
    ),
    Example(
        optim.SIRFShampoo,
        needs={"batch_size": 8},
        contract={
            "SIRFShampoo": {},
            "SIRFShampoo loop": {
                "foreach": False,
                "refresh": 3,
                "structures": "lower",
            },
        },
        device={"SIRFShampoo": {"capturable": True}},
        sharded={
            "SIRFShampoo": {"lr": 0.1, "weight_decay": 0.1},
            "SIRFShampoo joined": lambda params: optim.SIRFShampoo(
                _joined(params), 0.1, batch_size=8
            ),
        },
    ),
)
EXAMPLES = {example.name: example for example in _ALL}


def public() -> dict[str, Any]:
    """The optimizers that the package offers, by name."""
    offered = {name: getattr(optim, name) for name in optim.__all__}
    return {
        name: kind
        for name, kind in offered.items()
        if inspect.isclass(kind)
        and issubclass(kind, optim.BaseOptimizer)
        and kind is not optim.BaseOptimizer
    }


def gathered(named: Callable[[Example], dict[str, Make]]) -> dict[str, Make]:
    """What builds each form of every example."""
    found: dict[str, Make] = {}
    for example in EXAMPLES.values():
        found |= named(example)
    return found


OURS = gathered(lambda example: example.forms(example.contract))
BLIND = [
    name
    for example in EXAMPLES.values()
    for name in (
        list(example.forms(example.contract))[:1]
        if example.blind is None
        else example.blind
    )
]
