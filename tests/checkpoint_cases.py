"""Optimizers of every class with some state, and what a refused checkpoint leaves."""

import copy
import io

import pytest
import torch
from torch.nn import Parameter

from tests.examples import EXAMPLES

KINDS = {name: example.kind for name, example in EXAMPLES.items()}
every = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
SHAPES = ((4, 3), (5, 4), (3,))


def made(kind, params=None, **options):
    """An optimizer of two matrices and a vector, with what has no default."""
    if params is None:
        torch.manual_seed(0)
        params = [Parameter(torch.randn(shape)) for shape in SHAPES]
    known = next(x for x in kind.__mro__ if x.__name__ in EXAMPLES)
    return kind(params, **{**EXAMPLES[known.__name__].needs, **options})


def params_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def train(optimizer, seed=1, steps=3, params=None):
    torch.manual_seed(seed)
    params = params_of(optimizer) if params is None else params
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape).to(p)
        optimizer.step()
    return optimizer


def content(optimizer):
    """All that its checkpoint holds, bit by bit."""
    file = io.BytesIO()
    torch.save(copy.deepcopy(optimizer.state_dict()), file)
    return file.getvalue()


def refused(optimizer, saved, *words):
    before, held = content(optimizer), (optimizer.state, optimizer.param_groups)
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict(saved)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert content(optimizer) == before
    assert held == (optimizer.state, optimizer.param_groups)
    return str(caught.value)


def changed(saved, change):
    """A checkpoint whose entries of each parameter went through a function."""
    state = {key: change(key, dict(x)) for key, x in saved["state"].items()}
    return {**saved, "state": state}


def nameless(saved):
    return {key: x for key, x in saved.items() if key != "saved_by"}


def same(xs, ys):
    return all(map(torch.equal, xs, ys))


def checkpoints():
    """One of each class."""
    return {name: train(made(kind)).state_dict() for name, kind in KINDS.items()}
