"""Muon: its formula, the published implementation, its rules, views and refusals."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from anthology.norms import RMSToRMS, metrize
from anthology.optim import AdamW, Muon, convert_lr
from anthology.optim.core.dispatch import DEVICE_BATCH, gather, split

SCALES = {
    "original": lambda m, n: math.sqrt(max(1, m / n)),
    "match_rms_adamw": lambda m, n: 0.2 * math.sqrt(max(m, n)),
    "rms_to_rms": lambda m, n: math.sqrt(m / n),
    "none": lambda m, n: 1.0,
}
SHAPES = [(6, 4), (4, 6), (5, 5), (6, 4)]


def weights(dtype=torch.float64, shapes=SHAPES):
    return [torch.randn(s, dtype=dtype).requires_grad_() for s in shapes]


def train(optimizer, params, steps, seed=1):
    torch.manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, dtype=p.dtype)
        optimizer.step()


def gap(params, others):
    pairs = zip(params, others, strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


def apart(p, q):
    return float((p - q).detach().norm())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("foreach", [True, False])
def test_muon_is_its_formula(scale, nesterov, foreach):
    """Against a dense reference of our own, 100 steps in float64."""
    params = weights()
    ours = [p.detach().clone() for p in params]
    averages = [torch.zeros_like(w) for w in ours]
    lr, decay, beta = 0.02, 0.1, 0.9
    optimizer = Muon(
        params, lr, decay, beta, nesterov, adjust_lr_fn=scale, foreach=foreach
    )
    for _ in range(100):
        for i, p in enumerate(params):
            g = torch.randn(p.shape, dtype=p.dtype)
            p.grad = g.clone()
            averages[i] = beta * averages[i] + (1 - beta) * g
            u = (1 - beta) * g + beta * averages[i] if nesterov else averages[i]
            x = u / torch.linalg.matrix_norm(u)
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            size = lr * SCALES[scale](*p.shape)
            ours[i] = (1 - lr * decay) * ours[i] - size * x
        optimizer.step()
        assert all(torch.isfinite(p).all() for p in params)
    assert gap(params, ours) < 1e-10


needs_torch_muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon"
)


@needs_torch_muon
@pytest.mark.claim("muon-is-torch", tol=2e-2, trials=100)
@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
def test_muon_is_that_of_torch_up_to_its_rounding(claim, adjust):
    """Products in bfloat16 on both sides; the gap is a share of the path's length."""
    params = weights(torch.float32, [(32, 48), (64, 16), (24, 24)])
    others = [p.detach().clone().requires_grad_() for p in params]
    start = [p.detach().clone() for p in params]
    ours = Muon(params, 0.02, adjust_lr_fn=adjust, ns_dtype=torch.bfloat16)
    theirs = torch.optim.Muon(others, 0.02, adjust_lr_fn=adjust)
    train(ours, params, claim.trials)
    train(theirs, others, claim.trials)
    for p, q, w in zip(params, others, start, strict=True):
        assert apart(p, q) < claim.tol * apart(q, w)


@needs_torch_muon
def test_one_step_of_torch_differs_by_bfloat16_rounding_only():
    """With our products in float32 instead, one step still agrees to bfloat16."""
    params = weights(torch.float32, [(32, 48), (64, 16)])
    others = [p.detach().clone().requires_grad_() for p in params]
    start = [p.detach().clone() for p in params]
    train(Muon(params, 1.0, 0.0), params, 1)
    train(torch.optim.Muon(others, 1.0, 0.0), others, 1)
    for p, q, w in zip(params, others, start, strict=True):
        assert apart(p, q) < 2e-2 * apart(q, w)


@needs_torch_muon
def test_it_loads_a_checkpoint_of_torch():
    params = weights(torch.float32, [(8, 12)])
    theirs = torch.optim.Muon(params, 0.02)
    train(theirs, params, 5)
    copies = [p.detach().clone().requires_grad_() for p in params]
    ours = Muon(copies, ns_dtype="bfloat16")
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["rule"] == "muon"
    before = [p.detach().clone() for p in params]
    train(theirs, params, 5, seed=2)
    train(ours, copies, 5, seed=2)
    for p, q, w in zip(copies, params, before, strict=True):
        assert apart(p, q) < 2e-2 * apart(q, w)


@needs_torch_muon
def test_a_checkpoint_with_other_coefficients_is_refused():
    params = weights(torch.float32, [(8, 12)])
    theirs = torch.optim.Muon(params, ns_coefficients=(2.0, -1.5, 0.5))
    ours = Muon(params, 0.7)
    with pytest.raises(ValueError, match="coefficients"):
        ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == 0.7


def test_the_other_parameters_follow_adamw():
    shapes = [(5,), (), (3, 4)]
    params = weights(torch.float64, shapes)
    others = [p.detach().clone().requires_grad_() for p in params]
    start = params[2].detach().clone()
    ours = Muon(params, 0.02, 0.3, adamw_lr=0.01, adamw_eps=1e-9)
    theirs = AdamW(others, 0.01, (0.9, 0.95), 1e-9, 0.3)
    train(ours, params, 50)
    train(theirs, others, 50)
    assert gap(params[:2], others[:2]) == 0
    assert gap([params[2]], [start]) > 0.1
    assert "momentum_buffer" in ours.state[params[2]]
    assert set(ours.state[params[0]]) == {"step", "skipped", "exp_avg", "exp_avg_sq"}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.attention = nn.MultiheadAttention(6, 2)
        self.conv = nn.Conv1d(6, 4, 3)
        self.gain = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)


def rules(optimizer):
    return {
        name: group["rule"]
        for group in optimizer.param_groups
        for name in group["param_names"]
    }


