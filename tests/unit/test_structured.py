"""Every structure does what dense matrices do, and projects as its metric says."""

import math

import pytest
import torch

from anthology.linalg import STRUCTURES, Structure, structure

DIMS = [1, 2, 5, 31, 67]
everywhere = pytest.mark.parametrize(
    ("name", "dim"), [(name, dim) for name in STRUCTURES for dim in DIMS]
)
packed = pytest.mark.parametrize("name", STRUCTURES)


def draw(kind: Structure, *batch: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*batch, kind.size, dtype=torch.float64).to(dtype)


def close(a: torch.Tensor, b: torch.Tensor, tol: float = 1e-11) -> None:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert (a - b).abs().max() <= tol * (1 + b.abs().max())


def symmetric(dim: int, *batch: int) -> torch.Tensor:
    m = torch.randn(*batch, dim, dim, dtype=torch.float64)
    return m + m.mT


@everywhere
def test_structured_equals_dense(name: str, dim: int) -> None:
    kind = structure(name, dim)
    x, y = draw(kind, 2, 3), draw(kind, 2, 3)
    a, b = kind.dense(x), kind.dense(y)
    t = torch.randn(2, 3, dim, 4, dtype=torch.float64)
    assert a.shape == (2, 3, dim, dim)
    close(kind.entries(a), x)
    close(kind.dense(2 * x + y), 2 * a + b)
    close(kind.dense(kind.matmul(x, y)), a @ b)
    close(kind.apply(x, t), a @ t)
    close(kind.apply(x, t, transpose=True), a.mT @ t)
    close(kind.apply_outer(x, t), a @ a.mT @ t)
    close(kind.project_inner(x), kind.project(a.mT @ a))
    close(kind.project_gram(t), kind.project(t @ t.mT))
    close(kind.trace(x), a.diagonal(dim1=-2, dim2=-1).sum(-1))
    close(kind.frobenius(x), torch.linalg.matrix_norm(a))
    close(kind.dense(kind.identity(x)), torch.eye(dim, dtype=x.dtype))


@everywhere
def test_what_is_faster_equals_the_default(name: str, dim: int) -> None:
    """Against the base class, which only knows the pattern."""
    kind = structure(name, dim)
    x, m, t = draw(kind, 3), symmetric(dim, 3), torch.randn(3, dim, 4).double()
    assert kind.size == Structure.size.fget(kind) == int(kind.pattern().max()) + 1
    close(kind.dense(x), Structure.dense(kind, x))
    close(kind.project(m), Structure._means(kind, m, weighted=True))
    close(kind.entries(m), Structure._means(kind, m, weighted=False))
    close(kind.project_gram(t), Structure.project_gram(kind, t))
    close(kind.project_inner(x), Structure.project_inner(kind, x))
    close(kind.identity(x), Structure.identity(kind, x))
    close(kind.frobenius(x), Structure.frobenius(kind, x))
    places = kind.multiplicity(x) * torch.ones(kind.size).double()
    close(places, Structure.multiplicity(kind, x))


@everywhere
def test_the_structure_is_closed_under_multiplication(name: str, dim: int) -> None:
    kind = structure(name, dim)
    product = kind.dense(draw(kind)) @ kind.dense(draw(kind))
    close(kind.dense(kind.entries(product)), product)


@everywhere
def test_outer_products_where_they_stay_inside(name: str, dim: int) -> None:
    kind = structure(name, dim)
    x = draw(kind, 2)
    if not kind.symmetric:
        with pytest.raises(ValueError, match="apply_outer"):
            kind.outer(x)
        return
    close(kind.dense(kind.outer(x)), kind.dense(x) @ kind.dense(x).mT)


@pytest.mark.parametrize("dim", [1, 2, 5, 31, 33])
@packed
def test_the_projection_is_twice_the_natural_gradient(name: str, dim: int) -> None:
    """The metric ½‖m + mᵀ‖² as a matrix, solved with least norm, nothing assumed."""
    kind = structure(name, dim)
    patterns = kind.dense(torch.eye(kind.size, dtype=torch.float64)).flatten(-2)
    mirrored = patterns.unflatten(-1, (dim, dim)).mT.flatten(-2)
    metric = patterns @ patterns.T + patterns @ mirrored.T
    m = symmetric(dim)
    gradient = patterns @ m.flatten()
    natural = torch.linalg.pinv(metric, hermitian=True) @ gradient
    close(kind.project(m), 2 * natural, 1e-10)


