"""The modular norm: one norm for the weights of a whole network, by how they act.

Bernstein & Newhouse 2024 (arXiv 2410.21265), Defs 4-7, after Large et al. 2024
(arXiv 2405.14813). `modular_norm` reads it off a model; here is what it is made of.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

from torch import Tensor

from anthology.norms.base import number
from anthology.norms.metrized import Metrized, Row
from anthology.norms.modular import MaxOver

Weights = Mapping[str, Tensor] | Sequence[Tensor]


@dataclass(frozen=True)
class Leaf:
    """One weight of a module.

    ``mass`` is its share of the change in the output; ``gain`` how much of a change
    of the layer's output arrives at the output of the whole: the product of the
    sensitivities of all that follows (the sum, where it arrives by several ways).
    """

    row: Row
    mass: float
    gain: float = 1.0


@dataclass(frozen=True)
class Modular:
    """A module's mass, its sensitivity, and the modular norm of its weights.

    The norm is max_l s_l‖W_l‖_l with s_l = gain_l·M/m_l, where m_l are the masses
    of the leaves and M is their sum. It is made so that the module is *well-normed*:
    a change ΔW of the weights changes the output by at most ‖ΔW‖, and a change Δx
    of the input by at most ``sensitivity``·‖Δx‖, both to first order, while weights
    and activations are at most 1 in their norms. A leaf without mass has no scale: it
    is in no norm and no group.

    Made by `modular_norm`, `atom` and `bond`, and joined by `compose`, `concat`,
    `residual` and `tare`. ``str()`` gives the table, and notebooks show it.

    Parameters
    ----------
    sensitivity : float
        Not negative and finite.
    leaves : tuple of Leaf
        A weight that is used in several places is one leaf.
    """

    sensitivity: float
    leaves: tuple[Leaf, ...] = ()

    @property
    def mass(self) -> float:
        """Sum of the masses of the leaves."""
        return math.fsum(leaf.mass for leaf in self.leaves)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the leaves that have a scale, in the order of all results."""
        return tuple(leaf.row.name for leaf in self._active)

    @property
    def scales(self) -> dict[str, float]:
        """s_l of each leaf: a step of modular norm 1 has ‖ΔW_l‖_l = 1/s_l there."""
        return {leaf.row.name: self._scale(leaf) for leaf in self._active}

    @property
    def max_over(self) -> MaxOver:
        """The norm as `MaxOver`, for lists of tensors in the order of ``names``."""
        if not self._active:
            raise ValueError("a module without massive weights has no modular norm")
        return MaxOver((x.row.norm, self._scale(x)) for x in self._active)

    @property
    def groups(self) -> Metrized:
        """Parameter groups with ``norm`` and ``scale``, new ones at each call.

        ``SteepestDescent(module.groups, lr)`` makes steps of modular norm ``lr``.
        """
        return Metrized(replace(x.row, scale=self._scale(x)) for x in self._active)

    def norm(self, weights: Weights) -> Tensor:
        """Modular norm max_l s_l‖W_l‖_l, a tensor without axes.

        Parameters
        ----------
        weights : mapping of str to Tensor, or sequence of Tensor
            By name (more names than ``names`` are let be), or in that order.

        Raises
        ------
        ValueError
            If one is missing or of another shape than the weight it stands for.
        """
        return self.max_over.norm(self._points(weights))

    def dual(self, grads: Weights) -> Tensor:
        """Dual norm Σ_l ‖G_l‖_{l,*}/s_l, a tensor without axes. As for ``norm``."""
        return self.max_over.dual(self._points(grads))

    @overload
    def dualize(self, grads: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    @overload
    def dualize(self, grads: Sequence[Tensor]) -> list[Tensor]: ...
    def dualize(self, grads: Weights) -> dict[str, Tensor] | list[Tensor]:
        """Steepest unit step dualize_l(G_l)/s_l, as a dict or list like ``grads``.

        Every leaf whose gradient is not zero moves as far as it may.
        """
        steps = [
            t.reshape(leaf.row.param.shape)
            for t, leaf in zip(
                self.max_over.dualize(self._points(grads)), self._active, strict=True
            )
        ]
        if isinstance(grads, Mapping):
            return dict(zip(self.names, steps, strict=True))
        return steps

    @property
    def _active(self) -> tuple[Leaf, ...]:
        return tuple(leaf for leaf in self.leaves if leaf.mass and leaf.gain)

    def _scale(self, leaf: Leaf) -> float:
        return leaf.gain * (self.mass / leaf.mass)

    def _points(self, weights: Weights) -> list[Tensor]:
        if isinstance(weights, Mapping):
            missing = [name for name in self.names if weights.get(name) is None]
            if missing:
                raise ValueError(f"no tensor for {', '.join(missing)}")
            weights = [weights[name] for name in self.names]
        if isinstance(weights, Tensor) or len(weights) != len(self.names):
            raise ValueError(
                f"{len(self.names)} tensors are needed, for {', '.join(self.names)}"
            )
        points = []
        for leaf, x in zip(self._active, weights, strict=True):
            if x.shape != leaf.row.param.shape:
                raise ValueError(
                    f"{leaf.row.name} has shape {tuple(leaf.row.param.shape)}, "
                    f"got {tuple(x.shape)}"
                )
            points.append(x.reshape(-1) if leaf.row.norm.ndim == 1 else x)
        return points

    def _cells(self) -> list[tuple[str, ...]]:
        lines: list[tuple[str, ...]] = [
            ("name", "shape", "role", "norm", "mass", "scale", "")
        ]
        for leaf in self.leaves:
            name, shape, role, norm, *_ = leaf.row.cells()
            scale = f"{self._scale(leaf):.4g}" if leaf in self._active else "–"
            mass, remark = f"{leaf.mass:.4g}", leaf.row.remark
            lines.append((name, shape, role, norm, mass, scale, remark))
        return lines

    def _title(self) -> str:
        return f"mass {self.mass:.4g}, sensitivity {self.sensitivity:.4g}"

    def __repr__(self) -> str:
        return f"Modular({len(self.leaves)} leaves, {self._title()})"

    def __str__(self) -> str:
        lines = self._cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        return "\n".join([*padded, self._title()])

    def _repr_html_(self) -> str:
        head, *body = self._cells()
        top = "".join(f'<th scope="col">{h or "remark"}</th>' for h in head)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in line) + "</tr>"
            for line in body
        )
        return (
            f"<table><caption>{self._title()}</caption><thead><tr>{top}</tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )


def weight_of(value: float, name: str) -> float:
    """``value`` as a float; ValueError unless it is finite and not negative."""
    if not 0 <= number(value, name) < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    return float(value)
