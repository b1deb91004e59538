"""The modular norm of the weights of a network, and what it is made of.

Bernstein & Newhouse 2024 (arXiv 2410.21265), Defs 4-7, after Large et al. 2024
(arXiv 2405.14813).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import overload

import torch
from torch import Tensor

from anthology.linalg.safe import guarded, real_dtype, require_positive_integer
from anthology.norms.base import Norm, from_spec, positive, register, weight_of
from anthology.norms.metrized import Metrized, Row, as_html, as_text

Weights = Mapping[str, Tensor] | Sequence[Tensor]


@register
@dataclass(frozen=True, repr=False)
class MaxOver:
    """max_l s_l‖W_l‖_l on lists of tensors (arXiv 2409.20325, Prop. 7).

    ``terms`` are one norm and one positive finite scale for each tensor. Dual norm:
    Σ_l ‖G_l‖_{l,*}/s_l. Steepest unit step: each tensor dualize_l(G_l)/s_l, so that
    every layer moves as far as it may. Axes in front of a point are a stack of points
    and belong to the same maximum.
    """

    terms: tuple[tuple[Norm, float], ...]

    def __init__(self, terms: Iterable[tuple[Norm, float]]) -> None:
        checked = []
        for term in terms:
            match term:
                case (Norm() as norm, scale):
                    checked.append((norm, positive(scale, "scale")))
                case _:
                    raise TypeError(f"MaxOver needs pairs (Norm, scale), got {term!r}")
        if not checked:
            raise ValueError("MaxOver needs at least one pair (Norm, scale)")
        object.__setattr__(self, "terms", tuple(checked))

    def norm(self, xs: Sequence[Tensor]) -> Tensor:
        """Length max_l s_l‖x_l‖_l, a tensor without axes, on the device of the first.

        ValueError if there are more or fewer tensors than terms, or one does not fit.
        """
        found = [v * s for v, s in self._measured("_norm", xs)]
        tops = [v.amax() if v.numel() else v.sum() for v in found]
        return torch.stack(tops).amax().to(_type(xs))

    def dual(self, gs: Sequence[Tensor]) -> Tensor:
        """Dual norm Σ_l ‖g_l‖_{l,*}/s_l, a tensor without axes. As for ``norm``."""
        found = [(v / s).sum() for v, s in self._measured("_dual", gs)]
        return torch.stack(found).sum().to(_type(gs))

    def dualize(self, gs: Sequence[Tensor]) -> list[Tensor]:
        """Duality map: the list of dualize_l(g_l)/s_l, shaped and typed like ``gs``."""
        return [(n * s).dualize(g) for n, s, g in self._fit(gs)]

    def _measured(self, which: str, xs: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
        """Sizes in working precision, on one device, and scales."""
        found = []
        for n, s, x in self._fit(xs):
            v = guarded(x, n.ndim, getattr(n, which), per_point=True, rounded=False)
            found.append((v.to(xs[0].device), s))
        return found

    def _fit(self, xs: Sequence[Tensor]) -> list[tuple[Norm, float, Tensor]]:
        """Each term with its tensor, checked."""
        if isinstance(xs, Tensor) or len(xs) != len(self.terms):
            got = "one tensor" if isinstance(xs, Tensor) else f"{len(xs)} tensors"
            raise ValueError(f"MaxOver of {len(self.terms)} terms got {got}")
        found = [(n, s, x) for (n, s), x in zip(self.terms, xs, strict=True)]
        for norm, _, x in found:
            norm._check(x)
        return found

    def __repr__(self) -> str:
        return f"MaxOver({list(self.terms)!r})"


def _type(xs: Sequence[Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (real_dtype(x.dtype) for x in xs))


@dataclass(frozen=True)
class Leaf:
    """One weight of a module.

    ``mass`` is its share of the change in the output, ``gain`` how much of a change of
    the layer's output arrives at the end: the product of the sensitivities of all that
    follows (the sum, where it arrives by several ways).
    """

    row: Row
    mass: float
    gain: float = 1.0


@dataclass(frozen=True)
class Modular:
    """A module's mass, its sensitivity, and the modular norm of its weights.

    The norm is max_l s_l‖W_l‖_l with s_l = gain_l·M/m_l, for masses m_l of the leaves
    and their sum M. It makes the module *well-normed*: a change ΔW of the weights
    changes the output by at most ‖ΔW‖, and a change Δx of the input by at most
    ``sensitivity``·‖Δx‖, both to first order, while weights and activations are at most
    1 in their norms. A leaf without mass is in no norm and no group; a weight that is
    used in several places is one leaf.

    Made by `modular_norm`, `atom` and `bond`, and joined by `compose`, `concat`,
    `residual` and `tare`. ``str()`` gives the table, and notebooks show it.
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
        """New parameter groups, for ``SteepestDescent`` steps of modular norm lr."""
        return Metrized(replace(x.row, scale=self._scale(x)) for x in self._active)

    def norm(self, weights: Weights) -> Tensor:
        """Modular norm max_l s_l‖W_l‖_l, a tensor without axes.

        ``weights`` are by name (more names than ``names`` are let be), or in that order.
        ValueError if one is missing or of another shape than the weight it stands for.
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
        """Steepest unit step dualize_l(G_l)/s_l, as a dict or list like ``grads``."""
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
        names = self.names
        if isinstance(weights, Mapping):
            missing = [name for name in names if weights.get(name) is None]
            if missing:
                raise ValueError(f"no tensor for {', '.join(missing)}")
            weights = [weights[name] for name in names]
        if isinstance(weights, Tensor) or len(weights) != len(names):
            raise ValueError(f"{len(names)} tensors are needed, for {', '.join(names)}")
        points = []
        for leaf, x in zip(self._active, weights, strict=True):
            if x.shape != leaf.row.param.shape:
                raise ValueError(
                    f"{leaf.row.name} has shape {tuple(leaf.row.param.shape)}, "
                    f"got {tuple(x.shape)}"
                )
            points.append(x.reshape(-1) if leaf.row.norm.ndim == 1 else x)
        return points

    def _cells(self) -> Sequence[tuple[str, ...]]:
        lines = [("name", "shape", "role", "norm", "mass", "scale", "")]
        for leaf in self.leaves:
            scale = f"{self._scale(leaf):.4g}" if leaf in self._active else "–"
            cells = *leaf.row.cells()[:4], f"{leaf.mass:.4g}", scale, leaf.row.remark
            lines.append(cells)
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
    """A module that is one weight, ``name`` in the table and in mappings.

    ``norm`` (or its text, for `from_spec`) measures a change of it: a unit change must
    change the output by at most 1, for inputs of size at most 1. ``mass`` and
    ``sensitivity`` are not negative and finite, ``role`` is a word for the table.
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
    joined = bond()
    for module in modules:
        s = module.sensitivity
        before = tuple(replace(leaf, gain=leaf.gain * s) for leaf in joined.leaves)
        joined = Modular(joined.sensitivity * s, _merged(before + module.leaves))
    return joined


