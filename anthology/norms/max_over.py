"""One norm for several tensors: the largest of the layers' norms, each scaled."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from anthology.linalg.safe import real_dtype
from anthology.norms.base import Norm, positive
from anthology.norms.spec import register


@register
@dataclass(frozen=True, repr=False)
class MaxOver:
    """max_l s_l‖W_l‖_l on lists of tensors (Bernstein & Newhouse 2024, Prop. 7).

    Dual norm: Σ_l ‖G_l‖_{l,*}/s_l. Steepest unit step: each tensor
    dualize_l(G_l)/s_l, so that every layer moves as far as it may. Axes in front
    of a point are a stack of points and belong to the same maximum.

    Parameters
    ----------
    terms : sequence of (Norm, float)
        One norm and one positive finite scale for each tensor.
    """

    terms: tuple[tuple[Norm, float], ...]

    def __init__(self, terms: Iterable[tuple[Norm, float]]) -> None:
        checked = []
        for term in terms:
            if not isinstance(term, tuple | list) or len(term) != 2:
                raise TypeError(f"MaxOver needs pairs (Norm, scale), got {term!r}")
            norm, scale = term
            if not isinstance(norm, Norm):
                raise TypeError(f"MaxOver needs pairs (Norm, scale), got {term!r}")
            checked.append((norm, positive(scale, "scale")))
        if not checked:
            raise ValueError("MaxOver needs at least one pair (Norm, scale)")
        object.__setattr__(self, "terms", tuple(checked))

    def norm(self, xs: Sequence[Tensor]) -> Tensor:
        """Length max_l s_l‖x_l‖_l, a tensor without axes.

        Parameters
        ----------
        xs : sequence of Tensor
            One for each term; results meet on the device of the first.

        Raises
        ------
        ValueError
            If there are more or fewer tensors than terms, or one does not fit.
        """
        self._check(xs)
        lengths = [
            n._working("_norm", x) * s for (n, s), x in zip(self.terms, xs, strict=True)
        ]
        return self._join(xs, [_largest(v) for v in lengths]).amax().to(_type(xs))

    def dual(self, gs: Sequence[Tensor]) -> Tensor:
        """Dual norm Σ_l ‖g_l‖_{l,*}/s_l, a tensor without axes. As for ``norm``."""
        self._check(gs)
        duals = [
            n._working("_dual", g) / s for (n, s), g in zip(self.terms, gs, strict=True)
        ]
        return self._join(gs, [v.sum() for v in duals]).sum().to(_type(gs))

    def dualize(self, gs: Sequence[Tensor]) -> list[Tensor]:
        """Duality map: the list of dualize_l(g_l)/s_l, shaped and typed like ``gs``."""
        self._check(gs)
        return [(n * s).dualize(g) for (n, s), g in zip(self.terms, gs, strict=True)]

    def _check(self, xs: Sequence[Tensor]) -> None:
        if isinstance(xs, Tensor) or len(xs) != len(self.terms):
            got = "one tensor" if isinstance(xs, Tensor) else f"{len(xs)} tensors"
            raise ValueError(f"MaxOver of {len(self.terms)} terms got {got}")
        for (norm, _), x in zip(self.terms, xs, strict=True):
            norm._check(x)

    @staticmethod
    def _join(xs: Sequence[Tensor], values: list[Tensor]) -> Tensor:
        return torch.stack([v.to(xs[0].device) for v in values])

    def __repr__(self) -> str:
        return f"MaxOver({list(self.terms)!r})"


def _largest(values: Tensor) -> Tensor:
    return values.amax() if values.numel() else values.sum()


def _type(xs: Sequence[Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (real_dtype(x.dtype) for x in xs))
