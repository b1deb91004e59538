"""The figure at the top of the front page: six names, three rulers.

One matrix W = [[x, y], [y, x]] should have determinant one. In the plane (x, y)
the balls of the three rulers are a circle, a square and a diamond, so that each
ruler takes another step from the same start and ends at another minimum. The
pictures are drawn in the reader's browser by `math.js` and `draw.js`, whose
numbers are tested against the package; the words come from the classes' cards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from anthology import lab, norms, optim
from anthology.optim import SteepestDescent
from tools.generated import chapter_of

HERE = Path(__file__).resolve().parent
START = (0.8, 0.5)
RULERS = {
    "l2": "Euclid’s ruler",
    "linf": "the largest entry",
    "spectral": "the greatest stretch",
}


@dataclass(frozen=True)
class Name:
    """What the figure says about an optimizer besides its card, in plain text.

    Attributes
    ----------
    group : str
        The ruler under whose heading it stands.
    step : str
        One step, and in brackets what remains of it without memory.
    code : tuple of str
        Three lines of PyTorch: memory, ruler, move.
    note : str
        What the picture of the step shows; "" where numbers say it.
    """

    group: str
    step: str
    code: tuple[str, str, str]
    note: str = ""


NORMS = {
    "l2": ("‖Δ‖ = √(Σ Δᵢ²)", "√(Σ gᵢ²)"),
    "linf": ("‖Δ‖ = max |Δᵢ|", "Σ |gᵢ|"),
    "spectral": ("‖Δ‖ = largest singular value", "Σ σᵢ, all singular values"),
}
NAMES = {
    "SGD": Name("l2", "Δ = −η g", ("m = g", "s = m", "w -= lr * s")),
    "Adam": Name(
        "linf",
        "Δ = −η m̂/√v̂  (no memory: −η sign g)",
        (
            "m.lerp_(g, 1 - b1); v.lerp_(g * g, 1 - b2)",
            "s = m / c1 / (v / c2).sqrt()",
            "w -= lr * s",
        ),
        "Adam’s first step is ±1 in each weight, the bare signs; then its two "
        "averages take over, and steps shrink and turn smoothly.",
    ),
    "Lion": Name(
        "linf",
        "Δ = −η sign(β₁m + (1−β₁)g)",
        (
            "u = m.lerp(g, 1 - b1); m.lerp_(g, 1 - b2)",
            "s = u.sign()",
            "w -= lr * s",
        ),
        "Lion’s step is ±1 in each weight to the end: it can turn, but "
        "only the learning rate makes it shorter.",
    ),
    "Prodigy": Name(
        "linf",
        "Δ = −d sign g,  d ← max(d, ⟨g, w₀−w⟩/‖g‖₁)",
        (
            "e = (g * (w0 - w)).sum() / g.abs().sum()",
            "s = g.sign()",
            "w -= d * s; d = max(d, e)",
        ),
        "Prodigy’s length grows by itself, 1, 1, 1, 2, 3, 5, 8 …, as long as the "
        "signs stay (drawn without averages).",
    ),
    "Shampoo": Name(
        "spectral",
        "Δ = −η L^(−1/4) M̂ R^(−1/4)  (no memory: −η UVᵀ)",
        (
            "L += g @ g.T; R += g.T @ g",
            "s = inverse_root(L, 4) @ g @ inverse_root(R, 4)",
            "w -= lr * s",
        ),
    ),
    "Muon": Name(
        "spectral",
        "Δ = −η polar(M)  (no memory: −η UVᵀ)",
        ("m.lerp_(g, 1 - beta)", "U, _, Vh = svd(m); s = U @ Vh", "w -= lr * s"),
    ),
}


def words() -> dict[str, dict[str, object]]:
    """What the script knows about each name."""
    found = {}
    for name, said in NAMES.items():
        card = getattr(optim, name).card
        norm, dual = NORMS[said.group]
        found[name] = {
            "ruler": said.group,
            "color": card.ruler,
            "answer": card.answer,
            "read": read(name),
            "norm": norm,
            "dual": dual,
            "step": said.step,
            "code": said.code,
            "note": said.note,
        }
    return found


def read(name: str) -> str:
    """Where to read on: the chapter of an optimizer, or the page of its class."""
    chapter = chapter_of(getattr(optim, name).__module__)
    return f"{chapter or f'chapters/reference/optim/{name.lower()}'}.html"


def loss(W: Tensor) -> Tensor:
    """½(det W − 1)² of a matrix of two rows and two columns."""
    return 0.5 * (W[0, 0] * W[1, 1] - W[0, 1] * W[1, 0] - 1).square()


def weights(x: float, y: float) -> Tensor:
    return torch.tensor([[x, y], [y, x]], dtype=torch.float64)


def descend(norm: norms.Norm, start: tuple[float, float] = START) -> Tensor:
    """The way of the package's steepest descent in the plane, shape (201, 2)."""
    W = weights(*start).requires_grad_()
    optimizer = SteepestDescent([W], lr=0.05, norm=norm, step="steepest")
    way = [W.detach()[0].clone()]
    for _ in range(200):
        optimizer.zero_grad()
        loss(W).backward()
        optimizer.step()
        way.append(W.detach()[0].clone())
    return torch.stack(way)


