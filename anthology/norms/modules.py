"""The modular norm: one norm for the weights of a whole network, by how they act.

Bernstein & Newhouse 2024 (arXiv 2410.21265), Defs 4-7, after Large et al. 2024
(arXiv 2405.14813). `modular_norm` reads it off a model; here is what it is made of,
and how modules in a row, side by side and with a shortcut have norms made of others'.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import overload

from torch import Tensor

from anthology.norms.base import Norm, positive, weight_of
from anthology.norms.max_over import MaxOver
from anthology.norms.metrized import Metrized, Row, as_html, as_text
from anthology.norms.spec import from_spec

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
        found = self.max_over.dualize(self._points(grads))
        shapes = [leaf.row.param.shape for leaf in self._active]
        steps = [t.reshape(shape) for t, shape in zip(found, shapes, strict=True)]
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
            scale = f"{self._scale(leaf):.4g}" if leaf in self._active else "–"
            more = f"{leaf.mass:.4g}", scale, leaf.row.remark
            lines.append((*leaf.row.cells()[:4], *more))
        return lines

    def _title(self) -> str:
        return f"mass {self.mass:.4g}, sensitivity {self.sensitivity:.4g}"

    def __repr__(self) -> str:
        return f"Modular({len(self.leaves)} leaves, {self._title()})"

    def __str__(self) -> str:
        return as_text(self._cells(), self._title())

    def _repr_html_(self) -> str:
        return as_html(self._cells(), self._title())


def atom(
    name: str,
    param: Tensor,
    norm: Norm | str,
    *,
    mass: float = 1.0,
    sensitivity: float = 1.0,
    role: str = "by hand",
) -> Modular:
    """A module that is one weight.

    Parameters
    ----------
    name : str
        Name in the table and in mappings.
    param : Tensor
        The weight.
    norm : Norm or str
        How a change of it is measured: a unit change must change the output by at
        most 1, for inputs of size at most 1. Text is read by `from_spec`.
    mass, sensitivity : float, optional
        Default 1; not negative and finite.
    role : str, optional
        A word for the table.
    """
    norm = from_spec(norm) if isinstance(norm, str) else norm
    if not isinstance(norm, Norm):
        raise TypeError(f"atom needs a Norm, got {norm!r}")
    if norm.ndim > 1:
        norm._check(param)
    leaf = Leaf(Row(name, param, role, norm), weight_of(mass, "mass"))
    return Modular(weight_of(sensitivity, "sensitivity"), (leaf,))


def bond(sensitivity: float = 1.0) -> Modular:
    """A module without weights, such as an activation or the product with a number."""
    return Modular(weight_of(sensitivity, "sensitivity"))


def compose(*modules: Modular) -> Modular:
    """The modules one after the other, the first one nearest to the input.

    Masses add, sensitivities multiply, and a leaf's scale takes the sensitivities of
    all that follows: ``compose(a, b)`` has the norm
    max(σ_b(m/m_a)‖·‖_a, (m/m_b)‖·‖_b) with m = m_a + m_b (Def. 5).
    """

    def pair(first: Modular, second: Modular) -> Modular:
        s = second.sensitivity
        moved = tuple(replace(leaf, gain=leaf.gain * s) for leaf in first.leaves)
        return Modular(first.sensitivity * s, _merged(moved + second.leaves))

    return reduce(pair, modules, bond())


def concat(*modules: Modular) -> Modular:
    """The modules side by side on one input; also the sum of their outputs.

    Masses and sensitivities add; the norm of two is
    max((m/m_a)‖·‖_a, (m/m_b)‖·‖_b) with m = m_a + m_b (Def. 6).
    """
    leaves = tuple(leaf for module in modules for leaf in module.leaves)
    return Modular(math.fsum(m.sensitivity for m in modules), _merged(leaves))


def residual(block: Modular, blocks: int | None = None) -> Modular:
    """A shortcut around ``block``.

    Parameters
    ----------
    block : Modular
        The branch.
    blocks : int, optional
        L: the module is x ↦ (1 − 1/(2L))x + block(x)/(2L), which keeps the
        sensitivity at 1 if that of the block is 1, however many follow each other.
        Default None: the plain x ↦ x + block(x), of sensitivity 1 + σ.
    """
    if blocks is None:
        return concat(bond(), block)
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"blocks must be a positive integer or None, got {blocks!r}")
    share = 1 / (2 * blocks)
    return concat(bond(1 - share), compose(block, bond(share)))


def tare(module: Modular, absolute: float = 1.0) -> Modular:
    """The module with all masses scaled so that they sum to ``absolute``.

    Its own norm stays as it is; its share in what it becomes part of changes. With 0
    its weights do not move at all.

    Raises
    ------
    ValueError
        If there is no mass to scale, or ``absolute`` is negative or not finite.
    """
    share = 0.0
    if weight_of(absolute, "absolute"):
        share = absolute / positive(module.mass, "the mass of the module")
    leaves = tuple(replace(leaf, mass=leaf.mass * share) for leaf in module.leaves)
    return replace(module, leaves=leaves)


def _merged(leaves: Iterable[Leaf]) -> tuple[Leaf, ...]:
    """A weight used twice is one leaf: its masses add, and so do its gains."""
    found: dict[int, Leaf] = {}
    for leaf in leaves:
        key = id(leaf.row.param)
        if old := found.get(key):
            leaf = Leaf(old.row, old.mass + leaf.mass, old.gain + leaf.gain)
        found[key] = leaf
    return tuple(found.values())
