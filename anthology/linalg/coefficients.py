"""Odd polynomials ax + bx³ + cx⁵ that push singular values to one, in one named table.

A method is a sequence of them, composed. Polar Express is constructed, not copied.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from anthology.linalg import published
from anthology.linalg.published import Coefficients
from anthology.linalg.safe import require_positive_integer

PADE: Coefficients = (15 / 8, -10 / 8, 3 / 8)
"""The quintic with p(1) = 1, p'(1) = p''(1) = 0: the limit of Polar Express."""


@dataclass(frozen=True)
class CoefficientSet:
    """A named family of polynomials: ``build(steps)`` gives so many of them.

    ``steps`` is the default, ``most`` all there are (None: any number), ``credit`` whose.
    """

    build: Callable[[int], tuple[Coefficients, ...]]
    steps: int
    most: int | None
    credit: str


def minimax_quintic(lower: float, upper: float) -> Coefficients:
    """The odd quintic closest to the constant 1 on [lower, upper].

    Remez exchange (Amsel et al., arXiv 2505.16932, Thm 4.1, Alg. 3): alternate between
    the 4×4 linear system that makes the error equioscillate on four nodes and the two
    interior extrema of the polynomial so found; in rational arithmetic, as on a short
    interval it is close to singular. ValueError unless 0 < lower <= upper.
    """
    if not 0 < lower <= upper < float("inf"):
        raise ValueError(f"need 0 < lower <= upper, got {lower} and {upper}")
    if lower / upper >= 1 - 5e-6:
        # Here the error is below rounding and the four nodes nearly coincide; the
        # Padé polynomial about the centre is what the minimax ones tend to.
        return shrink(PADE, (lower + upper) / 2)
    q, r = (3 * lower + upper) / 4, (lower + 3 * upper) / 4
    previous = float("inf")
    for _ in range(100):
        a, b, c, error = _equioscillate((lower, q, r, upper))
        if abs(previous - error) <= 1e-15:
            break
        previous = error
        root = (9 * b * b - 20 * a * c) ** 0.5
        q = ((-3 * b - root) / (10 * c)) ** 0.5
        r = ((-3 * b + root) / (10 * c)) ** 0.5
    return a, b, c


def _equioscillate(nodes: tuple[float, ...]) -> list[float]:
    """(a, b, c, E) with p = 1 − E, 1 + E, 1 − E, 1 + E at the four nodes, exactly."""
    rows = []
    for sign, node in zip((1, -1, 1, -1), map(Fraction, nodes), strict=True):
        rows.append([node, node**3, node**5, Fraction(sign), Fraction(1)])
    for i, pivot in enumerate(rows):
        pivot[:] = [value / pivot[i] for value in pivot]
        for k, row in enumerate(rows):
            if k != i:
                row[:] = [v - row[i] * w for v, w in zip(row, pivot, strict=True)]
    return [float(row[-1]) for row in rows]


def evaluate(p: Coefficients, x: float) -> float:
    """p(x) for a triple p = (a, b, c)."""
    a, b, c = p
    return x * (a + x * x * (b + x * x * c))


def shrink(p: Coefficients, factor: float) -> Coefficients:
    """The polynomial x ↦ p(x/factor)."""
    a, b, c = p
    return a / factor, b / factor**3, c / factor**5


@lru_cache(maxsize=64)
def polar_express_coefficients(
    steps: int,
    lower: float = 1e-3,
    safety: float = 1.01,
    cushion: float = 0.02407327424182761,
    safety_inside: bool = False,
) -> tuple[Coefficients, ...]:
    """Construct the Polar Express polynomials by their greedy recursion.

    Each is the best odd quintic on the interval that the ones before it leave, which
    makes the composition the best of all. With ``safety=1, cushion=0`` its worst error
    on [lower, 1] is 1 − ℓ, ℓ the image of ``lower``. ValueError for what is out of range.

    Parameters
    ----------
    steps : int
        How many polynomials (a, b, c).
    lower : float
        The smallest singular value aimed at, relative to the Frobenius norm. Below
        the rounding of the products it needs a ``safety`` above 1.
    safety : float
        Every polynomial but the last becomes p(x/safety), so that singular values that
        rounding pushed above the interval stay in reach: 1.01 for bfloat16, 1 is off.
    cushion : float
        Keep the lower end of each interval above ``cushion`` times its upper end:
        gentler polynomials, less shaken by rounding. 0 is off.
    safety_inside : bool
        Let the recursion see the shrunk polynomials (the five of the dion package), not
        only the finished list (the eight of the paper).

    Source: Amsel et al., The Polar Express, arXiv 2505.16932, Thm 4.1, section 4.4.
    """
    for good, said, value in (
        (steps >= 1, "steps must be at least 1", steps),
        (0 < lower < 1, "lower must lie between 0 and 1", lower),
        (safety >= 1, "safety must be at least 1", safety),
        (0 <= cushion < 1, "cushion must lie in [0, 1)", cushion),
    ):
        if not good:
            raise ValueError(f"{said}, got {value}")
    low, high = lower, 1.0
    built: list[Coefficients] = []
    for step in range(steps):
        p = minimax_quintic(max(low, cushion * high), high)
        if cushion * high > low:
            # The cushion bites: re-centre, so that the images of the true ends
            # lie symmetrically about 1 again.
            centre = 2 / (evaluate(p, low) + evaluate(p, high))
            p = (p[0] * centre, p[1] * centre, p[2] * centre)
        wide = p if step == steps - 1 else shrink(p, safety)
        built.append(wide)
        low = evaluate(wide if safety_inside else p, low)
        low, high = min(low, 2 - low), 2 - low
    return tuple(built)


