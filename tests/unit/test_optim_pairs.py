"""Weight and bias as one matrix: which are joined, and what a pair shares."""

import copy
import io
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from anthology.norms import metrize
from anthology.optim import SIRFShampoo, joined
from anthology.optim.core import batch

make = partial(SIRFShampoo, lr=0.1, factor_lr=0.3, batch_size=4)


def mlp(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4)]
    return nn.Sequential(*layers, nn.Linear(4, 1, bias=False)).to(dtype)


def feed(optimizer, steps: int, seed: int = 2, only=None) -> None:
    made = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                g = torch.randn(p.shape, generator=made).to(p.dtype)
                p.grad = g if only is None or any(p is q for q in only) else None
        optimizer.step()


def names(groups) -> dict[bool, list[str]]:
    return {g["joined"]: g["param_names"] for g in groups}


def test_what_is_joined() -> None:
    model = mlp()
    found = names(joined(model))
    assert found[True] == [f"{i}.{n}" for i in (0, 2, 3) for n in ("weight", "bias")]
    assert found[False] == ["1.weight", "1.bias", "4.weight"]
    listed = [p for g in joined(model) for p in g["params"]]
    assert {id(p) for p in listed} == {id(p) for p in model.parameters()}
    assert len(listed) == len(list(model.parameters()))
    model[0].bias.requires_grad_(False)
    model[3].weight = model[2].weight  # tied: the first bias has it
    found = names(joined(model))
    assert found[True] == ["2.weight", "2.bias"]
    assert found[False] == ["0.weight", "1.weight", "1.bias", "3.bias", "4.weight"]
    assert joined(nn.ReLU()) == []


def test_kernels_on_request() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.ConvTranspose1d(3, 3, 2))
    assert set(names(joined(model))) == {False}
    found = names(joined(model, kernels=True))
    assert found[True] == ["0.weight", "0.bias"]
    optimizer = make(joined(model, kernels=True))
    feed(optimizer, 2)
    state = optimizer.state[model[0].weight]
    assert state["momentum_buffer"].shape == (3, 5)
    assert state["factor_1"].shape == (25,)
    complex_layer = nn.Linear(2, 2, dtype=torch.complex64)
    assert set(names(joined(complex_layer))) == {False}


@pytest.mark.parametrize("refresh", [1, 2])
@pytest.mark.parametrize("foreach", [True, False, None])
def test_a_pair_steps_as_its_matrix_would(refresh, foreach) -> None:
    """The definition: the same optimizer on (W b) as a parameter of its own."""
    layer = nn.Linear(3, 4).double()
    whole = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
    whole.requires_grad_()
    options = {"refresh": refresh, "foreach": foreach, "weight_decay": 0.1}
    pair, reference = make(joined(layer), **options), make([whole], **options)
    for _ in range(9):
        whole.grad = torch.randn_like(whole)
        layer.weight.grad, layer.bias.grad = whole.grad[:, :-1], whole.grad[:, -1]
        pair.step()
        reference.step()
    assert torch.equal(layer.weight, whole[:, :-1])
    assert torch.equal(layer.bias, whole[:, -1])
    for name, value in reference.state[whole].items():
        assert torch.equal(pair.state[layer.weight][name], value)
    assert not pair.state.get(layer.bias)


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("which", ["weight", "bias"])
def test_a_bad_gradient_skips_the_pair(which, readable, monkeypatch) -> None:
    monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: readable)
    model = mlp()
    optimizer = make(joined(model), weight_decay=0.1)
    feed(optimizer, 2)
    before = copy.deepcopy(model.state_dict())
    states = copy.deepcopy(dict(optimizer.state[model[2].weight]))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    getattr(model[2], which).grad[1] = math.nan
    optimizer.step()
    assert optimizer.skipped == {"2.weight": 1}
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) is name.startswith("2.")
    for name, value in optimizer.state[model[2].weight].items():
        assert torch.equal(value, states[name]) is (name != "skipped")
    feed(optimizer, 2)
    assert not torch.equal(model[2].bias, before["2.bias"])
    assert all(p.isfinite().all() for p in model.parameters())


