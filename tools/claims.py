"""What the book claims, and which test checks it.

Rows come from ``chapters/reference/claims/*.yml``; tests declare themselves
with ``@pytest.mark.claim("id", tol=..., trials=...)``, which is read from
their source, so that nothing has to be imported to build the page.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
VERDICTS = (
    "holds",
    "holds with limits",
    "does not reproduce here",
    "not tested here",
)
REQUIRED = ("id", "statement", "source", "chapter", "verdict")
OPTIONAL = ("label", "note")
LABEL = re.compile(r"^:label:\s*((?:thm|prop)-[\w-]+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Check:
    """One test that carries a claim's id, and the figures it was given."""

    path: str
    name: str
    line: int
    ids: tuple[str, ...]
    tol: float | None
    trials: int | None


@dataclass(frozen=True)
class Claim:
    """One row of the page."""

    id: str
    statement: str
    source: str
    chapter: str
    verdict: str
    label: str | None = None
    note: str | None = None
    checks: list[Check] = field(default_factory=list, compare=False)


def claim_files(root: Path = ROOT) -> list[Path]:
    return sorted((root / "chapters/reference/claims").glob("*.yml"))


def test_files(root: Path = ROOT) -> list[Path]:
    return sorted((root / "tests").rglob("test_*.py"))


def read_rows(path: Path) -> list[Claim]:
    """The rows of one file.

    Raises
    ------
    ValueError
        For a row with a missing or unknown key, or an unknown verdict.
    """
    rows = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    claims = []
    for number, row in enumerate(rows, 1):
        place = f"{path.name}, row {number}"
        if missing := [key for key in REQUIRED if not row.get(key)]:
            raise ValueError(f"{place}: no {', '.join(missing)}")
        if unknown := sorted(set(row) - {*REQUIRED, *OPTIONAL}):
            raise ValueError(f"{place}: unknown keys {unknown}")
        if row["verdict"] not in VERDICTS:
            raise ValueError(
                f"{place}: verdict {row['verdict']!r}, not one of {VERDICTS}"
            )
        words = {key: str(value).strip() for key, value in row.items() if value}
        claims.append(
            Claim(
                id=words["id"],
                statement=words["statement"],
                source=words["source"],
                chapter=words["chapter"],
                verdict=words["verdict"],
                label=words.get("label"),
                note=words.get("note"),
            )
        )
    return claims


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Module-level names a marker may use for its figures."""
    return {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _marker(node: ast.expr) -> ast.Call | None:
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.claim"):
        return node
    return None


def read_checks(path: Path, root: Path = ROOT) -> Iterator[Check]:
    """The marked tests of one file.

    Raises
    ------
    ValueError
        For a marker that is no decorator of a test, or whose figures are
        neither literals nor constants of the module: the page could not tell
        what the test uses.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = _constants(tree)
    place = path.relative_to(root).as_posix()
    decorators = set()

    def value(node: ast.expr) -> object:
        if isinstance(node, ast.Name):
            node = constants.get(node.id, node)
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ValueError(
                f"{place}, line {node.lineno}: write the marker's figures as "
                "literals or as constants of the module"
            ) from None

    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in filter(None, map(_marker, function.decorator_list)):
            decorators.add(id(call))
            figures = {k.arg: value(k.value) for k in call.keywords}
            yield Check(
                place,
                function.name,
                function.lineno,
                tuple(str(value(argument)) for argument in call.args),
                figures.get("tol"),  # type: ignore[arg-type]
                figures.get("trials"),  # type: ignore[arg-type]
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and _marker(node) and id(node) not in decorators:
            raise ValueError(
                f"{place}, line {node.lineno}: the claim marker must decorate a test"
            )


def all_checks(root: Path = ROOT) -> list[Check]:
    return [check for path in test_files(root) for check in read_checks(path, root)]


def all_claims(root: Path = ROOT) -> list[Claim]:
    """Every row of every file, with the tests that carry its id."""
    checks = all_checks(root)
    claims = []
    for path in claim_files(root):
        for claim in read_rows(path):
            claim.checks.extend(c for c in checks if claim.id in c.ids)
            claims.append(claim)
    return claims


def labels(chapter: str) -> list[str]:
    """Labels of the theorems and propositions in a chapter's text."""
    return LABEL.findall(chapter)
