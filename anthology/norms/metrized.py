"""The table of a model's parameters and their norms, ready for an optimizer."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from anthology.norms.base import Norm

_HEAD = ("name", "shape", "role", "norm", "scale", "why")


@dataclass(frozen=True)
class Row:
    """One parameter: what it is called, what it does, and how it is measured.

    ``why`` says how the role was found, ``shared`` are the other names of a tied
    weight, ``settings`` what an override added for the optimizer, ``trainable`` is
    False for a parameter without ``requires_grad``, which is in no group.
    """

    name: str
    param: Tensor = field(repr=False)
    role: str
    norm: Norm
    scale: float = 1.0
    shared: tuple[str, ...] = ()
    trainable: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    why: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """What a group says of its parameters: alike, they share one."""
        same = {"norm": repr(self.norm), "role": self.role, "scale": self.scale}
        return same | self.settings

    @property
    def remark(self) -> str:
        """What is to be said beside the role: tied, frozen, without numbers, options."""
        remarks = [] if self.trainable else ["frozen, skipped"]
        if self.param.is_meta:
            remarks.append("on meta: no numbers, metrize again once it has some")
        if self.shared:
            remarks.append(f"shared with {', '.join(self.shared)}")
        remarks += [f"{key}={value!r}" for key, value in self.settings.items()]
        return "; ".join(remarks)

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """Name, shape, role, norm, scale and reason with remark, as text."""
        shape = "×".join(map(str, self.param.shape)) or "scalar"
        said = "; ".join(filter(None, (self.why, self.remark)))
        return self.name, shape, self.role, repr(self.norm), f"{self.scale:g}", said


class Metrized(list[dict[str, Any]]):
    """Parameter groups with a norm each, and the table they come from.

    A list of dictionaries with ``params``, ``param_names``, ``norm``, ``role``,
    ``scale`` and what overrides added; parameters treated alike share a group. It is
    what ``SteepestDescent`` and every ``torch.optim`` optimizer take as ``params``.
    A group holds its norm as text (``from_spec`` reads it), because a checkpoint of
    the optimizer holds the group; ``rows`` hold the norms themselves. Optimizers of
    ``torch.optim`` write their defaults into the groups they are given, ``lr`` among
    them, so give each of those a ``metrize(model)`` of its own.
    ``str()`` gives the table, one line a parameter, and notebooks show it.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        super().__init__()
        self.rows: tuple[Row, ...] = tuple(rows)
        kinds: list[dict[str, Any]] = []
        for row in (row for row in self.rows if row.trainable):
            if row.options not in kinds:
                kinds.append(row.options)
                self.append({"params": [], "param_names": [], **row.options})
            group = self[kinds.index(row.options)]
            group["params"].append(row.param)
            group["param_names"].append(row.name)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the parameters that are in no group: no gradient is wanted."""
        return tuple(row.name for row in self.rows if not row.trainable)

    @property
    def advice(self) -> str:
        """What to do about frozen parameters; empty if there are none."""
        if not self.frozen:
            return ""
        s, them = ("", "it") if len(self.frozen) == 1 else ("s", "them")
        return (
            f"{len(self.frozen)} frozen parameter{s} in no group: to train {them} "
            "later, metrize(model, include_frozen=True), or metrize again and "
            "add_param_group"
        )

    def __repr__(self) -> str:
        trainable = len(self.rows) - len(self.frozen)
        return f"Metrized({len(self)} groups of {trainable} parameters)"

    def __str__(self) -> str:
        return as_text([_HEAD, *(row.cells() for row in self.rows)], self.advice)

    def _repr_html_(self) -> str:
        return as_html([_HEAD, *(row.cells() for row in self.rows)], self.advice)


def as_text(lines: Sequence[Sequence[str]], last: str) -> str:
    """A table whose columns are aligned, and what is said below it."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "\n".join(filter(None, (*padded, last)))


def as_html(lines: Sequence[Sequence[str]], caption: str) -> str:
    """The same table for a browser; a column without a name is called "remark"."""
    head, *body = lines
    top = "".join(f'<th scope="col">{name or "remark"}</th>' for name in head)
    rows = (
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
        for line in body
    )
    said = f"<caption>{caption}</caption>" if caption else ""
    return (
        f"<table>{said}<thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
