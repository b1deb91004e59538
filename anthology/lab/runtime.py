"""Where the chapters run: device, budget, notebook, packages of some chapters only."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import torch


def pick_device() -> torch.device:
    """The device of a chapter: CUDA if there is one, else the CPU, which has float64.

    The environment variable ``ANTHOLOGY_DEVICE`` overrides the choice; torch raises a
    RuntimeError for a name it does not know.
    """
    wanted = os.environ.get("ANTHOLOGY_DEVICE")
    return torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))


def budget() -> str:
    """How much a chapter may compute: ``"small"`` or ``"large"``.

    Small is a minute on two CPU cores, large is for a CUDA device. The environment
    variable ``ANTHOLOGY_BUDGET`` overrides the choice; a ValueError if it is neither.
    """
    wanted = os.environ.get("ANTHOLOGY_BUDGET")
    if wanted not in (None, "", "small", "large"):
        given = f"ANTHOLOGY_BUDGET is {wanted!r}"
        raise ValueError(f"{given}; it must be 'small' or 'large'")
    return wanted or ("large" if pick_device().type == "cuda" else "small")


def optional(module: str, package: str) -> Any:
    """Import a module that is not among the package's own needs."""
    try:
        return import_module(module)
    except ImportError as error:
        what = f"{module} cannot be imported ({error})"
        raise ImportError(f"{what}: pip install {package}") from error


def kernel() -> Any:
    """The IPython of a running notebook, or None in a script or a terminal."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None
