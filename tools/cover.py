"""Draw what stands for the book: its cover, its logo and its favicon.

``python tools/cover.py`` writes them into ``_static``. The cover, from the
package: from one start, steepest descent under three norms, each with the ball
of steps it may choose from. Logo and favicon are those balls, in the colours
of the palette, by day and by night.
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
from anthology.lab.palette import STYLES
from anthology.norms import L1, L2, LInf, Norm
from anthology.optim import SteepestDescent

TARGET = ROOT / "_static" / "cover.png"
RADIUS = 0.16
NORMS = {
    "l1": ("ℓ₁: one weight moves", L1()),
    "l2": ("ℓ₂: the plain gradient", L2()),
    "linf": ("ℓ∞: signs, as Adam's", LInf()),
}
# Where a path's name stands, from its end.
NAMED_AT = {"l1": (-0.015, -0.035), "l2": (0.012, 0.024), "linf": (0.012, -0.05)}
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
    axes.annotate("minima", (1.63, 0.56), color="#444444", fontsize=11)
    for ruler, (name, norm) in NORMS.items():
        style = lab.style(ruler)
        axes.plot(*ball(norm).T, **style, linewidth=1.1)
        path = descend(norm)
        axes.plot(*path.T, **style, linewidth=2.4)
        axes.plot(*path[-1], "o", color=style["color"], markersize=8)
        x, y = (path[-1] + torch.tensor(NAMED_AT[ruler])).tolist()
        side = "right" if ruler == "l1" else "left"
        axes.text(x, y, name, color=style["color"], fontsize=12, ha=side)
    axes.plot(*f.start(), "o", color="#222222", markersize=7)
    axes.annotate("start", (2.02, 0.165), fontsize=11)
    axes.set(xlim=(1.6, 2.55), ylim=(0.02, 0.66), aspect="equal")
    axes.set(xlabel="first weight", ylabel="second weight")
    axes.set_title("One loss, one gradient, three rulers: three minima", fontsize=13)
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


def balls(scheme: str, size: int, rulers: tuple[str, ...], width: float) -> str:
    """Unit balls around one point, as the inside of an SVG of that size."""
    low, high, mid = width / 2 + 1, size - width / 2 - 1, size / 2
    paths = {
        "linf": f"M{low:g} {low:g}H{high:g}V{high:g}H{low:g}Z",
        "l2": f"M{mid:g} {low:g}a{mid - low:g} {mid - low:g} 0 1 0 .01 0Z",
        "l1": f"M{mid:g} {low:g} {high:g} {mid:g} {mid:g} {high:g} {low:g} {mid:g}Z",
    }
    colors = {n: s.color if scheme == "light" else s.dark for n, s in STYLES.items()}
    drawn = "".join(f'<path d="{paths[r]}" stroke="{colors[r]}"/>' for r in rulers)
    return (
        f'<g fill="none" stroke-width="{width:g}" stroke-linejoin="round">{drawn}</g>'
        f'<circle cx="{mid:g}" cy="{mid:g}" r="{0.08 * size:g}" '
        f'fill="{colors["ink-2"]}"/>'
    )


def logo(scheme: str) -> str:
    """The mark beside the name of the book."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" role="img" '
        'aria-label="Three unit balls around one point">'
        f"{balls(scheme, 64, ('linf', 'l2', 'l1'), 4)}</svg>\n"
    )


def favicon() -> str:
    """Two balls, for a picture so small; day or night as the browser has it."""
    night = "@media(prefers-color-scheme:dark){.d{display:none}.n{display:inline}}"
    by_day, by_night = (
        balls(scheme, 32, ("linf", "l1"), 3) for scheme in ("light", "dark")
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f"<style>.n{{display:none}}{night}</style>"
        f'<g class="d">{by_day}</g><g class="n">{by_night}</g></svg>\n'
    )


def pictures() -> dict[str, bytes]:
    """Every file that this writes, by its name in ``_static``."""
    return {
        "cover.png": png(),
        "logo.svg": logo("light").encode(),
        "logo-dark.svg": logo("dark").encode(),
        "favicon.svg": favicon().encode(),
    }


if __name__ == "__main__":
    for name, content in pictures().items():
        (TARGET.parent / name).write_bytes(content)
        print(f"_static/{name}: {len(content) / 1024:.1f} KB")
