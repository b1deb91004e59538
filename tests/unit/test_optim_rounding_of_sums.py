"""One batch, or two halves whose gradients are added, differ by rounding only."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from anthology import norms, optim
from tests.examples import EXAMPLES

MAKE = {
    "FreeSteepestDescent": partial(optim.FreeSteepestDescent, norm=norms.L2()),
    "RootFreeAdamW": partial(optim.RootFreeAdamW, batch_size=16),
    "RootFreeRMSProp": partial(optim.RootFreeRMSProp, batch_size=16),
    "SIRFShampoo": partial(optim.SIRFShampoo, batch_size=16),
    "Scion": partial(optim.Scion, radius=1.0),  # a step is as long as its rate
    "SteepestDescent": partial(optim.SteepestDescent, lr=1e-2, norm=norms.L2()),
}
KINDS = list(EXAMPLES)
# Learning rates, after 20 steps.
LIMITS = dict.fromkeys(KINDS, 2e-4) | {"SOAP": 2e-3, "Shampoo": 2e-3}


def after(make, parts: int, seed: int) -> tuple[Tensor, float]:
    """The weights after 20 steps, and the learning rate."""
    torch.manual_seed(seed)
    # smooth, for a kink would turn rounding into another gradient
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    optimizer = make(net.parameters())
    x, y = torch.randn(16, 8), torch.randint(0, 4, (16,))
    for _ in range(20):
        optimizer.zero_grad()
        for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (nn.functional.cross_entropy(net(a), b) / parts).backward()
        optimizer.step()
    lr = float(optimizer.param_groups[0]["lr"])
    return torch.cat([p.detach().flatten() for p in net.parameters()]), lr


def apart(make, seed: int) -> float:
    (one, lr), (two, _) = (after(make, parts, seed) for parts in (1, 2))
    return float((one - two).abs().max()) / lr


def test_every_class_is_here() -> None:
    assert len(KINDS) > 12
    assert set(MAKE) < set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_two_halves_are_one_batch(name) -> None:
    """The last layer's gradient has a direction, common to all classes, of zero."""
    make = MAKE.get(name, EXAMPLES[name].make())
    for seed in range(6):
        assert apart(make, seed) < LIMITS[name]


def test_as_published_soap_and_shampoo_make_whole_steps_of_it() -> None:
    soap = partial(optim.SOAP, eps=1e-8, relative_eps=False, basis_eps=0.0)
    shampoo = partial(optim.Shampoo, eps=1e-12, relative_eps=False)
    assert min(apart(soap, seed) for seed in range(3)) > 1
    assert max(apart(shampoo, seed) for seed in range(6)) > 0.05


@pytest.mark.parametrize("scale", [1e-12, 1e6])
@pytest.mark.parametrize("make", [optim.SOAP, optim.Shampoo], ids=["SOAP", "Shampoo"])
def test_the_relative_epsilon_follows_the_gradient(make, scale) -> None:
    """Another unit of the loss changes nothing but rounding."""
    ends = []
    for size in (1.0, scale):
        w = nn.Parameter(torch.ones(4, 3, dtype=torch.float64))
        v = nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = make([w, v], lr=0.1)
        generator = torch.Generator().manual_seed(0)
        for _ in range(12):
            for p in (w, v):
                g = torch.randn(p.shape, dtype=torch.float64, generator=generator)
                p.grad = size * g
            optimizer.step()
        ends.append(torch.cat([w.detach().flatten(), v.detach()]))
    assert (ends[0] - ends[1]).abs().max() < 1e-9


@pytest.mark.parametrize("make", [optim.SOAP, optim.Shampoo], ids=["SOAP", "Shampoo"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_zero_huge_tiny_and_low_rank_stay_finite(make, dtype) -> None:
    w = nn.Parameter(torch.ones(5, 4, dtype=dtype))
    optimizer = make([w], lr=0.1)
    outer = torch.outer(torch.arange(5.0), torch.ones(4)).to(dtype)
    for size in (0.0, 1e-18, 1.0, 1e8, 0.0, 1e-30, 1.0):
        for g in (outer, torch.randn(5, 4).to(dtype), outer.roll(1, 0)):
            w.grad = size * g
            optimizer.step()
            assert w.isfinite().all()
            assert all(x.isfinite().all() for x in optimizer.state[w].values())


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (optim.SOAP, "basis_eps", 0.0),
        (optim.Shampoo, "relative_eps", False),
        (partial(optim.SIRFShampoo, batch_size=1), "max_dim", 2**63 - 1),
    ],
    ids=["SOAP", "Shampoo", "SIRFShampoo"],
)
def test_an_older_checkpoint_keeps_what_it_was_trained_with(make, name, value) -> None:
    """Its groups do not name the newer setting."""
    w = nn.Parameter(torch.ones(3, 2))
    saved = make([w]).state_dict()
    assert saved["param_groups"][0].pop(name) != value
    optimizer = make([w])
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0][name] == value
