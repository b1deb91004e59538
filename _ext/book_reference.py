"""Fills the pages of reference: the claims by part, and a page for each optimizer."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import claims, generated, reference

COMMENT = re.compile(r"<!-- generated: (claims|optimizers?|forward) ([\w-]+) -->")
PAGES: dict[str, Callable[[str], str]] = {
    "claims": lambda part: (
        generated.claims_list() if part == "list" else generated.claims_page(part)
    ),
    "optimizer": reference.optimizer_page,
    "optimizers": lambda _: reference.optimizers_list(),
    "forward": lambda _: reference.forward(),
}


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put what is generated where the page's comments are."""
    if COMMENT.search(source[0]) is None:
        return
    for path in (*claims.claim_files(), *claims.test_files(), ROOT / "_toc.yml"):
        app.env.note_dependency(str(path))
    source[0] = COMMENT.sub(lambda m: PAGES[m[1]](m[2] or ""), source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
