"""No class takes a machine down by default, however long a table is."""

from functools import partial

import pytest
import torch
from torch import nn

from anthology import norms, optim
from tests.examples import EXAMPLES

MAKE = {
    "FreeSteepestDescent": partial(optim.FreeSteepestDescent, norm=norms.L2()),
    "SteepestDescent": partial(optim.SteepestDescent, lr=1e-2, norm=norms.L2()),
}
KINDS = list(EXAMPLES)
# Bytes a parameter, where AdamW keeps 8; and of a tensor, with its counters, besides:
# two squares of 1024, twice, for each axis of a stack. Shampoo has those for a block.
BYTES, BESIDES = 16, 3 * 4 * 2 * 1024**2 + 1024
TABLES = [(50257, 768), (768, 50257), (3072, 768), (4000, 64), (64, 10000), (200000,)]
TABLES += [(1024, 4096), (30000, 2), (8, 4096, 4096), (5000, 5000)]


def state_bytes(make, shape: tuple[int, ...]) -> int:
    """Of the state of one tensor; nothing is allocated."""
    p = nn.Parameter(torch.empty(shape, device="meta"))
    optimizer = make([p])
    optimizer.create_state()
    entries = [x for x in optimizer.state[p].values() if isinstance(x, torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in entries)


@pytest.mark.parametrize("name", KINDS)
def test_state_bytes_of_large_tables(name) -> None:
    make = MAKE.get(name, EXAMPLES[name].make())
    for shape in TABLES:
        numel = torch.Size(shape).numel()
        cuts = [-(-d // 1024) if name == "Shampoo" else 1 for d in shape]
        blocks = torch.Size(cuts).numel()
        assert state_bytes(make, shape) <= BYTES * numel + blocks * BESIDES


@pytest.mark.parametrize("name", KINDS)
def test_the_vocabulary_of_gpt2(name) -> None:
    shape = (50257, 768)
    make = MAKE.get(name, EXAMPLES[name].make())
    assert state_bytes(make, shape) <= BYTES * 50257 * 768 + 1024


@pytest.mark.parametrize("shape", [(20, 3), (3, 20), (20,), (2, 20, 3)])
def test_longer_axes_have_diagonal_factors(shape) -> None:
    for structures in (None, "dense", {2: ("dense", "lower")}):
        p = nn.Parameter(torch.ones(shape))
        optimizer = optim.SIRFShampoo(
            [p], batch_size=1, max_dim=10, structures=structures
        )
        p.grad = torch.randn(shape)
        optimizer.step()
        for n, dim in enumerate(shape):
            size = optimizer.state[p][f"factor_{n}"].numel()
            if dim > 10:
                assert size == dim
            elif structures == "dense":
                assert size == dim * dim
        assert p.isfinite().all()


def test_a_longest_axis_is_a_positive_integer() -> None:
    for wrong in (0, -1, 2.5, "many", None, True):
        with pytest.raises(ValueError, match="Invalid max_dim"):
            optim.SIRFShampoo(
                [nn.Parameter(torch.ones(2))], batch_size=1, max_dim=wrong
            )
