"""Textbook Shampoo: the peer where no package of the index does the same work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class TextbookShampoo(torch.optim.Optimizer):
    """A plain loop over tensors and axes, with an eigendecomposition for each root.

    What Distributed Shampoo does by default to tensors within one block (Shi et al.
    2023): factors along each axis, averaged and bias corrected, (L̂ + εI)^(−1/2k) by
    ``eigh`` at every T-th step from the first on, applied to the averaged gradient,
    without grafting. That package is not on the index. ScalableShampoo, which is,
    computes roots by another method, leaves vectors out and grafts.

    Parameters
    ----------
    params : list of Tensor
        Real, with gradients.
    lr, betas, eps, refresh
        As for `anthology.optim.Shampoo`.
    """

    def __init__(
        self,
        params: list[Tensor],
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        refresh: int = 10,
    ) -> None:
        found = {"lr": lr, "betas": betas, "eps": eps, "refresh": refresh}
        super().__init__(params, found)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; there is no closure."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                g, state = p.grad, self.state[p]
                if not state:
                    state["step"], state["exp_avg"] = 0, torch.zeros_like(p)
                    state["factors"] = [g.new_zeros(d, d) for d in g.shape]
                    state["roots"] = [g.new_zeros(d, d) for d in g.shape]
                state["step"] += 1
                due = (state["step"] - 1) % group["refresh"] == 0
                weight = 1 - beta2 ** state["step"]
                m = state["exp_avg"].lerp_(g, 1 - beta1)
                u = m / (1 - beta1 ** state["step"])
                pairs = zip(state["factors"], state["roots"], strict=True)
                for axis, (factor, root) in enumerate(pairs):
                    others = [i for i in range(g.ndim) if i != axis]
                    new = torch.tensordot(g, g, dims=(others, others))
                    factor.lerp_(new, 1 - beta2)
                    if due:
                        values, vectors = torch.linalg.eigh(factor / weight)
                        values = values - values[0].clamp(max=0) + group["eps"]
                        scaled = vectors * values ** (-1 / (2 * g.ndim))
                        root.copy_(scaled @ vectors.mT)
                    # the axis goes last, so that after all of them the order is back
                    u = torch.tensordot(u, root, dims=([0], [0]))
                p.add_(u, alpha=-group["lr"])
