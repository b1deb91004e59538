"""``constrain=``: weights that stay on a surface while an optimizer moves them."""

import copy

import pytest
import torch
from torch import nn

from anthology import norms as N
from anthology import optim

NAMES = ["sphere", "spectral-sphere", "stiefel", "hyperball"]
named = pytest.mark.parametrize("name", NAMES)
MAKERS = {
    "SteepestDescent": lambda w, **more: optim.SteepestDescent(w, 0.1, 0.9, **more),
    "Muon": lambda w, **more: optim.Muon(w, 0.1, **more),
}
both = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def surface(name):
    return N.CONSTRAINTS["sphere" if name == "hyperball" else name]


def weight(*shape, dtype=torch.float64):
    return nn.Parameter(torch.randn(shape, dtype=dtype))


def run(optimizer, tensors, steps=5, size=1.0):
    for _ in range(steps):
        for p in tensors:
            p.grad = size * torch.randn_like(p)
        optimizer.step()


@named
@both
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 6, 4)], ids=str)
def test_a_weight_stays(make, name, shape):
    w = weight(*shape)
    # leading axes are experts to SteepestDescent; to Muon by their role
    groups = [{"params": [w], "role": "stack", "norm": "RMSToRMS()"}]
    norm = N.RMSToRMS()
    before = surface(name).radius(w.detach(), norm)
    run(make(groups, constrain=name), [w])
    after = surface(name).radius(w.detach(), norm)
    assert torch.allclose(before, after, rtol=1e-12)
    if name == "stiefel":
        values = torch.linalg.svdvals(w.detach())
        assert (values.amax(-1) - values.amin(-1)).abs().max() < 1e-9


@named
def test_one_step_is_that_of_the_norm(name):
    w, g, norm = weight(5, 3), torch.randn(5, 3).double(), N.RMSToRMS()
    start, at = w.detach().clone(), surface(name)
    radius = at.radius(start, norm)
    near = at.onto(start, radius, norm)
    if name == "hyperball":
        free = norm.dualize(g)
        step = radius * free / free.norm()
    else:
        step = at.dualize(g, near, norm)
    w.grad = g
    optim.SteepestDescent([w], 0.1, norm=norm, constrain=name).step()
    want = at.onto(near - 0.1 * step, radius, norm)
    assert torch.allclose(w.detach(), want, atol=1e-12)


@named
def test_muon_is_steepest_descent_in_the_spectral_norm(name):
    a = weight(6, 4)
    b = nn.Parameter(a.detach().clone())
    muon = optim.Muon(
        [a], 0.1, momentum=0.0, nesterov=False, method="svd", constrain=name,
        adjust_lr_fn="none",
    )  # fmt: skip
    steep = optim.SteepestDescent([b], 0.1, norm=N.Spectral(), constrain=name)
    for _ in range(5):
        a.grad = torch.randn_like(a)
        b.grad = a.grad.clone()
        muon.step()
        steep.step()
    assert torch.allclose(a, b, atol=1e-10)


@named
@both
def test_the_loop_takes_the_same_steps(make, name):
    ends = []
    for foreach in (True, False):
        torch.manual_seed(1)
        tensors = [weight(5, 3), weight(5, 3), weight(3)]
        run(make(tensors, constrain=name, foreach=foreach), tensors)
        ends.append(torch.cat([p.detach().flatten() for p in tensors]))
    assert torch.allclose(*ends, atol=1e-12)


@named
@both
def test_vectors_are_free(make, name):
    ends = []
    for constrain in (name, None):
        torch.manual_seed(1)
        v = weight(4)
        run(make([v], constrain=constrain), [v])
        ends.append(v.detach())
    assert torch.equal(*ends)


@named
@both
def test_a_checkpoint_goes_on_as_if_nothing_had_been(make, name):
    w = weight(5, 3)
    first = make([w], constrain=name)
    run(first, [w], 3)
    v = nn.Parameter(w.detach().clone())
    second = make([v], constrain=name)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for p, optimizer in ((w, first), (v, second)):
        torch.manual_seed(2)
        run(optimizer, [p], 3)
    assert torch.equal(w, v)


@named
@both
def test_switched_on_later_it_keeps_what_there_is(make, name):
    w = weight(5, 3)
    optimizer = make([w])
    run(optimizer, [w], 2)
    radius = surface(name).radius(w.detach(), N.Spectral())
    optimizer.param_groups[0]["constrain"] = name
    run(optimizer, [w], 2)
    after = surface(name).radius(w.detach(), N.Spectral())
    assert torch.allclose(radius, after)


@named
@both
def test_no_rate_no_step_and_a_bad_gradient_none(make, name):
    w = weight(5, 3, dtype=torch.float32)
    optimizer = make([w], constrain=name)
    run(optimizer, [w], 2)
    before = w.detach().clone()
    w.grad = torch.full_like(w, torch.nan)
    optimizer.step()
    assert torch.equal(w, before)
    optimizer.param_groups[0]["lr"] = 0.0
    run(optimizer, [w], 2)
    assert torch.equal(w, before)


@named
@both
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_any_size_of_gradient(make, name, size):
    w = weight(5, 3, dtype=torch.float32)
    radius = surface(name).radius(w.detach(), N.Spectral())
    run(make([w], constrain=name), [w], 3, size)
    after = surface(name).radius(w.detach(), N.Spectral())
    assert torch.allclose(radius, after, rtol=1e-4)


@named
@both
def test_bfloat16_stays_to_its_precision(make, name):
    w = weight(16, 8, dtype=torch.bfloat16)
    radius = surface(name).radius(w.detach().float(), N.Spectral())
    run(make([w], constrain=name), [w], 50)
    after = surface(name).radius(w.detach().float(), N.Spectral())
    assert torch.allclose(radius, after, rtol=2e-3)


@named
@both
def test_what_has_no_place_is_refused_at_once(make, name):
    for bad in (torch.zeros(3, 2), torch.full((3, 2), torch.inf)):
        with pytest.raises(ValueError, match="has no radius"):
            make([nn.Parameter(bad)], constrain=name)
    with pytest.raises(ValueError, match="real weights"):
        make([nn.Parameter(torch.eye(2, dtype=torch.complex64))], constrain=name)
    with pytest.raises(ValueError, match="place of weight decay"):
        make([weight(3, 2)], constrain=name, decay="cautious")
    optimizer = make([weight(3, 2)], constrain=name)
    with pytest.raises(ValueError, match="has no radius"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3, 2))]})
    assert len(optimizer.param_groups) == 1


def test_unknown_surfaces_and_stages_are_refused():
    with pytest.raises(ValueError, match="'sphere' or"):
        optim.Muon([weight(3, 2)], constrain="ball")
    for stage in ({"row_beta": 0.9}, {"normalize": "rows"}, {"step": "steepest"}):
        with pytest.raises(ValueError, match="or take 'hyperball'"):
            optim.Muon([weight(3, 2)], constrain="stiefel", **stage)
        optim.Muon([weight(3, 2)], constrain="hyperball", **stage)


def test_embeddings_have_a_sphere_but_no_frame():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    for name in NAMES:
        optimizer = optim.SteepestDescent(N.metrize(model), 0.1, constrain=name)
        run(optimizer, list(model.parameters()), 2)
        sizes = {p: optimizer.state[p]["radius"].numel() for p in model.parameters()}
        assert sizes[model[1].weight] == 1
        assert sizes[model[1].bias] == 0
        assert sizes[model[0].weight] == (name != "stiefel")
