"""What the front page says besides its figures: answers, doors and chapters.

All of it is read from the cards of the classes and the first cells of the
chapters, so that the page grows with the book.
"""

from __future__ import annotations

from pathlib import Path

from anthology import optim
from tools import address, contents, front
from tools.cards import carded, marked, name_link
from tools.generated import chapter_of, table

ROOT = Path(__file__).resolve().parent.parent
# The names that readers come to ask about, in the order of their question.
ASKED = (
    "SGD",
    "Adam",
    "Lion",
    "Shampoo",
    "Muon",
    "Prodigy",
    "SOAP",
    "RootFreeRMSProp",
)


def answer_row(name: str, root: Path = ROOT) -> list[str]:
    """One question answered: what it is, its step, its norm and where to read on."""
    card = carded()[name]
    path = chapter_of(getattr(optim, name).__module__, root)
    read = {chapter.path: chapter for chapter in contents.chapters(root)}.get(
        path or ""
    )
    link = f"[{read.number}. {read.short}](/{read.path}.ipynb)" if read else ""
    return [
        f"{marked(name, card)} {card.answer}",
        card.update,
        card.norm,
        card.dual,
        link,
    ]


def answers(root: Path = ROOT) -> str:
    """The table that answers "what is …?", and where the other classes stand."""
    head = ["Optimizer", "One step", "Norm", "Dual norm", "Chapter"]
    body = table(head, [answer_row(name, root) for name in ASKED])
    others = ", ".join(name_link(name) for name in carded() if name not in ASKED)
    return (
        f":::{{table}}\n:class: optimizers answers\n\n{body}\n:::\n\n"
        f":::{{container}} others\nAlso in the package: {others}. "
        "[The table of optimizers](/chapters/reference/optimizers.md) has them all.\n:::"
    )


def doors(root: Path = ROOT) -> str:
    """Three ways in: to read, to run and to import."""
    first = contents.chapters(root)[0]
    colab = address.colab_link(f"{first.path}.ipynb", root)
    read = (
        f"**Read.** Begin with [{first.short.lower()}](/{first.path}.ipynb): "
        f"{first.minutes} minutes, and the language of all the others."
    )
    run = (
        f"**Run.** [Open it in Colab]({colab}): every figure and every check of a "
        "chapter is a cell, and none downloads data."
    )
    load = (
        "**Import.** Every optimizer is a `torch.optim.Optimizer`: [ten lines that "
        "train](#how-to-use), [the API](/chapters/reference/api.md)."
    )
    panels = "\n\n".join(f":::{{container}}\n{text}\n:::" for text in (read, run, load))
    return f"::::{{container}} doors\n{panels}\n::::\n\n{front.install()}"


def lengths(root: Path = ROOT) -> str:
    """Five minutes, an evening, all of it."""
    all_of_it = contents.chapters(root)
    evening = all_of_it[:2]
    links = " and ".join(f"[{c.short}](/{c.path}.ipynb)" for c in evening)
    return (
        "- **Five minutes**: this page, its first figure and its answers.\n"
        f"- **An evening**: {links}, {sum(c.minutes for c in evening)} minutes and "
        "their exercises.\n"
        f"- **All of it**: {len(all_of_it)} chapters, "
        f"{sum(c.minutes for c in all_of_it)} minutes to read, and longer to do."
    )


def chapter_map(root: Path = ROOT) -> str:
    """Every chapter with its first sentence, under the name of its part."""
    rows = [
        [c.part, f"**[{c.number}. {c.title}](/{c.path}.ipynb)**<br>{c.claim}"]
        for c in contents.chapters(root)
    ]
    body = table(["Part", "Chapter, and what it says"], rows)
    return f":::{{table}}\n:class: map\n\n{body}\n:::"
