"""The pages the book writes about itself: its claims and its optimizers."""

from __future__ import annotations

import inspect
from pathlib import Path

from tools import address, claims

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("norms", "optimizers", "square-roots", "motion")


def cell(text: str) -> str:
    """Text for a cell of a markdown table: one line, its bars escaped."""
    return " ".join(text.split()).replace("|", r"\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(check: claims.Check) -> str:
    """Tolerance and trials of a test, in words."""
    words = []
    if check.tol is not None:
        words.append(f"tolerance {check.tol:g}")
    if check.trials is not None:
        words.append(f"{check.trials} trials")
    return ", ".join(words)


def test_link(check: claims.Check, root: Path = ROOT) -> str:
    """A test by its name, which says what it asserts, and where to read it."""
    name = check.name.removeprefix("test_").replace("_", " ")
    url = f"{address.repository(root)}/blob/v{address.version(root)}"
    link = f"[{name}]({url}/{check.path}#L{check.line})"
    return f"{link} ({figures(check)})" if figures(check) else link


def claim_row(claim: claims.Claim, root: Path = ROOT) -> list[str]:
    """What is claimed and by whom; what became of it and which tests say so."""
    statement = claim.statement
    if claim.label:
        statement = f"{{prf:ref}}`{claim.label}`: {statement}"
    verdict = f"**{claim.verdict}**" + (f": {claim.note}" if claim.note else "")
    tests = [f"· {test_link(check, root)}" for check in claim.checks]
    return [f"{statement}<br>*{claim.source}*", "<br>".join([verdict, *tests])]


def title(chapter: str, root: Path = ROOT) -> str:
    """The title of a chapter, from its first line."""
    from tools import notebook

    first = notebook.read(root / "chapters" / f"{chapter}.ipynb").cells[0].source
    return str(first).partition("\n")[0].lstrip("# ")


def claims_page(root: Path = ROOT) -> str:
    """One table for each chapter, in the order of the parts."""
    by_chapter: dict[str, list[claims.Claim]] = {}
    for claim in claims.all_claims(root):
        by_chapter.setdefault(claim.chapter, []).append(claim)
    blocks = []
    for chapter in sorted(
        by_chapter, key=lambda c: (PARTS.index(c.partition("/")[0]), c)
    ):
        rows = [claim_row(claim, root) for claim in by_chapter[chapter]]
        body = table(["Claim and source", "Verdict and tests"], rows)
        blocks.append(
            f"## {title(chapter, root)}\n\n[Read the chapter](/chapters/{chapter}.ipynb)"
            f"\n\n:::{{table}}\n:class: claims\n\n{body}\n:::"
        )
    return "\n\n".join(blocks)


def chapter_of(module: str, root: Path = ROOT) -> str | None:
    """The chapter that derives a module of ``anthology.optim``, if it exists."""
    stem = module.rpartition(".")[2].replace("_", "-")
    found = [
        path.relative_to(root).with_suffix("").as_posix()
        for path in address.notebooks(root)
        if path.stem == stem or path.stem.startswith(f"{stem}-")
    ]
    return found[0] if found else None


def chapter_link(chapter: str | None) -> str:
    if chapter is None:
        return ""
    return f"<br>[{Path(chapter).name.replace('-', ' ')}](/{chapter}.ipynb)"


def optimizers_page(root: Path = ROOT) -> str:
    """One row for each class of ``anthology.optim`` that carries a card."""
    from anthology import optim

    rows = []
    for name in optim.__all__:
        found = getattr(optim, name)
        card = getattr(found, "card", None)
        if not inspect.isclass(found) or card is None:
            continue
        derived = chapter_link(chapter_of(found.__module__, root))
        rows.append(
            [
                f"{{py:class}}`~anthology.optim.{name}`{derived}",
                card.problem,
                card.norm,
                f"{card.average}; keeps {card.state}",
                card.source,
            ]
        )
    head = ["Optimizer", "One step solves", "Norm", "Averages", "Source"]
    return table(head, rows)


def penalties() -> str:
    """What each class silently penalises; the chapter asks the classes themselves."""
    from anthology.lab.silent import penalty_table

    return penalty_table(ask=False)
