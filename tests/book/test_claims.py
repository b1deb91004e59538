"""Every theorem has a row, every row that holds has a test, and no more."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import claim_from_marker
from tools import address, claims, generated

CLAIMS = claims.all_claims()
CHECKS = claims.all_checks()


def chapters() -> dict[str, str]:
    """The text of each chapter, by the name its claims use."""
    base = address.ROOT / "chapters"
    return {
        path.relative_to(base).with_suffix("").as_posix(): markdown(path)
        for path in address.notebooks()
    }


def markdown(path: Path) -> str:
    from tools import notebook

    cells = notebook.read(path).cells
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def test_ids_and_labels_are_unique() -> None:
    assert CLAIMS
    assert max(Counter(claim.id for claim in CLAIMS).values()) == 1
    labelled = Counter(claim.label for claim in CLAIMS if claim.label)
    assert max(labelled.values()) == 1


def test_every_theorem_has_a_row() -> None:
    rows = {(claim.chapter, claim.label) for claim in CLAIMS}
    found = [
        (chapter, label)
        for chapter, text in chapters().items()
        for label in claims.labels(text)
    ]
    assert found
    assert not [theorem for theorem in found if theorem not in rows]


def test_every_label_of_a_row_exists_and_gives_the_id() -> None:
    texts = chapters()
    for claim in CLAIMS:
        assert claim.chapter in texts, claim
        if claim.label:
            assert claim.label in claims.labels(texts[claim.chapter]), claim
            assert claim.label.partition("-")[2] == claim.id, claim


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim.id for claim in CLAIMS])
def test_every_verdict_is_earned(claim: claims.Claim) -> None:
    if claim.verdict.startswith("holds"):
        assert claim.checks, "it is said to hold, and no test checks it"
    if claim.verdict == "not tested here":
        assert not claim.checks
    if claim.verdict in ("holds with limits", "does not reproduce here"):
        assert claim.note, "say which limits, or what happened instead"


def test_no_test_carries_an_unknown_id() -> None:
    known = {claim.id for claim in CLAIMS}
    unknown = {(c.path, i) for c in CHECKS for i in c.ids if i not in known}
    assert not unknown


PARTS = sorted({claim.chapter.partition("/")[0] for claim in CLAIMS})


def test_the_pages_show_every_claim_once() -> None:
    pages = {part: generated.claims_page(part) for part in PARTS}
    for claim in CLAIMS:
        for check in claim.checks:
            part = claim.chapter.partition("/")[0]
            assert f"{check.path}#L{check.line}" in pages[part]
    lines = "\n".join(pages.values()).splitlines()
    chapters_shown = len({claim.chapter for claim in CLAIMS})
    assert sum(line.startswith("| ") for line in lines) == (
        len(CLAIMS) + 2 * chapters_shown
    )


def test_every_part_has_a_page_and_the_list_counts_them_all() -> None:
    folder = address.ROOT / "chapters/reference/claims"
    assert sorted(path.stem for path in folder.glob("*.md")) == PARTS
    for part in PARTS:
        page = (folder / f"{part}.md").read_text(encoding="utf-8")
        assert f"<!-- generated: claims {part} -->" in page
    rows = generated.claims_list().splitlines()[2:]
    counts = [int(n) for row in rows for n in re.findall(r"\| (\d+)", row)]
    assert sum(counts) == len(CLAIMS)
    titles = [generated.title(chapter) for chapter in generated.in_book_order()]
    shown = [re.match(r"\| \[(.*)\]\(", row)[1] for row in rows]
    assert shown == [title for title in titles if title in shown]


@pytest.fixture
def test_file(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "test_x.py"
        path.write_text(text)
        return path

    return write


def test_figures_are_read_from_the_decorator(test_file, tmp_path: Path) -> None:
    path = test_file(
        "TOL = 1e-9\n"
        "@pytest.mark.claim('a', 'b', tol=TOL, trials=7)\n"
        "def test_a(claim): ...\n"
    )
    (check,) = claims.read_checks(path, tmp_path)
    assert (check.ids, check.tol, check.trials) == (("a", "b"), 1e-9, 7)
    assert generated.figures(check) == "tolerance 1e-09, 7 trials"


@pytest.mark.parametrize(
    "text",
    [
        "@pytest.mark.claim('a', tol=tolerance())\ndef test_a(): ...\n",
        "pytestmark = pytest.mark.claim('a')\n",
        "x = pytest.param(1, marks=pytest.mark.claim('a'))\n",
    ],
)
def test_figures_that_cannot_be_read_are_refused(test_file, tmp_path, text) -> None:
    with pytest.raises(ValueError, match="marker"):
        list(claims.read_checks(test_file(text), tmp_path))


def test_wrong_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text("- {id: a, statement: s, source: t, chapter: c, verdict: perhaps}")
    with pytest.raises(ValueError, match="verdict 'perhaps'"):
        claims.read_rows(path)
    path.write_text("- {id: a, source: t, chapter: c, verdict: holds}")
    with pytest.raises(ValueError, match="no statement"):
        claims.read_rows(path)


def test_wrong_markers_are_refused() -> None:
    marks = pytest.mark  # by another name: these are no claims of this test
    with pytest.raises(pytest.UsageError, match="trials="):
        claim_from_marker(marks.claim("a", tolerance=1).mark)
    with pytest.raises(pytest.UsageError, match="at least one id"):
        claim_from_marker(marks.claim().mark)
    with pytest.raises(pytest.UsageError, match="gives no tol="):
        _ = claim_from_marker(marks.claim("a", trials=3).mark).tol


def test_bars_do_not_split_a_row() -> None:
    assert generated.cell(r"$|x| \le \|x\|$") == r"$\|x\| \le \\|x\\|$"
