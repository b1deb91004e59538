"""Several weights in one tensor, and weights stored in × out."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from anthology import norms as N
from anthology.norms import metrize
from anthology.optim import Muon, Scion, SteepestDescent
from tests.unit.test_roles import rows

R = N.RMSToRMS()


class Conv1D(nn.Module):
    """As in transformers: weight in × out."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))


class Dense(nn.Module):
    """The same under names of one's own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs))


class Attention(nn.Module):
    def __init__(self, fused: str = "", kind=nn.Linear, **sizes: int) -> None:
        super().__init__()
        for key, value in sizes.items():
            setattr(self, key, value)
        if fused:
            args = (32, 16) if kind is Conv1D else (16, 32)
            self.add_module(fused, kind(*args))
        else:
            self.q_proj = nn.Linear(16, 16)
            self.k_proj, self.v_proj = nn.Linear(16, 8), nn.Linear(16, 8)
        self.o_proj = nn.Linear(16, 16)


def block(module: nn.Module) -> nn.Module:
    return nn.ModuleDict({"attn": module, "head": nn.Linear(16, 3)})


GROUPED = {"num_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("module", "name", "role", "norm"),
    [
        (Attention("qkv_proj", **GROUPED), "qkv_proj", "qkv", N.Split(R, (16, 8, 8))),
        (Attention("qkv", **GROUPED), "qkv", "qkv", N.Split(R, (16, 8, 8))),
        (
            Attention("query_key_value", **GROUPED),
            "query_key_value",
            "qkv",
            N.Split(R, 8),
        ),
        (
            Attention("c_attn", Conv1D, **GROUPED),
            "c_attn",
            "qkv",
            N.Transpose(N.Split(R, (16, 8, 8))),
        ),
        (Attention("c_attn", Conv1D), "c_attn", "qkv", N.Transpose(N.Split(R, 2))),
        (Attention("qkv_proj", num_heads=5), "qkv_proj", "linear", R),
        (Attention("kv_proj"), "kv_proj", "qkv", N.Split(R, 2)),
        (Attention("gate_up_proj"), "gate_up_proj", "fused", N.Split(R, 2)),
        (Attention("qkv_proj", num_heads=-1), "qkv_proj", "linear", R),
    ],
)
def test_parts_by_the_sizes_around(module, name, role, norm) -> None:
    assert rows(block(module))[f"attn.{name}.weight"] == (role, norm)


def test_sizes_in_a_config() -> None:
    module = Attention("qkv_proj")
    module.config = SimpleNamespace(num_attention_heads=4, num_key_value_heads=2)
    found = rows(block(module))["attn.qkv_proj.weight"]
    assert found == ("qkv", N.Split(R, (16, 8, 8)))


def test_heads_on_request() -> None:
    columns = N.Transpose(N.Split(N.Transpose(R), 4))
    for module, heads in ((Attention(**GROUPED), True), (Attention(), 4)):
        found = rows(block(module), heads=heads)
        assert found["attn.q_proj.weight"] == ("linear", N.Split(R, 4))
        assert found["attn.k_proj.weight"] == ("linear", N.Split(R, 2))
        assert found["attn.o_proj.weight"] == ("linear", columns)
    fused = rows(block(Attention("qkv", **GROUPED)), heads=True)
    assert fused["attn.qkv.weight"] == ("qkv", N.Split(R, 8))
    found = rows(nn.MultiheadAttention(8, 2), heads=True)
    assert found["in_proj_weight"] == ("qkv", N.Split(R, 6))
    assert found["out_proj.weight"][1] == N.Transpose(N.Split(N.Transpose(R), 2))
    for model, heads in ((block(Attention()), True), (nn.Linear(4, 4), 2)):
        with pytest.raises(ValueError, match="give their number"):
            metrize(model, heads=heads)
    for heads in (-1, 1.5, "2", None):
        with pytest.raises(TypeError, match="heads must be True, False or a number"):
            metrize(block(Attention()), heads=heads)


def test_what_says_that_a_weight_is_turned() -> None:
    for module in (Conv1D(6, 4), Dense(4, 6)):
        found = rows(nn.ModuleDict({"a": module, "b": nn.Linear(6, 2)}))
        assert found["a.weight"] == ("linear", N.Transpose(R))
    biased = nn.Module()
    biased.weight, biased.bias = (
        nn.Parameter(torch.zeros(4, 6)),
        nn.Parameter(torch.zeros(6)),
    )
    assert rows(biased, head=None)["weight"] == ("linear", N.Transpose(R))
    biased.weight = nn.Parameter(torch.zeros(6, 4))
    assert rows(biased, head=None)["weight"] == ("other", R)
    assert rows(nn.Sequential(Conv1D(6, 4)))["0.weight"] == (
        "head",
        N.Transpose(N.RMSToInf()),
    )


def experts(*shapes: tuple[int, ...]) -> nn.Module:
    module = nn.Module()
    for name, shape in zip(("gate_up_proj", "down_proj"), shapes, strict=True):
        module.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    return nn.ModuleDict({"experts": module})


def test_stacks_of_experts_by_their_pair() -> None:
    half = N.Split(R, 2)
    for lead in ((3,), (2, 3)):
        found = rows(experts((*lead, 20, 6), (*lead, 6, 10)))
        assert found["experts.gate_up_proj"] == ("stack", half)
        assert found["experts.down_proj"] == ("stack", R)
        found = rows(experts((*lead, 6, 20), (*lead, 10, 6)))
        assert found["experts.gate_up_proj"] == ("stack", N.Transpose(half))
        assert found["experts.down_proj"] == ("stack", N.Transpose(R))


OPTIMIZERS = {
    SteepestDescent: {},
    Scion: {"unconstrained": True},
    Muon: {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "method": "svd"},
}


def steps(kind, params: list[torch.Tensor], norm, role: str, foreach=None) -> list:
    """What one step of lr 1 changes, for gradients that are the weights themselves."""
    kept = [nn.Parameter(p.clone()) for p in params]
    group = {"params": kept, "norm": repr(norm), "role": role}
    more = {} if foreach is None else {"foreach": foreach}
    optimizer = kind([group], lr=1.0, **OPTIMIZERS[kind], **more)
    for p in kept:
        p.grad = p.detach().clone()
    optimizer.step()
    return [before - p.detach() for before, p in zip(params, kept, strict=True)]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("role", ["linear", "stack"])
@pytest.mark.parametrize("foreach", [True, False])
def test_a_fused_step_is_that_of_its_parts(kind, role, foreach) -> None:
    torch.manual_seed(0)
    lead = (2, 3) if role == "stack" else ()
    draw = lambda m, n: torch.randn(*lead, m, n, dtype=torch.float64)
    sizes = (8, 2, 4)
    parts = [draw(m, 6) for m in sizes]
    alone = [steps(kind, [p], R, role, foreach)[0] for p in parts]
    whole, other = torch.cat(parts, -2), draw(14, 6)
    for turned, norm in (
        (False, N.Split(R, sizes)),
        (True, N.Transpose(N.Split(R, sizes))),
    ):
        flip = (lambda x: x.mT.contiguous()) if turned else (lambda x: x)
        (got, _) = steps(kind, [flip(whole), flip(other)], norm, role, foreach)
        assert (flip(got) - torch.cat(alone, -2)).abs().max() < 1e-10
    pieces = [draw(6, 4) for _ in range(3)]
    alone = [steps(kind, [p], R, role, foreach)[0] for p in pieces]
    columns = N.Transpose(N.Split(N.Transpose(R), 3))
    (got,) = steps(kind, [torch.cat(pieces, -1)], columns, role, foreach)
    assert (got - torch.cat(alone, -1)).abs().max() < 1e-10


@pytest.mark.parametrize("kernel", ["flatten", "positions", "stack"])
def test_kernels_in_unequal_parts(kernel: str) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(m, 3, 2, 2, dtype=torch.float64) for m in (4, 2)]
    options = {**OPTIMIZERS[Muon], "kernel": kernel, "lr": 1.0}

    def step(p: torch.Tensor, norm) -> torch.Tensor:
        w = nn.Parameter(p.clone())
        optimizer = Muon([{"params": [w], "norm": repr(norm)}], **options)
        w.grad = p.clone()
        optimizer.step()
        return p - w.detach()

    whole = step(torch.cat(parts), N.Split(N.Conv(2), (4, 2)))
    alone = [step(p, N.Conv(2)) for p in parts]
    assert (whole - torch.cat(alone)).abs().max() < 1e-10


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_of_conv1d_is_that_of_a_linear_layer(kind) -> None:
    turned, plain = nn.Sequential(Conv1D(64, 16)), nn.Sequential(nn.Linear(16, 64))
    with torch.no_grad():
        plain[0].weight.copy_(turned[0].weight.T)
    for model in (turned, plain):
        w = model[0].weight
        w.grad = w.detach().clone()
        kind(metrize(model, head=None), lr=0.1, **OPTIMIZERS[kind]).step()
    assert torch.allclose(turned[0].weight.T, plain[0].weight, atol=1e-5)


def test_split_says_what_does_not_fit() -> None:
    norm = N.Split(R, [4, 2])
    assert norm == N.from_spec("Split(RMSToRMS(), (4, 2))")
    assert hash(norm) == hash(N.Split(R, (4, 2)))
    with pytest.raises(ValueError, match=r"\(4, 2\), 6 in all, does not fit .* size 5"):
        norm.norm(torch.zeros(5, 3))
    for parts in ((), (2, 0), -1):
        with pytest.raises((TypeError, ValueError), match="parts must be"):
            N.Split(R, parts)
    for parts in ((2, 1.5), "2", (True,), None):
        with pytest.raises(TypeError, match="an integer or a tuple of integers"):
            N.Split(R, parts)
    with pytest.raises(ValueError, match="needs the role 'stack'"):
        Muon([{"params": [torch.zeros(2, 6, 3, requires_grad=True)], "norm": norm}])


UNEQUAL = [
    (N.Split(R, (3, 1, 2)), (6, 4)),
    (N.Transpose(N.Split(R, (3, 1))), (6, 4)),
    (N.Transpose(N.Split(N.Transpose(R), 2)), (6, 4)),
    (2 * N.Split(N.Transpose(N.Conv(1)), (1, 3)), (4, 3, 2)),
]


@pytest.mark.parametrize(("norm", "shape"), UNEQUAL, ids=lambda x: repr(x))
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex128]
)
def test_what_norms_promise(norm: N.Norm, shape: tuple[int, ...], dtype) -> None:
    torch.manual_seed(0)
    g = torch.randn(3, *shape, dtype=dtype)
    t = norm.dualize(g)
    assert (t.dtype, t.shape) == (dtype, g.shape)
    eps = torch.finfo(dtype).eps
    slope = (t.to(torch.complex128).conj() * g.to(torch.complex128)).real
    dual = norm.dual(g).double()
    assert (slope.flatten(1).sum(1) / dual - 1).abs().max() < 20 * eps
    assert (norm.norm(t).double() - 1).abs().max() < 20 * eps
    swapped = g.transpose(-1, -2).contiguous().transpose(-1, -2)
    for other in (swapped, g * 2.0**-60):
        assert torch.allclose(norm.dualize(other), t, rtol=20 * eps, atol=20 * eps)
    assert torch.equal(norm.dualize(0 * g), 0 * g)
    assert norm.norm(g[:0]).shape == (0,)
    g[1].view(-1)[0] = float("nan")
    assert norm.dualize(g)[1].isnan().any()
    assert torch.allclose(norm.dualize(g)[::2], t[::2], rtol=20 * eps, atol=20 * eps)


@pytest.mark.parametrize(
    "norm",
    [
        2 * N.Split(R, 4),
        N.Transpose(N.Split(R, 3)),
        N.Split(N.Transpose(N.Split(R, 3)), 2),
        N.Transpose(N.Split(R, (4, 1))),
    ],
)
def test_what_is_inside_of_others_is_checked(norm: N.Norm) -> None:
    for ask in (norm.norm, norm.dual, norm.dualize):
        with pytest.raises(ValueError, match="Split"):
            ask(torch.zeros(6, 4))