def concat(*modules: Modular) -> Modular:
    """The modules side by side on one input; also the sum of their outputs.

    Masses and sensitivities add; the norm of two is
    max((m/m_a)‖·‖_a, (m/m_b)‖·‖_b) with m = m_a + m_b (Def. 6).
    """
    leaves = tuple(leaf for module in modules for leaf in module.leaves)
    return Modular(math.fsum(m.sensitivity for m in modules), _merged(leaves))


def residual(block: Modular, blocks: int | None = None) -> Modular:
    """A shortcut around ``block``: x ↦ x + block(x), of sensitivity 1 + σ.

    With L = ``blocks`` it is x ↦ (1 − 1/(2L))x + block(x)/(2L), which keeps the
    sensitivity at 1 if that of the block is 1, however many follow each other.
    """
    if blocks is None:
        return concat(bond(), block)
    require_positive_integer(blocks, "blocks", " or None")
    share = 1 / (2 * blocks)
    return concat(bond(1 - share), compose(block, bond(share)))


def tare(module: Modular, absolute: float = 1.0) -> Modular:
    """The module with all masses scaled so that they sum to ``absolute``.

    Its own norm stays as it is; its share in what it becomes part of changes. With 0
    its weights do not move at all. ValueError if there is no mass to scale, or
    ``absolute`` is negative or not finite.
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
