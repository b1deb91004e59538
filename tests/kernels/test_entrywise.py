"""One-pass steps against float64: no worse than twice the eager twin."""

from typing import Any

import pytest
import torch

from anthology.kernels.entrywise import RULES, step, step_eager

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {"decay": 0.1}),
    ("sgd", {"nesterov": True}),
    ("signum", {"decay": 0.1}),
    ("signum", {"nesterov": True}),
    ("lion", {"betas": (0.9, 0.99), "decay": 0.1}),
    ("adamw", {"eps": 1e-8, "decay": 0.01}),
    ("rmsprop", {"eps": 1e-4, "terms": 64.0, "decay": 0.1, "betas": (0.9, 0.99)}),
    ("rootfree", {"eps": 1e-4, "terms": 64.0, "decay": 0.1}),
]
# odd, one number, exactly a block, just beyond, several blocks
SHAPES = [(7, 5), (1,), (1024,), (1025,), (3, 10, 101)]


def walk(
    take: Any,
    rule: str,
    settings: dict[str, Any],
    dtypes: tuple[torch.dtype, torch.dtype],
    shape: tuple[int, ...],
    device: str,
    rounded: torch.dtype,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Five steps from one start; gradients and start rounded alike for every twin."""
    low, wide = dtypes
    generator = torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return x.to(rounded).to(device, low)

    p = noise()
    start = {"m": 0.0, "v": 0.0 if rule == "adamw" else 1.0}
    averages = [
        torch.full(shape, x, dtype=wide, device=device) for x in start.values()
    ][: RULES[rule]]
    beta1, beta2 = settings.get("betas", (0.9, 0.999))
    for t in range(1, 6):
        lr, weight = 0.01 * 0.9**t, 1 - beta2**t
        numbers = [lr, lr / (1 - beta1**t), weight**0.5 if rule == "adamw" else weight]
        tensor = torch.tensor(numbers, dtype=wide, device=device)
        take(rule, p, noise(), averages, tensor, **settings)
    return p, averages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("rule", "settings"), SETTINGS)
def test_as_close_to_float64_as_the_eager_twin(
    rule: str,
    settings: dict[str, Any],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
) -> None:
    exact_types, types = (torch.float64, torch.float64), (dtype, torch.float32)
    exact = walk(step_eager, rule, settings, exact_types, shape, device, dtype)
    eager = walk(step_eager, rule, settings, types, shape, device, dtype)
    ours = walk(step, rule, settings, types, shape, device, dtype)
    for x, e, o in zip(
        (exact[0], *exact[1]), (eager[0], *eager[1]), (ours[0], *ours[1]), strict=True
    ):
        assert o.dtype == e.dtype
        rounding = torch.finfo(o.dtype).eps * float(x.abs().max())
        error = float((o.double() - x).abs().max())
        assert error <= max(2 * float((e.double() - x).abs().max()), rounding)


def some(device: str) -> tuple[Any, ...]:
    tensors = [torch.ones(5, device=device) for _ in range(3)]
    return tensors[0], tensors[1], [tensors[2]], torch.full((3,), 0.5, device=device)


def test_what_is_not_finite_is_left_alone(device: str) -> None:
    for finite in (False, True):
        p, g, averages, numbers = some(device)
        g[2] = 1.0 if finite else torch.nan
        flag = torch.tensor(finite, device=device)
        step("lion", p, g, averages, numbers, finite=flag)
        assert p.tolist() == [0.5 if finite else 1.0] * 5
        assert averages[0].tolist() == [1.0] * 5


def test_empty(device: str) -> None:
    nothing = torch.empty(0, 3, device=device)
    step("lion", nothing, nothing, [nothing], torch.ones(3, device=device))


def test_only_the_tensor_is_written(device: str) -> None:
    around = [torch.full((4000,), 7.0, device=device) for _ in range(3)]
    p, g, m = (x[1000:2500] for x in around)
    step("sgd", p, g, [m], torch.full((3,), 0.5, device=device))
    for x in (around[0], around[2]):
        assert bool((x[:1000] == 7).all() and (x[2500:] == 7).all())
        assert bool((x[1000:2500] != 7).all())


def test_what_is_refused(device: str) -> None:
    p, g, averages, numbers = some(device)
    with pytest.raises(ValueError, match="Invalid rule: 'adam'"):
        step("adam", p, g, averages, numbers)
    with pytest.raises(ValueError, match="adamw keeps 2 averages, not 1"):
        step("adamw", p, g, averages, numbers)
    with pytest.raises(ValueError, match=r"tensor 1 has shape \(4,\)"):
        step("lion", p, g[:4], averages, numbers)
    square = torch.ones(5, 5, device=device)
    with pytest.raises(ValueError, match="tensor 1 is not contiguous"):
        step("lion", square, square[:, ::1].t(), [square], numbers)
    with pytest.raises(ValueError, match="float64; the kernels compute in float32"):
        step("lion", p.double(), g, averages, numbers)
    with pytest.raises(ValueError, match="must be float32"):
        step("lion", p, g, [averages[0].bfloat16()], numbers)
    assert p.tolist() == [1.0] * 5


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    p, g, averages, numbers = some("cpu")
    with pytest.raises(RuntimeError, match="the kernels need (a CUDA device|triton)"):
        step("lion", p, g, averages, numbers)
