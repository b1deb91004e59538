"""Scion: Frank-Wolfe steps on a ball of each tensor's own norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from anthology.norms import (
    RMS,
    MaxAbs,
    Norm,
    OneToRMS,
    RMSToInf,
    RMSToRMS,
    Scaled,
    Spectral,
    Transpose,
    norm_by_shape,
)

from .core.base import Params, hyperparameters
from .core.batch import Batch
from .core.card import Card, SilentPenalty
from .core.limits import number, one_of
from .parts.arithmetic import descend, scale
from .parts.param_norm import spec
from .steepest import SteepestDescent


class Scion(SteepestDescent):
    r"""Step towards the point of a norm ball where a linear model is smallest.

    With m the gradient or its average, ρ the radius and γ the step size, the point
    :math:`-\rho\operatorname{dualize}(m)` solves :math:`\min \langle m, x\rangle`
    over :math:`\|x\| \le \rho`, and

    .. math::

       W \leftarrow (1-\gamma) W - \gamma\rho\operatorname{dualize}(m)
       \quad\text{(constrained) or}\quad
       W \leftarrow W - \gamma\rho\operatorname{dualize}(m)
       \quad\text{(unconstrained)}

    Parameters
    ----------
    params : iterable
        Parameters of any shape, named parameters, or groups; a group may carry its
        own ``norm``, ``radius`` and ``scale`` (s, which makes the norm
        :math:`s\|\cdot\|`), so that ``metrize(model)`` serves.
    lr : float or Tensor
        γ, a share of the way to that point; at most 1 if constrained. The step of an
        unconstrained tensor has length γρ in its norm. Default 1e-3.
        Rate to try first: 0.001; with ``metrize`` 0.003.
    momentum : float
        β in [0, 1) of m ← βm + (1−β)g, m₀ = 0. Default 0: m = g. The published code
        calls 1 − β ``momentum``: its default 1.0 is 0 here, its advice 0.1 is 0.9.
    radius : float
        ρ, positive, in the units of the norm (``scale`` in the published code).
        Default 30 (measured; published 1); the authors take 50 for hidden layers and
        3000 for a head under the sign norm in a small GPT, with lr 2⁻¹².
    unconstrained : bool
        Do not shrink W. Default False.
    norm : Norm or str, optional
        As for `SteepestDescent`, None with exact duality maps; `scion_norm` has those
        of the paper.
    foreach, maximize, capturable, differentiable
        See :class:`BaseOptimizer`.

    Notes
    -----
    Constrained, W stays in the ball once it is in it, and approaches it by the factor
    1 − γ a step until then, as long as the duality map is exact; the five Newton-Schulz
    steps of the published code, ``RMSToRMS(method="muon")``, let it grow up to 1.2
    times as large. One step is that of `SteepestDescent` with rate γρ and, if
    constrained, weight decay 1/ρ.

    Source: Pethick et al. 2025 (arXiv 2502.07529), Algorithms 1 (unconstrained) and 2.

    Examples
    --------
    >>> import torch
    >>> from anthology.norms import LInf
    >>> from anthology.optim import Scion
    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = torch.tensor([-30.0, -0.02])
    >>> Scion([w], lr=0.5, radius=2.0, norm=LInf()).step()
    >>> w.detach()  # half way to the corner (2, 2) of the box
    tensor([1.5000, 0.0000])
    """

    card = Card(
        answer="moves a share of the way to the point of a norm ball that lies "
        "furthest downhill.",
        update=r"$\Delta W=-\eta\rho\operatorname{dualize}(m)$",
        problem=r"$\min_x\langle m, x\rangle$ over $\lVert x\rVert\le\rho$; "
        r"$W$ moves the share $\eta$ of the way to $x$",
        norm="any; by default RMS, RMS→RMS, per kernel position, by shape",
        average="none or gradient",
        state="0 (1 with momentum)",
        source="Pethick et al. 2025 (2502.07529), Alg. 1 and 2",
    )
    silent = (
        SilentPenalty(
            "its Frank–Wolfe gap, less $f$",
            r"1+2\tau",
            19.0,
            {"momentum": 0.9},
        ),
        SilentPenalty(
            r"the radius times $\sum_l\lVert\nabla_lf\rVert_*$",
            "1",
            1.0,
            {"unconstrained": True},
        ),
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        radius: float = 30.0,
        unconstrained: bool = False,
        norm: Norm | str | None = None,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {**hyperparameters(locals()), "norm": spec(norm)}
        # What SteepestDescent reads and Scion does not vary
        defaults |= {"nesterov": False, "weight_decay": 0.0, "scale": 1.0}
        defaults |= {"step_rule": "dualize", "across": "max"}
        super(SteepestDescent, self).__init__(params, defaults)

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse what the method cannot use; see the class for the limits."""
        if group["step_rule"] != "dualize":
            raise ValueError(f"Scion has no step={group['step_rule']!r}")
        super().check(group)
        if not 0.0 < number("radius", group["radius"]) < math.inf:
            raise ValueError(
                f"Invalid radius: {group['radius']}; it must be positive and finite"
            )
        if not group["unconstrained"] and not group["lr"] <= 1.0:
            raise ValueError(
                f"Invalid learning rate: {group['lr']}; it must be at most 1, the "
                "whole way to the edge of the ball, or unconstrained=True"
            )
        if group["across"] != "max":
            raise ValueError(f"Scion has no across={group['across']!r}")
        if group["weight_decay"] or group["nesterov"] or group["decay"] != "plain":
            raise ValueError(
                "Scion has neither weight_decay nor decay (the constraint takes their "
                "place) nor nesterov; SteepestDescent has them"
            )

    def _move(self, batch: Batch, moves: list[Tensor], sizes: list[Any]) -> None:
        group = batch.group
        if not batch.params:
            return
        if not group["unconstrained"]:
            scale(batch.params, 1 - group["lr"])
        descend(batch.params, moves, group["lr"] * (group["radius"] / group["scale"]))


