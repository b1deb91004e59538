"""Shows public names only: a private base class gives way to its public one."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def public_bases(bases: list[type]) -> list[type]:
    """The bases, each private one replaced by the public ones behind it."""
    shown: list[type] = []
    for base in bases:
        name = getattr(base, "__name__", "")
        found = public_bases(list(base.__bases__)) if name.startswith("_") else [base]
        shown.extend(b for b in found if b not in shown)
    return [b for b in shown if b is not object] or shown


def process_bases(
    app: Sphinx, name: str, obj: type, options: Any, bases: list[type]
) -> None:
    bases[:] = public_bases(list(bases))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-bases", process_bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
