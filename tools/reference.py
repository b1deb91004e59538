"""The pages of reference that are made of the package: a page for each optimizer."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from tools import generated

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "chapters/reference/optim"
OLD_PAGE = "anthology.optim."  # how the anchors of the one old page began
# An address of the old page, which held everything, leads to the page it is on now.
FORWARD = """<script>
{
  const asked = decodeURIComponent(location.hash.slice(1)), names = asked.split(".");
  while (names.length > 2 && !document.getElementById(names.join("."))) names.pop();
  const entry = names.length > 2 && document.getElementById(names.join("."));
  const link = entry && entry.closest("li")?.querySelector("a");
  if (link) location.replace(link.href.split("#")[0] + location.hash);
}
</script>"""


def optimizers() -> dict[str, type]:
    """The classes of ``anthology.optim`` that carry a card, in the package's order."""
    from anthology import optim

    found = {name: getattr(optim, name) for name in optim.__all__}
    return {
        name: kind
        for name, kind in found.items()
        if inspect.isclass(kind) and hasattr(kind, "card")
    }


def file_of(name: str) -> str:
    """The page of a class, from the root of the book, without an ending."""
    return f"{FOLDER}/{name.lower()}"


def first_sentence(kind: type) -> str:
    """The first line of a docstring, its formulas and names as markdown."""
    line = (inspect.getdoc(kind) or "").partition("\n")[0]
    line = re.sub(r":math:`([^`]*)`", r"$\1$", line)
    return re.sub(r"``([^`]*)``", r"`\1`", line)


def optimizer_page(name: str, root: Path = ROOT) -> str:
    """Where the class is explained, and what its code says."""
    kind = optimizers()[name]
    chapter = generated.chapter_of(kind.__module__, root)
    read = (
        f"The chapter [{generated.title(chapter.partition('/')[2], root)}]"
        f"(/{chapter}.ipynb) derives it. "
        if chapter
        else ""
    )
    answer = getattr(kind.card, "answer", "")  # type: ignore[attr-defined]
    said = f"{name} {answer.rstrip('.')}.\n\n" if answer else ""
    return (
        f"{said}{read}Beside the others it stands in "
        "[the table of optimizers](/chapters/reference/optimizers.md).\n\n"
        f"```{{eval-rst}}\n.. autoclass:: anthology.optim.{name}\n"
        "   :members:\n   :show-inheritance:\n```"
    )


def optimizers_list() -> str:
    """One entry for each class, at the place where its anchor was before."""
    entries = [
        f'- <span id="{OLD_PAGE}{name}"></span>[{name}](/{file_of(name)}.md): '
        f"{first_sentence(kind)}"
        for name, kind in optimizers().items()
    ]
    return "\n".join(entries)


def forward() -> str:
    return f"```{{raw}} html\n{FORWARD}\n```"
