"""The pages the book writes about itself: its claims and its optimizers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tools import address, claims

ROOT = Path(__file__).resolve().parent.parent


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


def in_book_order(root: Path = ROOT) -> list[str]:
    """The chapters as claims name them, ``optimizers/adam``, in their order."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [
        entry["file"].removeprefix("chapters/")
        for part in toc["parts"]
        if part.get("numbered")
        for entry in part["chapters"]
    ]


def by_chapter(root: Path = ROOT) -> dict[str, list[claims.Claim]]:
    """The claims under the chapters that make them, in the order of the book."""
    found: dict[str, list[claims.Claim]] = {c: [] for c in in_book_order(root)}
    for claim in claims.all_claims(root):
        found[claim.chapter].append(claim)
    return {chapter: rows for chapter, rows in found.items() if rows}


def claims_page(part: str, root: Path = ROOT) -> str:
    """One table for each chapter of a part."""
    blocks = []
    for chapter, found in by_chapter(root).items():
        if chapter.partition("/")[0] != part:
            continue
        body = table(
            ["Claim and source", "Verdict and tests"],
            [claim_row(claim, root) for claim in found],
        )
        blocks.append(
            f"## {title(chapter, root)}\n\n[Read the chapter](/chapters/{chapter}.ipynb)"
            f"\n\n:::{{table}}\n:class: claims\n\n{body}\n:::"
        )
    return "\n\n".join(blocks)


def claims_list(root: Path = ROOT) -> str:
    """How many claims of each chapter got which verdict, and where to read them."""
    rows = []
    for chapter, found in by_chapter(root).items():
        part = chapter.partition("/")[0]
        verdicts = Counter(claim.verdict for claim in found)
        link = f"[{title(chapter, root)}](/chapters/reference/claims/{part}.md)"
        rows.append([link, *(str(verdicts[v] or "–") for v in claims.VERDICTS)])
    head = ["Chapter", *(verdict.capitalize() for verdict in claims.VERDICTS)]
    return table(head, rows)


# Modules whose chapter has another name
DERIVED = {"escape": "prodigy"}


def chapter_of(module: str, root: Path = ROOT) -> str | None:
    """The chapter that derives a module of ``anthology.optim``, if it exists."""
    stem = module.rpartition(".")[2].replace("_", "-")
    stem = DERIVED.get(stem, stem)
    found = [
        path.relative_to(root).with_suffix("").as_posix()
        for path in address.notebooks(root)
        if path.stem == stem or path.stem.startswith(f"{stem}-")
    ]
    return found[0] if found else None


def penalties() -> str:
    """What each class silently penalises; the chapter asks the classes themselves."""
    from anthology.lab.silent import penalty_table

    return f":::{{table}}\n:class: penalties\n\n{penalty_table(ask=False)}\n:::"


def first_rates(root: Path = ROOT) -> list[dict[str, Any]]:
    """The table that experiments/first_rates.py has stored."""
    stored = root / "experiments" / "results" / "first_rates.json"
    found: list[dict[str, Any]] = json.loads(stored.read_text())["table"]
    return found


def first_rate_line(name: str, root: Path = ROOT) -> str:
    """What the docstring of a class says of its first rate, in one line."""
    rows = [row for row in first_rates(root) if row["class"] == name]
    rates = {row["given"]: f"{row['first']:g}" for row in rows}
    changed = rates.get("metrize")
    other = f"with ``metrize`` {changed}" if changed else "``metrize`` changes nothing"
    return f"Rate to try first: {rates['plain']}; {other}."


def multiples(found: dict[str, list[float]]) -> str:
    """Losses on the two problems, as multiples of AdamW's; medians."""
    return ", ".join(f"{found[where][0]:.2f}" for where in ("digits", "text"))


def span(ends: list[float]) -> str:
    """A range of rates."""
    low, high = ends
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def first_rates_page(root: Path = ROOT) -> str:
    """One row for each class and what it is given."""
    head = ["Optimizer", "Out of the box", "Try first"]
    head += ["Good on digits", "Good on text", "Best: digits; 4 × width; 4 × batch"]
    rows = []
    for row in first_rates(root):
        given = ", `metrize`" if row["given"] == "metrize" else ""
        own = "–"
        if "default" in row:
            own = f"{row['default']:g} ({multiples(row['at default'])})"
        rows.append(
            [
                f"`{row['class']}`{given}",
                own,
                f"{row['first']:g} ({multiples(row['at first'])})",
                *(span(row["good"][where]) for where in ("digits", "text")),
                "; ".join(f"{rate:g}" for rate in row["best"].values()),
            ]
        )
    return table(head, rows)
