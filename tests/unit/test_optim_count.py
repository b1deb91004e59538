"""A batch size that is counted while the model is called."""

import copy
import itertools
from functools import partial

import pytest
import torch
from sirfshampoo import SIRFShampoo as Published
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anthology.optim import (
    AdamW,
    RootFreeAdamW,
    RootFreeRMSProp,
    SIRFShampoo,
    count_batch_size,
    joined,
)

KINDS = [
    partial(SIRFShampoo, factor_lr=0.3),
    RootFreeRMSProp,
    RootFreeAdamW,
]


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def size_of(optimizer) -> set[float]:
    return {group["batch_size"] for group in optimizer.param_groups}


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_equal_the_whole_batch(kind) -> None:
    """The same steps as with the whole batch and its size given."""
    models = network(), network()
    given = kind(models[0].parameters(), lr=0.1, batch_size=12)
    counted = kind(models[1].parameters(), lr=0.1, batch_size=1)
    count_batch_size(models[1], counted)
    for size in (12, 12, 7):
        x = torch.randn(size, 3, dtype=torch.float64)
        given.param_groups[0]["batch_size"] = size
        given.zero_grad()
        (models[0](x).square().sum() / size).backward()
        counted.zero_grad()
        for part in x.split(5):
            (models[1](part).square().sum() / size).backward()
            with torch.no_grad():
                models[1](part)  # looked at, not learned from
        models[1].eval()
        models[1](x).sum().detach()
        models[1].train()
        assert size_of(counted) == {size}
        given.step()
        counted.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert (a - b).abs().max() < 1e-13


def test_it_counts_what_the_published_package_counts() -> None:
    theirs, ours = network(), network()
    reference = Published(theirs, lr=0.1, beta2=0.3)
    optimizer = SIRFShampoo(
        ours.parameters(), 0.1, 0.3, structures="dense", batch_size=1
    )
    count_batch_size(ours, optimizer)
    for sizes in ((4, 4, 2), (9,), (1, 3)):
        for model, chosen in ((theirs, reference), (ours, optimizer)):
            made = torch.Generator().manual_seed(sum(sizes))
            chosen.zero_grad()
            for size in sizes:
                x = torch.randn(size, 3, generator=made).double()
                (model(x).square().sum() / sum(sizes)).backward()
            model.eval()(x)
            model.train()
        assert size_of(optimizer) == {reference.batch_size} == {sum(sizes)}
        reference.step()
        optimizer.step()
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-12


def test_a_closure_is_counted_inside_the_step() -> None:
    model = network()
    optimizer = SIRFShampoo(joined(model), 0.1, batch_size=1)
    counter = count_batch_size(model, optimizer)

    def evaluate(size: int) -> Tensor:
        assert counter.total == 0
        optimizer.zero_grad()
        loss = model(torch.ones(size, 3).double()).square().mean(0).sum()
        loss.backward()
        assert counter.total == size
        return loss

    for size in (6, 4):
        optimizer.step(lambda size=size: evaluate(size))
        assert size_of(optimizer) == {size}


def test_terms_of_ones_own_and_keywords() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 2)

        def forward(self, scale: float = 1.0, *, tokens: Tensor) -> Tensor:
            return scale * self.table(tokens)

    tokens = torch.zeros(2, 5, dtype=torch.long)
    for terms, expected in ((None, 2), (lambda tokens: tokens.numel(), 10)):
        model = Tokens()
        optimizer = RootFreeAdamW(model.parameters(), batch_size=1)
        count_batch_size(model, optimizer, terms)
        model(tokens=tokens)
        assert size_of(optimizer) == {expected}