def scion_norm(
    name: str, shape: Sequence[int], *, method: str = "svd", steps: int | None = None
) -> Norm:
    """The norm that Scion's authors use under a name, as a `Norm` of this package.

    =============  ===================================  ======================
    name           steepest unit step of (d_out, d_in)  as a Norm
    =============  ===================================  ======================
    Spectral       √(d_out/d_in)·UVᵀ                    RMSToRMS()
    SpectralInput  max(1, √(d_out/d_in))·UVᵀ            Scaled(Spectral(), s)
    ColNorm        columns of RMS 1                     OneToRMS()
    Embedding      rows of RMS 1                        Transpose(OneToRMS())
    RowNorm        rows of length 1/√d_in               RMSToInf()
    Sign           sign(G)/d_in                         Scaled(MaxAbs(), d_in)
    BiasRMS        RMS 1                                RMS()
    Auto           by the number of axes                RMS, RMSToRMS or Conv
    =============  ===================================  ======================

    There, SpectralInput is Spectral with ``max=True`` and Embedding is ColNorm with
    ``transpose=True``.

    Parameters
    ----------
    name : str
        One of the table.
    shape : sequence of int
        Shape of the parameter, ``weight.shape``.
    method, steps
        How the polar factor is found, as for ``Spectral``; "muon" is theirs.

    Returns
    -------
    Norm
        For the ``norm`` of a group.

    Raises
    ------
    ValueError
        If there is no such name, or it is a norm of matrices and the shape none.

    Notes
    -----
    For kernels the package dualizes each position, as the theory does, while the
    published code orthogonalises the kernel flattened to (d_out, d_in·positions).

    Source: Pethick et al. 2025 (arXiv 2502.07529) and their published code.

    Examples
    --------
    >>> from anthology.optim import scion_norm
    >>> scion_norm("Sign", (10, 64))
    Scaled(MaxAbs(), 64.0)
    >>> scion_norm("SpectralInput", (16, 64))
    Scaled(Spectral(), 1.0)
    """
    matrices = ("Spectral", "SpectralInput", "ColNorm", "Embedding", "RowNorm", "Sign")
    one_of("name", name, (*matrices, "BiasRMS", "Auto"))
    if name == "BiasRMS":
        return RMS()
    if name == "Auto" and len(shape) != 2:
        return norm_by_shape(len(shape))
    if len(shape) != 2:
        raise ValueError(f"{name} is a norm of matrices, got shape {tuple(shape)}")
    d_out, d_in = shape
    if name == "SpectralInput":
        return Scaled(Spectral(method, steps), 1 / max(1.0, math.sqrt(d_out / d_in)))
    table: dict[str, Norm] = {
        "ColNorm": OneToRMS(),
        "Embedding": Transpose(OneToRMS()),
        "RowNorm": RMSToInf(),
        "Sign": Scaled(MaxAbs(), d_in),
    }
    return table.get(name, RMSToRMS(method, steps))
