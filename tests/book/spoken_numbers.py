"""The numbers that a sentence speaks, and whether some code said them.

A caption, a takeaway and a sentence of the front page are claims. Each number in
them must be one that code computes with or has printed: rounded as the sentence
rounds it, or written as a percentage.
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

import nbformat

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
VULGAR = {"½": "0.5", "¼": "0.25", "¾": "0.75"}
# One to twelve read as words, not as measurements; from thirteen on they count.
TEENS = [
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
WORDS = {word: 13 + i for i, word in enumerate(TEENS)}
WORDS |= {word: 20 + 10 * i for i, word in enumerate(TENS)}
WORDS |= {"hundred": 100, "thousand": 1000, "million": 10**6, "millionfold": 10**6}
POWER = re.compile(
    r"(?:(\d[\d.]*)\s*(?:·|×|\\cdot|\\times)\s*)?(?<![\d.])10\^\{?(-?\d+)\}?"
)
FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))")
# What looks like a number and is part of a name or of a formula's shape.
NAMES = re.compile(
    r"`[^`]*`|\{[\w:]+\}|\]\([^)]*\)|[_^]\{[^{}]*\}|[_^]\S|(?<![\w.])[^\W\d_][\w₀-₉]*\d[\w.]*"
)
NUMBER = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
)
WORD = re.compile(rf"\b(?:{'|'.join(WORDS)})\b(?!s\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Spoken:
    """A number as a sentence writes it."""

    text: str
    value: Decimal
    percent: bool = False

    @property
    def places(self) -> int:
        """Digits it shows after the point."""
        return max(0, -int(self.value.as_tuple().exponent))

    @property
    def digits(self) -> int:
        """Digits that say something: 5.36 has three, 400 one."""
        whole = self.value if self.places else self.value.normalize()
        return len(whole.as_tuple().digits)


def plain_powers(text: str) -> str:
    """Powers of ten and fractions in figures: 10⁻⁸ and 10^{-8} are 1e-8."""
    for sign, value in VULGAR.items():
        text = text.replace(sign, value)
    text = re.sub(
        r"(?<=10)[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^" + m[0].translate(SUPERSCRIPTS), text
    )
    text = POWER.sub(lambda m: f" {m[1] or 1}e{m[2]} ", text)
    return FRACTION.sub(lambda m: f" {m[1] or m[2]} {m[3] or m[4]} ", text)


def spoken(text: str) -> list[Spoken]:
    """The numbers in a sentence, names and exponents of letters left out."""
    text = plain_powers(text)
    kept = NAMES.sub(" ", text)
    found = []
    for match in NUMBER.finditer(kept):
        percent = re.match(r"\s*\\?(?:%|per cent)", kept[match.end() :]) is not None
        value = Decimal(match[0].replace(",", ""))
        found.append(Spoken(match[0], value, percent))
    found += [Spoken(m[0], Decimal(WORDS[m[0].lower()])) for m in WORD.finditer(kept)]
    return found


def constants(source: str) -> set[Decimal]:
    """The numbers a piece of Python computes with; words and comments are none."""
    lines = [x for x in source.splitlines() if not x.lstrip().startswith(("%", "!"))]
    return {
        Decimal(repr(node.value))
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.Constant)
        and type(node.value) in (int, float)
        and abs(node.value) < float("inf")
    }


def printed(output: nbformat.NotebookNode) -> str:
    """The words of an output. The coordinates of a drawing are no words."""
    data = output.get("data", {})
    html = re.sub(
        r"<(svg|script|style)\b.*?</\1>",
        " ",
        data.get("text/html", ""),
        flags=re.DOTALL,
    )
    if data.get("text/html"):
        return re.sub(
            r"<figcaption.*?</figcaption>|<[^>]*>", " ", html, flags=re.DOTALL
        )
    if any(kind.startswith("image/") for kind in data):
        return ""
    return str(output.get("text", "")) + str(data.get("text/plain", ""))


def evidence(cells: Iterable[nbformat.NotebookNode]) -> tuple[set[Decimal], ...]:
    """What cells of code compute with, and what they have printed."""
    written: set[Decimal] = set()
    shown: set[Decimal] = set()
    for cell in cells:
        if cell.cell_type != "code" or "colab" in cell.metadata.get("tags", []):
            continue
        written |= constants(cell.source)
        for output in cell.get("outputs", []):
            text = plain_powers(printed(output))
            shown |= {Decimal(n.replace(",", "")) for n in NUMBER.findall(text)}
    return written, shown


def is_said(number: Spoken, written: set[Decimal], shown: set[Decimal]) -> bool:
    """Whether code has said it, exactly, in per cent or in more digits."""
    scales = (1, 100) if number.percent else (1,)
    for scale in scales:
        if any(value * scale == number.value for value in written | shown):
            return True
        # one digit is too little to recognise a rounded number by
        if number.digits > 1 and any(
            round(value * scale, number.places) == number.value for value in shown
        ):
            return True
    return False


def unsaid(text: str, written: set[Decimal], shown: set[Decimal]) -> list[str]:
    """The numbers of a text that no code has said."""
    return [n.text for n in spoken(text) if not is_said(n, written, shown)]
