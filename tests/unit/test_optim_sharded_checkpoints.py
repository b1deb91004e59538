"""Through torch.distributed.checkpoint, before the first step and after."""

import copy

import pytest
import torch
from torch.distributed.checkpoint import state_dict as states
from torch.nn import Parameter

from anthology import optim
from tests.checkpoint_cases import (
    every,
    made,
    same,
    train,
)


@every
@pytest.mark.parametrize("flat", [False, True])
def test_torch_s_sharded_checkpoints_leave_no_trace_and_go_on(kind, flat):
    options = states.StateDictOptions(flatten_optimizer_state_dict=flat)

    def trained(model, optimizer, seed, steps=3):
        torch.manual_seed(seed)
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    asked, plain = copy.deepcopy(model), copy.deepcopy(model)
    first, second = (made(kind, x.named_parameters()) for x in (asked, plain))
    found = states.get_optimizer_state_dict(asked, first, options=options)
    assert found
    for x, y in ((asked, first), (plain, second)):
        trained(x, y, 1)
    assert same(asked.parameters(), plain.parameters())
    counted = [float(x["step"]) for x in second.state.values()]
    assert [float(x["step"]) for x in first.state.values()] == counted
    kept = states.get_optimizer_state_dict(asked, first, options=options)
    resumed = copy.deepcopy(asked)
    third = made(kind, resumed.named_parameters())
    states.set_optimizer_state_dict(resumed, third, kept, options=options)
    for x, y in ((asked, first), (resumed, third)):
        trained(x, y, 2)
    assert same(asked.parameters(), resumed.parameters())


def test_a_partial_state_is_named_by_torch_s_sharded_checkpoints():
    """Where only some tensors have state, the missing one is named; or it loads."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    optimizer = optim.AdamW(model.named_parameters())
    train(optimizer, params=[*model[0].parameters()])
    optimizer.zero_grad()
    kept = states.get_optimizer_state_dict(model, optimizer)
    other = optim.AdamW(model.named_parameters())
    with pytest.raises(RuntimeError, match="'1.weight'"):
        states.set_optimizer_state_dict(model, other, kept)
    loose = states.StateDictOptions(strict=False)
    states.set_optimizer_state_dict(model, other, kept, options=loose)
    assert set(other.state) == set(model[0].parameters())
    full = optim.AdamW(model.named_parameters())
    full.create_state()
    kept = states.get_optimizer_state_dict(model, full)
    states.set_optimizer_state_dict(model, other, kept)
    assert set(other.state) == set(model.parameters())


def test_a_flat_checkpoint_that_lacks_an_entry_is_refused_by_name():
    options = states.StateDictOptions(flatten_optimizer_state_dict=True)
    model = torch.nn.Linear(4, 5)
    optimizer = train(optim.AdamW(model.named_parameters()))
    optimizer.zero_grad()
    kept = states.get_optimizer_state_dict(model, optimizer, options=options)
    del kept["state.weight.exp_avg_sq"]
    other = optim.AdamW(model.named_parameters())
    with pytest.raises(ValueError, match="weight: exp_avg_sq is of type dict"):
        states.set_optimizer_state_dict(model, other, kept, options=options)


def test_a_first_step_at_rate_zero_counts_unless_the_gradients_are_zero():
    p = Parameter(torch.ones(3))
    optimizer = optim.AdamW([p], lr=0.0)
    p.grad = torch.zeros(3)
    optimizer.step()
    assert optimizer.state[p]["step"] == 0
    optimizer = optim.AdamW([p], lr=0.0)
    p.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.state[p]["step"] == 1
