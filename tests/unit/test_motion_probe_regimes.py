"""The probe where the motion ends: ηλ_max and its limits, and the laws of symmetry."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from anthology import norms, optim
from anthology.motion import Probe
from anthology.motion.probe.step_rules import ends, is_plain, penalty
from anthology.motion.symmetry.find import find_symmetries
from anthology.norms import L2

QUIET = pytest.mark.filterwarnings("ignore:at step:RuntimeWarning")


class Bowl(nn.Module):
    """½ wᵀAw for a given symmetric A, as a loss without input."""

    def __init__(self, curvature, start=None):
        super().__init__()
        a = torch.as_tensor(curvature, dtype=torch.float64)
        self.register_buffer("a", torch.diag(a) if a.ndim == 1 else a)
        start = torch.ones(len(a)) if start is None else start
        self.w = nn.Parameter(torch.as_tensor(start, dtype=torch.float64))

    def forward(self):
        return self.w @ self.a @ self.w / 2


def value(net):
    return net()


def descend(net, optimizer, steps, **options):
    """Train on the fixed loss itself under a probe."""
    options = {"every": 1, **options}
    with Probe(net, optimizer, value, **options) as probe:
        for _ in range(steps):
            optimizer.zero_grad()
            net().backward()
            optimizer.step()
    return probe.records


@QUIET
@pytest.mark.parametrize("lr", [0.1, 0.4, 0.9])
def test_gradient_descent_on_a_quadratic(lr):
    net = Bowl([2.0, 1.0, 0.5], start=[1.0, 0.0, 0.0])
    first, *_, last = descend(net, torch.optim.SGD(net.parameters(), lr=lr), 4)
    for record in (first, last):
        assert math.isclose(record["product"], 2 * lr, rel_tol=1e-6)
        assert math.isclose(record["sharpness"], 2, rel_tol=1e-6)
        assert math.isclose(record["overshoot"], 2 * lr, rel_tol=1e-9)
        assert math.isclose(record["fall"], record["gain"] - record["bend"] / 2)
        assert (record["limit"], record["stable"]) == (1, 2)
    assert math.isclose(first["penalty"], 2.0)  # half of 2²


@pytest.mark.parametrize("lr, warned", [(0.45, 0), (0.55, 1)])
def test_one_warning_when_the_motion_ceases_to_exist(lr, warned):
    net = Bowl([2.0, 1.0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        descend(net, torch.optim.SGD(net.parameters(), lr=lr), 3)
    assert len(caught) == warned
    for warning in caught:
        assert warning.category is RuntimeWarning
        assert warning.filename == __file__
        text = str(warning.message)
        assert text.startswith("at step 1 the learning rate times the sharpness is 1.1")


MOMENTA = [
    ("SGD", {"momentum": 0.7}, 1.0),
    ("SGD", {"momentum": 0.7, "nesterov": True}, 1.0),
    ("SGD", {"momentum": 0.7, "dampening": 0.7}, 1.0),
    ("SteepestDescent", {"momentum": 0.7}, 1.0),
    ("SteepestDescent", {"momentum": 0.7, "nesterov": True}, 1.0),
    ("SGD", {}, 1.0),
]


@pytest.mark.parametrize("name, options, lr", MOMENTA)
def test_where_motion_and_method_end_under_momentum(name, options, lr):
    def optimizer(net):
        if name == "SGD":
            return torch.optim.SGD(net.parameters(), lr, **options)
        rule = {"norm": L2(), "step": "steepest", "across": "l2"}
        return optim.SteepestDescent(net.parameters(), lr, **rule, **options)

    def multipliers(curvature):
        """Of the recursion that the optimizer really runs, from its iterates."""
        net = Bowl([curvature])
        run, w = optimizer(net), []
        for _ in range(7):
            w.append(net.w.item())
            run.zero_grad()
            net().backward()
            run.step()
        # w_{k+1} = a w_k + b w_{k-1}, after the first step, which is special
        m = np.array([[w[3], w[2]], [w[4], w[3]]])
        if not options:
            return np.array([w[4] / w[3]])
        a, b = np.linalg.solve(m, [w[4], w[5]])
        return np.roots([1.0, -a, -b])

    net = Bowl([1.0])
    motion, stable = ends(run := optimizer(net), run.param_groups[0])
    for share, exists in ((0.98, True), (1.02, False)):
        z = multipliers(share * motion)
        assert (bool(np.isreal(z).all()) and bool((z.real > 0).all())) == exists
    for share, holds in ((0.99, True), (1.01, False)):
        assert (np.abs(multipliers(share * stable)).max() < 1) == holds


def rooted(kind, **options):
    def build(params):
        return kind(params, lr=0.02, **options)

    return build


METRICS = {
    "SGD": (rooted(optim.SGD), lambda v, t: torch.ones(3)),
    "AdamW": (
        rooted(torch.optim.AdamW, betas=(0.0, 0.9)),
        lambda v, t: (v / (1 - 0.9**t)).sqrt() + 1e-8,
    ),
    "Adam": (
        rooted(optim.Adam, betas=(0.0, 0.9)),
        lambda v, t: (v / (1 - 0.9**t)).sqrt() + 1e-8,
    ),
    "AMSGrad": (
        rooted(optim.Adam, betas=(0.0, 0.9), amsgrad=True),
        lambda v, t: (v / (1 - 0.9**t)).sqrt() + 1e-8,
    ),
    "RMSprop": (rooted(torch.optim.RMSprop), lambda v, t: v.sqrt() + 1e-8),
    "Adagrad": (rooted(torch.optim.Adagrad), lambda v, t: v.sqrt() + 1e-10),
    "RootFreeAdamW": (
        rooted(optim.RootFreeAdamW, betas=(0.0, 0.9), batch_size=1),
        lambda v, t: v + 1e-4,
    ),
}


@QUIET
@pytest.mark.parametrize("name", METRICS)
def test_the_product_is_that_of_the_preconditioned_hessian(name):
    torch.manual_seed(0)
    root = torch.randn(3, 3).double()
    net = Bowl(root @ root.T, start=torch.randn(3).double())
    build, metric = METRICS[name]
    optimizer = build(net.parameters())
    probe = Probe(net, optimizer, value, parts=["sharpness"], every=1)
    for step in (1, 2, 3):
        optimizer.zero_grad()
        net().backward()
        before, g = net.w.detach().clone(), net.w.grad.clone()
        optimizer.step()
        state = optimizer.state[net.w]
        names = ("max_exp_avg_sq", "exp_avg_sq", "square_avg", "sum")
        kept = [state[k] for k in names if k in state]
        p = metric(kept[0] if kept else None, step)
        exact = 0.02 * torch.linalg.eigvals(net.a / p.double()[:, None]).real.max()
        assert math.isclose(probe.records[-1]["product"], exact, rel_tol=1e-4)
        if name != "AdamW":  # which decays the weights too
            assert torch.allclose(net.w - before, -0.02 * g / p, rtol=1e-5)


@QUIET
def test_rates_of_groups_and_an_optimizer_without_metric():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([Bowl([1.0, 3.0]), Bowl([2.0])])

        def forward(self):
            return self.parts[0]() + self.parts[1]()

    net = Both()
    groups = [
        {"params": list(net.parts[0].parameters()), "lr": 0.1},
        {"params": list(net.parts[1].parameters()), "lr": 0.2},
    ]
    options = {"parts": ("sharpness", "blocks")}
    (row,) = descend(net, torch.optim.SGD(groups), 1, **options)
    assert math.isclose(row["product"], 0.4, rel_tol=1e-6)
    blocks = row["layers"]
    assert math.isclose(blocks["parts.0.w"]["product"], 0.3, rel_tol=1e-6)
    assert math.isclose(blocks["parts.1.w"]["product"], 0.4, rel_tol=1e-6)
    groups[1]["momentum"] = 0.9
    (row,) = descend(net, torch.optim.SGD(groups), 1, **options)
    assert math.isclose(row["limit"], (1 - math.sqrt(0.9)) ** 2)
    assert row["stable"] == 2 and row["layers"]["parts.1.w"]["stable"] == 3.8
    (row,) = descend(net, optim.Lion(net.parameters(), lr=0.1), 1, **options)
    assert math.isnan(row["product"])
    assert math.isclose(row["sharpness"], 3, rel_tol=1e-6)


@QUIET
def test_maximizing_turns_the_curvature_round():
    net = Bowl([-3.0, -1.0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, maximize=True)
    (row,) = descend(net, optimizer, 1, parts=["sharpness"])
    assert math.isclose(row["product"], 0.3, rel_tol=1e-6)


class Normed(nn.Module):
    """Weights before a normalisation, then a softmax."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 6, bias=False)
        self.norm = nn.LayerNorm(6, eps=1e-12)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(self.hidden(x)))