def test_the_weights_by_hand() -> None:
    """Diagonal and paired entries once, one-sided entries twice, diagonals' means."""
    m = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 9.0]])
    rows = {
        "dense": [1, 2, 3, 2, 4, 5, 3, 5, 9],
        "diagonal": [1, 4, 9],
        "lower": [1, 4, 4, 6, 10, 9],
        "upper": [1, 4, 6, 4, 10, 9],
        "lower-toeplitz": [14 / 3, 7, 6],
        "upper-toeplitz": [14 / 3, 7, 6],
        "lower-row": [1, 4, 6, 10, 9],
        "upper-column": [1, 6, 4, 10, 9],
    }
    for name, expected in rows.items():
        close(structure(name, 3).project(m), torch.tensor(expected).float(), 1e-6)


def test_the_patterns_of_the_larger_structures() -> None:
    """Blocks of 30; hierarchical blocks of 15 at both ends."""
    blocks = structure("block-diagonal", 67).pattern() >= 0
    assert blocks[:30, :30].all()
    assert blocks[60:, 60:].all()
    assert blocks.sum() == 2 * 900 + 49
    free = structure("hierarchical", 40).pattern() >= 0
    assert free[:15].all()
    assert free[25:, 15:].all()
    assert torch.equal(free[15:25, 15:], torch.eye(10, 25).bool())
    assert not free[15:, :15].any()
    assert (structure("hierarchical", 12).pattern() >= 0).all()


@packed
def test_numbers_kept(name: str) -> None:
    d = 67
    kept = {
        "dense": d * d,
        "block-diagonal": 2 * 900 + 49,
        "lower": d * (d + 1) // 2,
        "upper": d * (d + 1) // 2,
        "hierarchical": 15 * d + 37 + 15 * 52,
    }
    kept |= dict.fromkeys(["diagonal", "lower-toeplitz", "upper-toeplitz"], d)
    assert structure(name, d).size == kept.get(name, 2 * d - 1)


@packed
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_narrow_dtypes_stay_and_are_near(name: str, dtype: torch.dtype) -> None:
    kind, exact = structure(name, 35), torch.float64
    x, y, t = draw(kind, dtype=dtype), draw(kind, dtype=dtype), torch.randn(35, 3)
    t = t.to(dtype)
    tol = 0.05 if dtype == torch.bfloat16 else 1e-5
    for got, want in (
        (kind.matmul(x, y), kind.matmul(x.to(exact), y.to(exact))),
        (kind.apply_outer(x, t), kind.apply_outer(x.to(exact), t.to(exact))),
        (kind.project_inner(x), kind.project_inner(x.to(exact))),
        (kind.project_gram(t), kind.project_gram(t.to(exact))),
    ):
        assert got.dtype == dtype
        assert (got.to(exact) - want).abs().max() <= tol * want.abs().max()
    assert kind.frobenius(x).dtype == torch.float32
    assert kind.identity(x).dtype == dtype


@packed
def test_sizes_do_not_overflow_and_nan_is_seen(name: str) -> None:
    kind = structure(name, 5)
    x = 1e30 * draw(kind).float()
    expected = torch.linalg.matrix_norm(kind.dense(x).double())
    assert math.isclose(kind.frobenius(x), expected, rel_tol=1e-5)
    assert kind.frobenius(0 * x) == 0
    assert kind.frobenius(torch.full_like(x, math.nan)).isnan()


@packed
def test_autograd_follows(name: str) -> None:
    kind = structure(name, 3)
    x = draw(kind).requires_grad_()
    t = torch.randn(3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: kind.apply_outer(x, t), [x])
    assert torch.autograd.gradcheck(kind.project_inner, [x])
    assert torch.autograd.gradcheck(kind.frobenius, [x])


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="'circulant'; it must be one of dense, diag"):
        structure("circulant", 3)
    for dim in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="an integer, at least 1"):
            STRUCTURES["lower"](dim)
    for name in STRUCTURES:
        kind = structure(name, 3)
        with pytest.raises(ValueError, match="expects a shape ending in"):
            kind.dense(torch.ones(kind.size + 1))
        with pytest.raises(ValueError, match=r"\(3, 3\), got \(3, 2\)"):
            kind.project(torch.ones(3, 2))
        with pytest.raises(TypeError, match="convert it first"):
            kind.project(torch.ones(3, 3, dtype=torch.int64))
    assert repr(structure("lower", 3)) == "structure('lower', 3)"
    assert structure("lower", 3) is structure("lower", 3)
