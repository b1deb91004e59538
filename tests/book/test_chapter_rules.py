"""Each rule of the template is broken once, and must be the one that notices."""

from collections.abc import Callable

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.book import chapter_rules, spoken_numbers
from tests.book.chapter_rules import RULES, SECTIONS, Rule, raw_formulas, unsaid_numbers

Notebook = nbformat.NotebookNode
ALL: list[Rule] = [*RULES, raw_formulas, unsaid_numbers]
OPENING = """# A rule

It is half as long.

| | |
|---|---|
| **Own letters** | $Q=S/g$ a rotation, $c>0$ a factor |"""
THEOREM = """:::{prf:theorem} One
:label: thm-one

$Q$ turns $c\\,\\dot w$ of class $C^1$.
:::"""
FIGURE = {
    "tags": ["hide-input"],
    "mystnb": {
        "figure": {"name": "fig-one", "caption": "From 5.406 to 5.362 at $\\eta^2$."}
    },
}


def section(name: str) -> Notebook:
    return new_markdown_cell(f"## {name}\n\n" + "word " * 40)


def good() -> Notebook:
    """A chapter that keeps every rule."""
    picture = new_output("display_data", {"image/svg+xml": "<svg>5.999</svg>"})
    said = new_output("stream", text="ok  sharpness falls to 5.3618\n")
    first = new_code_cell(
        "import torch\nassert sharpness < 5.406",
        metadata=FIGURE,
        outputs=[said, picture],
    )
    cells = {name: [section(name)] for name in SECTIONS}
    cells["The question"].append(first)
    cells["The theorem"].append(new_markdown_cell(THEOREM))
    cells["Takeaways"].append(new_markdown_cell("**It ends at 5.36.**"))
    cells["Exercises"].append(new_code_cell("lab.explore(draw, rate=(0.1, 1.0))"))
    body = [cell for group in cells.values() for cell in group]
    return new_notebook(cells=[new_markdown_cell(OPENING), *body])


def find(nb: Notebook, start: str) -> Notebook:
    return next(cell for cell in nb.cells if cell.source.startswith(start))


def swap_sections(nb: Notebook) -> None:
    one, two = find(nb, "## Further"), find(nb, "## What it costs")
    one.source, two.source = two.source, one.source


def state_four(nb: Notebook) -> None:
    more = THEOREM.replace("theorem", "definition").replace("One", "More")
    find(nb, "## One worked").source += "\n\n" + "\n\n".join([more] * 3)


def prove_at_length(nb: Notebook) -> None:
    find(nb, "## The theorem").source += "\n\n" + "and so on " * 100


def take_a_letter(nb: Notebook) -> None:
    nb.cells[0].source = OPENING.replace("$Q=S/g$ a", "$Q,S$ a")


def use_a_strange_letter(nb: Notebook) -> None:
    find(nb, "## The rule").source += "\n\nThen $Z\\,w$."


def show_no_figure_first(nb: Notebook) -> None:
    find(nb, "import").outputs.pop()


def open_the_imports(nb: Notebook) -> None:
    find(nb, "import").metadata.tags = []


def leave_out_the_live_cell(nb: Notebook) -> None:
    nb.cells.remove(find(nb, "lab.explore"))


def live_twice(nb: Notebook) -> None:
    nb.cells.append(find(nb, "lab.explore"))


def caption(text: str) -> Callable[[Notebook], None]:
    def say(nb: Notebook) -> None:
        find(nb, "import").metadata.mystnb.figure.caption = text

    return say


def conclude(nb: Notebook) -> None:
    find(nb, "**It ends").source = "**It ends at 5.35.**"


def number_only_drawn(nb: Notebook) -> None:
    find(nb, "**It ends").source = "**It ends at 5.999.**"


def number_only_remarked(nb: Notebook) -> None:
    find(nb, "import").source += "  # 7.25"
    find(nb, "**It ends").source = "**It ends at 7.25.**"


def number_in_the_first_sentence(nb: Notebook) -> None:
    nb.cells[0].source = OPENING.replace("half", "sixteen times")