def lawful(optimizer, steps=25):
    """The symmetry rows of a run of a small normalised network."""
    torch.manual_seed(0)
    net, x, y = Normed().double(), torch.randn(8, 4).double(), torch.randint(3, (8,))

    def loss(f):
        return nn.functional.cross_entropy(f(x), y)

    run, found = optimizer(net.parameters()), find_symmetries(net, loss)
    every = {"symmetry": 5}
    with Probe(net, run, symmetries=found, parts=["symmetry"], every=every) as probe:
        for _ in range(steps):
            run.zero_grad()
            loss(net).backward()
            run.step()
    assert [r["step"] for r in probe.records] == list(range(1, steps + 1, 5))
    assert "symmetry" in str(probe).splitlines()[1]
    rows = {}
    for text, row in probe.records[-1]["symmetries"].items():
        name, kind = text.split(":")[0], text.split(": ")[1].split()[0].strip(",;")
        gap = abs(row["measured"] - row["predicted"])
        assert gap <= row["drift"] * (6**0.5 if kind == "translation" else 1) + 1e-12
        rows[name, kind] = row["drift"], gap / row["measured"]
    return rows


def test_gradient_descent_keeps_every_law():
    rows = lawful(lambda p: torch.optim.SGD(p, lr=0.5, weight_decay=0.1))
    assert ("hidden.weight", "scale") in rows and ("head.bias", "translation") in rows
    assert ("norm.weight + norm.bias against head.weight", "exchange") in rows
    assert len(rows) == 5 and all(drift < 1e-9 for drift, _ in rows.values())


