"""Modules with a modular norm made of others: in a row, side by side, with a shortcut.

Bernstein & Newhouse 2024 (arXiv 2410.21265), Defs 5 and 6.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

from torch import Tensor

from anthology.norms.base import Norm, positive
from anthology.norms.metrized import Row
from anthology.norms.modules import Leaf, Modular, weight_of
from anthology.norms.spec import from_spec


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
    return reduce(_compose, modules, bond())


def _compose(first: Modular, second: Modular) -> Modular:
    s = second.sensitivity
    moved = tuple(replace(leaf, gain=leaf.gain * s) for leaf in first.leaves)
    return Modular(first.sensitivity * s, _merged(moved + second.leaves))


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
    if not weight_of(absolute, "absolute"):
        return replace(
            module, leaves=tuple(replace(x, mass=0.0) for x in module.leaves)
        )
    share = absolute / positive(module.mass, "the mass of the module")
    leaves = tuple(replace(leaf, mass=leaf.mass * share) for leaf in module.leaves)
    return replace(module, leaves=leaves)


def _merged(leaves: Iterable[Leaf]) -> tuple[Leaf, ...]:
    """A weight used twice is one leaf: its masses add, and so do its gains."""
    found: dict[int, Leaf] = {}
    for leaf in leaves:
        key = id(leaf.row.param)
        if key in found:
            old = found[key]
            leaf = Leaf(old.row, old.mass + leaf.mass, old.gain + leaf.gain)
        found[key] = leaf
    return tuple(found.values())