def still() -> str:
    """The picture without scripts: three rulers, three minima."""
    y = torch.linspace(0.0, 0.55, 40, dtype=torch.float64)
    marks: list[lab.Mark] = [
        lab.Line((1 + y * y).sqrt(), y, style="reference", width=1.5),
        lab.Note(1.06, 0.51, "det W = 1", anchor="end"),
    ]
    for ruler, norm, said in (
        ("l2", norms.Frobenius(), "SGD"),
        ("linf", norms.MaxAbs(), "Adam, Lion, Prodigy"),
        ("spectral", norms.Spectral(), "Shampoo, Muon"),
    ):
        x, y = descend(norm).T
        marks += [
            lab.Line(x, y, style=ruler, width=2.5),
            lab.Points(x[-1:], y[-1:], style=ruler),
            lab.Note(float(x[-1]) + 0.02, float(y[-1]), said, ruler),
        ]
    panel = lab.Panel(
        lab.Axis("x, on the diagonal", 0.5, 1.4),
        lab.Axis("y, beside it", 0.0, 0.55),
        equal=True,
    )
    frame = lab.Frame("Three rulers", "One start, three minima.", [marks])
    drawn = lab.slider_figure("Steepest descent", [panel], [frame], label="ruler")
    return drawn._repr_html_()


def _radio(name: str) -> str:
    color = getattr(optim, name).card.ruler
    checked = " checked" if name == "Adam" else ""
    return (
        f'<label style="--r:var(--fig-{color})"><input type="radio" '
        f'name="an-hero-name" value="{name}"{checked}><span>{name}</span></label>'
    )


def figure() -> str:
    """The whole figure, as HTML that asks for nothing else."""
    groups = "\n".join(
        f"<div><span>{heading}</span><div>"
        + "".join(_radio(n) for n, said in NAMES.items() if said.group == ruler)
        + "</div></div>"
        for ruler, heading in RULERS.items()
    )
    sentences = "".join(
        f'<li><a href="{read(name)}"><b>{name}</b></a> '
        f"{escape(getattr(optim, name).card.answer)}</li>"
        for name in NAMES
    )
    script = "\n".join(
        (HERE / f"{part}.js").read_text(encoding="utf-8")
        for part in ("math", "draw", "hero")
    )
    parts = {
        "css": (HERE / "hero.css").read_text(encoding="utf-8"),
        "rulers": groups,
        "still": still(),
        "sentences": sentences,
        "names": json.dumps(words(), ensure_ascii=False).replace("<", "\\u003c"),
        "script": script,
    }
    page = (HERE / "hero.html").read_text(encoding="utf-8")
    for key, text in parts.items():
        page = page.replace(f"{{{{ {key} }}}}", text.strip())
    return "\n".join(line for line in page.splitlines() if line.strip())
