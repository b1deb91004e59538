"""Square roots by Taylor and Padé, and the Lyapunov backward pass."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from anthology.linalg import SQUARE_ROOT_METHODS, lyapunov, square_root
from anthology.linalg import roots as module


def definite(n: int, condition: float, seed: int = 0, *batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, n, n, dtype=torch.float64, generator=generator)
    q = torch.linalg.qr(x).Q
    values = condition ** -torch.linspace(0, 1, n, dtype=torch.float64)
    return (q * values) @ q.mT


def relative(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("method", "degree"), [("pade", 8), ("taylor", 200)])
def test_with_enough_terms_it_is_the_root(method, degree, inverse) -> None:
    A = definite(4, 2, 1, 3)
    S = square_root(A, method, inverse=inverse, degree=degree)
    eye = torch.eye(4, dtype=A.dtype)
    residue = S @ S @ A - eye if inverse else S @ S - A
    assert residue.abs().max() < 1e-9


def test_the_published_coefficients() -> None:
    expected = (1, -1 / 2, -1 / 8, -1 / 16, -5 / 128)
    assert module.taylor(4) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("degree", [1, 2, 5, 9])
def test_the_fraction_is_the_pade_approximant(degree: int) -> None:
    """P − Q√(1−z) starts with z^(2m+1): the definition of the [m/m] approximant."""
    above, below = module.pade(degree)
    order = 2 * degree + 1

    def in_z(coefficients: tuple[float, ...]) -> list[float]:
        """Powers of b = 1−z, expanded in z."""
        return [
            sum(c * math.comb(k, j) * (-1) ** j for k, c in enumerate(coefficients))
            for j in range(order)
        ]

    root, p, q = module.taylor(order), in_z(above), in_z(below)
    for j in range(order):
        product = sum(q[i] * root[j - i] for i in range(j + 1))
        assert abs(p[j] - product) < 1e-10 * max(map(abs, q))


@pytest.mark.claim("pade-square-root", tol=1e-12)
def test_its_error_is_the_one_the_docstring_states(claim) -> None:
    b = torch.tensor([0.9, 0.3, 0.1, 0.02], dtype=torch.float64)
    b = b / b.norm()
    rho = (1 - b.sqrt()) / (1 + b.sqrt())
    stated = 2 * rho**11 / (1 - rho**11)
    measured = square_root(torch.diag(b), "mpa").diagonal() / b.sqrt() - 1
    assert (measured - stated).abs().max() < claim.tol
    inverse = square_root(torch.diag(b), "mpa", inverse=True).diagonal() * b.sqrt()
    assert (inverse - 1 / (1 + stated)).abs().max() < claim.tol


@pytest.mark.parametrize(("method", "limit"), [("taylor", 4e-2), ("pade", 2e-3)])
def test_the_published_degrees_on_an_eight_by_eight_matrix(method, limit) -> None:
    A = definite(8, 10, 2)
    values, vectors = torch.linalg.eigh(A)
    exact = (vectors * values.sqrt()) @ vectors.mT
    assert 1e-5 < relative(square_root(A, method), exact) < limit


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("method", "degree"), [("pade", 9), ("taylor", 120)])
def test_gradients_of_a_batch(method: str, degree: int, inverse: bool) -> None:
    scales = torch.tensor([1e-2, 1.0, 1e2], dtype=torch.float64)[:, None, None]
    A = (definite(3, 4, 3, 3) * scales).requires_grad_()

    def run(x: Tensor) -> Tensor:
        x = square_root(x, method, inverse=inverse, degree=degree, lyapunov_steps=16)
        return x * scales.sqrt() if inverse else x / scales.sqrt()

    # the smallest matrix has entries of 1e-3, so differences need small steps
    assert torch.autograd.gradcheck(run, A, eps=1e-8, atol=1e-4, rtol=1e-4)


@pytest.mark.claim("lyapunov-backward", tol=1e-12)
@pytest.mark.parametrize("inverse", [False, True])
def test_each_matrix_of_a_batch_has_its_own_gradient(claim, inverse: bool) -> None:
    """One norm for the whole batch would leave the small ones unconverged."""
    alone = [definite(4, 5, seed) * size for seed, size in enumerate((1e-6, 1.0, 1e6))]
    A = torch.stack(alone).requires_grad_()
    square_root(A, inverse=inverse).sum().backward()
    for index, single in enumerate(alone):
        x = single.clone().requires_grad_()
        square_root(x, inverse=inverse).sum().backward()
        assert relative(A.grad[index], x.grad) < claim.tol


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("method", ["pade", "taylor"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_error_for_the_identity_does_not_grow(dtype, method, inverse) -> None:
    for n in (1, 10, 100, 1000):
        A = torch.eye(n, dtype=dtype)
        for scale in (1e-30, 1.0, 1e30):
            found = square_root(A * scale, method, inverse=inverse).double()
            expected = (scale ** (-0.5 if inverse else 0.5)) * A.double()
            error = (found - expected).abs().max() / expected.max()
            assert error <= 4 * torch.finfo(dtype).eps


def test_the_published_form_grows_with_the_size() -> None:
    """4e-2 and 0.3 for the identity of size 1000."""
    A = torch.eye(1000, dtype=torch.float64)
    for method, low, high in (("mpa", 3e-2, 5e-2), ("mtp", 0.2, 0.4)):
        assert low < (square_root(A, method) - A).abs().max() < high


@pytest.mark.parametrize("n", [10, 100, 400])
@pytest.mark.parametrize(("method", "limit"), [("pade", 1e-5), ("taylor", 2e-2)])
def test_well_conditioned_matrices_of_every_size(method, limit, n) -> None:
    """Turned at random, batched, with gradients of the root that was computed."""
    A = definite(n, 3, 4, 2).requires_grad_()
    values, vectors = torch.linalg.eigh(A.detach())
    exact = (vectors * values.sqrt()[..., None, :]) @ vectors.mT
    S = square_root(A, method)
    assert relative(S.detach(), exact) < limit
    (grad,) = torch.autograd.grad(S.sum(), A)
    ones, S = torch.ones_like(S), S.detach()
    assert relative(S @ grad + grad @ S, ones) < 1e-10


@pytest.mark.parametrize("n", [2, 10, 100])
@pytest.mark.parametrize("condition", [10.0, 1e3, 1e6])
def test_never_worse_than_the_published_form(condition, n) -> None:
    A = definite(n, condition, 9)
    values, vectors = torch.linalg.eigh(A)
    exact = (vectors * values.sqrt()) @ vectors.mT
    for ours, published in (("pade", "mpa"), ("taylor", "mtp")):
        error = relative(square_root(A, ours), exact)
        assert error <= 1.01 * relative(square_root(A, published), exact)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
@pytest.mark.parametrize("n", [1, 3, 60])
def test_the_bound_on_the_largest_eigenvalue(n, scale) -> None:
    for A in (definite(n, 10, 1), torch.eye(n).double(), torch.ones(n, n).double()):
        top = torch.linalg.eigvalsh(A)[-1]
        found = module.eigenvalue_bound(A * scale) / scale
        assert found.shape == (1, 1)
        assert top * (1 - 1e-12) <= found.item() <= top * n ** (1 / 16) * (1 + 1e-12)
    assert torch.equal(
        module.eigenvalue_bound(torch.zeros(2, 3, 3)), torch.ones(2, 1, 1)
    )


def test_the_lyapunov_equation() -> None:
    S = definite(5, 20**0.5, 4, 2) * 3
    C = torch.randn(2, 5, 5, dtype=torch.float64)
    stiff = definite(5, 1e3**0.5, 5)
    X = lyapunov(stiff, C)
    assert relative(stiff @ X + X @ stiff, C) < 1e-10
    for steps, limit in ((8, 1e-4), (12, 1e-12)):
        X = lyapunov(S, C, steps)
        assert relative(S @ X + X @ S, C) < limit


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("method", "most"), [("mpa", 4), ("mtp", 9)])
def test_both_polynomials_share_their_powers(method: str, most: int) -> None:
    A = definite(4, 10)
    with Products() as seen:
        square_root(A, method)
    assert seen.count == most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_stops_where_it_has_converged(dtype) -> None:
    """Further steps would square errors into underflows, ten times as slow."""
    S, C = definite(32, 4, 6, 2).to(dtype), torch.randn(2, 32, 32).to(dtype)
    with Products() as enough:
        found = lyapunov(S, C, 60)
    assert enough.count < 6 * 14
    again = lyapunov(S, C, 14)
    assert torch.equal(found, again)
    limit = 100 * torch.finfo(dtype).eps
    assert relative(S @ found + found @ S, C) < limit
    with Products() as none:
        lyapunov(torch.zeros_like(S), C, 20)
    assert none.count > 100  # a zero matrix never does


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("method", SQUARE_ROOT_METHODS)
@pytest.mark.parametrize("inverse", [False, True])
def test_single_precision_at_every_scale(method, inverse, scale: float) -> None:
    A = definite(4, 10, 5).float()
    root = square_root(A * scale, method, inverse=inverse)
    expected = square_root(A, method, inverse=inverse) * scale ** (
        -0.5 if inverse else 0.5
    )
    assert root.dtype == torch.float32 and relative(root, expected) < 1e-5


@pytest.mark.parametrize("method", SQUARE_ROOT_METHODS)
@pytest.mark.parametrize("inverse", [False, True])
def test_zero_nan_empty_narrow_and_complex(method: str, inverse: bool) -> None:
    def run(x: Tensor) -> Tensor:
        return square_root(x, method, inverse=inverse)

    assert torch.equal(run(torch.zeros(2, 3, 3)), torch.zeros(2, 3, 3))
    A = torch.stack([definite(3, 5), definite(3, 5)])
    A[1, 0, 0] = torch.inf
    assert torch.isfinite(run(A)[0]).all() and torch.isnan(run(A)[1]).all()
    assert run(torch.ones(0, 3, 3)).shape == (0, 3, 3)
    assert run(torch.ones(2, 0, 0)).shape == (2, 0, 0)
    assert run(torch.eye(3).bfloat16()).dtype == torch.bfloat16
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.complex128)).Q
    H = definite(3, 5)
    rotated = turn @ run(H).to(turn.dtype) @ turn.mH
    assert relative(run(turn @ H.to(turn.dtype) @ turn.mH).abs(), rotated.abs()) < 1e-12


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="square matrices"):
        square_root(torch.ones(2, 3))
    with pytest.raises(ValueError, match="'pade', 'taylor', 'mpa'"):
        square_root(torch.eye(2), "newton")
    with pytest.raises(ValueError, match="degree must be"):
        square_root(torch.eye(2), degree=0)
    with pytest.raises(ValueError, match="lyapunov_steps must be"):
        square_root(torch.eye(2), lyapunov_steps=0)
    with pytest.raises(TypeError, match="floating or complex"):
        square_root(torch.ones(2, 2, dtype=torch.int64))


def test_one_norm_for_a_batch_leaves_small_matrices_unsolved() -> None:
    """A block-diagonal matrix is such a batch: its blocks share one norm."""
    S = [size * definite(3, 4, seed) for seed, size in enumerate((1e-3, 1e3))]
    C = torch.eye(3, dtype=torch.float64)
    shared = lyapunov(torch.block_diag(*S), torch.block_diag(C, C))
    small, large = shared[:3, :3], shared[3:, 3:]
    assert relative(S[1] @ large + large @ S[1], C) < 1e-10
    assert relative(S[0] @ small + small @ S[0], C) > 0.5
    own = lyapunov(torch.stack(S), C)
    for index in range(2):
        assert relative(S[index] @ own[index] + own[index] @ S[index], C) < 1e-10
