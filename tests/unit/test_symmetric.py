"""Products with a symmetric result by rows: equal to whole ones."""

import pytest
import torch

from anthology.linalg.products import add_gram_, by_rows, symmetric

SIDE = 512
SHAPES = [(2, SIDE, SIDE), (SIDE + 5, 300), (1, SIDE + 1, 2 * SIDE), (7, 3), (SIDE, 9)]


def is_mirrored(x: torch.Tensor) -> bool:
    """Whether what stands below the first quarter of the rows is a copy."""
    part = x.shape[-1] // 4
    return torch.equal(x[..., part:, :part], x[..., :part, part:].mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_symmetric_is_the_product(shape, dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    assert by_rows(x) == (min(shape[-2:]) > 256 and not dtype.is_complex)
    found, whole = symmetric(x, x.mH), x @ x.mH
    bound = shape[-1] * torch.finfo(dtype).eps
    assert found.shape == whole.shape
    assert (found - whole).norm() <= bound * whole.norm()
    if by_rows(x):  # mirrored, not computed again
        assert is_mirrored(found)


def test_rows_read_any_strides_and_nothing_below_the_diagonal() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, SIDE + 3, dtype=torch.float64).mT
    values = torch.rand(400, dtype=torch.float64)
    found = symmetric(x * values, x.mT)
    assert (found - (x * values) @ x.mT).abs().max() < 1e-11
    assert is_mirrored(found)


@pytest.mark.parametrize("old", [1.0, 0.75, 0.0])
@pytest.mark.parametrize("shape", [(2, SIDE + 7, 300), (3, 5, 4)])
def test_a_gram_matrix_is_added_in_place(shape, old) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    y = torch.randn(shape, dtype=torch.float64)
    total = y @ y.mT
    expected = old * total + 0.5 * (x @ x.mT)
    where = total.data_ptr()
    assert add_gram_(total, x, old, 0.5) is total and total.data_ptr() == where
    assert (total - expected).norm() < 1e-13 * expected.norm()
    assert is_mirrored(total) or not by_rows(x)


def test_what_is_recorded_or_not_finite_goes_through() -> None:
    x = torch.randn(SIDE, SIDE, requires_grad=True)
    assert not by_rows(x)
    with torch.no_grad():
        assert by_rows(x.detach())
    symmetric(x, x.mT).sum().backward()
    assert x.grad is not None
    bad = torch.full((SIDE, SIDE), torch.nan)
    assert symmetric(bad, bad.mT).isnan().all()
    tangent = torch.ones(SIDE, SIDE)
    _, change = torch.func.jvp(lambda z: symmetric(z, z.mT), (x.detach(),), (tangent,))
    expected = tangent @ x.detach().mT + x.detach() @ tangent
    assert (change - expected).norm() < 1e-5 * expected.norm()
