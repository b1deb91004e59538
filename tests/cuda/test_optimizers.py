"""Every optimizer on the device: as on the CPU, without waiting, and in a graph."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from anthology.optim import SGD, AdamW, Lion, Prodigy, RootFreeAdamW, Signum
from anthology.optim.core.fused.compile import missing_compiler
from tests.device_cases import CHOOSING, MATRICES_ONLY, OURS, SHAPES

ALL = {**OURS, **CHOOSING}
ENTRYWISE: dict[str, Any] = {
    "SGD": (SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "Signum": (Signum, {"nesterov": True}),
    "Lion": (Lion, {"weight_decay": 0.1}),
    "AdamW": (AdamW, {}),
    "Prodigy": (Prodigy, {"use_bias_correction": True}),
    "RootFreeAdamW": (RootFreeAdamW, {"batch_size": 4, "bias_correction": True}),
}
# Every pass that there is of each; True is a kernel of PyTorch's, or "compile" again.
FUSED = [
    (name, fused)
    for name, (make, _) in ENTRYWISE.items()
    for fused in (True, "triton", "compile")
    if fused is not True or make.rule.torch_kernel
]
# A tensor with a launch of its own; long in the interpreter.
LARGE: dict[str, list[tuple[int, ...]]] = {"cuda": [(600, 601)], "cpu": []}
Params = list[torch.Tensor]


def shapes_for(name: str) -> list[Any]:
    return SHAPES[:4] if name in MATRICES_ONLY else SHAPES


def drawn(shapes: list[Any], device: str, dtype: Any, seed: int) -> Params:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
        for shape in shapes
    ]


def walked(
    make: Callable[..., Any], shapes: list[Any], device: str, dtype: Any, **flags: Any
) -> tuple[Params, Any]:
    """Five steps, with falling rates and a NaN in one tensor in the third."""
    params = [p.requires_grad_() for p in drawn(shapes, device, dtype, 0)]
    optimizer = make(params, **flags)
    for number in range(5):
        for p, g in zip(params, drawn(shapes, device, dtype, 1 + number), strict=True):
            p.grad = g
        if number == 2:
            params[1].grad[0] = torch.nan
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
    return params, optimizer


def agree(ours: Params, theirs: Params, tolerance: float) -> None:
    for x, y in zip(ours, theirs, strict=True):
        largest = float(y.detach().abs().max())
        error = float((x.detach().cpu().double() - y.detach().double()).abs().max())
        assert error <= tolerance * max(largest, 1.0)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_as_on_the_cpu(name: str, foreach: bool, device: str) -> None:
    shapes = shapes_for(name)
    there, first = walked(ALL[name], shapes, "cpu", torch.float64, foreach=False)
    here, second = walked(ALL[name], shapes, device, torch.float64, foreach=foreach)
    agree(here, there, 1e-8)
    assert second.skipped == first.skipped and len(first.skipped) == 1
    for p in here:
        for value in second.state[p].values():
            assert value.device == p.device


def test_as_on_the_cpu_with_tensors_on_both(device: str) -> None:
    shapes = SHAPES[:4]
    there, _ = walked(AdamW, shapes, "cpu", torch.float32)

    params = drawn(shapes, "cpu", torch.float32, 0)
    params = [p.to(device if i % 2 else "cpu") for i, p in enumerate(params)]
    params = [p.requires_grad_() for p in params]
    optimizer = AdamW(params)
    for number in range(5):
        grads = drawn(shapes, "cpu", torch.float32, 1 + number)
        for p, g in zip(params, grads, strict=True):
            p.grad = g.to(p.device)
        if number == 2:
            params[1].grad[0] = torch.nan
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.9
    agree(params, there, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "fused"), FUSED)
def test_in_one_pass_as_the_loop(
    name: str, fused: Any, dtype: torch.dtype, device: str
) -> None:
    make, settings = ENTRYWISE[name]
    if fused is not True and device == "cpu" and name != "Lion":
        pytest.skip("rehearsed with Lion; tests/kernels and tests/unit have the others")
    if fused == "compile" and (lacking := missing_compiler(torch.device(device))):
        pytest.skip(f"needs {lacking}")
    shapes = [*SHAPES, (30, 101), *LARGE[device]]
    there, first = walked(make, shapes, "cpu", dtype, foreach=False, **settings)
    here, second = walked(make, shapes, device, dtype, fused=fused, **settings)
    agree(here, there, 1e-5 if dtype == torch.float32 else 2.0**-7)
    assert second.skipped == first.skipped and len(first.skipped) == 1
    for p, q in zip(here, there, strict=True):
        assert float(second.state[p]["step"]) == float(first.state[q]["step"])


def with_gradients(name: str, device: str, **flags: Any) -> tuple[Params, Any]:
    shapes = shapes_for(name)
    params = [p.requires_grad_() for p in drawn(shapes, device, torch.float32, 0)]
    for p, g in zip(params, drawn(shapes, device, torch.float32, 1), strict=True):
        p.grad = g
    return params, ALL[name](params, **flags)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("name", OURS)
def test_a_step_does_not_wait(
    name: str, foreach: bool, device: str, no_waiting: Callable[[], Any]
) -> None:
    _, optimizer = with_gradients(name, device, foreach=foreach)
    optimizer.step()  # makes the state
    with no_waiting():
        optimizer.step()
        optimizer.step()


@pytest.mark.parametrize(("name", "fused"), FUSED)
def test_nor_does_a_fused_one(
    name: str, fused: Any, device: str, no_waiting: Callable[[], Any]
) -> None:
    if device == "cpu" and fused == "compile":
        pytest.skip("a CPU does not wait; compiling takes long")
    make, settings = ENTRYWISE[name]
    params, _ = with_gradients("SGD", device)
    optimizer = make(params, fused=fused, **settings)
    optimizer.step()
    with no_waiting():
        optimizer.step()
        for p in params:
            p.grad = p.grad.clone()  # elsewhere in the memory
        optimizer.step()


def replays(
    make: Callable[..., Any],
    shapes: list[Any],
    device: str,
    capture: Callable[..., Any],
    **flags: Any,
) -> tuple[Params, Params, Any, Any]:
    """The same steps by replaying a captured one, and without a graph."""
    dtype = torch.float32
    rates = [torch.tensor(0.01, device=device) for _ in range(2)]
    both, optimizers = [], []
    for rate in rates:
        params = [p.requires_grad_() for p in drawn(shapes, device, dtype, 0)]
        for p in params:
            p.grad = torch.empty_like(p)
        both.append(params)
        optimizers.append(make(params, lr=rate, **flags))

    def give(number: int) -> None:
        new = drawn(shapes, device, dtype, number)
        for params in both:
            for p, g in zip(params, new, strict=True):
                p.grad.copy_(g)
        if number == 5:
            for params in both:
                params[0].grad[0] = torch.nan

    stream = torch.cuda.Stream() if device == "cuda" else None
    for number in range(3):  # states and tables are made outside the graph
        give(number)
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for optimizer in optimizers:
                optimizer.step()
        if stream is not None:
            torch.cuda.current_stream().wait_stream(stream)
    replay = capture(optimizers[0].step)
    for number in range(3, 8):
        give(number)
        replay()
        optimizers[1].step()
        for rate in rates:
            rate.mul_(0.9)
    return *both, *optimizers


# A graph cannot choose at which steps it refreshes.
CAPTURABLE = [name for name in OURS if name not in ("Shampoo grafted", "SGD dampened")]


@pytest.mark.parametrize("name", CAPTURABLE)
def test_a_captured_step_is_the_same(
    name: str, device: str, capture: Callable[..., Any]
) -> None:
    flags = {"capturable": True}
    shapes = shapes_for(name)
    ours, theirs, first, second = replays(OURS[name], shapes, device, capture, **flags)
    agree(ours, [p.cpu() for p in theirs], 1e-5)
    assert first.skipped == second.skipped and len(first.skipped) == 1
    for p, q in zip(ours, theirs, strict=True):
        assert float(first.state[p]["step"]) == float(second.state[q]["step"])


@pytest.mark.parametrize(("name", "fused"), FUSED)
def test_a_captured_fused_step_is_the_same(
    name: str, fused: Any, device: str, capture: Callable[..., Any]
) -> None:
    make, settings = ENTRYWISE[name]
    if device == "cpu" and (fused == "compile" or name != "AdamW"):
        pytest.skip("a graph of it needs a CUDA device")
    flags = {"capturable": True, "fused": fused, **settings}
    shapes = [*SHAPES, *LARGE[device]]
    ours, theirs, first, second = replays(make, shapes, device, capture, **flags)
    agree(ours, [p.cpu() for p in theirs], 1e-6)
    assert first.skipped == second.skipped and len(first.skipped) == 1


@pytest.mark.parametrize("name", ALL)
def test_a_checkpoint_goes_on_bit_for_bit(name: str, device: str) -> None:
    """Saved, read on the CPU without pickled code, and loaded to the device."""
    params, first = with_gradients(name, device)
    for _ in range(2):
        first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    content = torch.load(file, map_location="cpu", weights_only=True)
    copies = [p.detach().clone().requires_grad_() for p in params]
    second = ALL[name](copies)
    second.load_state_dict(content)
    for p, q in zip(params, copies, strict=True):
        q.grad = p.grad.clone()
        for key, value in first.state[p].items():
            assert torch.equal(second.state[q][key], value)
            assert second.state[q][key].device == p.device
    for optimizer in (first, second):
        optimizer.step()
    for p, q in zip(params, copies, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-6, atol=1e-7)
