"""The template of a chapter, as questions about a notebook.

Each function names what breaks its rule and returns an empty list for a chapter
that keeps it. ``test_chapter_rules.py`` breaks each of them once.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import nbformat

from anthology import optim
from tests.book.spoken_numbers import constants, evidence, unsaid
from tools import address, notebook

SECTIONS = [
    "The question",
    "The rule",
    "One worked number",
    "The theorem",
    "Where it fails",
    "In the wild",
    "Takeaways",
    "Exercises",
    "Further",
    "What it costs",
    "Convention card",
    "History and credit",
]
# What a short chapter of the shelf may leave out, where it has nothing to say.
SHELF_MAY_SKIP = {"In the wild", "Further", "What it costs", "Convention card"}
MAX_STATEMENTS = 3  # before the theorem is over
MAX_SHARE = 0.25  # of a page's words in the section of the theorem
STATEMENT = re.compile(
    r"^:{3,}\{prf:(?:theorem|proposition|definition|lemma|corollary)\}\s*(.*)$",
    re.MULTILINE,
)
HEADING = re.compile(r"^## ([^\n:]*)[^\n]*$", re.MULTILINE)
MATH = re.compile(r"\$\$.*?\$\$|\$[^$]*\$", re.DOTALL)
# Decorations and operators: what is left of a formula are letters.
WORDY = re.compile(
    r"\\(?:text|mathrm|operatorname|tag|label|begin|end)\*?\s*\{[^{}]*\}"
    r"|\bC\^(?:\d|\\infty)|\\mathbb\s*\{?[A-Z]|_\{[^{}]*\}|_\\?\w"
)
LETTER = re.compile(
    r"(?:\\(tilde|hat|bar|dot|mathcal)(?![A-Za-z])[\s{]*)?(\\[A-Za-z]+|[A-Za-z])"
)
# Entries and their numbers, any two vectors, the identity, "of the order of".
COMMON = set("ijabxyeIO") | {r"\pi"}
PROOF = re.compile(r"^(:{3,})\{dropdown\} Proof.*?^\1\s*$", re.MULTILINE | re.DOTALL)
GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon",
    "ζ": "zeta", "η": "eta", "θ": "theta", "κ": "kappa", "λ": "lambda", "μ": "mu",
    "ν": "nu", "ξ": "xi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "varphi",
    "χ": "chi", "ψ": "psi", "ω": "omega", "Δ": "Delta", "Φ": "Phi", "Σ": "Sigma",
}  # fmt: skip
LETTERS = {f"\\{name}" for name in GREEK.values()} | {
    f"\\{name}" for name in ("epsilon", "phi", "pi", "Gamma", "Lambda", "Psi", "Omega")
}


def markdown(nb: nbformat.NotebookNode) -> str:
    return "\n\n".join(c.source for c in nb.cells if c.cell_type == "markdown")


def prose(text: str) -> str:
    """The words a reader reads: no formulas, no directives, no addresses."""
    text = re.sub(r"\$\$.*?\$\$", " ", text, flags=re.DOTALL)
    text = re.sub(r"\$[^$]*\$", " x ", text)
    text = re.sub(r"^:{3,}.*$|^:[\w-]+:.*$|^```.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\{[\w:]+\}`([^`]*)`", r"\1", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def count_words(text: str) -> int:
    return len(re.findall(r"[^\W_][\w’'-]*", prose(text)))


def sections(text: str) -> dict[str, str]:
    """The text under each heading of the second level; "" stands before them all."""
    edges = [(0, 0, ""), *((m.start(), m.end(), m[1].strip()) for m in _headings(text))]
    edges.append((len(text), len(text), "end"))
    return {name: text[end:start] for (_, end, name), (start, *_) in pairwise(edges)}


def _headings(text: str) -> Iterator[re.Match[str]]:
    return HEADING.finditer(text)


def is_short(nb: nbformat.NotebookNode) -> bool:
    """Whether it stands on the shelf, by the address under its title."""
    return "/chapters/shelf/" in nb.cells[0].source


def wrong_order(nb: nbformat.NotebookNode) -> list[str]:
    """The headings, unless they are those of the template in its order."""
    names = [match[1].strip() for match in _headings(markdown(nb))]
    spared = SHELF_MAY_SKIP - set(names) if is_short(nb) else set()
    return [] if names == [s for s in SECTIONS if s not in spared] else names


def early_statements(nb: nbformat.NotebookNode) -> list[str]:
    """Numbered statements up to the theorem's end, if they are too many."""
    text = markdown(nb)
    end = next(
        (m.start() for m in _headings(text) if m[1].strip() == SECTIONS[4]), None
    )
    found = STATEMENT.findall(text[:end])
    return found if len(found) > MAX_STATEMENTS else []


def long_theorem(nb: nbformat.NotebookNode) -> list[str]:
    """How many words the theorem has of how many, if it has too large a part."""
    text = markdown(nb)
    part, whole = count_words(sections(text).get("The theorem", "")), count_words(text)
    return [f"{part} of {whole} words"] if part > MAX_SHARE * whole else []


def letters(math: str) -> set[str]:
    """The letters of a formula, those with a hat or the like by themselves."""
    for sign, name in GREEK.items():
        math = math.replace(sign, f"\\{name} ")
    return {
        f"{accent} {name}".strip()
        for accent, name in LETTER.findall(WORDY.sub(" ", math))
        if len(name) == 1 or name in LETTERS
    }


