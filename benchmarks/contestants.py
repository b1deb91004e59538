"""Who competes: this package's optimizers by path, and those of other packages.

A family is one update rule, or several that do the same job, so that its members may
be compared; a class that is in none is one alone, built as tests build it. Other
packages are optional (``pip install -e '.[bench]'``); what is not installed is named
in the report.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anthology import optim
from tests.examples import EXAMPLES

Maker = Callable[[list[Tensor]], torch.optim.Optimizer]

# How each path of this package is asked for, where the class has it.
PATHS: dict[str, dict[str, Any]] = {
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
    "fused": {"fused": True},
    "compiled": {"fused": "compile"},
    "triton": {"fused": "triton"},  # on CUDA only
}
REFRESH = 10
# What is like another family needs no more sets to be seen.
FEWER = ("gpt", "small", "1e8", "quick")


@dataclass(frozen=True)
class Contestant:
    """One optimizer on one path.

    Attributes
    ----------
    name : str
        As printed.
    package : str
        The module it needs.
    make : callable
        Takes a list of parameters with gradients.
    ours : bool
        Whether it is this package's.
    """

    name: str
    package: str
    make: Maker
    ours: bool = False


@dataclass(frozen=True)
class Family:
    """Contestants that may be compared.

    Attributes
    ----------
    name : str
        As printed.
    contestants : list of Contestant
        Ours first.
    flat : bool
        Whether only matrices compete, kernels flattened to out × rest, because some
        of the contestants take nothing else.
    cycle : int
        Steps of one sample: the refresh of the factors, so that each has one.
    sets : tuple of str
        Which parameter sets it runs on; empty: all.
    orthogonal : bool
        Whether steps approximate polar factors, so that it is told how well.
    """

    name: str
    contestants: list[Contestant] = field(default_factory=list)
    flat: bool = False
    cycle: int = 1
    sets: tuple[str, ...] = ()
    orthogonal: bool = False


def ours(
    cls: Any, title: str = "", only: tuple[str, ...] = (), **kwargs: Any
) -> list[Contestant]:
    """A class of this package, once for each path that its signature has."""
    title = title or cls.__name__
    taken = set(inspect.signature(cls).parameters)
    if not cls.rule.torch_kernel:  # without one fused=True compiles
        only = tuple(path for path in only or PATHS if path != "fused")
    return [
        Contestant(f"{title} {path}", "anthology", partial(cls, **kwargs, **how), True)
        for path, how in PATHS.items()
        if set(how) <= taken and path in (only or PATHS)
    ]


def peer(package: str, name: str, title: str = "", **kwargs: Any) -> Contestant:
    """A class of another package, imported when it is made."""

    def make(params: list[Tensor]) -> torch.optim.Optimizer:
        cls = getattr(importlib.import_module(package), name)
        made: torch.optim.Optimizer = cls(params, **kwargs)
        return made

    return Contestant(f"{package} {title or name}", package, make)


def torch_paths(name: str, fused: bool = True, **kwargs: Any) -> list[Contestant]:
    """A class of ``torch.optim`` with foreach and, where it has that, fused."""
    found = [peer("torch.optim", name, f"{name} foreach", foreach=True, **kwargs)]
    if fused:
        found.append(peer("torch.optim", name, f"{name} fused", fused=True, **kwargs))
    return found


class _Model(torch.nn.Module):
    """Parameters as a model, for an optimizer that asks for one."""

    def __init__(self, params: list[Tensor]) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList()
        for p in params:
            kept = torch.nn.Parameter(p.detach())
            kept.grad = p.grad
            self.weights.append(kept)


def _sirfshampoo(params: list[Tensor]) -> torch.optim.Optimizer:
    cls = importlib.import_module("sirfshampoo").SIRFShampoo
    made: torch.optim.Optimizer = cls(_Model(params), batch_size=64, T=REFRESH)
    return made


def _kozistr_muon(**kwargs: Any) -> Maker:
    def make(params: list[Tensor]) -> torch.optim.Optimizer:
        cls = importlib.import_module("pytorch_optimizer").Muon
        groups = [{"params": params, "use_muon": True}]
        made: torch.optim.Optimizer = cls(groups, weight_decay=0.1, **kwargs)
        return made

    return make


def families() -> list[Family]:
    """All families, in the order of the report; who is in none comes last."""
    known = compared()
    seen = {
        contestant.make.func
        for family in known
        for contestant in family.contestants
        if isinstance(contestant.make, partial)
    }
    alone = (x for x in EXAMPLES.values() if x.kind not in seen)
    return known + [Family(x.name, ours(x.kind, **x.needs), sets=FEWER) for x in alone]


def compared() -> list[Family]:
    """The families that are compared with others, in the order of the report."""
    kozistr = "pytorch_optimizer"
    norm = "RMSToRMS(method='muon')"
    sign: dict[str, Any] = {"norm": "LInf()", "lr": 1e-3}
    muon: dict[str, Any] = {"ns_dtype": "bfloat16"}
    express: dict[str, Any] = {"method": "polar-express", "ns_steps": 4}
    few = ("foreach", "compiled")
    factors = ("mlp", "quick")
    fast: dict[str, Any] = {"lr": 1e-3, "foreach": True}
    plain: dict[str, Any] = {"normuon": False, "cautious_wd": False}
    half = [
        *ours(optim.Muon, **muon),
        *ours(optim.Muon, "Muon express", few, **express, **muon),
        peer("torch.optim", "Muon"),
        *(
            Contestant(f"{kozistr} Muon {name}", kozistr, _kozistr_muon(foreach=on))
            for name, on in (("foreach", True), ("loop", False))
        ),
        peer("optimuon", "Muon", ns_dtype=torch.bfloat16, **plain),
    ]
    terms: dict[str, Any] = {"batch_size": 64}
    return [
        Family(
            "SGD",
            [
                *ours(optim.SGD, momentum=0.9),
                *torch_paths("SGD", momentum=0.9),
                peer("optimi", "SGD", "SGD foreach", momentum=0.9, **fast),
            ],
        ),
        Family(
            "Signum",
            [*ours(optim.Signum), peer(kozistr, "SignSGD", "SignSGD", foreach=True)],
            sets=FEWER,
        ),
        Family(
            "Lion",
            [
                *ours(optim.Lion, weight_decay=0.1),
                peer(kozistr, "Lion", "Lion foreach", foreach=True, weight_decay=0.1),
                peer("lion_pytorch", "Lion", weight_decay=0.1),
                peer("lion_pytorch.foreach", "Lion", weight_decay=0.1),
                peer("optimi", "Lion", "Lion foreach", weight_decay=0.1, **fast),
            ],
        ),
        Family("Adam", [*ours(optim.Adam), *torch_paths("Adam")], sets=FEWER),
        Family(
            "AdamW",
            [
                *ours(optim.AdamW),
                *torch_paths("AdamW"),
                peer("optimi", "AdamW", "AdamW foreach", weight_decay=0.01, **fast),
            ],
        ),
        Family(
            "root-free (peer: AdamW)",
            [
                *ours(optim.RootFreeRMSProp, **terms),
                *ours(optim.RootFreeAdamW, **terms),
                *torch_paths("AdamW"),
            ],
        ),
        Family(
            "Prodigy",
            [
                *ours(optim.Prodigy),
                peer(kozistr, "Prodigy", "Prodigy foreach", foreach=True),
                peer("prodigyopt", "Prodigy"),
            ],
        ),
        Family(
            "SteepestDescent L∞",
            ours(optim.SteepestDescent, momentum=0.9, **sign),
            sets=FEWER,
        ),
        Family(
            "FreeSteepestDescent L∞",
            ours(optim.FreeSteepestDescent, norm="LInf()"),
            sets=FEWER,
        ),
        Family(
            "Scion",
            [
                *ours(optim.Scion, only=few, momentum=0.9, norm=norm),
                peer(kozistr, "SCION", foreach=True),
            ],
            flat=True,
            sets=("mlp", "small", "quick"),
        ),
        Family("Muon bfloat16", half, flat=True, orthogonal=True),
        Family(
            "Muon float32",
            [
                *ours(optim.Muon, "Muon muon", few),
                *ours(optim.Muon, "Muon express", few, **express),
                *ours(optim.Muon, "Muon gram", few, method="gram"),
                *ours(optim.Muon, "Muon eigh", ("foreach",), method="eigh"),
                peer("optimuon", "Muon", "Muon gram", ns_dtype=None, **plain),
                peer("optimuon", "Muon", ns_dtype=None, gram_ns=False, **plain),
            ],
            flat=True,
            orthogonal=True,
        ),
        Family(
            "Shampoo",
            [
                *ours(optim.Shampoo, refresh=REFRESH, eps=1e-6, betas=(0.9, 0.99)),
                peer("benchmarks.textbook", "TextbookShampoo", refresh=REFRESH),
                peer(
                    kozistr,
                    "ScalableShampoo",
                    start_preconditioning_step=1,
                    preconditioning_compute_steps=REFRESH,
                    block_size=1024,
                ),
            ],
            cycle=REFRESH,
            sets=factors,
        ),
        Family(
            "SOAP",
            [
                *ours(optim.SOAP, refresh=REFRESH),
                peer(kozistr, "SOAP", precondition_frequency=REFRESH),
            ],
            cycle=REFRESH,
            sets=factors,
        ),
        Family(
            "KrADagrad",
            ours(optim.KrADagrad, only=few, refresh=REFRESH),
            cycle=REFRESH,
            sets=factors,
        ),
        Family(
            "SIRFShampoo",
            [
                *ours(optim.SIRFShampoo, refresh=REFRESH, structures="dense", **terms),
                Contestant("sirfshampoo SIRFShampoo", "sirfshampoo", _sirfshampoo),
            ],
            cycle=REFRESH,
            sets=factors,
        ),
    ]
