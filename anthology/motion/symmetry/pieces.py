"""A symmetry of the loss: which pieces of which parameters it changes, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Symmetry:
    r"""A way to change parameters that leaves the loss as it is.

    The rows ``start`` to ``stop`` along ``axis`` are cut into `parts` equal pieces, each
    with the symmetry on its own: a convolution in front of a batch normalisation as many
    as it has channels. Methods take tensors by name in the shapes of the parameters.

    Parameters
    ----------
    kind : {"scale", "translation"}
        Multiply a piece by c > 0, or add c to all channels of a piece; c may differ
        from one position on the other axes to the next.
    names : tuple of str
        The parameter, or weight and bias if they must be scaled together.
    axis, start, stop, parts, length : int
        The axis of the channels; the rows meant (a third of them for one projection of
        a fused ``qkv``); how many pieces; rows of the whole parameter.
    reason : str
        What the layer feeds.
    defect : float
        What the ε of the normalisation layers leaves of the identity at the weights of
        the model: the largest :math:`|\langle w, g\rangle| / \lVert w\rVert\lVert g\rVert`
        or :math:`|\langle\mathbf 1, g\rangle| / \lVert\mathbf 1\rVert\lVert g\rVert`.
    """

    kind: str
    names: tuple[str, ...]
    axis: int
    start: int
    stop: int
    parts: int
    length: int
    reason: str = ""
    defect: float = 0.0

    def pieces(self, values: Mapping[str, Tensor]) -> Tensor:
        """The pieces as rows: (parts, entries) for a scale, (parts, channels of a
        piece, positions) for a translation."""
        cut = [self._rows(values[name]).reshape(self.parts, -1) for name in self.names]
        found = torch.cat(cut, dim=1)
        if self.kind == "scale":
            return found
        channels = (self.stop - self.start) // self.parts
        return found.reshape(self.parts, channels, -1)

    def coordinate(self, values: Mapping[str, Tensor]) -> Tensor:
        """What the symmetry makes predictable: ‖w‖² of each piece, shape (parts,), for
        a scale; the sum over the channels, (parts, positions), for a translation."""
        found = self.pieces(values)
        return found.square().sum(1) if self.kind == "scale" else found.sum(1)

    def moved(self, values: Mapping[str, Tensor], amount: Tensor) -> dict[str, Tensor]:
        """New tensors for ``names`` after the symmetry has acted on them, by factors
        or shifts c in the shape of :meth:`coordinate`."""
        changed = {}
        for name in self.names:
            changed[name] = values[name].clone()
            rows = self._rows(changed[name])
            cut = rows.reshape(self.parts, len(rows) // self.parts, -1)
            scaled = self.kind == "scale"
            cut = cut * amount[:, None, None] if scaled else cut + amount[:, None, :]
            rows.copy_(cut.reshape(rows.shape))
        return changed

    def _rows(self, value: Tensor) -> Tensor:
        """The rows meant, first axis first; a view."""
        rows = value.movedim(self.axis if value.ndim > 1 else 0, 0)
        return rows[self.start : self.stop]

    def __str__(self) -> str:
        name = " + ".join(self.names)
        if self.stop - self.start < self.length:
            name += f"[{self.start}:{self.stop}]"
        along = f" along axis {self.axis}" if self.kind == "translation" else ""
        pieces = f", {self.parts} pieces" if self.parts > 1 else ""
        return f"{name}: {self.kind}{along}{pieces}; {self.reason}"
