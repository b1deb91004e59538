"""Scion against a dense reference; its norms, groups, state and errors."""

import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from anthology.norms import Conv, LInf, RMSToRMS, Scaled, Spectral, from_spec, metrize
from anthology.optim import Scion, scion_norm
from anthology.optim.parts.param_norm import as_points

NAMES = ("Spectral", "SpectralInput", "ColNorm", "Embedding", "RowNorm", "Sign")


def orthogonal(g: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    return u @ vh


# What the authors call the linear minimisation oracle, up to its sign, entry by
# entry as published but without the 1e-8 that they add to each denominator.
ORACLES: dict[str, Callable[[Tensor], Tensor]] = {
    "Spectral": lambda g: math.sqrt(len(g) / len(g.T)) * orthogonal(g),
    "SpectralInput": lambda g: max(1, math.sqrt(len(g) / len(g.T))) * orthogonal(g),
    "ColNorm": lambda g: g / g.square().mean(0, keepdim=True).sqrt(),
    "Embedding": lambda g: g / g.square().mean(1, keepdim=True).sqrt(),
    "RowNorm": lambda g: g / (g.norm(dim=1, keepdim=True) * math.sqrt(len(g.T))),
    "Sign": lambda g: g.sign() / len(g.T),
    "BiasRMS": lambda g: g / g.square().mean().sqrt(),
}


def reference(
    w: Tensor,
    grads: Tensor,
    oracle: Callable[[Tensor], Tensor],
    lr: float,
    share: float,
    radius: float,
    unconstrained: bool,
) -> Tensor:
    """The published update; ``share`` is their ``momentum``, 1 for no average."""
    average = torch.zeros_like(w)
    for g in grads:
        average = (1 - share) * average + share * g
        step = radius * oracle(average)
        w = (w if unconstrained else (1 - lr) * w) - lr * step
    return w


@pytest.mark.claim("scion-published", tol=1e-10, trials=100)
@pytest.mark.parametrize("unconstrained", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.1])
@pytest.mark.parametrize("name", ORACLES)
def test_equal_to_the_published_update(claim, name, share, unconstrained):
    for shape in ((7,),) if name == "BiasRMS" else ((6, 4), (4, 6), (5, 5)):
        start = torch.randn(shape, dtype=torch.float64)
        grads = torch.randn(claim.trials, *shape, dtype=torch.float64)
        oracle = ORACLES[name]
        expected = reference(start, grads, oracle, 0.05, share, 3.0, unconstrained)
        for foreach in (True, False):
            p = start.clone().requires_grad_()
            optimizer = Scion(
                [p],
                lr=0.05,
                momentum=1 - share,
                radius=3.0,
                unconstrained=unconstrained,
                norm=scion_norm(name, shape),
                foreach=foreach,
            )
            for g in grads:
                p.grad = g.clone()
                optimizer.step()
            assert float((p.detach() - expected).abs().max()) < claim.tol


def newton_schulz(g: Tensor) -> Tensor:
    """The published five steps, in the precision of g."""
    x = g.mT if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if g.shape[0] > g.shape[1] else x


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_equal_with_the_published_iteration(shape):
    """To what their 1e-7 beside the Frobenius norm leaves."""

    def oracle(g: Tensor) -> Tensor:
        return math.sqrt(shape[0] / shape[1]) * newton_schulz(g)

    start = torch.randn(shape, dtype=torch.float64)
    grads = torch.randn(50, *shape, dtype=torch.float64)
    expected = reference(start, grads, oracle, 0.05, 0.1, 3.0, False)
    p = start.clone().requires_grad_()
    optimizer = Scion([p], 0.05, 0.9, 3.0, norm=RMSToRMS(method="muon"))
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    assert float((p.detach() - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_a_norm_whose_unit_step_is_theirs(name):
    for shape in ((6, 4), (4, 6)):
        norm = scion_norm(name, shape)
        g = torch.randn(shape, dtype=torch.float64)
        assert float((norm.dualize(g) - ORACLES[name](g)).abs().max()) < 1e-12
        assert abs(float(norm.norm(norm.dualize(g))) - 1) < 1e-12
        assert from_spec(repr(norm)) == norm


def test_names_by_shape_and_by_method():
    assert scion_norm("Auto", (3, 2, 5, 5)) == Conv(2)
    assert scion_norm("Auto", (3, 2), method="muon") == RMSToRMS("muon")
    assert repr(scion_norm("Auto", ())) == repr(scion_norm("BiasRMS", (3,))) == "RMS()"
    steps = scion_norm("SpectralInput", (8, 2), method="polar-express", steps=6)
    assert steps == Scaled(Spectral("polar-express", 6), 0.5)
    with pytest.raises(ValueError, match="'Spektral'; it must be 'Spectral' or"):
        scion_norm("Spektral", (3, 2))
    with pytest.raises(ValueError, match=r"Sign is a norm of matrices.*\(3,\)"):
        scion_norm("Sign", (3,))


def model() -> nn.Module:
    layers = (nn.Embedding(11, 8), nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 11))
    return nn.Sequential(*layers).double()


def test_a_metrized_model_trains_and_stays_in_its_balls():
    net, radius = model(), 8.0
    groups = metrize(
        net, overrides=[(nn.LayerNorm, {"lr": 0.0}), ("1.*", {"scale": 2.0})]
    )
    optimizer = Scion(groups, lr=0.05, momentum=0.9, radius=radius)
    tokens = torch.randint(0, 11, (64,))
    gains = net[2].weight.detach().clone()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(tokens), (tokens + 3) % 11)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert torch.equal(net[2].weight, gains)
    for group in optimizer.param_groups:
        norm = from_spec(group["norm"])
        for p in group["params"]:
            size = float(norm.norm(as_points(p.detach(), norm)).max())
            assert size * group["scale"] <= radius * (1 + 1e-12)