def test_spectral_descent_keeps_the_sums_and_not_the_length():
    rule = {"norm": "Spectral()", "weight_decay": 0.1}
    rows = lawful(lambda p: optim.SteepestDescent(list(p)[:2], 0.02, **rule))
    assert rows["hidden.weight", "translation"][0] < 1e-9
    assert rows["hidden.weight", "scale"][1] > 0.01


def test_adam_keeps_neither():
    rows = lawful(lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1))
    assert rows["hidden.weight", "translation"][1] > 0.05
    assert rows["head.weight", "translation"][1] > 0.05
    assert rows["hidden.weight", "scale"][1] > 0.001


@pytest.mark.parametrize(
    ("step", "expected"), [("dualize", 4.0), ("steepest", 8.0)], ids=str
)
def test_the_penalty_knows_the_rule_of_a_step(step, expected):
    """Fixed steps pay ‖g‖_*, steps in proportion to it ½‖g‖_*²; here ‖g‖₁ is 4."""
    w = torch.zeros(2, requires_grad=True)
    optimizer = optim.SteepestDescent([w], lr=0.1, norm=norms.LInf(), step=step)
    duals = [norms.LInf().dual(torch.tensor([3.0, -1.0]))]
    assert penalty(optimizer, duals, [norms.LInf()]) == expected


def test_steepest_descent_in_euclids_norm_is_plain():
    w = torch.zeros(2, requires_grad=True)
    options = {"lr": 0.1, "norm": norms.L2(), "across": "l2"}
    for step, plain in (("steepest", True), ("dualize", False)):
        optimizer = optim.SteepestDescent([w], step=step, **options)
        assert is_plain(optimizer, optimizer.param_groups[0]) is plain
