"""What is generated on the front page: its figure, and how to install the package.

Every path is computed by the package when the book is built, so the front
page cannot promise what the code does not do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from anthology import lab
from anthology.motion import flow, generator
from anthology.norms import L1, L2, LInf, Norm
from anthology.optim import Adam, RootFreeRMSProp, SteepestDescent
from tools import address

f = lab.problems.two_weights
Make = Callable[[list[Tensor]], torch.optim.Optimizer]

ETA = 0.15  # the step size of the last frame
UNITS = (1.0, 2.0)  # the other units of the third: b counted in halves


def path(make: Make, steps: int, units: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """The iterates of an optimizer from the book's start, shape (steps + 1, 2).

    With other units the optimizer moves z, where w = units·z, and w is returned.
    """
    unit = torch.tensor(units, dtype=torch.float64)
    z = (f.start() / unit).requires_grad_()
    optimizer, iterates = make([z]), [f.start()]
    for _ in range(steps):
        optimizer.zero_grad()
        f(unit * z).backward()
        optimizer.step()
        iterates.append((unit * z).detach())
    return torch.stack(iterates)


def descent(norm: Norm) -> Tensor:
    """Steepest descent in a norm, until it rests."""
    return path(lambda p: SteepestDescent(p, lr=0.05, norm=norm, step="steepest"), 200)


def sign_steps() -> Tensor:
    return path(lambda p: SteepestDescent(p, lr=0.04, norm=LInf()), 20)


def adam_steps() -> Tensor:
    return path(lambda p: Adam(p, lr=0.04), 400)


def rooted(units: tuple[float, float]) -> Tensor:
    return path(lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9), 60, units)


def root_free(units: tuple[float, float]) -> Tensor:
    """Without the root; its first second moment is given in the same units."""

    def make(params: list[Tensor]) -> RootFreeRMSProp:
        optimizer = RootFreeRMSProp(
            params, lr=0.05, alpha=0.99, eps=0.0, momentum=0.0, batch_size=1
        )
        optimizer.create_state()
        for p in params:
            unit = torch.tensor(units, dtype=p.dtype)
            optimizer.state[p]["exp_avg_sq"].copy_(unit**2)
        return optimizer

    return path(make, 30, units)


def gradient_steps() -> Tensor:
    return path(lambda p: torch.optim.SGD(p, lr=ETA), 5)


def moved(field: Callable[[Tensor], Tensor]) -> Tensor:
    """Where a field has carried the start at the times of those steps."""
    return torch.cat(
        [f.start()[None], flow(field, f.start(), [ETA * k for k in range(1, 6)])]
    )


def equation_of_motion(w: Tensor) -> Tensor:
    return generator(lambda v: v - ETA * f.gradient(v), w, 10, ETA)


def trail(iterates: Tensor, style: str | int, width: float = 2.0) -> list[lab.Mark]:
    """A line with a mark where it ends."""
    x, y = iterates.T
    end = lab.Points(x[-1:], y[-1:], style=style)
    return [lab.Line(x, y, style=style, width=width), end]


def steps(iterates: Tensor, style: str | int, radius: float = 3.5) -> list[lab.Mark]:
    """Steps that can be counted, on a thin line."""
    x, y = iterates.T
    thin = lab.Line(x, y, style=style, width=1.0)
    return [thin, lab.Points(x, y, style=style, radius=radius)]


def frames() -> list[lab.Frame]:
    """The four frames, one for each part of the book."""
    norms = [
        *trail(descent(L1()), "l1"),
        *trail(descent(L2()), "l2"),
        *trail(descent(LInf()), "linf"),
        lab.Note(1.985, 0.32, "one weight", "l1", "end"),
        lab.Note(2.06, 0.53, "plain gradient", "l2"),
        lab.Note(2.17, 0.31, "signs only", "linf"),
    ]
    optimizers = [
        *steps(sign_steps(), "linf"),
        *trail(adam_steps(), 0),
        lab.Note(2.17, 0.32, "sign descent", "linf"),
        lab.Note(2.31, 0.56, "Adam", 0, "end"),
    ]
    square_roots = [
        *trail(rooted((1.0, 1.0)), 0),
        *trail(rooted(UNITS), 0),
        *trail(root_free((1.0, 1.0)), "learned", 4.0),
        *trail(root_free(UNITS), 1),
        lab.Note(2.21, 0.34, "RMSProp", 0),
        lab.Note(2.08, 0.53, "RMSProp, new units", 0),
        lab.Note(1.985, 0.36, "without the root,", "learned", "end"),
        lab.Note(1.985, 0.325, "in both units", None, "end"),
    ]
    motion = [
        *steps(gradient_steps(), "l2", 5.0),
        *steps(moved(equation_of_motion), 0, 2.5),
        *steps(moved(lambda w: -f.gradient(w)), 1),
        lab.Note(2.06, 0.31, "gradient flow", 1),
        lab.Note(2.06, 0.40, "gradient descent", "l2"),
        lab.Note(2.06, 0.355, "equation of motion", 0),
    ]
    return [
        lab.Frame(
            "Norms",
            "One loss, one start, three rulers for the length of a step: steepest "
            "descent ends at three different minima.",
            [norms],
        ),
        lab.Frame(
            "Optimizers",
            "Adam's first step is a step of sign descent; then its averages bend "
            "the path, and it comes to rest where sign descent jumps to and fro.",
            [optimizers],
        ),
        lab.Frame(
            "Square roots",
            "Measure the second weight in other units: RMSProp takes another path; "
            "without the square root, and with its average started in those units "
            "too, the method takes the same one.",
            [square_roots],
        ),
        lab.Frame(
            "Motion",
            "At equal times gradient flow lags behind gradient descent, and "
            "another flow, the equation of motion, passes through every step.",
            [motion],
        ),
    ]


def figure() -> lab.SliderFigure:
    """The slider of the front page."""
    a = torch.linspace(1.5, 2.5, 60, dtype=torch.float64)
    panel = lab.Panel(
        lab.Axis("first weight a", 1.7, 2.4),
        lab.Axis("second weight b", 0.15, 0.65),
        background=[
            lab.Line(a, 1 / a, style="reference", width=1.5),
            lab.Note(1.715, 0.6, "the line of minima"),
            lab.Points([2.0], [0.2], style="reference"),
            lab.Note(2.015, 0.185, "start"),
        ],
        equal=True,
    )
    return lab.slider_figure(
        "Paths of optimizers from one start to the minima of the two-weight network",
        [panel],
        frames(),
        label="part of the book",
    )


def install() -> str:
    """The command that installs the package, as markdown."""
    source = f"git+{address.repository()}@v{address.version()}"
    return f'```sh\npip install "optimizer-anthology[lab] @ {source}"\n```'
