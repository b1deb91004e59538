"""The modular norm of a module: what is read off, set by hand, and refused."""

import copy

import pytest
import torch
from torch import nn

from anthology import norms as N
from anthology.norms import modular_norm
from anthology.optim import SteepestDescent


def mlp(bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3, bias=bias)
    )


def test_sequential_is_composed_and_a_layer_has_mass_one() -> None:
    found = modular_norm(mlp())
    assert found.mass == 2
    assert found.sensitivity == 1
    assert found.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert set(found.scales.values()) == {4.0}
    assert modular_norm(mlp(bias=False)).scales == {"0.weight": 2.0, "2.weight": 2.0}
    assert "mass 2, sensitivity 1" in str(found)
    assert "<caption>mass 2, sensitivity 1</caption>" in found._repr_html_()
    assert repr(found) == "Modular(4 leaves, mass 2, sensitivity 1)"


def test_masses_and_sensitivities_by_type_and_name() -> None:
    nested = nn.Sequential(mlp(False), nn.Linear(3, 2, bias=False))
    found = modular_norm(nested, mass={"0": 5, "0.2.weight": 3})
    assert [leaf.mass for leaf in found.leaves] == [1.25, 3.75, 1.0]
    assert found.mass == 6
    by_type = modular_norm(nested, mass={nn.Linear: 2, "1": 4})
    assert [leaf.mass for leaf in by_type.leaves] == [2, 2, 4]
    star = modular_norm(nested, mass={"0.*": 2, "*": 1})
    assert [leaf.mass for leaf in star.leaves] == [0.5, 0.5, 1], "no star over dots"
    assert modular_norm(nested, mass={"": 4}).mass == pytest.approx(4)
    steep = modular_norm(nested, sensitivity={nn.ReLU: 0.5, "1": 3})
    assert steep.sensitivity == 1.5
    assert steep.scales == {"0.0.weight": 4.5, "0.2.weight": 9, "1.weight": 3}
    norms = modular_norm(nested, overrides=[("1.weight", N.Spectral())], head=True)
    assert [leaf.row.norm for leaf in norms.leaves][-1] == N.Spectral()
    headed = modular_norm(nested, head=True)
    assert [leaf.row.norm for leaf in headed.leaves][-1] == N.RMSToInf()


def test_without_mass_nothing_moves() -> None:
    model = mlp()
    still = modular_norm(model, mass={"0": 0})
    assert still.names == ("2.weight", "2.bias")
    assert still.scales == {"2.weight": 2.0, "2.bias": 2.0}
    assert still.groups[0]["param_names"] == ["2.weight"]
    assert str(still).splitlines()[1].split()[-2:] == ["0", "–"]
    model[0].requires_grad_(False)
    assert [x.row.name for x in modular_norm(model).leaves] == ["2.weight", "2.bias"]
    with pytest.raises(ValueError, match="without massive weights"):
        modular_norm(nn.Sequential(nn.ReLU())).norm({})
    assert modular_norm(nn.ReLU()).groups == []


def test_a_repeated_block_is_one_leaf_a_copy_another() -> None:
    block = nn.Linear(4, 4, bias=False)
    twice = modular_norm(nn.Sequential(block, nn.SiLU(), block))
    (leaf,) = twice.leaves
    slope = modular_norm(nn.SiLU()).sensitivity
    assert leaf.mass == 2
    assert leaf.gain == 1 + slope
    assert twice.scales == {"0.weight": 1 + slope}
    apart = modular_norm(nn.Sequential(block, nn.SiLU(), copy.deepcopy(block)))
    assert apart.names == ("0.weight", "2.weight")


def test_a_tied_weight_is_measured_in_its_first_role() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), nn.Linear(4, 7, bias=False))
    model[2].weight = model[0].weight
    (leaf,) = modular_norm(model).leaves
    assert (leaf.mass, leaf.gain, leaf.row.role) == (2, 2, "embedding")
    assert leaf.row.norm == N.Transpose(N.OneToRMS())
    assert leaf.row.shared == ("2.weight",)
    step = modular_norm(model).dualize({"0.weight": torch.zeros(7, 4)})
    assert torch.equal(step["0.weight"], torch.zeros(7, 4))


def test_combinators() -> None:
    w = [torch.zeros(3, 3) for _ in range(3)]
    a, b, c = (N.atom(n, p, "Spectral()") for n, p in zip("abc", w, strict=True))
    assert N.compose(N.compose(a, b), c) == N.compose(a, N.compose(b, c))
    assert N.concat(a, b).sensitivity == 2
    assert N.concat(a, b).mass == 2
    steep = N.compose(a, N.bond(3), N.tare(b, 4))
    assert steep.scales == {"a": 15.0, "b": 1.25}
    assert steep.sensitivity == 3
    assert N.compose() == N.bond() == N.compose(N.bond())
    plain, weighed = N.residual(a), N.residual(a, 4)
    assert (plain.sensitivity, plain.scales) == (2, {"a": 1})
    assert (weighed.sensitivity, weighed.scales) == (1, {"a": 1 / 8})
    tower = N.compose(*(N.residual(x, 3) for x in (a, b, c)))
    assert tower.sensitivity == pytest.approx(1, abs=1e-12)
    assert N.tare(N.concat(a, b), 0).names == ()
    assert N.compose(a, N.bond(0)).names == (), "nothing arrives"


@pytest.mark.parametrize("shape", [(), (4,), (2, 2)])
def test_a_vector_norm_sees_any_shape_flat(shape: tuple[int, ...]) -> None:
    leaf = N.compose(N.atom("gain", torch.ones(shape), N.LInf()), N.bond(2))
    step = leaf.dualize([torch.full(shape, -3.0)])[0]
    assert torch.equal(step, torch.full(shape, -0.5))
    assert leaf.norm([step]) == 1


