"""Packages that only some chapters need, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def optional(module: str, package: str) -> Any:
    """Import a module that is not among the package's own needs.

    Parameters
    ----------
    module : str
        Its dotted name.
    package : str
        What installs it.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ImportError
        If it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} cannot be imported ({error}): pip install {package}"
        ) from error
