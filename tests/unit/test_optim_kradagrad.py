"""KrADagrad against a dense reference, form against form, shape by shape."""

import string

import pytest
import torch
from torch import Tensor

from anthology.optim import KrADagrad
from anthology.optim.core.state import real
from anthology.optim.parts.kronecker.bounds import damps, positive_root, power_of

SHAPES = [(5, 5), (4, 3), (3,), (), (2, 3, 4), (2, 3, 3, 2), (1, 6)]
OPTIONS = [
    {},
    {"lr": 0.5},
    {"nesterov": False, "momentum": 0.0, "lr": 0.3},
    {"beta2": 0.9, "weight_decay": 0.1, "nesterov": False},
    {"bound": "trace", "eps": 1e-3, "initial": 5.0, "lr": 0.3},
    {"refresh": 4, "power": 2, "lr": 0.05},
    {"max_dim": 3, "vectors": "full", "lr": 0.1},
    {"maximize": True, "vectors": "full", "lr": 0.1},
    {"lr": 1.0, "grafting": "sgd", "weight_decay": 0.01},
    {"variant": "mm"},
    {"variant": "mm", "refresh": 3, "vectors": "full", "beta2": 0.9, "eps": 1e-3},
    {"variant": "mm", "power": 1, "max_dim": 3, "grafting": "sgd", "bound": "trace"},
]


def draws(steps: int, dtype: torch.dtype = torch.float64):
    """The same start and gradients for every contestant."""
    torch.manual_seed(1)
    start = [torch.randn(s, dtype=dtype) for s in SHAPES]
    return start, [[torch.randn(s, dtype=dtype) for s in SHAPES] for _ in range(steps)]


def run(steps: int, dtype: torch.dtype = torch.float64, **options) -> list[Tensor]:
    start, grads = draws(steps, dtype)
    params = [w.requires_grad_() for w in start]
    optimizer = KrADagrad(params, **options)
    for row in grads:
        for p, g in zip(params, row, strict=True):
            p.grad = g
        optimizer.step()
    return [p.detach() for p in params]


def turns(axes: list[int], shape: torch.Size, steps: int) -> list[int]:
    """Which axis "mm" updates: k rounds, then squares of growing size, in which all
    but the first k steps are for the longest axis."""
    found = axes * len(axes)
    longest = max(axes, key=lambda i: (shape[i], -i))
    for side in range(len(axes), steps):
        row = axes + [longest] * (2 * side + 1 - len(axes))
        found += row
    return found[:steps]


def dense(
    w: Tensor,
    grads: list[Tensor],
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = True,
    beta2: float = 1.0,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
    initial: float = 1.0,
    bound: str = "frobenius",
    refresh: int = 1,
    power: int | None = None,
    max_dim: int = 1024,
    vectors: str = "none",
    maximize: bool = False,
    variant: str = "star",
    grafting: str = "none",
) -> Tensor:
    """The formulas of the docstring, letter by letter, by einsum and eigh."""
    letters = string.ascii_lowercase[: w.ndim]
    axes = [i for i in range(w.ndim) if w.shape[i] <= max_dim]
    axes = [] if w.ndim == 1 and vectors == "none" else axes
    mm = variant == "mm"
    power = power or (2 if mm else 2 * w.ndim)
    factors = {i: initial * torch.eye(w.shape[i], dtype=w.dtype) for i in axes}
    roots = {i: f ** (1 / power) for i, f in factors.items()}
    m = torch.zeros_like(w)

    def apply(x: Tensor, i: int) -> Tensor:
        a = letters[i]
        return torch.einsum(f"Z{a},{letters}->{letters.replace(a, 'Z')}", roots[i], x)

    for t, g in enumerate(grads):
        g = -g if maximize else g
        u = seen = g
        chosen = [turns(axes, w.shape, len(grads))[t]] if mm and axes else axes
        for i in axes:
            if i not in chosen:
                u = seen = apply(u, i)
        for i in chosen:
            a = letters[i]
            other = letters.replace(a, "Z")
            outer = torch.einsum(f"{letters},{other}->{a}Z", seen, seen)
            old = factors[i] / beta2
            old = old - eps * old @ old
            inner = outer @ old
            size = inner.trace() if bound == "trace" else inner.square().sum().sqrt()
            factors[i] = old - old @ outer @ old / (1 + size)
        for i in axes if t % refresh == 0 else []:
            values, basis = torch.linalg.eigh(factors[i])
            roots[i] = basis @ torch.diag(values ** (1 / power)) @ basis.mT
        for i in chosen:
            u = apply(u, i)
        if grafting == "sgd":
            u = u * g.norm() / u.norm()
        u = u + weight_decay * w
        m = momentum * m + u
        w = w - lr * (u + momentum * m if nesterov else m)
    return w