def test_roles_choose_the_rule_and_the_table_says_so():
    optimizer = Muon(metrize(Model()), 0.02)
    found = rules(optimizer)
    matrices = {name for name, rule in found.items() if rule == "muon"}
    assert matrices == {
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "conv.weight",
    }
    assert len(found) == 11
    lines = str(optimizer).splitlines()
    assert len(lines) == 11
    for line in lines:
        name, _, rule, *_ = line.split()
        assert found[name] == rule


def test_a_model_without_roles_is_split_by_shape():
    model = Model()
    optimizer = Muon(model.named_parameters())
    (group,) = optimizer.param_groups
    for p in model.parameters():
        expected = "muon" if p.ndim > 1 else "adamw"
        assert optimizer.group_of(p, group)["rule"] == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"adjust_lr_fn": "spectral"}, "adjust_lr_fn"),
        ({"method": "newton"}, "no method"),
        ({"method": "svd", "ns_steps": 5}, "takes no steps"),
        ({"method": "svd", "ns_dtype": "bfloat16"}, "ns_dtype"),
        ({"method": "gram", "ns_dtype": "bfloat16"}, "not for 'gram'"),
        ({"method": "eigh", "ns_dtype": "bfloat16"}, "not for 'eigh'"),
        ({"ns_dtype": torch.int8}, "ns_dtype"),
        ({"kernel": "columns"}, "kernel"),
        ({"momentum": 1.0}, "momentum"),
        ({"adamw_lr": -1.0}, "adamw learning rate"),
        ({"adamw_lr": torch.ones(2)}, "1-element"),
        ({"adamw_eps": math.nan}, "epsilon"),
        ({"adamw_betas": (0.9, 1.0)}, "beta"),
        ({"weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_what_it_cannot_use_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Muon(weights(), **options)


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ({"shapes": [(3,)], "rule": "muon"}, "two axes"),
        ({"shapes": [(3, 4), (3,)], "lr": 0.1}, "adamw_lr"),
        ({"shapes": [(3, 4)], "rule": "sgd"}, "rule"),
        ({"shapes": [(3, 4)], "scale": 0.0}, "scale"),
        ({"shapes": [(4, 4)], "norm": "Split(RMSToRMS(), 3)"}, "3 equal parts"),
        ({"shapes": [(2, 6, 4)], "norm": "Split(RMSToRMS(), 3)"}, "stack"),
    ],
)
def test_a_group_that_is_refused_leaves_no_trace(group, text):
    optimizer = Muon(weights())
    params = weights(shapes=group.pop("shapes"))
    with pytest.raises(ValueError, match=text):
        optimizer.add_param_group({"params": params, **group})
    assert len(optimizer.param_groups) == 1
    twice = {"params": [torch.zeros(3, 3), torch.zeros(2)], "adamw_lr": 0.1}
    optimizer.add_param_group(twice)
    assert len(optimizer.param_groups) == 2
    with pytest.raises(ValueError, match="more than one"):
        optimizer.add_param_group({"params": [torch.zeros(5, 5), twice["params"][1]]})
    assert len(optimizer.param_groups) == 2


def test_a_checkpoint_of_both_rules_resumes_exactly_through_the_safe_loader():
    model = Model()
    params = list(model.parameters())
    optimizer = Muon(metrize(model), 0.02, ns_dtype=torch.bfloat16)
    train(optimizer, params, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = copy.deepcopy(model)
    resumed = Muon(metrize(twin), 0.5, ns_dtype=torch.bfloat16)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(optimizer, params, 3, seed=2)
    train(resumed, list(twin.parameters()), 3, seed=2)
    assert gap(params, list(twin.parameters())) == 0


def test_norms_in_groups_become_text():
    optimizer = Muon([{"params": weights(), "norm": RMSToRMS()}])
    assert optimizer.state_dict()["param_groups"][0]["norm"] == "RMSToRMS()"


@pytest.mark.parametrize("bad", [((3,), "original"), ((0, 3), "none"), ((2, 2), "x")])
def test_convert_lr_refuses_what_it_cannot_convert(bad):
    with pytest.raises(ValueError, match="shape|from_"):
        convert_lr(0.1, bad[0], bad[1], "original")
    with pytest.raises(ValueError, match="learning rate"):
        convert_lr(-0.1, (2, 3), "none", "original")


@pytest.mark.parametrize("method", ["pade", "gram", "eigh", "you", "polar-express"])
def test_every_method_of_the_docstring_is_near_the_exact_step(method):
    torch.manual_seed(6)
    g = torch.randn(6, 4, dtype=torch.float64)
    steps = []
    for chosen in (method, "svd"):
        p = torch.zeros(6, 4, dtype=torch.float64).requires_grad_()
        optimizer = Muon([p], 1.0, momentum=0.0, nesterov=False, method=chosen)
        p.grad = g.clone()
        optimizer.step()
        steps.append(p.detach())
    assert float((steps[0] - steps[1]).abs().max()) < 0.02


def test_matrices_of_equal_shape_are_one_batch_whatever_their_number() -> None:
    """Of 500 small ones a few batches; those of AdamW stay in the cache."""
    params = [torch.randn(64, 64).requires_grad_() for _ in range(300)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = Muon(params)
    sizes = [len(batch.tensors) for batch in gather(optimizer)]
    assert sizes == [128, 128, 44]
    here = torch.empty(2**13, device="meta")
    many = DEVICE_BATCH // here.numel() + 1
    assert len(split([here] * many, None, 2 * DEVICE_BATCH)) == 1
    assert len(split([here] * many, None, 2**10)) == 2
    on_a_device = Muon([torch.empty(8, 8, device="meta").requires_grad_()])
    group = on_a_device.param_groups[0]
    assert on_a_device.together(group) > DEVICE_BATCH
