"""Roots of matrices: what they cost, a layer that takes one, and KrADagrad's digits.

    python experiments/matrix_roots.py    # about five minutes

Seven parts, each stored as soon as it is measured; started again, the script goes on
where it stopped.

`times`: square roots of covariances of condition 100 in single precision, forward and
with their backward pass, on one thread. Every round runs all contestants in turn, and
its times of the processor are divided by that of `eigh`; stored are the median ratio,
the smallest and the largest. Contestants are written in plain torch as published: `svd`
and `eigh` with autograd's backward pass, `ns`: five coupled Newton–Schulz steps with
autograd, `mtp`, `mpa`: degrees 10 and 5, scaled by the Frobenius norm, eight Lyapunov
steps; and `pade`, the package's own with sixteen. `errors` are those of the root.

`underflows`: a product of matrices whose entries are too small for a normal number,
over an ordinary one.

`factor`: eigenvalues of a factor of Shampoo.

`layer`: a perceptron 64-32-10 on digits whose hidden values are whitened by the inverse
root of their covariance, plus 1e-3, in single precision; SGD with momentum, 200 batches
of 64. Each root tries the same rates with one seed, then five others at the best.

`precision`: Shampoo and KrADagrad in both precisions on an ill-conditioned quadratic,
½‖A(W − 1)C‖² with singular values of A and C from 1 to 1e-3, 300 steps, the best of
nine rates for each (the last two were added
after the first run, in which everybody's best was the seventh); and on the race's digits at the race's best rates.

`slack`: a run of KrADagrad on the race's digits, and beside it what Shampoo's factors
make of the same gradients: the ratio of the descents ⟨G, u⟩, and the cosine between the
steps. A start other than 1 runs with the length of the gradient, as published.

`regret`: absolute losses |⟨x yᵀ, W⟩ − b| of one online player, summed, less those of the
best fixed W.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from problems import problem
from store import RESULTS, Store, provenance
from torch import Tensor, nn

from anthology import lab, optim
from anthology.linalg import inverse_root, lyapunov, square_root
from anthology.linalg.roots import eigenvalue_bound, pade, taylor

PATH = RESULTS / "matrix_roots.json"
SIZES = {8: (1, 64), 16: (1, 64), 32: (1, 64), 64: (1, 16), 128: (1, 8)}
SIZES |= {256: (1,), 512: (1,)}
ROUNDS = 7
SEEDS = (1, 2, 3, 4, 5)
LAYER_RATES = (0.03, 0.06, 0.12, 0.24, 0.48)
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
DIGITS = {"Shampoo": 1.0, "Shampoo published": 1.0, "KrADagrad": 0.3}
MARKS = (1, 3, 10, 30, 100, 400)
REGRET_RATES = RATES[2:7]
ROUNDS_PLAYED = (250, 500, 1000, 2000, 4000)

PREDICTIONS = (
    # written before the first run
    "MTP and MPA, forward and backward, are faster than SVD at every size and batch",
    "forward alone they are faster than five Newton–Schulz steps from 32 on",
    "with the backward pass they are slower than those: 57 products against 45",
    "for one matrix up to 16 eigh is faster than both, with and without backward",
    "on the layer every root ends within the margin of eigh's",
    "but MTP's gradient there is off by more than a tenth, and Padé's by less",
    "ill-conditioned: Shampoo, published, ends at twice the loss in single precision",
    "ill-conditioned: KrADagrad ends within a tenth of its own in double precision",
    "digits: neither precision matters to either",
    "digits: after 400 steps KrADagrad's descent is at most twice that of Shampoo",
    "the ratio of KrADagrad's regret to Shampoo's does not grow with the rounds",
    # after the first run, in which inexact roots ended below exact ones: they stop at
    # 11/√c, so it should be the same to lift the spectrum by c/121
    "an exact root of A + (c/121) I ends within the margin of Padé's root of A",
)


def covariances(n: int, batch: int, condition: float = 100.0) -> Tensor:
    """Random bases, eigenvalues evenly in the logarithm; float64."""
    seed = torch.Generator().manual_seed(n)
    x = torch.randn(batch, n, n, generator=seed, dtype=torch.float64)
    q = torch.linalg.qr(x).Q
    values = condition ** -torch.linspace(0, 1, n, dtype=torch.float64)
    return (q * values) @ q.mT


def by_eigh(A: Tensor, power: float = 0.5) -> Tensor:
    """A power by eigenvalues, with autograd's backward pass."""
    values, vectors = torch.linalg.eigh(A)
    return (vectors * values[..., None, :] ** power) @ vectors.mT