def test_checkpoints_load_with_the_safe_loader():
    net = model()
    optimizer = Scion(metrize(net), momentum=0.9, norm=LInf())
    net(torch.arange(11)).square().sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = Scion(metrize(net))
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.param_groups[0]["momentum"] == 0.9


def test_without_momentum_there_is_no_state():
    p = torch.ones(4, 3).requires_grad_()
    optimizer = Scion([p])
    optimizer.create_state()
    assert set(optimizer.state[p]) == {"step", "skipped"}


def test_a_radius_of_its_own_for_each_group():
    p, q = torch.zeros(4).requires_grad_(), torch.zeros(4).requires_grad_()
    groups = [{"params": [p], "radius": 2.0}, {"params": [q], "radius": 5.0}]
    optimizer = Scion(groups, lr=1.0, norm=LInf())
    p.grad = q.grad = -torch.ones(4)
    optimizer.step()
    assert torch.equal(p.detach(), torch.full((4,), 2.0))
    assert torch.equal(q.detach(), torch.full((4,), 5.0))


@pytest.mark.parametrize("unconstrained", [False, True])
def test_hyper_gradients_flow_through_the_steps(unconstrained):
    slopes = torch.randn(4, 5, dtype=torch.float64)

    def end(lr: Tensor) -> Tensor:
        w = torch.ones(5, dtype=torch.float64).requires_grad_().clone()
        w.retain_grad()
        optimizer = Scion(
            [w], lr, 0.5, 2.0, unconstrained, norm="Lp(3.0)", differentiable=True
        )
        for slope in slopes:
            w.grad = slope * w.clone() + lr
            optimizer.step()
        return w.sum()

    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(end(lr), lr)
    h = 1e-6
    central = (end(lr.detach() + h) - end(lr.detach() - h)) / (2 * h)
    assert float((slope - central).detach().abs()) < 1e-7 * (1 + float(slope.abs()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": 1.5}, "Invalid learning rate: 1.5; it must be at most 1"),
        ({"lr": float("nan")}, "Invalid learning rate: nan"),
        ({"momentum": 1.0}, "Invalid momentum value: 1.0"),
        ({"radius": 0.0}, "Invalid radius: 0.0"),
        ({"radius": float("inf")}, "Invalid radius: inf"),
        ({"radius": float("nan")}, "Invalid radius: nan"),
    ],
)
def test_impossible_options_are_refused(options, text):
    p = torch.ones(3).requires_grad_()
    with pytest.raises(ValueError, match=text):
        Scion([p], **options)
    optimizer = Scion([p])
    with pytest.raises(ValueError, match=text):
        optimizer.add_param_group({"params": [torch.ones(2)], **options})
    assert len(optimizer.param_groups) == 1


def test_options_of_steepest_descent_are_refused_in_groups():
    p = torch.ones(3).requires_grad_()
    for wrong in (
        {"weight_decay": 0.1},
        {"nesterov": True, "momentum": 0.9},
        {"step": "steepest"},
        {"across": "l2"},
        {"scale": -1.0},
        {"norm": RMSToRMS(), "radius": -1.0},
    ):
        with pytest.raises(ValueError):
            Scion([{"params": [p], **wrong}])
    with pytest.raises(TypeError, match="radius"):
        Scion([p], radius="2")
    with pytest.raises(TypeError, match="norm must be a Norm"):
        Scion([p], norm=3)
    Scion([p], lr=1.5, unconstrained=True)
