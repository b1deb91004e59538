"""Figure of how near the fastest steps come to their limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anthology.lab.measured import Measured
from anthology.lab.optional import optional
from anthology.lab.palette import INK, STYLES

__all__ = ["limit_shares"]


def limit_shares(run: Measured, sets: Sequence[str] | None = None) -> Any:
    """One panel a set of parameters: share of the limit's speed, by update rule.

    Parameters
    ----------
    run : Measured
        Results of the benchmark.
    sets : sequence of str, optional
        Names of two sets at most. Default None, and where the run has none of
        them: the first two of the run.

    Returns
    -------
    matplotlib.figure.Figure
        A bar for the fastest path of ours, a diamond for the fastest peer, at the
        share of the speed of the limit of our rule.

    Examples
    --------
    >>> from anthology import lab
    >>> run = lab.measured("benchmarks/results")[0]  # doctest: +SKIP
    >>> figure = lab.limit_shares(run, ["gpt"])  # doctest: +SKIP
    """
    plt = optional("matplotlib.pyplot", "matplotlib")
    chosen = [s for s in sets or run.sets if s in run.sets][:2] or list(run.sets)[:2]
    shown = [f for f in run.families if any(run.best(f, s)[0] for s in chosen)]
    size = (2.4 + 2.1 * len(chosen), 1.2 + 0.26 * len(shown))
    fig, axes = plt.subplots(1, len(chosen), figsize=size, sharey=True, squeeze=False)
    for ax, name in zip(axes[0], chosen, strict=True):
        _panel(ax, run, name, shown)
    axes[0][0].set_yticks(range(len(shown)), shown)
    axes[0][0].invert_yaxis()
    fig.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3
    )
    return fig


def _panel(ax: Any, run: Measured, name: str, shown: Sequence[str]) -> None:
    ours: list[tuple[int, float]] = []
    peers: list[tuple[int, float]] = []
    for i, family in enumerate(shown):
        mine, peer = run.best(family, name)
        if mine is None or mine["limit"] is None:
            continue
        least = mine["limit"]["seconds"]
        ours.append((i, 100 * least / mine["summary"]["seconds"]))
        if peer is not None:
            peers.append((i, 100 * least / peer["summary"]["seconds"]))
    at, share = zip(*ours, strict=True) if ours else ((), ())
    ax.barh(at, share, height=0.6, color=STYLES[0].color, label="ours")
    at, share = zip(*peers, strict=True) if peers else ((), ())
    ax.scatter(
        share,
        at,
        marker="D",
        s=30,
        color=STYLES[1].color,
        edgecolor="white",
        linewidth=0.8,
        zorder=3,
        label="best peer",
    )
    ax.axvline(100, color=INK, linestyle=":", linewidth=1.2, label="limit")
    ax.set(title=name, xlabel="% of the limit's speed", xlim=(0, 118))
    ax.grid(visible=False, axis="y")
