"""Optimizers of every kind on a small network, for the tests of the step map."""

import copy

import pytest
import torch
from torch import nn

from tests.examples import EXAMPLES

TORCH = {
    "SGD": {},
    "Adam": {},
    "AdamW": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adagrad": {},
    "Adadelta": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "ASGD": {},
    "Rprop": {},
    "Adafactor": {},
}
VARIANTS = [
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "maximize": True, "foreach": True}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("Adam", {"foreach": True}),
    ("Adam", {"fused": True}),
]


def network(width=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2)).double()
    x, y = torch.randn(8, 4).double(), torch.randn(8, 2).double()
    return model, lambda: nn.functional.mse_loss(model(x), y)


def with_closure(model, loss, make):
    optimizer = make(list(model.parameters()))

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return optimizer, closure


def built(make):
    return with_closure(*network(), make)


def sgd(parameters, **settings):
    return torch.optim.SGD(parameters, lr=0.05, **settings)


def of_torch(name, settings):
    return lambda p: getattr(torch.optim, name)(p, lr=0.01, **settings)


def of_ours(name):
    return EXAMPLES[name].make(lr=0.01)


def matrices(p):
    return [x for x in p if x.ndim == 2]


def muon(p):
    return torch.optim.Muon(matrices(p), lr=0.01)


ALL = [
    *(pytest.param(of_torch(n, s), id=n) for n, s in TORCH.items()),
    *(pytest.param(of_torch(n, s), id=f"{n} {'+'.join(s)}") for n, s in VARIANTS),
    pytest.param(
        muon,
        id="torch Muon",
        marks=pytest.mark.skipif(
            not hasattr(torch.optim, "Muon"), reason="this torch has no Muon"
        ),
    ),
    *(pytest.param(of_ours(n), id=f"ours {n}") for n in EXAMPLES),
]


def values(optimizer):
    groups = optimizer.param_groups
    return torch.cat([p.detach().reshape(-1) for g in groups for p in g["params"]])


def everything(optimizer):
    """Deep copies of all a step may touch, with the identities of the tensors."""
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    state = {
        i: {k: (id(v), copy.deepcopy(v)) for k, v in optimizer.state[p].items()}
        for i, p in enumerate(parameters)
        if p in optimizer.state
    }
    return {
        "parameters": [(id(p), p.data_ptr(), p.detach().clone()) for p in parameters],
        "gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
        "identities": [id(p.grad) for p in parameters],
        "state": state,
        "groups": [
            {k: copy.deepcopy(v) for k, v in g.items() if k != "params"}
            for g in optimizer.param_groups
        ],
        "attributes": {k: id(v) for k, v in vars(optimizer).items()},
    }


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        bits = [x.detach().contiguous().view(-1).view(torch.uint8) for x in (a, b)]
        assert torch.equal(*bits)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b