def test_new_groups_checkpoints_and_removal() -> None:
    model = network()
    optimizer = RootFreeAdamW(model[0].parameters(), batch_size=3)
    with count_batch_size(model, optimizer) as counter:
        optimizer.add_param_group({"params": model[2].parameters()})
        saved = copy.deepcopy(optimizer.state_dict())
        model(torch.ones(5, 3).double()).sum().backward()
        assert size_of(optimizer) == {5}
        optimizer.load_state_dict(saved)
        assert size_of(optimizer) == {3}
        model(torch.ones(5, 3).double())
        assert size_of(optimizer) == {10}
        optimizer.step()
        model(torch.ones(0, 3).double())  # an empty batch adds nothing
        assert size_of(optimizer) == {10}
    counter.remove()
    model(torch.ones(7, 3).double())
    assert size_of(optimizer) == {10}
    assert not model._forward_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_wrong_arguments() -> None:
    model = network()
    optimizer = RootFreeAdamW(model.parameters(), batch_size=3)
    with pytest.raises(ValueError, match="AdamW has no batch_size"):
        count_batch_size(model, AdamW(model.parameters()))
    with pytest.raises(TypeError, match="needs a torch.nn.Module"):
        count_batch_size([model], optimizer)  # type: ignore[arg-type]
    for bad in (-1, 2.0, True, torch.tensor(2), None):
        with (
            count_batch_size(model, optimizer, lambda x, bad=bad: bad),
            pytest.raises(ValueError, match="number of terms of the loss"),
        ):
            model(torch.ones(2, 3).double())
    same = nn.Identity()
    with (
        count_batch_size(same, optimizer),
        pytest.raises(ValueError, match="say how many terms"),
    ):
        same(torch.tensor(1.0))
    assert size_of(optimizer) == {3}


class Checkpointed(nn.Module):
    """A network of which some blocks are computed again in the backward pass."""

    def __init__(self, how: tuple[bool | None, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in how)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        for block, reentrant in zip(self.blocks, self.how, strict=True):
            if reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=reentrant)
        return x


def wrapped(run, ways: tuple[bool, ...]):
    """A call within checkpoints, the first way the innermost."""
    for reentrant in ways:
        run = partial(checkpoint, run, use_reentrant=reentrant)
    return run


WAYS = [(), (False,), (True,), *itertools.product((False, True), repeat=2)]
WAYS += [(False, True, False), (True, True, True)]
BLOCKS = [(None,), (False,), (True,), (None, False, True), (False, False), (True, True)]


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("ways", WAYS)
def test_what_is_computed_again_counts_once(ways, blocks) -> None:
    """The whole model, parts of it, both, and checkpoints within checkpoints."""
    model = Checkpointed(blocks)
    optimizer = RootFreeRMSProp(model.parameters(), batch_size=1)
    count_batch_size(model, optimizer)
    for sizes in ((8,), (3, 5), (6,)):
        optimizer.zero_grad()
        for size in sizes:
            x = torch.randn(size, 4, requires_grad=True)
            wrapped(model, ways)(x).square().sum().backward()
        assert size_of(optimizer) == {sum(sizes)}
        with torch.no_grad():  # a look at the loss adds nothing
            model(torch.randn(7, 4))
        assert size_of(optimizer) == {sum(sizes)}
        optimizer.step()


@pytest.mark.parametrize("ways", [(False,), (True,)])
def test_micro_batches_whose_losses_are_added_first(ways) -> None:
    """Two forward passes and one backward pass, and one pass of two."""
    model = Checkpointed((None,))
    optimizer = RootFreeRMSProp(model.parameters(), batch_size=1)
    count_batch_size(model, optimizer)
    run = wrapped(model, ways)
    xs = [torch.randn(size, 4, requires_grad=True) for size in (3, 4)]
    torch.stack([run(x).square().sum() for x in xs]).sum().backward()
    assert size_of(optimizer) == {7}


def test_a_model_wrapped_for_several_processes(tmp_path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        for inner in (False, True):
            model = Checkpointed((None, False))
            parallel = nn.parallel.DistributedDataParallel(model)
            optimizer = RootFreeRMSProp(parallel.parameters(), batch_size=1)
            count_batch_size(model if inner else parallel, optimizer)
            with parallel.no_sync():
                parallel(torch.randn(3, 4)).sum().backward()
            parallel(torch.randn(5, 4)).sum().backward()
            assert size_of(optimizer) == {8}
    finally:
        torch.distributed.destroy_process_group()