def by_svd(A: Tensor, power: float = 0.5) -> Tensor:
    """The same by singular values."""
    U, S, Vh = torch.linalg.svd(A)
    return (U * S[..., None, :] ** power) @ Vh


def by_newton_schulz(A: Tensor, power: float = 0.5, steps: int = 5) -> Tensor:
    """Coupled Newton–Schulz from the Frobenius norm; power 1/2 or −1/2."""
    size = torch.linalg.matrix_norm(A, keepdim=True)
    eye = torch.eye(A.shape[-1], dtype=A.dtype)
    Y, Z = A / size, eye.expand_as(A)
    for _ in range(steps):
        T = (3 * eye - Z @ Y) / 2
        Y, Z = Y @ T, T @ Z
    return Y * size.sqrt() if power > 0 else Z / size.sqrt()


class Published(torch.autograd.Function):
    """MTP and MPA of a square root in plain torch, with the Lyapunov backward pass."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, kind: str) -> Tensor:
        """Powers of Z = I − A/‖A‖ (MTP) or of A/‖A‖ (MPA), and one solve."""
        size = torch.linalg.matrix_norm(A, keepdim=True)
        eye = torch.eye(A.shape[-1], dtype=A.dtype)
        if kind == "mtp":
            coefficients = taylor(10)
            Z = power = eye - A / size
            root = coefficients[0] * eye + coefficients[1] * Z
            for c in coefficients[2:]:
                power = power @ Z
                root = root + c * power
        else:
            above, below = pade(5)
            B = power = A / size
            P, Q = above[0] * eye + above[1] * B, below[0] * eye + below[1] * B
            for a, b in zip(above[2:], below[2:], strict=True):
                power = power @ B
                P, Q = P + a * power, Q + b * power
            root = torch.linalg.solve(Q, P)
        root = root * size.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """SX + XS = ∂ℓ/∂S."""
        (root,) = ctx.saved_tensors
        size = torch.linalg.matrix_norm(root, keepdim=True)
        return lyapunov(root, grads[0], 8, size), None


Root = Callable[[Tensor], Tensor]
CONTESTANTS: dict[str, Root] = {
    "eigh": by_eigh,
    "svd": by_svd,
    "ns": by_newton_schulz,
    "mtp": lambda A: Published.apply(A, "mtp"),
    "mpa": lambda A: Published.apply(A, "mpa"),
    "pade": partial(square_root, method="pade"),
}


def underflows(n: int) -> float:
    """How much slower a product is whose results are below the normal numbers."""
    small = torch.full((n, n), 1e-20)
    slow, fast = partial(torch.mm, small, small), partial(torch.mm, small, small + 1)
    ratios = [seconds(slow, 20) / seconds(fast, 20) for _ in range(ROUNDS)]
    return float(f"{median(ratios):.2g}")


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Processor time of one call."""
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


def times(n: int, batch: int) -> dict[str, Any]:
    """Ratios to eigh, forward and with backward, and the errors of the roots."""
    exact = by_eigh(covariances(n, batch))
    A = covariances(n, batch).float().requires_grad_()
    C = torch.randn(A.shape, generator=torch.Generator().manual_seed(1))

    def both(root: Root) -> None:
        torch.autograd.grad(root(A), A, C + C.mT)

    works = {}
    for name, root in CONTESTANTS.items():
        works[name, "forward"] = partial(root, A.detach())
        works[name, "both"] = partial(both, root)
    repeats = {}
    for key, work in works.items():
        work()
        repeats[key] = max(1, int(5e-3 / max(seconds(work, 2), 1e-6)))
    found: dict[Any, list[float]] = {key: [] for key in works}
    for _ in range(ROUNDS):
        took = {key: seconds(work, repeats[key]) for key, work in works.items()}
        for name, what in works:
            found[name, what].append(took[name, what] / took["eigh", what])
    out: dict[str, Any] = {"forward": {}, "both": {}, "errors": {}}
    for (name, what), ratios in found.items():
        told = (median(ratios), min(ratios), max(ratios))
        out[what][name] = [float(f"{x:.3g}") for x in told]
    for name, root in CONTESTANTS.items():
        error = (root(A.detach()).double() - exact).norm() / exact.norm()
        out["errors"][name] = float(f"{error:.2g}")
    return out


