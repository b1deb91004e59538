"""Who beats whom: the rule of the race, as small functions.

The rule is that of the optimizer track of modded-nanogpt (Jordan et al., public code):
a standard deviation σ of the loss between seeds is stated beforehand, and means m of n
runs are compared in its units. Contestant a beats b if

    (m_b − m_a) / √(1/n_a + 1/n_b) ≥ MARGIN · σ.

With the margin here, one pair in a thousand of equal contestants would be told apart
each way. Where two contestants scatter more than σ says, the deviation pooled over the
two takes its place, so that a wild contestant neither wins nor loses by luck. A run
that is missing or not finite is lost: the mean of its contestant is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, variance

MARGIN = 3.09  # the quantile of a normal distribution that leaves out 0.001

Losses = Sequence[float | None]


def average(losses: Losses, seeds: int | None = None) -> float:
    """The mean; infinite if a run is lost, or there are fewer runs than seeds."""
    found = [x for x in losses if x is not None and math.isfinite(x)]
    lost = not losses or len(found) < max(len(losses), seeds or 0)
    return math.inf if lost else mean(found)


def deviation(*samples: Losses) -> float:
    """The standard deviation of runs around the mean of their sample, pooled."""
    parts = [[x for x in s if x is not None and math.isfinite(x)] for s in samples]
    free = sum(len(part) - 1 for part in parts if len(part) > 1)
    squares = sum(variance(part) * (len(part) - 1) for part in parts if len(part) > 1)
    return math.sqrt(squares / free) if free else 0.0


def lead(a: Losses, b: Losses, sigma: float) -> float:
    """By how many σ of its own a difference of means speaks for a; see above.

    Infinite if only b has lost a run, minus infinity if only a has, 0 if both.
    """
    better, worse = average(a), average(b)
    if math.isinf(better) or math.isinf(worse):
        return 0.0 if better == worse else math.copysign(math.inf, worse - better)
    spread = max(sigma, deviation(a, b))
    return (worse - better) / (spread * math.sqrt(1 / len(a) + 1 / len(b)))


def beats(a: Losses, b: Losses, sigma: float) -> bool:
    """Whether a is better than b by the margin."""
    return lead(a, b, sigma) >= MARGIN


def ties(a: Losses, b: Losses, sigma: float) -> bool:
    """Whether neither beats the other, and not because both are lost."""
    known = math.isfinite(average(a)) and math.isfinite(average(b))
    return known and abs(lead(a, b, sigma)) < MARGIN


def ranks(losses: Mapping[str, Losses], sigma: float) -> dict[str, int]:
    """One more than the number of others that beat each; ties share a rank."""
    return {
        name: 1 + sum(beats(other, own, sigma) for other in losses.values())
        for name, own in losses.items()
    }


def steps_to(curve: Sequence[tuple[int, float | None]], target: float) -> float:
    """The first step at which a curve is at the target, by straight lines in between.

    The curve has (step, loss); infinite if it never gets there.
    """
    before: tuple[int, float] | None = None
    for step, loss in curve:
        if loss is None or not math.isfinite(loss):
            before = None
            continue
        if loss <= target:
            if before is None or before[1] == loss:
                return float(step)
            share = (before[1] - target) / (before[1] - loss)
            return before[0] + share * (step - before[0])
        before = step, loss
    return math.inf
