"""Sets the drawings of notebooks into the page itself, so that they follow it.

An ``<img>`` cannot see whether the page is light or dark. A figure drawn by
``anthology.lab`` is therefore written into the page as SVG, with the text of its
cell's ``image.alt`` for those who cannot see it. One wider than the text is cut
between its panels, and a phone shows these under each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

OPENING = re.compile(
    r'<svg class="an-figure" xmlns="[^"]*" width="\d+" height="\d+" '
    r'viewBox="0 0 (?P<width>[\d.]+) (?P<height>[\d.]+)"'
    r'(?: data-cut="(?P<cuts>[\d. ]+)")? color="[^"]*" (?P<rest>[^>]*)>'
    r"<rect [^>]*/>(?P<drawing><g id=\"(?P<name>\w+)\">.*)</svg>\s*",
    re.DOTALL,
)


def inline(text: str, alt: str) -> str | None:
    """The figure as HTML, or None for a picture that is none of ours."""
    found = OPENING.fullmatch(text)
    if found is None:
        return None
    edges = [0.0, *map(float, (found["cuts"] or "").split()), float(found["width"])]
    panels = "".join(_panels(found, edges, alt))
    return f'<div class="an-native">{panels}</div>'


def _panels(found: re.Match[str], edges: list[float], alt: str) -> Iterator[str]:
    """The drawing in the first column; the others show it again, further right."""
    said = f'role="img" aria-label="{escape(alt, quote=True)}"'
    drawing = found["drawing"]
    for left, right in pairwise(edges):
        wide = right - left
        yield (
            f'<svg class="an-figure" {said} '
            f'viewBox="{left:g} 0 {wide:g} {found["height"]}" '
            f'style="--wide:{wide * 4 / 3:.0f}" {found["rest"]}>{drawing}</svg>'
        )
        said, drawing = 'aria-hidden="true"', f'<use href="#{found["name"]}"/>'


def set_in(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        path = Path(app.srcdir, image["uri"])
        if path.suffix != ".svg" or not path.is_file():
            continue
        html = inline(path.read_text(encoding="utf-8"), image.get("alt", ""))
        if html is not None:
            image.replace_self(nodes.raw("", html, format="html"))


def fold_checks(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if app.builder.format != "html":
        return
    for output in doctree.findall(nodes.container):
        if "cell_output" in output.get("classes", ()) and _has_figure(output):
            for printed in [n for n in output.children if _is_checks(n)]:
                output.remove(printed)
                count = len(printed.astext().strip().splitlines())
                said = "1 check holds" if count == 1 else f"{count} checks hold"
                opening = f'<details class="an-checks"><summary>{said}</summary>'
                output += nodes.raw("", opening, format="html")
                output += printed
                output += nodes.raw("", "</details>", format="html")


def _has_figure(output: nodes.Element) -> bool:
    return any(
        isinstance(node, nodes.figure | nodes.image)
        or (isinstance(node, nodes.raw) and 'class="an-' in node.astext())
        for node in output.findall()
    )


def _is_checks(node: nodes.Node) -> bool:
    """Whether a printed text is lines of ``lab.check`` and nothing else."""
    return isinstance(node, nodes.literal_block) and all(
        line.startswith("ok  ") for line in node.astext().strip().splitlines()
    )


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", fold_checks)
    app.connect("doctree-resolved", set_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
