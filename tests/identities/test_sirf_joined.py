"""Weight and bias as one matrix, and a batch counted, against the authors' package."""

import pytest
import torch
from sirfshampoo import SIRFShampoo as Published
from torch import nn

from anthology.optim import SIRFShampoo, joined


class TogetherPublished(Published):
    """The authors' rule for groups of two tensors, which they never make.

    Their constructor gives every tensor a group of its own; what follows, from the
    shape of the factors to the step, is written for a weight with its bias too.
    """

    def _one_param_group_per_preconditioner(self) -> None:
        group = self.param_groups[0]
        self.param_groups = [
            {**group, "params": group["params"][i : i + 2]}
            for i in range(0, len(group["params"]), 2)
        ]


def network(kernels: bool) -> nn.Sequential:
    first = [nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten()] if kernels else []
    width = 12 if kernels else 5
    layers = [*first, nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, 2)]
    return nn.Sequential(*layers).double()


@pytest.mark.claim("sirf-parity", tol=1e-11, trials=40)
@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("refresh", [1, 3])
@pytest.mark.parametrize("kernels", [False, True])
def test_joined_equals_the_published_rule(claim, kernels, refresh, foreach) -> None:
    theirs, ours = network(kernels), network(kernels)
    ours.load_state_dict(theirs.state_dict())
    reference = TogetherPublished(
        theirs, lr=0.05, beta2=0.3, lam=0.02, kappa=0.1, batch_size=7, T=refresh
    )
    optimizer = SIRFShampoo(
        joined(ours, kernels=kernels),
        lr=0.05,
        factor_lr=0.3,
        damping=0.02,
        weight_decay=0.1,
        batch_size=7,
        refresh=refresh,
        foreach=foreach,
    )
    assert [g["joined"] for g in optimizer.param_groups] == [True]
    for _ in range(claim.trials):
        x = torch.randn(7, *((2, 3, 3) if kernels else (5,)), dtype=torch.float64)
        for model, chosen in ((theirs, reference), (ours, optimizer)):
            chosen.zero_grad()
            model(x).square().mean(0).sum().backward()
            chosen.step()
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert (a - b).abs().max() < claim.tol
    layers = [m for m in ours if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer, factors in zip(layers, reference.preconditioner, strict=True):
        for n, factor in enumerate(factors):
            kept = optimizer.state[layer.weight][f"factor_{n}"]
            assert (kept - factor.to_dense().flatten()).abs().max() < claim.tol


def test_joined_is_another_method_than_apart() -> None:
    ends = []
    for groups in (joined, lambda model: model.parameters()):
        torch.manual_seed(0)
        model = network(False)
        optimizer = SIRFShampoo(groups(model), 0.1, 0.3, batch_size=7)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(7, 5).double()).square().mean(0).sum().backward()
            optimizer.step()
        ends.append(model[0].weight.detach())
    assert (ends[0] - ends[1]).abs().max() > 1e-4
