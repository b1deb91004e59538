"""The modular norm: what its theory promises, checked on whole models."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from anthology import norms as N
from anthology.norms import modular_norm


def network() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(7, 8),
        nn.TransformerEncoderLayer(
            8, 2, 12, dropout=0.0, batch_first=True, norm_first=True
        ),
        nn.LayerNorm(8),
        nn.Linear(8, 7),
    ).double()


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()


def like(found: N.Modular) -> list[Tensor]:
    return [torch.randn_like(leaf.row.param) for leaf in found.leaves]


def product(gs: list[Tensor], ts: list[Tensor]) -> Tensor:
    return sum((g * t).sum() for g, t in zip(gs, ts, strict=True))


def rms(x: Tensor) -> Tensor:
    return x.square().mean(-1).sqrt().amax()


@pytest.mark.parametrize("model", [network, convolutional])
@pytest.mark.claim("modular-norm-dualize", tol=1e-10, trials=100)
def test_dualize_has_norm_one_and_saturates_every_leaf(claim, model) -> None:
    found = modular_norm(model(), mass={"*": 1, "1": 5})
    grads = like(found)
    step, dual = found.dualize(grads), found.dual(grads)
    assert abs(found.norm(step) - 1) < claim.tol
    sums = torch.zeros((), dtype=torch.float64)
    for (norm, s), g, t in zip(found.max_over.terms, grads, step, strict=True):
        assert abs(s * norm.norm(t) - 1) < claim.tol
        sums += norm.dual(g) / s
    assert abs(sums - dual) < claim.tol * dual
    assert abs(product(grads, step) - dual) < claim.tol * dual
    for _ in range(claim.trials):
        other = like(found)
        bound = dual * found.norm(other)
        assert abs(product(grads, other)) <= bound * (1 + claim.tol)


@pytest.mark.claim("modular-norm-chain", tol=1e-12, trials=50)
def test_scales_of_a_chain_of_linear_layers(claim) -> None:
    for trial in range(claim.trials):
        generator = torch.Generator().manual_seed(trial)
        sizes = torch.randint(1, 9, (5,), generator=generator).tolist()
        masses = (10 * torch.rand(4, generator=generator) + 0.1).tolist()
        layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)]
        found = modular_norm(
            nn.Sequential(*layers).double(),
            mass={str(i): m for i, m in enumerate(masses)},
        )
        weights = like(found)
        for i, (w, m) in enumerate(zip(weights, masses, strict=True)):
            s = sum(masses) / m * math.sqrt(sizes[i] / sizes[i + 1])
            alone = [
                w if i == j else torch.zeros_like(v) for j, v in enumerate(weights)
            ]
            wanted = s * torch.linalg.matrix_norm(w, 2)
            assert abs(found.norm(alone) / wanted - 1) < claim.tol


def unit(model: nn.Module, found: N.Modular) -> dict[str, Tensor]:
    """Weights of the model with norm 1 in each leaf, drawn at random."""
    weights = {}
    for leaf in found.leaves:
        w = torch.randn_like(leaf.row.param)
        weights[leaf.row.name] = w / leaf.row.norm.norm(w)
    return weights


def stretches(
    model: nn.Module, found: N.Modular, weights: dict[str, Tensor], x: Tensor, aligned
) -> tuple[Tensor, Tensor]:
    """First-order change of the output over what the norm allows: in w and in x."""

    def by_weights(w: dict[str, Tensor]) -> Tensor:
        return functional_call(model, w, (x,))

    def by_input(z: Tensor) -> Tensor:
        return functional_call(model, weights, (z,))

    if aligned:
        direction = found.dualize(
            torch.func.grad(lambda w: by_weights(w).select(-1, 0).sum())(weights)
        )
    else:
        direction = {n: torch.randn_like(w) for n, w in weights.items()}
    dx = torch.randn_like(x)
    dy = jvp(by_weights, (weights,), (direction,))[1]
    dz = jvp(by_input, (x,), (dx,))[1]
    return rms(dy) / found.norm(direction), rms(dz) / (found.sensitivity * rms(dx))


@pytest.mark.claim("modular-norm-well-normed", tol=1e-12, trials=200)
def test_a_small_network_is_well_normed(claim) -> None:
    model = nn.Sequential(
        nn.Linear(5, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 6, bias=False),
        nn.Tanh(),
        nn.Linear(6, 3, bias=False),
    ).double()
    found = modular_norm(model, mass={"2": 3})
    for trial in range(claim.trials):
        x = torch.randn(5, dtype=torch.float64)
        x = x / rms(x)
        weights = unit(model, found)
        for ratio in stretches(model, found, weights, x, aligned=trial % 2):
            assert ratio <= 1 + claim.tol


class ByItself(nn.Module):
    """Attention of a sequence to itself, as a module of one argument."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.heads(x, x, x, need_weights=True)[0]


