"""Inverse p-th roots: accuracy, scale, rank, failures of LAPACK, gradients."""

import pytest
import torch
from torch import Tensor

from anthology.linalg import ROOT_METHODS, inverse_root, polar, robust_eigh
from anthology.norms import Spectral
from anthology.optim import SOAP


def definite(n: int, condition: float = 10.0, seed: int = 0, *batch: int) -> Tensor:
    """Symmetric, with eigenvalues from 1/condition to 1, evenly in the logarithm."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, n, n, dtype=torch.float64, generator=generator)
    q = torch.linalg.qr(x).Q
    values = condition ** -torch.linspace(0, 1, n, dtype=torch.float64)
    return (q * values) @ q.mT


def gap(root: Tensor, A: Tensor, p: int) -> float:
    """How far rootᵖ·A is from the identity."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype)
    return float((torch.linalg.matrix_power(root, p) @ A - eye).abs().max())


@pytest.mark.parametrize("p", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("method", ROOT_METHODS)
def test_the_power_of_a_root_is_the_inverse(method: str, p: int) -> None:
    A = definite(5, 1e3, 1, 2, 3)
    root = inverse_root(A, p, method)
    assert root.shape == A.shape and torch.equal(root, root.mT)
    assert gap(root, A, p) < 1e-9
    assert gap(inverse_root(A.transpose(0, 1), p, method), A.transpose(0, 1), p) < 1e-9


@pytest.mark.parametrize("method", ["newton", "newton-schulz"])
@pytest.mark.parametrize("p", [2, 3, 4, 6])
def test_the_iterations_bear_ill_conditioned_matrices(method: str, p: int) -> None:
    A = definite(6, 1e8, 2)
    exact = inverse_root(A, p)
    assert (inverse_root(A, p, method) - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("method", ROOT_METHODS)
def test_every_matrix_of_a_batch_is_treated_alone(method: str) -> None:
    alone = [definite(4, 10, seed) * size for seed, size in enumerate((1e-20, 1, 1e20))]
    together = inverse_root(torch.stack(alone), 4, method)
    for A, root in zip(alone, together, strict=True):
        expected = inverse_root(A, 4, method)
        assert (root - expected).norm() < 1e-12 * expected.norm()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("method", ROOT_METHODS)
def test_single_precision_at_every_scale(method: str, scale: float) -> None:
    A = definite(4, 10, 3).float()
    expected = inverse_root(A, 4, method) * scale**-0.25
    root = inverse_root(A * scale, 4, method)
    assert root.dtype == torch.float32
    assert (root - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("method", ROOT_METHODS)
def test_epsilon_is_added_to_the_eigenvalues(method: str) -> None:
    A = definite(4, 100, 4) * 7
    eye = torch.eye(4, dtype=A.dtype)
    assert gap(inverse_root(A, 2, method, epsilon=0.3), A + 0.3 * eye, 2) < 1e-10
    zero = inverse_root(0 * A, 2, method, epsilon=1e-12)
    assert (zero - 1e6 * eye).abs().max() < 1e-6
    # far beyond the matrix: no overflow
    far = inverse_root(1e-38 * A.float(), 2, method, epsilon=1.0)
    assert (far - eye).abs().max() < 1e-6


@pytest.mark.parametrize("method", ROOT_METHODS)
def test_a_small_matrix_of_condition_7e5(method: str) -> None:
    """Of the tests of Distributed Shampoo, which ask for 1 %."""
    rows = [[1195.0, -944.0, -224.0], [-944.0, 746.0, 177.0], [-224.0, 177.0, 42.0]]
    exact = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, -3.0], [1.0, -3.0, 18.0]])
    A = torch.tensor(rows)
    torch.testing.assert_close(inverse_root(A, 2, method), exact, rtol=1e-2, atol=0.02)
    torch.testing.assert_close(
        inverse_root(A, 1, method), exact @ exact, rtol=1e-2, atol=0.4
    )


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("method", ["newton", "newton-schulz"])
@pytest.mark.parametrize(
    ("n", "condition", "limit"), [(10, 1e5, 1e-3), (300, 33, 1e-6), (300, 1e4, 1e-4)]
)
def test_the_iterations_are_as_exact_as_single_precision_allows(
    method, p, n, condition, limit
) -> None:
    """The input is rounded to single precision, which is all that is lost."""
    A = definite(n, condition, 6)
    exact = inverse_root(A, p)
    root = inverse_root(A.float(), p, method).double()
    assert (root - exact).norm() < limit * exact.norm()
    rounded = inverse_root(A.float().double(), p)
    assert (root - rounded).norm() < 2e-7 * rounded.norm()


