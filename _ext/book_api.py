"""Small corrections to what autodoc makes of the package.

Public names only: a private base class gives way to the public one behind it.
A colon in the first line of an attribute's docstring is a colon, not the end
of a type. Defaults that are made anew for each object read "...".
"""

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


def keep_colon(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """An empty comment stops napoleon from looking for a type in the first line."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def readable_default(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """A dataclass's ``<factory>`` is no Python, and would hide all its types."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-bases", process_bases)
    app.connect("autodoc-process-docstring", keep_colon, priority=400)
    app.connect("autodoc-process-signature", readable_default)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