def by_autograd(A: Tensor) -> Tensor:
    """The inverse root by torch's eigh and its own derivative."""
    return by_eigh(A, -0.5)


def lifted(A: Tensor) -> Tensor:
    """A plus a 121th of the bound by which Padé scales it."""
    return A + eigenvalue_bound(A) / 121 * torch.eye(A.shape[-1], dtype=A.dtype)


LAYERS: dict[str, Root | None] = {
    "eigh": inverse_root,
    "eigh, autograd": by_autograd,
    "ns": partial(by_newton_schulz, power=-0.5),
    "mtp": partial(square_root, method="mtp", inverse=True, lyapunov_steps=8),
    "mpa": partial(square_root, method="mpa", inverse=True, lyapunov_steps=8),
    "pade": partial(square_root, inverse=True),
    "pade, degree 12": partial(square_root, inverse=True, degree=12),
    "eigh, lifted": lambda A: inverse_root(lifted(A)),
    "batch norm": None,
}


class Whitened(nn.Module):
    """Linear 64-32, whitened, tanh, linear 32-10."""

    def __init__(self, root: Root | None, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(64, 32, bias=False), nn.Linear(32, 10)
        self.root = root

    def whiten(self, h: Tensor, seen: Tensor) -> Tensor:
        """Values h by the mean and the covariance of those that were seen."""
        centre = seen.mean(0)
        x = seen - centre
        if self.root is None:
            return (h - centre) / (x.square().mean(0) + 1e-3).sqrt()
        A = x.mT @ x / len(x) + 1e-3 * torch.eye(x.shape[1], dtype=x.dtype)
        return (h - centre) @ self.root(A)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Logits of images; statistics are those of ``seen`` images or their own."""
        h = self.first(x.flatten(1))
        other = h if seen is None else self.first(seen.flatten(1))
        return self.last(torch.tanh(self.whiten(h, other)))


def layer(name: str, lr: float, seed: int) -> dict[str, float]:
    """One run, and how its layer whitens and differentiates in the end."""
    data, net = lab.digits(), Whitened(LAYERS[name], seed)
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
    batches = data.batches(64, seed)
    for _ in range(200):
        x, y = next(batches)
        optimizer.zero_grad()
        lab.cross_entropy(net(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        loss = lab.cross_entropy(net(data.x_test, data.x), data.y_test)
    out = {"loss": round(float(loss), 5)}
    x, y = next(batches)
    h = net.first(x.flatten(1)).detach()
    A = torch.cov(h.T, correction=0) + 1e-3 * torch.eye(32)
    values = torch.linalg.eigvalsh(A.double())
    out["condition"] = float(f"{values[-1] / values[0]:.3g}")
    if net.root:
        X = net.root(A).detach().double()
        eye = torch.eye(32, dtype=torch.float64)
        off = torch.linalg.matrix_norm(X @ A.double() @ X - eye, 2)
        out["off white"] = float(f"{off:.2g}")
        out["gradient off"] = float(f"{gradient_error(net, x, y):.2g}")
    return out


def gradient_error(net: Whitened, x: Tensor, y: Tensor) -> float:
    """Of the first weight's gradient, against eigenvalues in double precision."""
    found = []
    for root, dtype in ((net.root, torch.float32), (inverse_root, torch.float64)):
        other = Whitened(root, 0).to(dtype)
        other.load_state_dict(net.state_dict())
        loss = lab.cross_entropy(other(x.to(dtype)), y)
        found.append(torch.autograd.grad(loss, other.first.weight)[0].double())
    return float((found[0] - found[1]).norm() / found[1].norm())


def contestant(name: str, params: Any, lr: float) -> torch.optim.Optimizer:
    """Shampoo with its defaults and as published, and KrADagrad."""
    if name == "KrADagrad":
        return optim.KrADagrad(params, lr)
    if name == "Shampoo":
        return optim.Shampoo(params, lr)
    return optim.Shampoo(params, lr, eps=1e-12, relative_eps=False)


def quadratic(name: str, bits: str, lr: float, seed: int) -> float:
    """The last loss over the first of 300 steps on the ill-conditioned quadratic."""
    dtype, g = getattr(torch, bits), torch.Generator().manual_seed(seed)
    sides = []
    for _ in range(2):
        turns = (torch.randn(32, 32, generator=g, dtype=torch.float64) for _ in "UV")
        U, V = (torch.linalg.qr(x).Q for x in turns)
        sides.append(
            ((U * torch.logspace(0, -3, 32, dtype=torch.float64)) @ V.mT).to(dtype)
        )
    W = torch.zeros(32, 32, dtype=dtype, requires_grad=True)
    optimizer = contestant(name, [W], lr)

    def loss() -> Tensor:
        return (sides[0] @ (W - 1) @ sides[1]).square().sum() / 2

    first = loss().item()
    for _ in range(300):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return float(f"{loss().item() / first:.4g}")


def on_digits(name: str, bits: str, seed: int) -> float:
    """The loss on unseen data of the race's digits."""
    task, dtype = problem("digits"), getattr(torch, bits)
    model = task.model(seed=seed).to(dtype)
    optimizer = contestant(name, model.parameters(), DIGITS[name])
    batches = ((x.to(dtype), y) for x, y in task.batches(seed=seed))
    test = task.test[0].to(dtype), task.test[1]
    lab.fit(model, optimizer, batches, task.steps)
    return round(lab.mean_loss(model, *test), 5)


def slack(bound: str, initial: float, seed: int) -> dict[str, Any]:
    """Descent of KrADagrad's steps over that of Shampoo's, for the same gradients."""
    task = problem("digits")
    model = task.model(seed=seed).double()
    optimizer = optim.KrADagrad(
        model.parameters(),
        0.1,
        bound=bound,
        initial=initial,
        eps=0.0,
        grafting="none" if initial == 1 else "sgd",
    )
    weights = [p for p in model.parameters() if p.ndim == 2]
    sums = [
        [torch.eye(d, dtype=torch.float64) / initial for d in p.shape] for p in weights
    ]
    out: dict[str, Any] = {"descent": [], "alike": [], "losses": []}
    batches = task.batches(seed=seed)
    for step in range(1, MARKS[-1] + 1):
        x, y = next(batches)
        optimizer.zero_grad()
        loss = lab.cross_entropy(model(x.double()), y)
        loss.backward()
        optimizer.step()
        descents, alike = [], []
        for p, (L, R) in zip(weights, sums, strict=True):
            G = p.grad
            assert G is not None
            L += G @ G.mT
            R += G.mT @ G
            if step in MARKS:
                kept = [optimizer.state[p][f"factor_{i}"] for i in (0, 1)]
                ours = by_eigh(kept[0], 0.25) @ G @ by_eigh(kept[1], 0.25)
                theirs = by_eigh(L, -0.25) @ G @ by_eigh(R, -0.25)
                descents.append(float((G * ours).sum() / (G * theirs).sum()))
                both = ours.norm() * theirs.norm()
                alike.append(float((ours * theirs).sum() / both))
        if step in MARKS:
            out["descent"].append([float(f"{x:.4g}") for x in descents])
            out["alike"].append([round(x, 3) for x in alike])
            out["losses"].append(round(float(loss), 4))
    return out


def regret(name: str, lr: float, seed: int) -> list[float]:
    """Regrets after each number of rounds; the best W is found by Adam."""
    g = torch.Generator().manual_seed(seed)
    d, m, total = 8, 6, ROUNDS_PLAYED[-1]
    scales = torch.logspace(0, -1, d, dtype=torch.float64)
    x = torch.randn(total, d, generator=g, dtype=torch.float64) * scales
    y = torch.randn(total, m, generator=g, dtype=torch.float64)
    true = torch.randn(d, m, generator=g, dtype=torch.float64)
    noise = torch.randn(total, generator=g, dtype=torch.float64)
    b = torch.einsum("ti,ij,tj->t", x, true, y) + noise
    W = torch.zeros(d, m, dtype=torch.float64, requires_grad=True)
    kind = optim.KrADagrad if name == "KrADagrad" else optim.Shampoo
    plain: dict[str, Any] = {"momentum": 0.0, "nesterov": False}
    if kind is optim.Shampoo:
        plain = {"betas": (0.0, 1.0), "eps": 1.0, "relative_eps": False}
    optimizer, paid = kind([W], lr, **plain), []
    for t in range(total):
        optimizer.zero_grad()
        loss = (x[t] @ W @ y[t] - b[t]).abs()
        loss.backward()
        paid.append(float(loss))
        optimizer.step()
    found = []
    for n in ROUNDS_PLAYED:
        best = true.clone().requires_grad_()
        adam = torch.optim.Adam([best], 0.02)
        for k in range(200):
            adam.param_groups[0]["lr"] = 0.02 * (1 - k / 200)
            adam.zero_grad()
            cost = (torch.einsum("ti,ij,tj->t", x[:n], best, y[:n]) - b[:n]).abs()
            cost.sum().backward()
            adam.step()
        found.append(round(sum(paid[:n]) - float(cost.detach().sum()), 1))
    return found


def stored() -> dict[str, Any]:
    """What has been run."""
    return Store(PATH, provenance("matrix_roots.py")).runs


def layers(runs: dict[str, Any]) -> dict[str, tuple[float, list[dict[str, float]]]]:
    """The best rate of each layer, and its five runs."""
    found = {}
    for name in LAYERS:
        tried = {lr: runs[f"layer/{name}/{lr}/0"]["loss"] for lr in LAYER_RATES}
        lr = min(tried, key=lambda rate: tried[rate])
        rows = (runs.get(f"layer/{name}/{lr}/{seed}") for seed in SEEDS)
        found[name] = lr, [row for row in rows if row]
    return found


def quadratics(
    runs: dict[str, Any],
) -> dict[tuple[str, str], tuple[float, list[float]]]:
    """The best rate of each optimizer and precision, and its five losses."""
    found = {}
    for name in DIGITS:
        for bits in ("float32", "float64"):
            head = f"precision/quadratic/{name}/{bits}"
            tried = {lr: runs[f"{head}/{lr}/0"] for lr in RATES}
            lr = min(tried, key=lambda rate: tried[rate])
            rows = (runs.get(f"{head}/{lr}/{seed}") for seed in SEEDS)
            found[name, bits] = lr, [row for row in rows if row is not None]
    return found


def factor() -> list[float]:
    """Eigenvalues, over the largest, of what Shampoo sums in 100 steps on digits."""
    data, net = lab.digits(), lab.mlp([64, 32, 10]).double()
    layer = next(net.parameters())
    L = torch.zeros(32, 32, dtype=torch.float64)
    sgd = torch.optim.SGD(net.parameters(), lr=0.5)
    batches = data.batches(64)
    for _ in range(100):
        x, y = next(batches)
        sgd.zero_grad()
        lab.cross_entropy(net(x.double()), y).backward()
        assert layer.grad is not None
        L += layer.grad @ layer.grad.T
        sgd.step()
    values = torch.linalg.eigvalsh(L)
    return [float(f"{max(x, 0.0):.3g}") for x in values / values[-1]]


def outcomes(runs: dict[str, Any]) -> list[bool]:
    """Whether each prediction held."""
    timed = {
        (n, b): runs[f"times/{n}/{b}"] for n, batches in SIZES.items() for b in batches
    }

    def all_faster(what: str, than: str, least: int = 0) -> bool:
        return all(
            row[what][name][0] < row[what][than][0]
            for (n, _), row in timed.items()
            for name in ("mtp", "mpa")
            if n >= least
        )

    slower = all(
        row["both"][name][0] > row["both"]["ns"][0]
        for row in timed.values()
        for name in ("mtp", "mpa")
    )
    single = all(
        row[what][name][0] > 1
        for (n, b), row in timed.items()
        for what in ("forward", "both")
        for name in ("mtp", "mpa")
        if b == 1 and n <= 16
    )
    ends = {name: [r["loss"] for r in rows] for name, (_, rows) in layers(runs).items()}
    spread = max(max(x) - min(x) for x in ends.values())
    roots = [name for name in LAYERS if name not in ("batch norm", "eigh, lifted")]

    def tie(one: str, other: str) -> bool:
        return abs(mean(ends[one]) - mean(ends[other])) < spread

    off = {
        name: median(r["gradient off"] for r in rows)
        for name, (_, rows) in layers(runs).items()
        if name in roots
    }
    losses = {key: median(rows) for key, (_, rows) in quadratics(runs).items()}
    shampoo = [losses["Shampoo published", f"float{b}"] for b in (32, 64)]
    krad = [losses["KrADagrad", f"float{b}"] for b in (32, 64)]
    pairs = [
        [
            mean(runs[f"precision/digits/{name}/{bits}/{s}"] for s in SEEDS[:3])
            for bits in ("float32", "float64")
        ]
        for name in DIGITS
    ]
    last = [runs[f"slack/frobenius/1.0/{s}"]["descent"][-1] for s in SEEDS[:3]]
    ratio = ratios(runs)
    return [
        all_faster("both", "svd"),
        all_faster("forward", "ns", 32),
        slower,
        single,
        all(tie(name, "eigh") for name in roots),
        off["mtp"] > 0.1 > off["pade"],
        shampoo[0] > 2 * shampoo[1],
        abs(krad[0] / krad[1] - 1) < 0.1,
        all(abs(a - b) < 0.025 for a, b in pairs),
        max(map(max, last)) <= 2,
        all(b <= a * 1.02 for a, b in pairwise(ratio)),
        tie("eigh, lifted", "pade"),
    ]


def ratios(runs: dict[str, Any]) -> list[float]:
    """KrADagrad's regret over Shampoo's, means of five seeds at the best rates."""
    best = []
    for name in ("KrADagrad", "Shampoo"):
        rows = [
            [runs[f"regret/{name}/{lr}/{s}"] for s in SEEDS[:3]] for lr in REGRET_RATES
        ]
        sums = [[mean(column) for column in zip(*row, strict=True)] for row in rows]
        best.append([min(column) for column in zip(*sums, strict=True)])
    return [a / b for a, b in zip(*best, strict=True)]


def main() -> None:
    """Make the runs that are missing, and tell what became of the predictions."""
    torch.set_num_threads(1)
    store = Store(PATH, provenance("matrix_roots.py"))
    runs = store.runs

    def need(part: str, work: Callable[..., Any], *how: Any) -> None:
        store.once("/".join(map(str, (part, *how))), lambda: work(*how))

    for n, batches in SIZES.items():
        for batch in batches:
            need("times", times, n, batch)
    need("underflows", underflows, 128)
    need("factor", factor)
    for name in LAYERS:
        for lr in LAYER_RATES:
            need("layer", layer, name, lr, 0)
    for name, (lr, _) in layers(runs).items():
        for seed in SEEDS:
            need("layer", layer, name, lr, seed)
    for name in DIGITS:
        for bits in ("float32", "float64"):
            for lr in RATES:
                need("precision/quadratic", quadratic, name, bits, lr, 0)
    for (name, bits), (lr, _) in quadratics(runs).items():
        for seed in SEEDS:
            need("precision/quadratic", quadratic, name, bits, lr, seed)
    for name in DIGITS:
        for bits in ("float32", "float64"):
            for seed in SEEDS[:3]:
                need("precision/digits", on_digits, name, bits, seed)
    for seed in SEEDS[:3]:
        need("slack", slack, "frobenius", 1.0, seed)
    need("slack", slack, "trace", 1.0, 1)
    need("slack", slack, "frobenius", 1e12, 1)
    for name in ("KrADagrad", "Shampoo"):
        for lr in REGRET_RATES:
            for seed in SEEDS[:3]:
                need("regret", regret, name, lr, seed)
    store.content["predictions"] = [
        {"says": says, "holds": held}
        for says, held in zip(PREDICTIONS, outcomes(runs), strict=True)
    ]
    store.save()
    for row in store.content["predictions"]:
        print("holds" if row["holds"] else "CONTRADICTED", "|", row["says"])


if __name__ == "__main__":
    main()