@pytest.mark.parametrize("lowest", [0.0, -1e-9, -1e-7, -1e-5, -1e-2, -0.9])
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("method", ["newton", "newton-schulz"])
def test_the_iterations_bear_negative_eigenvalues(method, p, lowest) -> None:
    """The shift is of the size of what it has to lift, and no larger than 32 times."""
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    values = torch.tensor([lowest, 0.1, 0.2, 0.5, 1.0], dtype=torch.float64)
    A = ((q * values) @ q.mT).float()
    root = inverse_root(A, p, method, epsilon=1e-12)
    assert torch.isfinite(root).all()
    largest = float(torch.linalg.matrix_norm(root.double(), 2))
    noise = max(-lowest, 1e-7)
    assert (40 * noise) ** (-1 / p) / 2 < largest < 2 * (noise / 40) ** (-1 / p)


def test_negative_eigenvalues_lift_the_spectrum() -> None:
    A = torch.diag(torch.tensor([-1e-3, 0.0, 1.0], dtype=torch.float64))
    root = inverse_root(A, 2, epsilon=1e-2).diagonal()
    expected = torch.tensor([1e-2, 1.1e-2, 1.011], dtype=torch.float64) ** -0.5
    assert (root - expected).abs().max() < 1e-12


def test_a_singular_matrix_has_a_pseudo_inverse_root() -> None:
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator())
    A = x @ x.mT
    root = inverse_root(A, 2)
    assert (root @ root - torch.linalg.pinv(A)).abs().max() < 1e-10
    assert torch.linalg.matrix_rank(root) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [2, 4, 6, 8])