@N.module_rule(ByItself)
def by_itself(module: ByItself, reader) -> N.Modular:
    return reader(module.heads)


@pytest.mark.claim("modular-norm-attention", tol=1e-12, trials=200)
def test_attention_is_well_normed(claim) -> None:
    model = ByItself().double()
    found = modular_norm(model)
    for trial in range(claim.trials):
        x = torch.randn(1, 5, 8, dtype=torch.float64)
        x = x / x.square().mean(-1, keepdim=True).sqrt()
        weights = unit(model, found)
        for ratio in stretches(model, found, weights, x, aligned=trial % 2):
            assert ratio <= 1 + claim.tol


def test_attention_needs_the_root_of_the_width() -> None:
    """A query orthogonal to two opposite keys turns towards one of them."""
    d = 64
    model = nn.MultiheadAttention(d, 1, bias=False, batch_first=True).double()
    found = modular_norm(model)
    one = torch.eye(d, dtype=torch.float64) * d**0.5
    x = torch.stack([one[0], -one[0], one[1]])[None]
    query = torch.eye(d, dtype=torch.float64)
    query[1, 1], query[1, 2], query[2, 1], query[2, 2] = 0, 1, 1, 0
    fused = torch.cat([query, torch.eye(d), torch.eye(d)]).double()
    weights = {"in_proj_weight": fused, "out_proj.weight": torch.eye(d).double()}
    turn = torch.zeros_like(fused)
    turn[0, 1] = 1.0
    assert all(
        leaf.row.norm.norm(weights[leaf.row.name]) <= 1 + 1e-12 for leaf in found.leaves
    )

    def last(w: dict[str, Tensor]) -> Tensor:
        return functional_call(model, w, (x, x, x))[0][0, 2]

    step = {"in_proj_weight": turn, "out_proj.weight": torch.zeros_like(query)}
    moved = rms(jvp(last, (weights,), (step,))[1])
    assert abs(moved - 2 / 3 * d**0.5) < 1e-10
    assert moved <= found.norm(step)
    assert moved > 3 * 4 / 3, "with the gain 3 of q·k/d the bound would not hold"


@pytest.mark.claim("modular-norm-tight", tol=1e-12)
def test_the_bound_is_reached_when_all_layers_pull_one_way(claim) -> None:
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3))).double()
    found = modular_norm(model, mass={"0": 2, "2": 5})
    weights = {f"{i}.weight": torch.eye(4, dtype=torch.float64) for i in range(3)}
    step = {n: w / found.scales[n] for n, w in weights.items()}
    x = torch.ones(4, dtype=torch.float64)
    dy = jvp(lambda w: functional_call(model, w, (x,)), (weights,), (step,))[1]
    assert abs(found.norm(step) - 1) < claim.tol
    assert abs(rms(dy) - 1) < claim.tol


@pytest.mark.claim("modular-norm-residual", tol=1e-12)
def test_many_residual_blocks_keep_the_sensitivity(claim) -> None:
    for blocks in (1, 2, 8, 64):
        branches = [
            N.atom(f"{i}", torch.zeros(4, 4), N.RMSToRMS()) for i in range(blocks)
        ]
        tower = N.compose(*(N.residual(b, blocks) for b in branches))
        assert abs(tower.sensitivity - 1) < claim.tol
        for s in tower.scales.values():
            assert abs(s - 0.5) < claim.tol, "L·1/(2L), whatever the depth"


@pytest.mark.claim("modular-norm-tare", tol=1e-12)
def test_masses_after_tare_sum_to_the_absolute_value(claim) -> None:
    found = modular_norm(network())
    for absolute in (1e-3, 1.0, 5, 20.0):
        tared = N.tare(found, absolute)
        total = sum(leaf.mass for leaf in tared.leaves)
        assert abs(total / absolute - 1) < claim.tol
        assert abs(tared.mass / absolute - 1) < claim.tol
        for name, s in tared.scales.items():
            assert abs(s / found.scales[name] - 1) < claim.tol
    body = modular_norm(network(), mass={"1": 5})
    assert abs(body.mass - 8) < claim.tol