@pytest.mark.claim("krad-parity", tol=1e-9, trials=50)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("foreach", [False, True])
def test_equal_to_a_dense_reference(claim, options, foreach):
    start, grads = draws(claim.trials)
    for i, ours in enumerate(run(claim.trials, foreach=foreach, **options)):
        theirs = dense(start[i], [row[i] for row in grads], **options)
        assert float(((ours - theirs) / (1 + theirs.abs())).abs().max()) < claim.tol


@pytest.mark.parametrize("variant", ["star", "mm"])
@pytest.mark.parametrize("foreach", [False, True])
def test_blocks_are_tensors_of_their_own(variant, foreach):
    """Cut at 4, a 6 × 4 matrix is a 4 × 4 and a 2 × 4 one; short tensors stay."""
    torch.manual_seed(4)
    whole = torch.randn(6, 4, dtype=torch.float64).requires_grad_()
    parts = [x.clone().requires_grad_() for x in whole.detach().split(4)]
    small = [torch.ones(s, dtype=torch.float64).requires_grad_() for s in ((), (3,))]
    options = {"variant": variant, "weight_decay": 0.1, "vectors": "full"}
    cut = KrADagrad([whole, *small], block_size=4, foreach=foreach, **options)
    apart = KrADagrad(parts, foreach=foreach, **options)
    for _ in range(20):
        whole.grad = torch.randn_like(whole)
        for p, g in zip(parts, whole.grad.split(4), strict=True):
            p.grad = g.clone()
        for p in small:
            p.grad = torch.randn_like(p)
        cut.step()
        apart.step()
    assert float((torch.cat(parts) - whole).detach().abs().max()) < 1e-12
    assert cut.state[whole]["factor_1_0"].shape == (2, 2)
    assert cut.state[small[1]]["factor_0"].shape == (3, 3)
    assert "factor_0" not in cut.state[small[0]]


def test_alike_tensors_go_together_and_arrive_where_they_would_alone():
    for options in OPTIONS:
        ends = []
        for form in ({"foreach": False}, {"foreach": True}, {"capturable": True}):
            torch.manual_seed(2)
            params = [torch.randn(4, 3).double().requires_grad_() for _ in range(3)]
            optimizer = KrADagrad(params, **form, **options)
            for _ in range(20):
                for p in params:
                    p.grad = torch.randn_like(p)
                optimizer.step()
            ends.append(torch.stack([p.detach() for p in params]))
        assert torch.allclose(ends[0], ends[1], rtol=1e-10, atol=1e-12)
        assert torch.equal(ends[1], ends[2])


@pytest.mark.claim("krad-single-precision", trials=300)
def test_in_single_precision_the_factors_stay_semi_definite(claim):
    p = torch.zeros(8, 6).requires_grad_()
    optimizer = KrADagrad([p], lr=1e-3)
    turn = torch.logspace(0, -4, 8)[:, None]
    for _ in range(claim.trials):
        p.grad = 30 * turn * torch.randn(8, 6)
        optimizer.step()
        for axis in (0, 1):
            factor = optimizer.state[p][f"factor_{axis}"]
            values = torch.linalg.eigvalsh(factor.double())
            assert float(values[0]) > -1e-6 * float(values[-1])
    assert bool(p.isfinite().all())


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-15, 1e8, 1e15])
@pytest.mark.parametrize("beta2", [0.25, 0.9, 1.0])
def test_any_scale_of_gradient_leaves_it_finite(scale, beta2):
    p = torch.ones(4, 3).requires_grad_()
    optimizer = KrADagrad([p], beta2=beta2)
    for _ in range(200):
        p.grad = scale * torch.randn(4, 3)
        optimizer.step()
    state = optimizer.state[p]
    assert all(bool(state[f"factor_{axis}"].isfinite().all()) for axis in (0, 1))
    assert bool(p.isfinite().all())


@pytest.mark.parametrize("variant", ["star", "mm"])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e6])
def test_grafting_gives_the_length_of_the_gradient(variant, scale):
    params = [torch.zeros(s, dtype=torch.float64).requires_grad_() for s in SHAPES]
    options = {"momentum": 0.0, "nesterov": False, "variant": variant}
    optimizer = KrADagrad(params, lr=1.0, grafting="sgd", **options)
    for _ in range(10):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = scale * torch.randn_like(p)
        optimizer.step()
        for p, old in zip(params, before, strict=True):
            gap = (p.detach() - old).norm() / p.grad.norm() - 1
            assert abs(float(gap)) < 1e-9
    for p in params:
        p.grad = torch.zeros_like(p)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


