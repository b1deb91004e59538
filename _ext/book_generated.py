"""Fills the generated pages: a comment in the page says what goes there."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import front, generated


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the generated tables where the page's comment is."""
    if "<!-- generated: optimizers -->" in source[0]:
        for path in (ROOT / "anthology" / "optim").glob("*.py"):
            app.env.note_dependency(str(path))
        source[0] = source[0].replace(
            "<!-- generated: optimizers -->", generated.optimizers_page()
        )
    if "<!-- generated: penalties -->" in source[0]:
        app.env.note_dependency(str(ROOT / "anthology" / "lab" / "silent.py"))
        source[0] = source[0].replace(
            "<!-- generated: penalties -->", generated.penalties()
        )
    if "<!-- generated: first rates -->" in source[0]:
        stored = ROOT / "experiments" / "results" / "first_rates.json"
        app.env.note_dependency(str(stored))
        source[0] = source[0].replace(
            "<!-- generated: first rates -->", generated.first_rates_page()
        )
    if "<!-- generated: front -->" in source[0]:
        figure = f"```{{raw}} html\n{front.figure()._repr_html_()}\n```"
        source[0] = source[0].replace("<!-- generated: front -->", figure)
        source[0] = source[0].replace("<!-- generated: install -->", front.install())


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