def formulas(text: str) -> str:
    return " ; ".join(MATH.findall(text)).replace("$", " ")


def notation(root: Path = address.ROOT) -> set[str]:
    """The letters that the page of notation gives a meaning to."""
    page = (root / "chapters/reference/notation.md").read_text(encoding="utf-8")
    tables = page.partition("## The papers' symbols")[0].splitlines()
    rows = [line.split("|")[1] for line in tables if line.startswith("| $")]
    return set().union(*(letters(formulas(row)) for row in rows))


def own_letters(nb: nbformat.NotebookNode) -> set[str]:
    """The letters that a chapter says are its own, in the table under its title.

    What stands after "=" in that row explains a letter and is not one of them.
    """
    row = re.search(
        r"^\|\s*\*\*Own letters\*\*\s*\|(.*)\|\s*$", markdown(nb), re.MULTILINE
    )
    named = [math.partition("=")[0] for math in MATH.findall(row[1])] if row else []
    return letters(" ; ".join(named))


def taken_letters(nb: nbformat.NotebookNode, root: Path = address.ROOT) -> list[str]:
    """Letters of the chapter's own that the page of notation has given away."""
    return sorted(own_letters(nb) & notation(root))


def homeless_letters(nb: nbformat.NotebookNode) -> list[str]:
    """Letters of the running text that neither page nor table gives a meaning to."""
    told = sections(PROOF.sub("", markdown(nb)))
    text = "\n\n".join(part for name, part in told.items() if name != "Exercises")
    home = notation() | own_letters(nb) | COMMON
    velocities = {f"dot {letter}" for letter in home}
    return sorted(letters(formulas(text)) - home - velocities)


def late_figure(nb: nbformat.NotebookNode) -> list[str]:
    """The first heading but one, or statement, if it comes before any picture."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            late = [m[0] for m in _headings(cell.source) if m[1].strip() != SECTIONS[0]]
            late += [m[0] for m in STATEMENT.finditer(cell.source)]
            if late:
                return late[:1]
        elif any(_is_picture(output) for output in cell.outputs):
            return []
    return ["no picture at all"]


def _is_picture(output: nbformat.NotebookNode) -> bool:
    data = output.get("data", {})
    return "image/svg+xml" in data or "<svg" in data.get("text/html", "")


def bare_imports(nb: nbformat.NotebookNode) -> list[str]:
    """Imports that stand open in the first cell that is run by a reader."""
    code = [c for c in nb.cells if c.cell_type == "code"]
    for cell in code:
        tags = set(cell.metadata.get("tags", []))
        if "colab" in tags:
            continue
        found = re.findall(r"^(?:import|from) .*$", cell.source, re.MULTILINE)
        return [] if tags & {"hide-input", "hide-cell"} else found
    return []


def live_cells(nb: nbformat.NotebookNode) -> list[str]:
    """The live cells, unless there is exactly one."""
    found = [cell.source for cell in nb.cells if notebook.is_live(cell)]
    return [] if len(found) == 1 else (found or ["no lab.explore"])


def captions(nb: nbformat.NotebookNode) -> list[str]:
    """What stands under each figure, drawings in HTML included."""
    found = []
    for cell in nb.cells:
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        found.append(figure.get("caption", ""))
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            inside = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", html, re.DOTALL)
            found += [re.sub(r"<output.*?</output>|<[^>]*>", " ", x) for x in inside]
    return [caption for caption in found if caption.strip()]


def raw_formulas(nb: nbformat.NotebookNode) -> list[str]:
    """Captions that would show a reader signs of TeX, as in η^k."""
    bare = re.compile(r"\$[^$]*\$|`[^`]*`")
    return [c for c in captions(nb) if re.search(r"[\^_]|\\[a-z]", bare.sub("", c))]


def unsaid_numbers(nb: nbformat.NotebookNode) -> list[str]:
    """Numbers that the first sentence, captions and takeaways alone speak of."""
    text = markdown(nb)
    opening = re.split(r"\n\s*\n", text)[1:2]
    claims = [*opening, *captions(nb), sections(text).get("Takeaways", "")]
    return [
        f"{number!r} in: {claim.strip()[:70]}"
        for claim in claims
        for number in unsaid(claim, *evidence(nb.cells))
    ]


def unsaid_on_the_front_page(root: Path = address.ROOT) -> list[str]:
    """Numbers of the first page and of the cards that no cell or test has said."""
    page = (root / "intro.md").read_text(encoding="utf-8")
    page = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    cards = [getattr(getattr(optim, name), "card", None) for name in optim.__all__]
    answers = [getattr(card, "answer", "") for card in cards]
    notebooks = [nbformat.read(path, as_version=4) for path in address.notebooks(root)]
    written, shown = evidence(cell for nb in notebooks for cell in nb.cells)
    for path in (root / "tests").rglob("*.py"):
        written |= constants(path.read_text(encoding="utf-8"))
    return [n for text in (page, *answers) for n in unsaid(text, written, shown)]


Rule = Callable[[nbformat.NotebookNode], list[str]]
RULES: list[Rule] = [
    wrong_order,
    early_statements,
    long_theorem,
    taken_letters,
    homeless_letters,
    late_figure,
    bare_imports,
    live_cells,
]
