"""Products with a symmetric result in strips: equal to whole ones."""

import pytest
import torch

from anthology.linalg.symmetric import (
    ROWS,
    STRIP,
    add_gram_,
    strips_pay,
    symmetric_product,
)

SHAPES = [(2, ROWS, ROWS), (ROWS + 5, 300), (1, ROWS + STRIP + 1, ROWS), (7, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_symmetric_product_is_the_product(shape, dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    assert strips_pay(x, x.mH) == (shape[-2] >= ROWS)
    found, whole = symmetric_product(x, x.mH), x @ x.mH
    bound = shape[-1] * torch.finfo(dtype).eps
    assert found.shape == whole.shape
    assert (found - whole).norm() <= bound * whole.norm()
    off = found[..., STRIP:, :STRIP]  # mirrored, not computed again
    assert torch.equal(off, found[..., :STRIP, STRIP:].mH.resolve_conj())


def test_strips_read_any_strides_and_nothing_above_the_diagonal() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, ROWS + 3, dtype=torch.float64).mT
    values = torch.rand(400, dtype=torch.float64)
    found = symmetric_product(x * values, x.mT)
    assert (found - (x * values) @ x.mT).abs().max() < 1e-11
    assert torch.equal(found[STRIP:, :STRIP], found[:STRIP, STRIP:].mT)


@pytest.mark.parametrize("old", [1.0, 0.75, 0.0])
@pytest.mark.parametrize("shape", [(2, ROWS + 7, 300), (3, 5, 4)])
def test_a_gram_matrix_is_added_in_place(shape, old) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    y = torch.randn(shape, dtype=torch.float64)
    total = y @ y.mT
    expected = old * total + 0.5 * (x @ x.mT)
    where = total.data_ptr()
    assert add_gram_(total, x, old, 0.5) is total and total.data_ptr() == where
    assert (total - expected).norm() < 1e-13 * expected.norm()
    assert torch.equal(total[:, STRIP:, :STRIP], total[:, :STRIP, STRIP:].mT)


def test_what_is_recorded_or_not_finite_goes_through() -> None:
    x = torch.randn(ROWS, ROWS, requires_grad=True)
    assert not strips_pay(x, x.mT)
    with torch.no_grad():
        assert strips_pay(x.detach(), x.mT)
    symmetric_product(x, x.mT).sum().backward()
    assert x.grad is not None
    bad = torch.full((ROWS, ROWS), torch.nan)
    assert symmetric_product(bad, bad.mT).isnan().all()
    tangent = torch.ones(ROWS, ROWS)
    _, change = torch.func.jvp(
        lambda z: symmetric_product(z, z.mT), (x.detach(),), (tangent,)
    )
    expected = tangent @ x.detach().mT + x.detach() @ tangent
    assert (change - expected).norm() < 1e-5 * expected.norm()
