"""One-pass steps against float64: no worse than twice the eager twin."""

from typing import Any

import pytest
import torch

from anthology.kernels.entrywise import RULES, step, step_eager

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("descent", {"decay": 0.1}),
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


@pytest.mark.parametrize("rule", ["descent", "adamw"])
def test_what_was_rounded_off_is_kept(rule: str, device: str) -> None:
    """Bfloat16 with a residual is within 2⁻¹⁶ of float32, alone 2⁻⁹, each step."""
    kinds = torch.bfloat16, torch.float32
    given = {"betas": (0.9, 0.999), "eps": 1e-8} if rule == "adamw" else {}
    ends = {}
    for take in (step, step_eager):
        rest = torch.zeros(7, 5, dtype=torch.bfloat16, device=device)
        settings = {**given, "residual": rest}
        p, averages = walk(take, rule, settings, kinds, (7, 5), device, kinds[0])
        assert p.dtype == torch.bfloat16
        ends[take] = [p.float() + rest.float(), *averages]
    exact = walk(step_eager, rule, given, (kinds[1],) * 2, (7, 5), device, kinds[0])
    for ours, twin in zip(ends[step], ends[step_eager], strict=True):
        torch.testing.assert_close(ours, twin, rtol=2.0**-14, atol=2.0**-16)
    torch.testing.assert_close(ends[step][0], exact[0], rtol=2.0**-13, atol=2.0**-15)


def test_what_is_not_finite_leaves_no_residual(device: str) -> None:
    p, g = (torch.ones(3, dtype=torch.bfloat16, device=device) for _ in range(2))
    g[1] = torch.inf
    rest = torch.zeros_like(p)
    one = torch.full((3,), 2.0**-10, device=device)
    step("descent", p, g, [], one, residual=rest, limit=torch.inf)
    assert p.tolist() == [1.0, -torch.inf, 1.0]
    assert rest.tolist() == [-(2.0**-10), 0.0, -(2.0**-10)]


def test_random_rounding_is_right_on_average(device: str) -> None:
    """To one of the two neighbours, a quarter of the way up one time in four."""
    count = 40_000
    p = torch.ones(count, dtype=torch.bfloat16, device=device)
    g = torch.full_like(p, -(2.0**-9))  # a quarter of the distance to 1 + 2⁻⁷
    numbers, seed = torch.ones(3, device=device), torch.tensor(5, device=device)
    start = p.clone()
    step("descent", p, g, [], numbers, seed=seed)
    assert set(p.tolist()) == {1.0, 1 + 2.0**-7}
    share = float((p > 1).float().mean())
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / count) ** 0.5
    # neighbours are not drawn together, nor blocks alike, nor seeds
    ups = (p > 1).float()
    for shift in (1, 2, 1024):
        both = float((ups[shift:] * ups[:-shift]).mean())
        assert abs(both - 0.0625) < 0.01
    again, other = start.clone(), start.clone()
    step("descent", again, g, [], numbers, seed=seed)
    step("descent", other, g, [], numbers, seed=seed + 1)
    assert torch.equal(again, p)
    assert abs(float((ups * (other > 1)).mean()) - 0.0625) < 0.01


def test_random_rounding_keeps_what_it_must(device: str) -> None:
    kept = [0.0, 1.0, -1.5, 3e38, -3e38]
    p = torch.tensor(kept, dtype=torch.bfloat16, device=device)
    g = torch.zeros_like(p)
    numbers, seed = torch.ones(3, device=device), torch.tensor(5, device=device)
    before = p.clone()
    step("descent", p, g, [], numbers, seed=seed)
    assert torch.equal(p, before)
    g[0], p[1] = torch.inf, torch.nan
    step("descent", p, g, [], numbers, seed=seed, limit=torch.inf)
    assert bool(p[1].isnan()) and p[0] == -torch.inf
    assert torch.equal(p[2:], before[2:])


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


@pytest.mark.parametrize("rounding", ["nearest", "compensated", "stochastic"])
@pytest.mark.parametrize("rule", RULES)
def test_bad_entries_are_left_alone(rule: str, rounding: str, device: str) -> None:
    """Parameter, averages and residual keep their bits; the others do not see them."""
    kind = torch.float32 if rounding == "nearest" else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(4, 1100, generator=generator) + 0.5
    bad = torch.zeros(1100, dtype=torch.bool, device=device)
    bad[[0, 1023, 1024, 1099]] = True
    for take in (step, step_eager):
        ends = []
        for spoilt in (True, False):
            p, g, *averages = drawn.clone().to(device)
            p, g, averages = p.to(kind), g.to(kind), averages[: RULES[rule]]
            rest = torch.full_like(p, 2.0**-9)
            if spoilt:
                values = [torch.nan, torch.inf, -torch.inf, 1e10]
                g[bad] = torch.tensor(values, device=device).to(kind)
            numbers = torch.full((3,), 0.5, device=device)
            extra: dict[str, Any] = {"limit": 1e9, "eps": 0.1}
            if rounding == "compensated":
                extra["residual"] = rest
            if take is step:
                extra["refused"] = torch.zeros((), device=device)
                if rounding == "stochastic":
                    extra["seed"] = torch.tensor(5, device=device)
            start = [x.clone() for x in (p, rest, *averages)]
            take(rule, p, g, averages, numbers, **extra)
            ends.append([p, rest, *averages])
            if take is step:
                assert float(extra["refused"]) == spoilt
        for old, x, y in zip(start, *ends, strict=True):
            assert torch.equal(x[bad], old[bad])
            assert torch.equal(x[~bad], y[~bad])


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
    seed, rest = torch.tensor(1, device=device), torch.zeros_like(p)
    with pytest.raises(ValueError, match="exclude each other"):
        step("lion", p, g, averages, numbers, seed=seed, residual=rest)
    with pytest.raises(ValueError, match="a seed rounds to bfloat16"):
        step("lion", p, g, averages, numbers, seed=seed)
    with pytest.raises(ValueError, match="must be float32"):
        step("lion", p, g, [averages[0].bfloat16()], numbers)
    assert p.tolist() == [1.0] * 5


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    p, g, averages, numbers = some("cpu")
    with pytest.raises(RuntimeError, match="the kernels need (a CUDA device|triton)"):
        step("lion", p, g, averages, numbers)
