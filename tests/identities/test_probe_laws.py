"""Which steps leave alone what the loss cannot see."""

import pytest
import torch
from torch import nn

from anthology import optim
from anthology.motion import Probe, find_symmetries

MATRIX = "matrix"
KEEP = {
    "gradient": (None, lambda p: torch.optim.SGD(p, 0.3)),
    "momentum": (None, lambda p: torch.optim.SGD(p, 0.3, momentum=0.9)),
    "normalised": (None, lambda p: optim.SGD(p, 0.3, normalised=True)),
    "decay": (None, lambda p: torch.optim.SGD(p, 0.3, weight_decay=0.1)),
    "spectral": (
        MATRIX,
        lambda p: optim.SteepestDescent(p, 0.02, 0.9, norm="Spectral()"),
    ),
    "Muon": (MATRIX, lambda p: optim.Muon(p, 0.02, 0.1)),
    "Shampoo": (MATRIX, lambda p: optim.Shampoo(p, 0.1)),
    "KrADagrad": (MATRIX, lambda p: optim.KrADagrad(p, 0.1)),
    "SIRFShampoo": (MATRIX, lambda p: optim.SIRFShampoo(p, 0.1, batch_size=8)),
}
BREAK = {
    "sign": (None, lambda p: optim.SteepestDescent(p, 0.01, norm="LInf()")),
    "Signum": (None, lambda p: optim.Signum(p, 0.01)),
    "Lion": (None, lambda p: optim.Lion(p, 0.01)),
    "Adam": (None, lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
    "rows": (MATRIX, lambda p: optim.SteepestDescent(p, 0.02, norm="RMSToInf()")),
}


def drift(which, build):
    """How far the output weights went along their symmetry, and the largest step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 3))
    net, x, y = net.double(), torch.randn(8, 4).double(), torch.randint(3, (8,))

    def loss(f):
        return nn.functional.cross_entropy(f(x), y)

    params = [p for p in net.parameters() if which is None or p.ndim == 2]
    (head,) = (s for s in find_symmetries(net, loss) if s.names == ("2.weight",))
    optimizer, start = build(params), net[2].weight.detach().clone()
    with Probe(net, optimizer, symmetries=[head], parts=["symmetry"]) as probe:
        for _ in range(20):
            optimizer.zero_grad()
            loss(net).backward()
            optimizer.step()
    (row,) = probe.records[-1]["symmetries"].values()
    return row["drift"], (net[2].weight - start).norm().item()


@pytest.mark.claim("blind-sums", tol=1e-9)
@pytest.mark.parametrize("name", KEEP)
def test_steps_in_the_range_of_the_gradient_keep_the_sums(claim, name):
    gone, way = drift(*KEEP[name])
    assert gone < claim.tol < 0.05 < way


@pytest.mark.claim("blind-sums")
@pytest.mark.parametrize("name", BREAK)
def test_entrywise_steps_do_not(name):
    gone, way = drift(*BREAK[name])
    assert 0.03 * way < gone < way
