"""Packages that only some chapters need, imported where they are used."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def optional(module: str, package: str) -> Any:
    """Import a module that is not among the package's own needs."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} cannot be imported ({error}): pip install {package}"
        ) from error


def kernel() -> Any:
    """The IPython of a running notebook, or None in a script or a terminal."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None