@pytest.mark.parametrize("refresh", [1, 2])
def test_autograd_follows_the_plain_variant(refresh):
    """Factors are constants: d/dlr is minus the sum of the moves."""

    def after(lr: Tensor) -> Tensor:
        start = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
        p = start.clone()
        optimizer = KrADagrad(
            [p], lr, variant="mm", refresh=refresh, differentiable=True
        )
        for _ in range(4):
            p.grad = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
            optimizer.step()
        return p

    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(after, [lr])


@pytest.mark.parametrize(
    ("options", "times"),
    [({}, 1), ({"refresh": 2}, 2), ({"variant": "mm"}, 2)],
)
def test_state_has_the_size_that_the_card_says(options, times):
    p = torch.ones(6, 4).requires_grad_()
    optimizer = KrADagrad([p], **options)
    optimizer.create_state()
    entries = sum(x.numel() for x in optimizer.state[p].values()) - 2
    assert entries == 24 * (1 + times * (6 / 4 + 4 / 6))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta2": 0.1}, "Invalid beta2: 0.1"),
        ({"beta2": 0.9, "eps": 0.0}, "beta2 below 1 needs eps above zero"),
        ({"initial": 0.0}, "Invalid initial: 0.0"),
        ({"initial": 10.0, "eps": 0.1}, "initial must be smaller than 1/eps"),
        ({"bound": "max"}, "Invalid bound: 'max'"),
        ({"refresh": 0}, "Invalid refresh: 0"),
        ({"power": 1.5}, "Invalid power: 1.5"),
        ({"momentum": 0.0}, "nesterov=True needs a momentum above zero"),
        ({"vectors": "diagonal"}, "Invalid vectors: 'diagonal'"),
        ({"block_size": 0}, "Invalid block_size: 0"),
        ({"variant": "pp"}, "Invalid variant: 'pp'; it must be 'star' or 'mm'"),
        ({"grafting": "rms"}, "Invalid grafting: 'rms'"),
    ],
)
def test_it_says_what_is_wrong(options, words):
    with pytest.raises(ValueError, match=words):
        KrADagrad([torch.ones(2, 2)], **options)


@pytest.mark.parametrize("shape", [(4, 3), (2, 2), (2, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("block_size", [None, 2])
def test_roots_are_state_only_where_they_are_used_again(shape, dtype, block_size):
    """Five steps with refresh 1, then 7: the sixth is not due, and uses the last."""
    torch.manual_seed(0)
    grads = [torch.randn(shape, dtype=dtype) for _ in range(6)]
    given = {"lr": 0.1, "block_size": block_size}
    w = torch.zeros(shape, dtype=dtype, requires_grad=True)
    optimizer = KrADagrad([w], **given)
    for g in grads[:5]:
        w.grad = g
        optimizer.step()
    assert not any(name.startswith("root") for name in optimizer.state[w])
    saved = optimizer.state_dict()
    for name, factor in list(saved["state"][0].items()):
        if name.startswith("factor"):  # as versions before wrote it
            stale = torch.full_like(factor, torch.nan)
            saved["state"][0][name.replace("factor", "root")] = stale
    v = w.detach().clone().requires_grad_()
    resumed = KrADagrad([v], **given)
    resumed.load_state_dict(saved)
    for one, other in ((w, optimizer), (v, resumed)):
        one.grad = grads[5]
        other.step()
    assert torch.equal(w, v)
    assert set(resumed.state[v]) == set(optimizer.state[w])
    before = w.detach().clone()
    optimizer.param_groups[0]["refresh"] = 7
    w.grad = grads[0]
    roots = {
        name.replace("factor", "root"): positive_root(
            real(x), power_of(real(w).ndim, optimizer.param_groups[0])
        )
        for name, x in optimizer.state[w].items()
        if name.startswith("factor")
    }
    optimizer.step()
    for name, root in roots.items():
        assert torch.allclose(real(optimizer.state[w][name]), root, atol=1e-12)
    assert not torch.equal(before, w)


def test_damping_below_rounding_is_not_computed() -> None:
    group = {"eps": 1e-12, "beta2": 1.0, "initial": 1.0}
    assert damps(torch.float64, group)
    assert not damps(torch.float32, group)
    assert damps(torch.float32, {**group, "beta2": 0.9})
    assert damps(torch.float32, {**group, "initial": 1e5})
    torch.manual_seed(0)
    factor = torch.randn(8, 8)
    factor = factor @ factor.mT
    factor = factor / torch.linalg.matrix_norm(factor, 2)
    changed = factor - 1e-12 * factor @ factor
    assert (changed - factor).norm() <= torch.finfo(torch.float32).eps * factor.norm()