BROKEN = [
    (swap_sections, chapter_rules.wrong_order),
    (state_four, chapter_rules.early_statements),
    (prove_at_length, chapter_rules.long_theorem),
    (take_a_letter, chapter_rules.taken_letters),
    (use_a_strange_letter, chapter_rules.homeless_letters),
    (show_no_figure_first, chapter_rules.late_figure),
    (open_the_imports, chapter_rules.bare_imports),
    (leave_out_the_live_cell, chapter_rules.live_cells),
    (live_twice, chapter_rules.live_cells),
    (caption("The terms η^k."), raw_formulas),
    (caption("The norm ‖g‖_*."), raw_formulas),
    (caption("It rises to 5.37."), unsaid_numbers),
    (caption("It falls by 62 %."), unsaid_numbers),
    (conclude, unsaid_numbers),
    (number_only_drawn, unsaid_numbers),
    (number_only_remarked, unsaid_numbers),
    (number_in_the_first_sentence, unsaid_numbers),
]


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.__name__)
def test_a_good_chapter_passes(rule: Rule) -> None:
    assert rule(good()) == []


@pytest.mark.parametrize("skipped", SECTIONS)
def test_a_short_chapter_may_skip_what_it_has_nothing_to_say_on(skipped: str) -> None:
    nb = good()
    nb.cells.remove(find(nb, f"## {skipped}"))
    assert chapter_rules.wrong_order(nb)
    nb.cells[0].source += "\n\n[Open this chapter in Colab](x/chapters/shelf/y.ipynb)"
    may = skipped in chapter_rules.SHELF_MAY_SKIP
    assert (chapter_rules.wrong_order(nb) == []) is may


@pytest.mark.parametrize(("mutate", "noticed"), BROKEN)
def test_a_broken_rule_is_noticed_by_its_lint_alone(
    mutate: Callable[[Notebook], None], noticed: Rule
) -> None:
    nb = good()
    mutate(nb)
    assert [rule for rule in ALL if rule(nb)] == [noticed]


def test_every_rule_was_broken() -> None:
    assert {rule for _, rule in BROKEN} == set(ALL)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("5.406 → 5.362 as η goes 0.5 → 4e-3", ["5.406", "5.362", "0.5", "4e-3"]),
        ("2.5·10⁻³, $10^{-8}$ and $3\\cdot10^4$", ["2.5e-3", "1e-8", "3e4"]),
        ("$\\frac12$, ½ and 12,345", ["1", "2", "0.5", "12,345"]),
        ("as η², at β₁, in $w_0^2$, `lr=0.3`, fig. {numref}`fig-7`", []),
        ("one of twelve, thousands", []),
        ("seventeen steps, a hundred times", ["seventeen", "hundred"]),
        ("64-10 and 30°", ["64", "10", "30"]),
    ],
)
def test_the_numbers_of_a_sentence(text: str, numbers: list[str]) -> None:
    assert [n.text for n in spoken_numbers.spoken(text)] == numbers


@pytest.mark.parametrize(
    ("text", "shown", "said"),
    [
        ("5.36", "5.3618", True),
        ("5.35", "5.3618", False),
        ("81 %", "0.8137", True),
        ("0.81", "0.8137", True),
        ("81", "0.8137", False),
        ("5", "5.3618", False),
        ("400", "402.1", False),
        ("1,000", "1000", True),
    ],
)
def test_a_number_may_be_rounded_but_not_guessed(
    text: str, shown: str, said: bool
) -> None:
    values = {spoken_numbers.Decimal(shown)}
    assert (spoken_numbers.unsaid(text, set(), values) == []) is said


def test_the_page_of_notation_gives_letters_away() -> None:
    given = chapter_rules.notation()
    assert {"S", "k", "\\beta", "\\eta", "dot w", "tilde f", "hat m"} <= given
    assert not {"D", "Q", "a", "u", "c"} & given


def test_the_front_page_is_read() -> None:
    values = spoken_numbers.constants("x = 2 * 5.5  # 7\nprint('8')")
    assert {float(value) for value in values} == {2, 5.5}
    assert chapter_rules.unsaid("A step of 91.7.", values, set()) == ["91.7"]