def test_a_rule_of_ones_own() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x)

    class Child(Block):
        pass

    class Other(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 9 * self.inner(x)

    with pytest.raises(TypeError, match=r"no rule for Block \(module '0'\)"):
        modular_norm(nn.Sequential(Block()))

    @N.module_rule(Block)
    def rule(block: Block, reader: object) -> N.Modular:
        return N.residual(reader(block.inner))  # type: ignore[operator]

    assert modular_norm(Child()).sensitivity == 2
    with pytest.raises(TypeError, match="no rule for Other"):
        modular_norm(nn.Sequential(Other()))
    with pytest.raises(TypeError, match="needs types of modules"):
        N.module_rule(3)  # type: ignore[arg-type]

    class Triple(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 3 * x

    assert modular_norm(Triple(), sensitivity={Triple: 3}).sensitivity == 3


def test_groups_are_what_steepest_descent_takes() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    found = modular_norm(model, mass={"2": 3})
    optimizer = SteepestDescent(found.groups, lr=0.25)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(torch.randn(5, 2, 4, 4, dtype=torch.float64)).square().sum().backward()
    wanted = found.dualize({n: p.grad for n, p in model.named_parameters()})
    optimizer.step()
    step = {n: before[n] - p.detach() for n, p in model.named_parameters()}
    assert abs(found.norm(step) - 0.25) < 1e-12
    for name, t in wanted.items():
        assert torch.allclose(step[name], 0.25 * t, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "module",
    [
        nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.ReLU(),
        nn.LeakyReLU(3.0), nn.ELU(2.0), nn.Softplus(), nn.Hardtanh(), nn.ReLU6(),
        nn.Softsign(), nn.LogSigmoid(), nn.Tanhshrink(), nn.Identity(),
    ],
)  # fmt: skip
def test_slopes_of_activations(module: nn.Module) -> None:
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(module(x).sum(), x)
    bound = modular_norm(module).sensitivity
    assert 0 <= bound - slope.abs().max() < 2e-3


@pytest.mark.parametrize(
    ("module", "bound"),
    [
        (nn.MaxPool1d(4), 2), (nn.MaxPool2d(3), 3), (nn.MaxPool3d((1, 2, 2)), 2),
        (nn.AvgPool2d(2), 1), (nn.AvgPool2d(2, divisor_override=1), 4),
        (nn.AvgPool3d((1, 2, 3), divisor_override=2), 3), (nn.AdaptiveAvgPool2d(1), 1),
        (nn.Dropout(0.5), 1), (nn.Identity(), 1),
    ],
)  # fmt: skip
def test_bonds(module: nn.Module, bound: float) -> None:
    assert modular_norm(module).sensitivity == bound


def test_transformer_layers() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", norm_first=True)
    found = modular_norm(layer)
    assert found.mass == 8
    slope = modular_norm(nn.GELU()).sensitivity
    assert found.sensitivity == pytest.approx((2 + 2 * 2) * (1 + slope))
    norms = {leaf.row.name: leaf.row.norm for leaf in found.leaves}
    assert norms["self_attn.in_proj_weight"] == N.Split(N.RMSToRMS(), 6)
    assert norms["self_attn.in_proj_bias"] == N.Split(N.RMS(), 6)
    after = nn.TransformerEncoderLayer(8, 2, 12, activation=nn.ReLU())
    assert modular_norm(after).sensitivity == 12
    stack = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False)
    assert modular_norm(stack, mass={"layers.*": 5}).mass == 11
    frob = [("*in_proj_weight", N.Frobenius())]
    found = modular_norm(layer, overrides=frob)
    assert {leaf.row.name: leaf.row.norm for leaf in found.leaves}[
        "self_attn.in_proj_weight"
    ] == N.Frobenius(), "what is set by hand is kept"
    with pytest.raises(TypeError, match="slope of"):
        modular_norm(nn.TransformerEncoderLayer(8, 2, activation=torch.sin))
    with pytest.raises(TypeError, match="add_bias_kv"):
        modular_norm(nn.MultiheadAttention(8, 2, add_bias_kv=True))


def test_wrong_arguments() -> None:
    model, w = mlp(), torch.zeros(3, 3)
    found = modular_norm(model)
    for kwargs, text in [
        ({"mass": {"7": 1}}, r"mass\['7'\] fits nothing"),
        ({"sensitivity": {nn.GELU: 1}}, "fits nothing"),
        ({"mass": {"0": -1}}, "not negative"),
        ({"mass": {"1": 2}}, "fits nothing"),
        ({"sensitivity": {"0": float("inf")}}, "finite"),
        ({"overrides": [("0.weight", {"scale": 2})]}, "set mass, not scale"),
    ]:
        with pytest.raises(ValueError, match=text):
            modular_norm(model, **kwargs)
    with pytest.raises(TypeError, match="needs a torch.nn.Module"):
        modular_norm("model")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a number"):
        modular_norm(model, mass={"0": "heavy"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="no tensor for 0.bias"):
        found.norm({n: p for n, p in model.named_parameters() if n != "0.bias"})
    with pytest.raises(ValueError, match="4 tensors are needed"):
        found.dual([w])
    with pytest.raises(ValueError, match=r"0.weight has shape \(5, 6\), got \(3, 3\)"):
        found.dualize({n: w for n, _ in model.named_parameters()})
    with pytest.raises(TypeError, match="atom needs a Norm"):
        N.atom("w", w, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2 axes"):
        N.atom("w", w[0], N.Spectral())
    for blocks in (0, True, 1.5):
        with pytest.raises(ValueError, match="positive integer"):
            N.residual(N.bond(), blocks)  # type: ignore[arg-type]
