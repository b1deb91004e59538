"""Where the chapters run, and how much they may compute: asked in one place."""

from __future__ import annotations

import os

import torch

__all__ = ["budget", "pick_device"]

_BUDGETS = ("small", "large")


def pick_device() -> torch.device:
    """The device of a chapter: CUDA if there is one, otherwise the CPU.

    The book checks its identities in float64, so a device without it (Apple's
    ``mps``) is passed over. The environment variable ``ANTHOLOGY_DEVICE``
    overrides the choice, for instance ``ANTHOLOGY_DEVICE=cpu``.

    Raises
    ------
    RuntimeError
        If the variable names a device that torch does not know.
    """
    wanted = os.environ.get("ANTHOLOGY_DEVICE")
    if wanted:
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def budget() -> str:
    """How much a chapter may compute: ``"small"`` or ``"large"``.

    Small is a minute on two CPU cores, large is for a CUDA device. The
    environment variable ``ANTHOLOGY_BUDGET`` overrides the choice.

    Raises
    ------
    ValueError
        If the variable is neither ``small`` nor ``large``.
    """
    wanted = os.environ.get("ANTHOLOGY_BUDGET")
    if wanted:
        if wanted not in _BUDGETS:
            raise ValueError(
                f"ANTHOLOGY_BUDGET is {wanted!r}; it must be 'small' or 'large'"
            )
        return wanted
    return "large" if pick_device().type == "cuda" else "small"