def test_half_a_pair_stays() -> None:
    model = mlp()
    optimizer = make(joined(model))
    before = copy.deepcopy(model.state_dict())
    feed(optimizer, 2, only=[model[0].weight, model[2].weight, model[2].bias])
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) is not name.startswith("2.")
    assert not optimizer.state.get(model[0].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", [{}, {"refresh": 3}, {"factor_dtype": "bfloat16"}])
def test_a_run_resumes_from_a_safe_checkpoint(options, dtype) -> None:
    whole, parts = mlp(dtype), mlp(dtype)
    once, first = (make(joined(m), **options) for m in (whole, parts))
    for optimizer in (once, first):
        feed(optimizer, 4, seed=5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(joined(parts), **options)
    second.load_state_dict(torch.load(file, weights_only=True))
    for optimizer in (once, second):
        feed(optimizer, 4, seed=6)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == dtype
    kept = second.state[parts[0].weight]["momentum_buffer"]
    assert kept.dtype == torch.promote_types(dtype, torch.float32)


def test_eager_state_is_that_of_the_first_step() -> None:
    model = mlp()
    eager, lazy = make(joined(model)), make(joined(model))
    eager.create_state()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    lazy.step()
    for p, state in lazy.state.items():
        if state:
            shapes = {name: x.shape for name, x in eager.state[p].items()}
            assert shapes == {name: x.shape for name, x in state.items()}
    assert set(eager.state[model[0].bias]) == {"step", "skipped"}


def test_autograd_follows_a_pair() -> None:
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    start = torch.arange(8.0, dtype=torch.float64).reshape(2, 4).requires_grad_()

    def after(lr: Tensor, start: Tensor) -> Tensor:
        w, b = start[:, :3].clone(), start[:, 3].clone()
        groups = [{"params": [w, b], "joined": True}]
        optimizer = make(groups, lr=lr, differentiable=True)
        for scale in (1.0, 0.5):
            w.grad, b.grad = scale * w, 2 * scale * b  # keep nothing for backward
            optimizer.step()
        return torch.cat([w.flatten(), b])

    assert torch.autograd.gradcheck(after, [lr, start])


def test_maximize_and_rates_of_groups() -> None:
    up, down = mlp(), mlp()
    feed(make(joined(up), maximize=True), 1)
    feed(make(joined(down), lr=0.1), 1)
    start = mlp()
    for a, b, c in zip(
        up.parameters(), down.parameters(), start.parameters(), strict=True
    ):
        assert (a + b - 2 * c).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ([torch.ones(2, 2)], "weight, bias, weight, bias …, got 1"),
        ([torch.ones(2), torch.ones(2)], r"got \(2,\)"),
        ([torch.ones(2, 3), torch.ones(3)], r"got \(2, 3\).*\(3,\)"),
        ([torch.ones(2, 3), torch.ones(2).double()], "one dtype"),
        ([torch.ones(2, 2) + 0j, torch.ones(2) + 0j], "a real weight"),
    ],
)
def test_wrong_pairs_are_refused(params, said) -> None:
    optimizer = make(joined(mlp()))
    for given in (params, iter(params)):
        with pytest.raises(ValueError, match=said):
            optimizer.add_param_group({"params": given, "joined": True})
    assert len(optimizer.param_groups) == 2
    with pytest.raises(TypeError, match="needs a torch.nn.Module, got list"):
        joined(params)


def test_pairs_by_name_and_from_an_iterator() -> None:
    layer = nn.Linear(3, 2)
    for given in (layer.named_parameters(), iter(layer.parameters())):
        optimizer = make([{"params": given, "joined": True}])
        feed(optimizer, 1)
        assert optimizer.state[layer.weight]["factor_1"].shape == (16,)


def test_the_groups_of_metrize_stay_apart() -> None:
    """Taken as they are: their norms are not read, and nothing is joined."""
    model = mlp()
    optimizer = make(metrize(model))
    feed(optimizer, 1)
    assert not any(group["joined"] for group in optimizer.param_groups)
    assert optimizer.state[model[0].bias]["factor_0"].shape == (4,)
