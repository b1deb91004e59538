"""The option `step` of SteepestDescent, and the key `step` that others count in."""

import copy
from typing import Any

import pytest
import torch

from anthology.optim import FreeSteepestDescent, Scion, SteepestDescent

KINDS = (SteepestDescent, FreeSteepestDescent, Scion)


def made(kind: Any = SteepestDescent, **options: Any) -> Any:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.tensor([3.0, -1.0, 2.0])
    return kind([p], lr=0.1, **options)


def moved(optimizer: Any) -> torch.Tensor:
    optimizer.step()
    (p,) = optimizer.param_groups[0]["params"]
    found: torch.Tensor = p.detach().clone()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_step_is_free(kind: Any) -> None:
    optimizer, plain = made(kind), made(kind)
    (group,) = optimizer.param_groups
    assert "step" not in group and "step" not in optimizer.defaults
    for step in (0, 7, torch.tensor(2.0)):
        group["step"] = step
        optimizer.load_state_dict(optimizer.state_dict())
        assert torch.equal(moved(optimizer), moved(plain))
        (group,) = optimizer.param_groups
        assert group["step"] == step


def test_a_group_says_step_as_the_class_does() -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.tensor([3.0, -1.0, 2.0])
    given = {"params": [p], "step": "steepest"}
    optimizer = SteepestDescent([given], 0.1)
    assert given["step"] == "steepest"
    assert optimizer.param_groups[0]["step_rule"] == "steepest"
    assert "step" not in optimizer.param_groups[0]
    assert torch.equal(moved(optimizer), moved(made(step="steepest")))
    more = {"params": [torch.ones(2, requires_grad=True)], "step": "dualize"}
    with pytest.raises(ValueError, match="step='dualize' in one group and 'steepest'"):
        optimizer.add_param_group(more)
    with pytest.raises(ValueError, match="Invalid step: 'newton'; it must be"):
        made(step="newton")
    with pytest.raises(ValueError, match="Invalid step: 3"):
        made(step=3)
    with pytest.raises(ValueError, match="Scion has no step='steepest'"):
        Scion([{**more, "step": "steepest"}])


@pytest.mark.parametrize("rule", ["dualize", "steepest"])
def test_an_older_checkpoint_loads(rule: str) -> None:
    source = made(step=rule, momentum=0.5)
    source.step()
    saved = copy.deepcopy(source.state_dict())
    (group,) = saved["param_groups"]
    group["step"] = group.pop("step_rule")
    target = made(momentum=0.5)
    with torch.no_grad():
        target.param_groups[0]["params"][0].copy_(source.param_groups[0]["params"][0])
    target.load_state_dict(saved)
    assert target.param_groups[0]["step_rule"] == rule
    assert "step" not in target.param_groups[0]
    assert group["step"] == rule  # what was loaded is not written
    assert torch.equal(moved(source), moved(target))
