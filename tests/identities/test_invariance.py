"""The claims of the chapter on invariance: identities in two coordinate systems."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev

from anthology.optim import SIRFShampoo

F64 = {"dtype": torch.float64}


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, **F64)


def matrix(d: int, wide: float = 0.5) -> Tensor:
    """A random matrix with singular values from 10 to the ∓wide."""
    u, v = (torch.linalg.qr(randn(d, d))[0] for _ in range(2))
    return u @ torch.logspace(-wide, wide, d, **F64).diag() @ v


def power(s: Tensor, p: float) -> Tensor:
    values, q = torch.linalg.eigh(s)
    return q @ (values**p).diag() @ q.mT


def relative(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def steps(a: Tensor, gradients: Tensor, curvatures: Tensor, p: float, c=1.0, nu=1.0):
    """The steps, seen in w, with momentum, of the loss c·f taken in z = A⁻¹w."""
    s, m, out = c**nu * a.mT @ a, 0.0, []
    for g, new in zip(gradients, curvatures, strict=True):
        s = 0.8 * s + 0.2 * c**nu * a.mT @ new @ a
        m = 0.7 * m + power(s, -p) @ (c * a.mT @ g)
        out.append(a @ m)
    return torch.stack(out)


@pytest.mark.claim("root-free-affine", tol=1e-9, trials=20)
@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_any_curvature_keeps_the_path_without_root_alone(claim, p: float) -> None:
    for _ in range(claim.trials):
        x, eye = randn(30, 4, 2), torch.eye(4, **F64)
        history = randn(30, 4), x @ x.mT  # curvatures that know nothing of the loss
        plain = steps(eye, *history, p)
        turned = steps(matrix(4, 0.0), *history, p)
        moved = relative(steps(matrix(4), *history, p), plain)
        assert relative(turned, plain) < claim.tol
        assert moved < claim.tol if p == 1 else moved > 1e-2


@pytest.mark.claim("root-free-affine", tol=1e-9, trials=20)
@pytest.mark.parametrize(("nu", "p"), [(1, 1), (2, 0.5), (2, 1), (1, 0.5), (0, 1)])
def test_what_the_unit_of_the_loss_does(claim, nu: float, p: float) -> None:
    for _ in range(claim.trials):
        x, c = randn(20, 4, 2), float(10 ** (2 * torch.rand(()) - 1))
        history = torch.eye(4, **F64), randn(20, 4), x @ x.mT, p
        scaled = steps(*history, c, nu) / c ** (1 - nu * p)
        assert relative(scaled, steps(*history)) < claim.tol


def diagonal_step(a: Tensor, s: Tensor, g: Tensor) -> Tensor:
    """The step in z with the diagonal of AᵀSA, seen in w."""
    return a @ (a.mT @ g / (a.mT @ s.diag() @ a).diagonal())


@pytest.mark.claim("structure-sees", tol=1e-12, trials=50)
def test_a_diagonal_is_blind_to_units_and_swaps(claim) -> None:
    for _ in range(claim.trials):
        units, s, g = (2 * randn(4)).exp() * randn(4).sign(), randn(4).exp(), randn(4)
        harmless = units.diag()[:, torch.randperm(4)]
        assert relative(diagonal_step(harmless, s, g), g / s) < claim.tol


@pytest.mark.claim("structure-sees", tol=1e-4, trials=50)
def test_one_more_entry_and_it_sees(claim) -> None:
    """The column with two entries vanishes where the first of them has S near 0."""
    for _ in range(claim.trials):
        order = torch.randperm(4)
        a = (randn(4).exp() * randn(4).sign()).diag()[:, order]
        first, column = int(order[0]), 0
        a[(first + 1) % 4, column] = a[first, column] * float(torch.rand(()) + 0.5)
        s, g = torch.ones(4, **F64), torch.eye(4, **F64)[first]
        s[first] = 1e-6
        step = diagonal_step(a, s, g)
        assert abs(float(step[first] * s[first])) < claim.tol  # it would be one


def kronecker(left: Tensor, g: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.solve(right, torch.linalg.solve(left, g).mT).mT


@pytest.mark.claim("structure-sees", tol=1e-9, trials=50)
def test_two_factors_are_blind_to_mixtures(claim) -> None:
    for _ in range(claim.trials):
        a, r, g = matrix(4), matrix(3), randn(4, 3)
        (x, y) = randn(4, 6), randn(3, 6)
        left, right = x @ x.mT, y @ y.mT
        step = kronecker(a.mT @ left @ a, a.mT @ g @ r.mT, r @ right @ r.mT)
        assert relative(a @ step @ r, kronecker(left, g, right)) < claim.tol


def layer(a: Tensor, r: Tensor, z: Tensor, x: Tensor, e: Tensor) -> Tensor:
    """Scores of a classifier behind a layer W = AZR; e shifts what Z puts out."""
    return torch.tanh((x @ r.mT @ z.mT + e) @ a.mT) @ torch.ones(5, 3, **F64).tril()


def curvatures(a: Tensor, r: Tensor, w: Tensor, x: Tensor, y: Tensor):
    """The gradient, the whole Gauss-Newton matrix, and both factors, all in z."""
    z = (a.inverse() @ w @ r.inverse()).contiguous()
    none = torch.zeros(5, **F64)

    def scores(z: Tensor) -> Tensor:
        return layer(a, r, z, x, none)

    def loss(z: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(scores(z), y)

    p = torch.softmax(scores(z), -1)
    h = (torch.diag_embed(p) - p[:, :, None] * p[:, None]) / len(x)
    j = jacrev(scores)(z).flatten(2)
    newton = torch.einsum("nki,nkl,nlj->ij", j, h, j)
    by_e = jacrev(lambda e: layer(a, r, z, x, e))(none)
    left = torch.einsum("nki,nkl,nlj->ij", by_e, h, by_e)
    seen = x @ r.mT
    return grad(loss)(z), newton, left, seen.mT @ seen / len(x)


@pytest.mark.claim("curvatures-that-turn", tol=1e-9, trials=5)
def test_which_curvatures_turn_with_the_weights(claim) -> None:
    eyes = torch.eye(5, **F64), torch.eye(4, **F64)
    for _ in range(claim.trials):
        data = randn(5, 4), randn(8, 4), torch.randint(3, (8,))
        a, r = matrix(5), matrix(4)
        whole = torch.kron(a.contiguous(), r.mT.contiguous())  # of W = AZR, row by row
        g, newton, left, right = curvatures(*eyes, *data)
        gz, newton_z, left_z, right_z = curvatures(a, r, *data)
        assert relative(gz, a.mT @ g @ r.mT) < claim.tol
        assert relative(newton_z, whole.mT @ newton @ whole) < claim.tol
        assert relative(left_z, a.mT @ left @ a) < claim.tol
        assert relative(right_z, r @ right @ r.mT) < claim.tol
        gram, gram_z = g @ g.mT, gz @ gz.mT
        assert relative(gram_z, a.mT @ gram @ a) > 1e-2


@pytest.mark.claim("curvatures-that-turn", tol=1e-9, trials=5)
def test_shampoo_without_its_root_sees_mixtures(claim) -> None:
    for _ in range(claim.trials):
        history = randn(20, 4, 4)

        def step(a: Tensor, r: Tensor, history=history) -> Tensor:
            left, right = a.mT @ a, r @ r.mT
            for g in history:
                g = a.mT @ g @ r.mT
                left, right = left + g @ g.mT, right + g.mT @ g
            return a @ kronecker(left, g, right) @ r

        eye = torch.eye(4, **F64)
        plain, turned = step(eye, eye), step(matrix(4, 0.0), matrix(4, 0.0))
        assert relative(turned, plain) < claim.tol
        assert relative(step(matrix(4), matrix(4)), plain) > 1e-2


def group(a: Tensor, history: Tensor, rate: float, mu=0.0, longest=1e9) -> Tensor:
    """K after these curvatures, taken in z and seen in w."""
    k, m = a.inverse(), 0.0
    for c in history:
        step = k.mT @ a.mT @ c @ a @ k - torch.eye(len(a), **F64)
        m = mu * m + (1 - mu) * step
        k = k - rate / 2 / max(1.0, float(m.norm()) / longest) * k @ m
    return a @ k


@pytest.mark.claim("group-form", tol=1e-9, trials=20)
def test_the_truncated_update_keeps_the_group(claim) -> None:
    for _ in range(claim.trials):
        x = randn(30, 5, 5) / 2
        settings = x @ x.mT, 0.2, 0.5, 1.0
        plain = group(torch.eye(5, **F64), *settings)
        assert relative(group(matrix(5), *settings), plain) < claim.tol


@pytest.mark.claim("group-form", tol=0.1, trials=10)
def test_it_averages_the_curvature_to_first_order(claim) -> None:
    """Halving 1 − α divides the error of one step by four."""
    eye = torch.eye(5, **F64)
    for _ in range(claim.trials):
        x = randn(1, 5, 5) / 3
        c, errors = x @ x.mT, []
        for rate in (0.01, 0.005):
            k = group(eye, c, rate)
            average = (1 - rate) * eye + rate * c[0]
            errors.append(float(((k @ k.mT).inverse() - average).norm()))
        assert abs(errors[0] / errors[1] / 4 - 1) < claim.tol


def sirf_path(a: Tensor, r: Tensor, start: Tensor, targets: Tensor) -> Tensor:
    """W along 30 steps of SIRFShampoo on ½‖W − target‖², taken in Z."""
    z = (a.inverse() @ start @ r.inverse()).requires_grad_()
    optimizer = SIRFShampoo(
        [z], lr=0.0, factor_lr=0.1, damping=0.0, batch_size=1, structures="dense"
    )
    z.grad = torch.ones_like(z)
    optimizer.step()  # makes the state
    first = {"factor_0": a.inverse(), "factor_1": r.inverse().mT}
    for name, value in optimizer.state[z].items():
        if name in first:
            value.copy_(first[name].reshape(value.shape))
        elif torch.is_tensor(value):
            value.zero_()
    optimizer.param_groups[0]["lr"] = 0.01
    path = []
    for target in targets:
        z.grad = a.mT @ (a @ z.detach() @ r - target) @ r.mT
        optimizer.step()
        path.append(a @ z.detach() @ r)
    return torch.stack(path)


@pytest.mark.claim("sirf-affine", tol=1e-9, trials=3)
def test_sirf_shampoo_keeps_its_path(claim) -> None:
    eyes = torch.eye(4, **F64), torch.eye(3, **F64)
    for _ in range(claim.trials):
        start, targets = randn(4, 3), randn(30, 4, 3)
        plain = sirf_path(*eyes, start, targets)
        mixed = sirf_path(matrix(4), matrix(3), start, targets)
        assert float((plain[-1] - start).norm()) > 0.1
        assert relative(mixed, plain) < claim.tol


@pytest.mark.claim("zero-start-turns", tol=1e-12, trials=20)
def test_the_first_step_from_zero(claim) -> None:
    alpha, b = 0.9, 16
    for _ in range(claim.trials):
        g, c = randn(6), randn(6).exp()
        outer = g / (alpha * 0 + (1 - alpha) * b * g**2)
        wanted = 1 / ((1 - alpha) * b * g.abs())
        assert relative(outer.abs(), wanted) < claim.tol
        assert outer.abs().argmax() == g.abs().argmin()
        newton = g / (alpha * 0 + (1 - alpha) * c)
        assert relative(newton * (1 - alpha), g / c) < claim.tol
    a = matrix(4)
    assert not bool((a.mT @ torch.zeros(4, 4, **F64) @ a).any())
    for number in (1e-3, 1.0):  # any other multiple of the identity moves
        start = number * torch.eye(4, **F64)
        assert relative(a.mT @ start @ a, start) > 0.1
