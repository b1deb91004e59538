"""A symmetry of the loss: which pieces of which parameters it changes, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """The rows ``start`` to ``stop`` along ``axis`` of a parameter that has ``length``.

    Of a fused ``qkv`` one projection is a third of the rows. ``power`` is the exponent
    with which the factor c of a symmetry enters these rows.
    """

    name: str
    axis: int
    start: int
    stop: int
    length: int
    power: int = 1

    def rows(self, values: Mapping[str, Tensor]) -> Tensor:
        """The rows meant, first axis first; a view."""
        value = values[self.name]
        rows = value.movedim(self.axis if value.ndim > 1 else 0, 0)
        return rows[self.start : self.stop]

    def __str__(self) -> str:
        whole = self.stop - self.start == self.length
        name = self.name if whole else f"{self.name}[{self.start}:{self.stop}]"
        return name if abs(self.power) == 1 else f"{name} (power {abs(self.power)})"


@dataclass(frozen=True)
class Symmetry:
    r"""A way to change parameters that leaves the loss as it is.

    The rows of each cut are divided into `parts` equal pieces, and the first pieces of all
    cuts have the symmetry on their own, like the second ones and so on: a convolution in
    front of a batch normalisation as many as it has channels. Methods take tensors by name
    in the shapes of the parameters.

    Parameters
    ----------
    kind : {"scale", "translation", "exchange"}
        Multiply a piece by c > 0; add c to all channels of a piece, where c may differ
        from one position on the other axes to the next; or multiply some cuts and divide
        others, each by c to its power.
    cuts : tuple of Cut
        The parameter, or all those that must be changed together.
    parts : int
        How many pieces.
    reason : str
        What the layer feeds.
    defect : float
        What the ε of the normalisation layers leaves of the identity at the weights of
        the model: the largest :math:`|\langle v, g\rangle| / \lVert v\rVert\lVert g\rVert`
        with v = :meth:`field`.
    """

    kind: str
    cuts: tuple[Cut, ...]
    parts: int
    reason: str = ""
    defect: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it changes."""
        return tuple(dict.fromkeys(cut.name for cut in self.cuts))

    @property
    def channels(self) -> int:
        """How many rows all cuts together have, of one piece."""
        return sum(cut.stop - cut.start for cut in self.cuts) // self.parts

    @property
    def most(self) -> int:
        """Into how many pieces it could be cut at most."""
        return math.gcd(*(cut.stop - cut.start for cut in self.cuts))

    def pieces(self, values: Mapping[str, Tensor]) -> Tensor:
        """The pieces as rows: (parts, entries) for factors, (parts, channels of a
        piece, positions) for a translation."""
        found = torch.cat([self._cut(cut, values) for cut in self.cuts], dim=1)
        if self.kind != "translation":
            return found
        return found.reshape(self.parts, self.channels, -1)

    def field(self, values: Mapping[str, Tensor]) -> Tensor:
        """The direction v in which the symmetry starts to move each of the
        :meth:`pieces`, of their shape: w, with its power, or ones."""
        if self.kind == "translation":
            return torch.ones_like(self.pieces(values))
        rows = [cut.power * self._cut(cut, values) for cut in self.cuts]
        return torch.cat(rows, dim=1)

    def coordinate(self, values: Mapping[str, Tensor]) -> Tensor:
        """What the symmetry makes predictable, of each piece: ‖w‖² for a scale, the
        squares summed with their powers for an exchange, shape (parts,); the sum
        over the channels, (parts, positions), for a translation."""
        return (self.field(values) * self.pieces(values)).sum(1)

    def moved(self, values: Mapping[str, Tensor], amount: Tensor) -> dict[str, Tensor]:
        """New tensors for ``names`` after the symmetry has acted on them, by factors
        or shifts c in the shape of :meth:`coordinate`."""
        changed = {name: values[name].clone() for name in self.names}
        for cut in self.cuts:
            rows = cut.rows(changed)
            piece = rows.reshape(self.parts, len(rows) // self.parts, -1)
            if self.kind == "translation":
                piece = piece + amount[:, None, :]
            else:
                piece = piece * amount[:, None, None] ** cut.power
            rows.copy_(piece.reshape(rows.shape))
        return changed

    def law(
        self,
        before: Tensor,
        old: Mapping[str, Tensor],
        new: Mapping[str, Tensor],
        shrink: float = 1.0,
        along: Tensor | float = 0.0,
    ) -> Tensor:
        r"""The coordinate after a step, from that before it, the `before` Q.

        With the step :math:`d = w' - \rho w`, ρ = ``shrink`` = 1 − ηκ, and ``along``
        :math:`= \langle v, d\rangle` for the :meth:`field` v, it is exactly
        :math:`\rho^2 Q + 2\rho\,\langle v, d\rangle + \sum_i p_i\lVert d_i\rVert^2` for
        factors with the powers p, and :math:`\rho Q + \langle v, d\rangle` for a
        translation. Along its field a symmetry has no slope: gradient descent has 0 there.
        """
        if self.kind == "translation":
            return before * shrink + along
        step = {name: new[name] - shrink * old[name] for name in self.names}
        return before * shrink**2 + 2 * shrink * along + self.coordinate(step)

    def _cut(self, cut: Cut, values: Mapping[str, Tensor]) -> Tensor:
        return cut.rows(values).reshape(self.parts, -1)

    def __str__(self) -> str:
        grown, shrunk = (
            " + ".join(str(cut) for cut in self.cuts if cut.power * sign > 0)
            for sign in (1, -1)
        )
        name = f"{grown} against {shrunk}" if shrunk else grown
        shift = self.kind == "translation"
        along = f" along axis {self.cuts[0].axis}" if shift else ""
        pieces = f", {self.parts} pieces" if self.parts > 1 else ""
        return f"{name}: {self.kind}{along}{pieces}; {self.reason}"