@pytest.mark.parametrize("method", ["newton", "newton-schulz"])
def test_the_iterations_bear_singular_matrices(method, p, dtype) -> None:
    """Null directions stay bounded, and the range is right."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(20, 5, dtype=dtype, generator=generator)
        A = x @ x.mT
        root = inverse_root(A, p, method, epsilon=1e-12)
        u = torch.linalg.svd(x, full_matrices=False).U
        exact = u.mT @ inverse_root(A, p) @ u
        assert (u.mT @ root @ u - exact).norm() < 1e-2 * exact.norm()
        bound = (torch.finfo(dtype).eps * A.abs().max()) ** (-1 / p)
        assert torch.linalg.matrix_norm(root, 2) < 2 * bound


@pytest.mark.parametrize("method", ROOT_METHODS)
def test_zero_nan_empty_and_narrow(method: str) -> None:
    assert torch.equal(
        inverse_root(torch.zeros(2, 3, 3), 4, method), torch.zeros(2, 3, 3)
    )
    A = torch.stack([definite(3), definite(3), definite(3)])
    A[1, 0, 2], A[2, 1, 1] = torch.nan, torch.inf
    root = inverse_root(A, 2, method)
    assert torch.isfinite(root[0]).all() and torch.isnan(root[1:]).all()
    for shape in ((0, 3, 3), (2, 0, 0)):
        assert inverse_root(torch.ones(shape), 2, method).shape == shape
    narrow = inverse_root(definite(3).bfloat16(), 2, method)
    assert narrow.dtype == torch.bfloat16 and torch.isfinite(narrow).all()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.complex128)).Q
    H = turn @ definite(3).to(turn.dtype) @ turn.mH
    assert gap(inverse_root(H, 3, method), H, 3) < 1e-10


def failing(
    times: int,
    dtypes: tuple[torch.dtype, ...],
    monkeypatch,
    name: str = "eigh",
    error: type[Exception] = torch.linalg.LinAlgError,
) -> list[int]:
    """Let a decomposition raise in these dtypes, that many times."""
    true, calls = getattr(torch.linalg, name), [0]

    def decompose(A: Tensor, **options: object) -> object:
        calls[0] += 1
        if A.dtype in dtypes and calls[0] <= times:
            raise error("CUSOLVER_STATUS_INTERNAL_ERROR")
        return true(A, **options)

    monkeypatch.setattr(torch.linalg, name, decompose)
    return calls


ERRORS = [torch.linalg.LinAlgError, RuntimeError]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    ("times", "dtypes"),
    [
        (1, (torch.float32,)),
        (10**9, (torch.float32,)),
        (5, (torch.float32, torch.float64)),
    ],
)
def test_a_failing_decomposition_is_repeated(times, dtypes, error, monkeypatch) -> None:
    A = torch.stack([definite(4, 10, seed) for seed in range(2)]).float()
    expected = inverse_root(A, 4)
    calls = failing(times, dtypes, monkeypatch, error=error)
    assert (inverse_root(A, 4) - expected).abs().max() < 1e-5
    assert calls[0] > 1


USERS = {
    "eigh": lambda A: polar(A, "eigh"),
    "svd": lambda A: polar(A, "svd"),
    "svdvals": lambda A: Spectral().norm(A),
    "qr": lambda A: _stepped(A),
}


def _stepped(A: Tensor) -> Tensor:
    """A weight after two steps of SOAP, the second with a refresh of the bases."""
    w = torch.zeros(A.shape[-2:]).requires_grad_()
    optimizer = SOAP([w], lr=1.0, refresh=1)
    for g in A:
        w.grad = g.clone()
        optimizer.step()
    return w.detach()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("times", [1, 10**9])
@pytest.mark.parametrize("name", USERS)
def test_every_decomposition_is_repeated(name, times, error, monkeypatch) -> None:
    A = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = USERS[name](A)
    calls = failing(times, (torch.float32,), monkeypatch, name, error)
    assert (USERS[name](A) - expected).abs().max() < 1e-5
    assert calls[0] > 1


def test_what_cannot_be_decomposed_gives_nan_and_no_error(monkeypatch) -> None:
    failing(10**9, (torch.float32, torch.float64), monkeypatch)
    values, vectors = robust_eigh(torch.eye(3).expand(2, 3, 3))
    assert values.shape == (2, 3) and vectors.shape == (2, 3, 3)
    assert torch.isnan(inverse_root(torch.eye(3), 2)).all()
    assert torch.isfinite(inverse_root(torch.eye(3), 2, "newton")).all()
    failing(10**9, (torch.complex64, torch.complex128), monkeypatch)
    values, vectors = robust_eigh(torch.eye(3, dtype=torch.complex64))
    assert values.dtype == torch.float32 and vectors.dtype == torch.complex64
    assert torch.isnan(values).all() and torch.isnan(vectors.real).all()


@pytest.mark.parametrize("error", [NotImplementedError, torch.OutOfMemoryError])
def test_an_error_that_is_not_of_the_matrix_is_shown_at_once(
    error, monkeypatch
) -> None:
    calls = failing(10**9, (torch.float32, torch.float64), monkeypatch, error=error)
    with pytest.raises(error):
        robust_eigh(torch.eye(3))
    assert calls[0] == 1


def test_an_error_of_every_try_is_shown(monkeypatch) -> None:
    """No library, say: NaN would hide it."""
    both = (torch.float32, torch.float64)
    failing(10**9, both, monkeypatch, error=RuntimeError)
    with pytest.raises(RuntimeError, match="CUSOLVER"):
        robust_eigh(torch.eye(3))


def test_an_answer_of_nan_counts_as_a_failure(monkeypatch) -> None:
    true = torch.linalg.eigh

    def eigh(A: Tensor) -> object:
        values, vectors = true(A)
        return (values * torch.nan if A.dtype == torch.float32 else values), vectors

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    assert (inverse_root(4 * torch.eye(3), 2) - torch.eye(3) / 2).abs().max() < 1e-6


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("method", ROOT_METHODS)
def test_gradients(method: str, epsilon: float) -> None:
    A = definite(3, 5, 5, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: inverse_root(x, 3, method, epsilon=epsilon), A
    )


def test_gradients_where_eigenvalues_coincide() -> None:
    A = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: inverse_root(x, 4), A)


def test_wrong_arguments_are_named() -> None:
    A = torch.eye(3)
    with pytest.raises(ValueError, match="square matrices"):
        inverse_root(torch.ones(2, 3))
    with pytest.raises(ValueError, match="p must be a positive integer"):
        inverse_root(A, 0)
    with pytest.raises(ValueError, match="'eigh', 'newton', 'newton-schulz'"):
        inverse_root(A, 2, "svd")
    for epsilon in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="epsilon must be finite"):
            inverse_root(A, 2, epsilon=epsilon)
    with pytest.raises(ValueError, match="takes no steps"):
        inverse_root(A, 2, steps=3)
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        inverse_root(A, 2, "newton", steps=0)
    with pytest.raises(TypeError, match="floating or complex"):
        inverse_root(torch.ones(2, 2, dtype=torch.int64))
