"""XXᵀ and bA + cA², one triangle computed, against float64."""

import pytest
import torch

from anthology.kernels.symmetric import gram, gram_eager, quadratic, quadratic_eager
from anthology.linalg import polar, products

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# odd, below one tile, one tile, beyond it, many tiles, a stack of stacks, one number
SHAPES = [(5, 7), (16, 16), (33, 20), (70, 3), (2, 3, 17, 19), (1, 1)]


def random(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).to(device, dtype)


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got.double() - exact).abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gram(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    x = random(shape, dtype, device)
    exact, got = gram_eager(x.double()), gram(x)
    assert got.dtype == dtype and got.shape == exact.shape
    assert torch.equal(got, got.mT)
    rounding = torch.finfo(dtype).eps * float(exact.abs().max())
    assert error(got, exact) < max(2 * error(gram_eager(x), exact), rounding)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 5), (33, 33), (2, 3, 17, 17)])
def test_quadratic(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    x = random(shape, torch.float64, device)
    a = (x @ x.mT / shape[-1]).to(dtype)
    a = torch.triu(a) + torch.triu(a, 1).mT
    b, c = -4.775, 2.0315
    exact, got = quadratic_eager(a.double(), b, c), quadratic(a, b, c)
    assert torch.equal(got, got.mT)
    rounding = torch.finfo(dtype).eps * float(exact.abs().max())
    assert error(got, exact) < max(2 * error(quadratic_eager(a, b, c), exact), rounding)


def test_any_strides(device: str) -> None:
    x = random((20, 33), torch.float32, device)
    torch.testing.assert_close(gram(x.mT), gram_eager(x.mT), rtol=1e-5, atol=1e-5)
    part = random((3, 40, 40), torch.float32, device)[:, 1:30:2, 3:]
    torch.testing.assert_close(gram(part), gram_eager(part), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 4, 4)])
def test_empty(shape: tuple[int, ...], device: str) -> None:
    x = torch.empty(shape, device=device)
    assert torch.equal(gram(x), gram_eager(x))


def test_what_is_not_finite_stays_visible(device: str) -> None:
    x = torch.ones(20, 20, device=device)
    x[3, 4] = torch.nan
    got = gram(x)
    assert got[3].isnan().all() and got[:, 3].isnan().all()
    assert not got[:3, :3].isnan().any()


def test_what_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="it must be square"):
        quadratic(torch.ones(3, 4, device=device), 1.0, 1.0)
    for x in (torch.ones(3), torch.ones(3, 3, dtype=torch.float64)):
        with pytest.raises(ValueError, match="it must be matrices in float32"):
            gram(x.to(device))


@pytest.mark.parametrize("shape", [(2, 20, 33), (33, 20), (3, 17, 17)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_polar_factors_by_the_kernels(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = random(shape, torch.float32, device)
    plain, exact = polar(x, "muon", dtype=dtype), polar(x.double(), "muon")
    seen = []
    monkeypatch.setattr(products, "by_kernel", lambda y: not seen.append(y.shape))
    found = polar(x, "muon", dtype=dtype)
    assert (
        seen
        == [
            (x[..., 0, 0].numel(), min(shape[-2:]), n)
            for n in (max(shape[-2:]), min(shape[-2:]))
        ]
        * 5
    )
    assert error(found, exact) < 2 * error(plain, exact) + torch.finfo(dtype).eps


def test_where_the_kernels_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCuda:
        """A tensor as far as the choice looks at it."""

        is_cuda = True

        def __init__(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> None:
            self.shape, self.dtype = shape, dtype

    monkeypatch.setattr(products, "untraced", lambda x: True)
    monkeypatch.setattr(products, "_has_triton", lambda: True)
    assert products.by_kernel(OnCuda(1, 2048, 2048))
    assert products.by_kernel(OnCuda(100, 512, 512))
    assert products.by_kernel(OnCuda(4, 1024, 4096, dtype=torch.float16))
    for few in (OnCuda(1, 1024, 4096), OnCuda(500, 64, 64)):
        assert not products.by_kernel(few)
    for dtype in (torch.float32, torch.float64, torch.complex64):
        assert not products.by_kernel(OnCuda(1, 4096, 4096, dtype=dtype))
    for name in ("untraced", "_has_triton"):
        with monkeypatch.context() as without:
            without.setattr(products, name, lambda *x: False)
            assert not products.by_kernel(OnCuda(1, 2048, 2048))
    assert not products.by_kernel(torch.empty(1, 2048, 2048, dtype=torch.bfloat16))