# What so few polynomials can bring near to one: aiming lower would leave the singular
# values above it further from one, and a step less steep (see `certificate`).
_LOWER = {1: 0.1, 2: 0.05, 3: 0.02, 4: 0.01, 5: 3e-3}


def _endless(
    p: Coefficients, steps: int, credit: str, *end: Coefficients
) -> CoefficientSet:
    """The same polynomial as often as one likes, and what it ends with."""
    return CoefficientSet(
        lambda count: ((p,) * (count - len(end)) + end)[-count:], steps, None, credit
    )


def _listed(
    polynomials: tuple[Coefficients, ...], credit: str, safety: float = 1.0
) -> CoefficientSet:
    """The first of a list, all but its last widened by the safety."""
    *wide, last = polynomials
    found = (*(shrink(p, safety) for p in wide), last)
    most = len(found)
    return CoefficientSet(lambda count: found[:count], most, most, credit)


COEFFICIENT_SETS: dict[str, CoefficientSet] = {
    "cubic": _endless(
        (1.5, -0.5, 0.0),
        20,
        "Newton–Schulz; Bernstein & Newhouse 2024, eq. 36. [0.001, 1] to [0.999, 1]",
    ),
    "pade": _endless(
        PADE,
        13,
        "Padé's quintic, p(1) = 1 and p′(1) = p″(1) = 0. [0.001, 1] to [0.999, 1]",
    ),
    "muon": _endless(
        published.MUON,
        5,
        "Keller Jordan, Muon, 2024. Fast and never exact: singular values end "
        "between 0.68 and 1.13, wherever they are above 0.01",
    ),
    "you": _listed(published.YOU, "You Jiacheng, 2024, six different quintics"),
    "quintic": _listed(
        published.QUINTIC,
        "Cesista, You & Jordan 2025, the default of timm and of Emerging-Optimizers; "
        "[0.001, 1] to [0.475, 1.145]",
    ),
    "cans": _listed(
        published.CANS,
        "CANS, Grishina, Smirnov & Rakhuba 2025; widened by 1.01, without which "
        "rounding makes it diverge: [0.001, 1] to [0.862, 1.114]",
        safety=1.01,
    ),
    "cubic5": _listed(
        published.CUBIC5,
        "Five cubics, arXiv 2606.00371, two products each; widened by 1.01, without "
        "which rounding turns directions round: [0.001, 1] to [0.114, 1.3]",
        safety=1.01,
    ),
    "aol": _listed(
        published.AOL,
        "Turbo-Muon, 2025, made for normalize='aol'; [0.001, 1] to [0.146, 1.051]",
    ),
    "deepseek": _endless(
        published.MUON,
        10,
        "DeepSeek-V4, 2026: those of 'muon', and at last two p(x) = 2x − 1.5x³ + 0.5x⁵; "
        "[0.001, 1] to [1, 1.001]",
        *(published.SETTLING, published.SETTLING),
    ),
    "polar-express": CoefficientSet(
        lambda steps: polar_express_coefficients(steps, _LOWER.get(steps, 1e-3)),
        6,
        None,
        "Amsel, Persson, Musco & Gower 2025, constructed by Remez exchange for singular "
        "values down to 1e-3, with 5, 4 or 3 steps down to 0.003, 0.01 or 0.02",
    ),
}
"""Every iterative method of ``polar``: name → coefficients, default steps, credit."""


def coefficients(method: str, steps: int | None = None) -> tuple[Coefficients, ...]:
    """The polynomials (a, b, c) of a named method, in the order of their application.

    ``method`` is a key of ``COEFFICIENT_SETS``, ``steps`` how many of them; None takes
    the method's default. ValueError for a method or a number that there is not.
    """
    if not isinstance(method, str) or method not in COEFFICIENT_SETS:
        names = ", ".join(map(repr, COEFFICIENT_SETS))
        raise ValueError(
            f"no method {method!r}: choose 'svd', 'eigh', 'gram' or one of {names}"
        )
    chosen = COEFFICIENT_SETS[method]
    count = chosen.steps if steps is None else steps
    require_positive_integer(count, "steps", " or None")
    if chosen.most is not None and count > chosen.most:
        raise ValueError(
            f"method {method!r} has {chosen.most} polynomials, got steps={steps}"
        )
    return chosen.build(count)
