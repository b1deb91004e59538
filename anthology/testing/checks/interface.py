"""Closures, options, groups, hooks, names and schedules."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from ..check import Checks
from ..subject import (
    Subject,
    declared_warm_up,
    descend,
    draw,
    feed,
    finite,
    require,
    same,
    weight,
)

INTERFACE = Checks()


@INTERFACE
def closure(subject: Subject) -> None:
    """Code written for any torch optimizer fails, or trains on a stale gradient."""
    p = weight()
    optimizer = subject.fresh([p])
    calls: list[bool] = []
    losses: list[float] = []

    def evaluate() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        losses.append(loss.item())
        return loss

    step: Any = optimizer.step
    for _ in range(1 + declared_warm_up(optimizer)):
        calls.clear()
        before = p.detach().clone()
        with torch.no_grad():
            loss = step(evaluate)
        times = len(calls)
        require(times == 1, f"the closure was called {times} times, not once")
        require(calls[0], "the closure did not run under enable_grad")
        right = loss is not None and float(loss) == losses[-1]
        require(right, f"step() returned {loss}, not the closure's loss")
    require(not same(p, before), "the closure's gradient was not used")


@INTERFACE
def descends_on_a_quadratic(subject: Subject) -> None:
    """It does not train."""
    before, after = descend(subject, weight(), 200)
    require(after < 0.999 * before, f"200 steps took the loss from {before} to {after}")


@INTERFACE
def maximize(subject: Subject) -> None:
    """Rewards must be negated by hand, and the option descends where it exists."""
    up, down = weight(), weight()
    ascent, descent = subject.having([up], maximize=True), subject.fresh([down])
    for _ in range(3 + declared_warm_up(descent)):
        g = draw(up)
        feed(ascent, (up, g))
        feed(descent, (down, -g))
    gap = (up - down).detach().abs().max()
    require(bool(gap < 1e-6), "maximize with g differs from minimize with -g")


@INTERFACE
def tensor_learning_rate(subject: Subject) -> None:
    """Compiled training recompiles at every change of the rate, or a crash."""
    p, reference = weight(), weight()
    plain = subject.fresh([reference])
    lr = float(plain.defaults["lr"])
    tensor = subject.having([p], lr=torch.tensor(lr))
    for _ in range(3 + declared_warm_up(plain)):
        g = draw(p)
        feed(tensor, (p, g))
        feed(plain, (reference, g))
    gap = (p - reference).detach().abs().max()
    require(bool(gap < 1e-6), "a Tensor lr gives another step than the same float")


@INTERFACE
def negative_learning_rate_refused(subject: Subject) -> None:
    """A sign error in a sweep trains uphill without a word."""
    _refuses(subject, lr=-1.0)


@INTERFACE
def nan_learning_rate_refused(subject: Subject) -> None:
    """A rate computed as 0/0 destroys the model at the first step."""
    _refuses(subject, lr=math.nan)


def _refuses(subject: Subject, **options: Any) -> None:
    try:
        subject.having([weight()], **options)
    except ValueError:
        return
    raise AssertionError(f"{options} was accepted")


@INTERFACE
def bad_group_refused(subject: Subject) -> None:
    """The same sign error passes unnoticed when it stands in a parameter group."""
    optimizer = subject.on([weight()])
    try:
        optimizer.add_param_group({"params": [weight()], "lr": -1.0})
    except ValueError:
        require(len(optimizer.param_groups) == 1, "the refused group was added")
        return
    raise AssertionError("a group with lr=-1.0 was accepted")


@INTERFACE
def hooks(subject: Subject) -> None:
    """Profilers, gradient clipping and logging by step hooks never run."""
    p = weight()
    optimizer = subject.on([p])
    start = p.detach().clone()
    seen: list[tuple[str, bool]] = []

    def note(when: str) -> Any:
        return lambda *_: seen.append((when, same(p, start)))

    optimizer.register_step_pre_hook(note("before"))
    optimizer.register_step_post_hook(note("after"))
    feed(optimizer, (p, draw(p)))
    expected = [("before", True), ("after", False)]
    require(seen == expected, f"hooks (when, parameter unmoved) were called as {seen}")


@INTERFACE
def named_parameters(subject: Subject) -> None:
    """Checkpoints and logs cannot tell which parameter is which."""
    p, q = weight(), weight(3, 5)
    optimizer = subject.on([("first", p), ("second", q)])
    names = optimizer.param_groups[0].get("param_names")
    require(names == ["first", "second"], f"param_names is {names}")
    feed(optimizer, (p, draw(p)), (q, draw(q)))
    require(not same(p, torch.ones(4, 3)), "a named parameter did not move")


@INTERFACE
def foreign_group_keys(subject: Subject) -> None:
    """A wrapper or a scheduler that counts in the groups breaks or changes steps."""
    p, reference = weight(), weight()
    plain = subject.fresh([reference])
    counted = subject.fresh([{"params": [p], "step": 0}])
    group = counted.param_groups[0]
    require(group.get("step") == 0, "a group's own step=0 was not kept")
    group |= {"t": 0, "k": 0}
    for _ in range(3 + declared_warm_up(plain)):
        g = draw(p)
        feed(counted, (p, g))
        feed(plain, (reference, g))
        for name in ("step", "t", "k"):
            group[name] += 1
        counted.load_state_dict(counted.state_dict())
        group = counted.param_groups[0]
    require(same(p, reference), "numbers under step, t and k in a group change steps")


@INTERFACE
def group_with_zero_rate(subject: Subject) -> None:
    """A group that was meant to be frozen moves, or a second group crashes."""
    p, frozen = weight(), weight(3, 5)
    optimizer = subject.on([p])
    feed(optimizer, (p, draw(p)))
    optimizer.add_param_group({"params": [frozen], "lr": 0.0})
    for _ in range(3 + declared_warm_up(optimizer)):
        feed(optimizer, (p, draw(p)), (frozen, draw(frozen)))
    require(same(frozen, torch.ones(3, 5)), "a group with lr=0 moved")
    require(finite([p.detach()]), "the other group became NaN")


@INTERFACE
def added_group(subject: Subject) -> None:
    """Layers that are added during fine-tuning do not train."""
    p, new = weight(), weight(3, 5)
    optimizer = subject.on([p])
    feed(optimizer, (p, draw(p)))
    optimizer.add_param_group({"params": [new]})
    subject.warm(optimizer, p, new)
    feed(optimizer, (p, draw(p)), (new, draw(new)))
    require(finite([p.detach(), new.detach()]), "a parameter is not finite")
    require(not same(new, torch.ones(3, 5)), "an added group did not move")


@INTERFACE
def empty_group(subject: Subject) -> None:
    """Programs that sort parameters into groups, and leave one empty, crash."""

    def groups(p: Tensor) -> list[dict[str, Any]]:
        return [{"params": [p]}, {"params": []}]

    p, q = weight(), weight()
    optimizer = subject.on(groups(p))
    feed(optimizer, (p, draw(p)))
    require(not same(p, torch.ones(4, 3)), "beside an empty group nothing moved")
    require(bool(repr(optimizer)) and bool(str(optimizer)), "it prints as nothing")
    other = subject.fresh(groups(q))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    sizes = [len(group["params"]) for group in other.param_groups]
    require(sizes == [1, 0], f"groups of 1 and 0 tensors came back as {sizes}")
    with torch.no_grad():
        q.copy_(p)
    g = draw(p)
    feed(optimizer, (p, g))
    feed(other, (q, g))
    require(same(p, q), "beside an empty group a resumed run is another run")


@INTERFACE
def scheduler(subject: Subject) -> None:
    """Learning rate schedules have no effect."""
    p = weight()
    optimizer = subject.on([p])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: float(k < 2))
    for _ in range(2):
        feed(optimizer, (p, draw(p)))
        schedule.step()
    require(not same(p, torch.ones(4, 3)), "it did not move while the rate was up")
    before = p.detach().clone()
    feed(optimizer, (p, draw(p)))
    require(same(p, before), "it moved although the schedule had set lr to 0")


@INTERFACE
def warm_up_from_zero(subject: Subject) -> None:
    """A warm-up whose first rate is zero gives 0/0 or a step that should not be."""
    p = weight()
    optimizer = subject.on([p])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(k / 3, 1.0))
    feed(optimizer, (p, draw(p)))
    require(same(p, torch.ones(4, 3)), "it moved at lr=0")
    for _ in range(4):
        schedule.step()
        feed(optimizer, (p, draw(p)))
    require(finite([p.detach()]), "a warm-up from zero gave NaN")
    require(not same(p, torch.ones(4, 3)), "it did not move after the warm-up")
