"""Draw the picture of the README and of link previews, from the package.

``python tools/cover.py`` writes ``_static/cover.png``: from one start, steepest
descent under three norms, each with the ball of steps it may choose from.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from anthology import lab
from anthology.norms import L1, L2, LInf, Norm
from anthology.optim import SteepestDescent

TARGET = ROOT / "_static" / "cover.png"
RADIUS = 0.16
NORMS = {"l1": ("ℓ1 norm", L1()), "l2": ("ℓ2 norm", L2()), "linf": ("ℓ∞ norm", LInf())}
f = lab.problems.two_weights


def descend(norm: Norm, steps: int = 200) -> Tensor:
    """Iterates from the book's start to a minimum, shape (steps + 1, 2)."""
    w = f.start().requires_grad_()
    optimizer = SteepestDescent([w], lr=0.05, norm=norm, step="steepest")
    iterates = [f.start()]
    for _ in range(steps):
        optimizer.zero_grad()
        f(w).backward()
        optimizer.step()
        iterates.append(w.detach().clone())
    return torch.stack(iterates)


def ball(norm: Norm) -> Tensor:
    """The boundary of the ball of steps around the start, shape (n, 2)."""
    turn = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)
    ray = torch.stack([turn.cos(), turn.sin()], -1)
    return f.start() + RADIUS * ray / norm.norm(ray).unsqueeze(-1)


def draw(axes: Axes) -> None:
    a = torch.linspace(1.2, 3.2, 120, dtype=torch.float64)
    b = torch.linspace(-0.1, 0.8, 120, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(a, b, indexing="xy"), -1)
    levels = [0.002, 0.02, 0.06, 0.12, 0.2, 0.3, 0.42]
    axes.contour(
        a, b, f(grid), levels, colors="#c4c4c4", linewidths=0.8, linestyles="-"
    )
    axes.plot(a, 1 / a, color="#444444", linewidth=1.6)
    axes.annotate("minima", (1.83, 0.566), color="#444444", fontsize=11)
    for ruler, (name, norm) in NORMS.items():
        style = lab.style(ruler)
        axes.plot(*ball(norm).T, **style, linewidth=1.1)
        path = descend(norm)
        axes.plot(*path.T, **style, linewidth=2.4, label=name)
        axes.plot(*path[-1], "o", color=style["color"], markersize=8)
    axes.plot(*f.start(), "o", color="#222222", markersize=7)
    axes.annotate("start", (2.02, 0.165), fontsize=11)
    axes.set(xlim=(1.6, 2.55), ylim=(0.02, 0.66), aspect="equal")
    axes.set(xlabel="first weight", ylabel="second weight")
    axes.set_title("One loss, one gradient, three rulers: three minima", fontsize=13)
    axes.legend(
        loc="lower right",
        title="steepest descent in the",
        frameon=True,
        framealpha=1.0,
        edgecolor="none",
    )
    axes.grid(visible=False)


def png() -> bytes:
    """The picture, without a word about when and by what it was drawn."""
    lab.use_style()
    figure, axes = plt.subplots(figsize=(7.2, 5.0))
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


if __name__ == "__main__":
    TARGET.write_bytes(png())
    print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size // 1024} KB")
