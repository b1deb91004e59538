"""The claims on symmetries, on networks in which they were found."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from anthology.motion import find_symmetries, follow_symmetry

TINY = 1e-30  # torch refuses an ε of zero in batch normalisation


def network(norm, *, eps, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 8, bias=False), norm(8, eps=eps), nn.Tanh(), nn.Linear(8, 3)]
    x, y = torch.randn(12, 6), torch.randint(3, (12,))
    return nn.Sequential(*layers), lambda net: cross_entropy(net(x), y)


def descent(lr, decay, **rest):
    return lambda net: torch.optim.SGD(net.parameters(), lr, weight_decay=decay, **rest)


@pytest.mark.claim("motion-of-invariant-layers", tol=1e-12)
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm])
def test_weights_in_front_of_a_normalisation(claim, norm):
    """Without ε the law of the steps is exact; ξ_0 gains a factor of 10 and more."""
    model, loss = network(norm, eps=TINY)
    first = find_symmetries(model, loss)[0]
    assert (first.kind, first.names) == ("scale", ("0.weight",))
    gaps = follow_symmetry(model, loss, first, descent(0.2, 0.1), steps=100).gaps()
    assert gaps["law"] < claim.tol
    assert gaps["motion"] < gaps["flow"] / 10


@pytest.mark.claim("motion-of-invariant-layers", tol=1e-12)
def test_the_logits_of_a_network(claim):
    model, loss = network(nn.LayerNorm, eps=1e-5)
    found = find_symmetries(model, loss)
    last = [s for s in found if s.names[0].startswith("3.")]
    assert [s.names[0] for s in last] == ["3.weight", "3.bias"]
    for symmetry in last:
        run = follow_symmetry(model, loss, symmetry, descent(0.2, 0.5), steps=60)
        gaps = run.gaps()
        assert gaps["law"] < claim.tol
        assert gaps["motion"] < gaps["flow"] / 10


@pytest.mark.claim("scale-epsilon", tol=1e-3)
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm])
def test_the_epsilon_of_the_normalisation_breaks_the_law_a_little(claim, norm):
    model, loss = network(norm, eps=1e-5)
    first = find_symmetries(model, loss)[0]
    assert 1e-9 < first.defect < claim.tol / 10
    smaller = find_symmetries(*network(norm, eps=1e-7))[0]
    assert abs(first.defect / smaller.defect / 100 - 1) < 0.01
    run = follow_symmetry(model, loss, first, descent(0.2, 0.1), steps=100)
    assert 1e-10 < run.gaps()["law"] < claim.tol
