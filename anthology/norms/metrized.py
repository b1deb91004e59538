"""The table of a model's parameters and their norms, ready for an optimizer."""

import html
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from anthology.norms.base import Norm


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

    def same_group(self, other: "Row") -> bool:
        """Whether two parameters are treated alike in everything."""
        mine = (self.role, self.norm, self.scale, self.settings)
        return mine == (other.role, other.norm, other.scale, other.settings)

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


_HEAD = ("name", "shape", "role", "norm", "scale", "why")


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
        self.rows: tuple[Row, ...] = tuple(rows)
        leaders: list[Row] = []
        super().__init__()
        for row in self.rows:
            if not row.trainable:
                continue
            for leader, group in zip(leaders, self, strict=True):
                if leader.same_group(row):
                    break
            else:
                leaders.append(row)
                group = {
                    "params": [],
                    "param_names": [],
                    "norm": repr(row.norm),
                    "role": row.role,
                    "scale": row.scale,
                    **row.settings,
                }
                self.append(group)
            group["params"].append(row.param)
            group["param_names"].append(row.name)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the parameters that are in no group: no gradient is wanted."""
        return tuple(row.name for row in self.rows if not row.trainable)

    def __repr__(self) -> str:
        trainable = len(self.rows) - len(self.frozen)
        return f"Metrized({len(self)} groups of {trainable} parameters)"

    @property
    def advice(self) -> str:
        """What to do about frozen parameters; empty if there are none."""
        if not self.frozen:
            return ""
        few = len(self.frozen) == 1
        return (
            f"{len(self.frozen)} frozen parameter{'' if few else 's'} in no group: to "
            f"train {'it' if few else 'them'} later, metrize(model, include_frozen="
            "True), or metrize again and add_param_group"
        )

    def __str__(self) -> str:
        lines = [_HEAD, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        return "\n".join(filter(None, (*padded, self.advice)))

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{h}</th>' for h in _HEAD)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(c)}</td>" for c in row.cells())
            + "</tr>"
            for row in self.rows
        )
        said = f"<caption>{self.advice}</caption>" if self.advice else ""
        return (
            f"<table>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )
