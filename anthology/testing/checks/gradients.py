"""What an optimizer does with gradients, good ones and bad ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..check import Checks
from ..subject import Subject, draw, feed, finite, require, same, weight

GRADIENTS = Checks()


@GRADIENTS
def gradient_not_mutated(subject: Subject) -> None:
    """Clipping, logging and accumulation after the step read wrong numbers."""
    p = weight()
    optimizer = subject.on([p])
    for _ in range(3):
        p.grad = draw(p)
        before = p.grad.clone()
        optimizer.step()
        require(p.grad is not None, "step() removed p.grad")
        require(same(p.grad, before), "step() changed the numbers in p.grad")


@GRADIENTS
def gradient_kept(subject: Subject) -> None:
    """Buffers that alias p.grad (DDP buckets, accumulation) silently come apart."""
    p = weight()
    optimizer = subject.on([p])
    given = draw(p)
    p.grad = given
    optimizer.step()
    require(p.grad is given, "step() replaced p.grad by another tensor or None")


@GRADIENTS
def missing_gradient(subject: Subject) -> None:
    """Frozen layers and unused experts crash the step or drift by decay."""
    p, unused = weight(), weight(3, 5)
    optimizer = subject.fresh([p, unused])
    optimizer.step()
    subject.warm(optimizer, p)
    feed(optimizer, (p, draw(p)))
    require(same(unused, torch.ones(3, 5)), "a parameter without gradient moved")
    require(not same(p, torch.ones(4, 3)), "the parameter with a gradient did not")


@GRADIENTS
def late_gradient(subject: Subject) -> None:
    """A layer that is unfrozen or routed to later crashes the step or never moves."""
    p, late = weight(), weight(3, 5)
    optimizer = subject.fresh([p, late])
    for _ in range(3):
        feed(optimizer, (p, draw(p)))
    subject.warm(optimizer, p, late)
    feed(optimizer, (p, draw(p)), (late, draw(late)))
    require(finite([p.detach(), late.detach()]), "a parameter is not finite")
    require(not same(late, torch.ones(3, 5)), "the late parameter did not move")


@GRADIENTS
def first_move(subject: Subject) -> None:
    """The first gradients are thrown away, and no schedule or log knows of it."""
    p = weight()
    optimizer = subject.fresh([p])
    watched = subject.warm(optimizer)
    require(
        same(p, torch.ones(4, 3)),
        f"it moved within the {watched} gradients that it declares only to watch",
    )
    feed(optimizer, (p, draw(p)))
    require(not same(p, torch.ones(4, 3)), f"it did not move at gradient {watched + 1}")


@GRADIENTS
def zero_gradient(subject: Subject) -> None:
    """Parameters without any signal random-walk, or become NaN by 0/0."""
    p = torch.zeros(4, 3).requires_grad_()
    optimizer = subject.on([p])
    for _ in range(3):
        feed(optimizer, (p, torch.zeros(4, 3)))
    require(finite([p.detach()]), "a zero gradient gave a parameter that is not finite")
    require(same(p, torch.zeros(4, 3)), "a zero gradient moved a parameter at zero")


@GRADIENTS
def tiny_gradient(subject: Subject) -> None:
    """Late in training a layer is divided by zero and becomes NaN."""
    p = weight()
    optimizer = subject.on([p])
    for _ in range(3):
        feed(optimizer, (p, 1e-30 * draw(p)))
    require(finite([p.detach()]), "gradients of 1e-30 gave NaN or infinity")


@GRADIENTS
def huge_gradient(subject: Subject) -> None:
    """One spike overflows the state, and the layer is frozen for ever after."""
    _recovers(subject, 1e30 * torch.randn(4, 3), "a gradient of 1e30", False)


@GRADIENTS
def nan_gradient(subject: Subject) -> None:
    """One bad batch ruins the run: the parameter or its state stays NaN."""
    bad = torch.randn(4, 3)
    bad[1, 2] = math.nan
    _recovers(subject, bad, "a gradient with one NaN", True)


@GRADIENTS
def infinite_gradient(subject: Subject) -> None:
    """One overflow ruins the run: the parameter or its state stays NaN."""
    bad = torch.randn(4, 3)
    bad[1, 2] = math.inf
    _recovers(subject, bad, "a gradient with one infinity", True)


def _recovers(subject: Subject, bad: Tensor, what: str, at_once: bool) -> None:
    """After one bad gradient the parameter can be put back and trains on."""
    p = weight()
    optimizer = subject.on([p])
    feed(optimizer, (p, draw(p)))
    feed(optimizer, (p, bad))
    require(finite([p.detach()]) or not at_once, f"{what} made the parameter NaN")
    with torch.no_grad():
        p.zero_()
    for _ in range(3):
        feed(optimizer, (p, draw(p)))
    require(finite([p.detach()]), f"after {what} the parameter becomes NaN again")
    require(not same(p, torch.zeros(4, 3)), f"after {what} it does not move any more")


@GRADIENTS
def nan_skips_the_tensor(subject: Subject) -> None:
    """A tensor that should sit out a bad batch is moved by decay or old momentum."""
    p = weight()
    optimizer = subject.on([p])
    feed(optimizer, (p, draw(p)))
    before = p.detach().clone()
    feed(optimizer, (p, torch.full((4, 3), math.nan)))
    require(same(p, before), "a parameter with a NaN gradient was moved")


@GRADIENTS
def nan_spares_the_others(subject: Subject) -> None:
    """One bad layer stops or poisons every other layer."""
    ends = []
    for spoiled in (torch.full((3, 5), math.nan), None):
        torch.manual_seed(1)
        p, other = weight(), weight(3, 5)
        optimizer = subject.on([p, other])
        feed(optimizer, (p, draw(p)), (other, draw(other)))
        other.grad = spoiled
        feed(optimizer, (p, draw(p)))
        other.grad = None
        slope = draw(p)
        for _ in range(12):  # long enough for an adapted step size to show it
            feed(optimizer, (p, slope))
        ends.append(p.detach())
    require(finite(ends[:1]), "NaN in one tensor spread to another")
    require(
        same(*ends),
        "a tensor beside one with NaN did not move as if that one had no gradient",
    )
