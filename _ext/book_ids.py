"""Takes out ids that the directives for proofs and exercises repeat.

Each proof without a label is called ``proof``, and the body of each theorem
``proof-content``: two on one page are invalid, and no link uses them.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx

REPEATED = {"proof", "proof-content", "exercise-content", "solution-content"}


def drop_repeated(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for node in doctree.findall(nodes.Element):
        if REPEATED & set(node.get("ids", ())):
            node["ids"] = [name for name in node["ids"] if name not in REPEATED]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", drop_repeated, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
