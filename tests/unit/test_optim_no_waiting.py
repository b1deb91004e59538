"""No step makes the host wait for the device, checked without one.

Tensors on PyTorch's ``meta`` device have no numbers, so that reading one is an error,
and every branch for devices is taken. What would copy a Python number to the device,
which waits and cannot be captured in a CUDA graph, is watched for by name, and so are
factorizations that look at their own success.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from anthology import optim
from anthology.optim.core.fused import passes as compiled
from anthology.optim.core.fused import triton as launching
from anthology.optim.parts.prodigy import passes as two_passes
from tests.device_cases import CHOOSING, MATRICES_ONLY, OURS, SHAPES

LOOKING = ("eigh", "svd", "lstsq", "nonzero", "local_scalar", "is_nonzero", "unique")


class Waiting(AssertionError):
    """Something made the host wait."""


class Kernels(TorchDispatchMode):
    """Refuses operations whose result the host looks at, and copies between devices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func._schema.name
        if any(word in name for word in LOOKING):
            raise Waiting(name)
        result = func(*args, **(kwargs or {}))
        if "copy" in name:
            devices = {x.device.type for x in (*args, result) if torch.is_tensor(x)}
            if len(devices) > 1:
                raise Waiting(f"{name} between {devices}")
        return result


class Numbers(TorchFunctionMode):
    """Refuses tensors that are made of Python numbers on the device."""

    MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func in self.MAKERS and result.device.type == "meta":
            source = args[-1] if args else None
            if not torch.is_tensor(source):
                raise Waiting(f"{func.__name__} of {source}")
        if func is torch.Tensor.__getitem__ and isinstance(args[1], list):
            raise Waiting("indices from a list")
        return result


def steps(
    make: Callable[..., Any],
    shapes: list[Any],
    dtype: Any,
    count: int = 3,
    **flags: Any,
) -> Any:
    """Some steps, watched from the second on: state is made in the first."""
    params = [torch.empty(s, dtype=dtype, device="meta") for s in shapes]
    params = [p.requires_grad_() for p in params]
    rate = flags.pop("lr", None)
    optimizer = make(params, **flags)
    for group in optimizer.param_groups if rate is not None else ():
        group["lr"] = rate  # the constructor looks at its value
    for number in range(count):
        for p in params:
            p.grad = torch.empty_like(p)
        if number:
            with Numbers(), Kernels():
                optimizer.step()
        else:
            optimizer.step()
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("name", OURS)
def test_a_step_does_not_wait(name: str, foreach: bool, dtype: torch.dtype) -> None:
    shapes = SHAPES[:4] if name in MATRICES_ONLY else SHAPES
    count = 3
    if "Shampoo" in name:  # two alike and one apart; their roots take long
        shapes, count = SHAPES[1:4], 2
    steps(OURS[name], shapes, dtype, count, foreach=foreach)


@pytest.mark.parametrize("name", ["SGD momentum", "AdamW", "Prodigy", "Muon", "Lion"])
def test_nor_does_a_rate_that_is_on_the_device(name: str) -> None:
    shapes = SHAPES[:4] if name in MATRICES_ONLY else SHAPES
    rate = torch.empty((), device="meta")
    steps(OURS[name], shapes, torch.float32, lr=rate, capturable=True)


@pytest.mark.parametrize("rounding", ["stochastic", "compensated"])
def test_nor_does_rounding(rounding: str) -> None:
    def make(params: list[torch.Tensor]) -> Any:
        return optim.AdamW([{"params": params, "rounding": rounding}])

    steps(make, SHAPES, torch.bfloat16)


FUSED = ["SGD", "SGD momentum", "Signum", "Lion", "RootFreeRMSProp", "RootFreeAdamW"]


@pytest.mark.parametrize("rate", [0.1, torch.empty((), device="meta")])
@pytest.mark.parametrize("name", FUSED)
def test_nor_does_the_way_to_the_kernels(
    name: str, rate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels themselves do not run on this device; `tests/kernels` runs them."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(launching, "missing", lambda _: "")
    monkeypatch.setattr(launching, "step", lambda *xs, **_: seen.append(xs[1]))
    monkeypatch.setattr(launching, "step_many", lambda *xs, **_: seen.extend(xs[1]))
    shapes = [*SHAPES, (600, 600)]
    steps(OURS[name], shapes, torch.float32, fused="triton", lr=rate)
    assert len(seen) == 3 * len(shapes)


@pytest.mark.parametrize("rate", [0.1, torch.empty((), device="meta")])
@pytest.mark.parametrize("name", [*FUSED, "Adam"])
def test_nor_does_the_way_to_compiled_code(
    name: str, rate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def kernel(p: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        seen.append(p)
        return torch.empty((), dtype=torch.bool, device="meta")

    monkeypatch.setattr(compiled, "LEAST", 2)
    monkeypatch.setattr(compiled.Passes, "kernel", lambda *_: kernel)
    steps(OURS[name], SHAPES[:6], torch.float32, fused="compile", lr=rate)
    assert len(seen) >= 3


def test_adamw_goes_to_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(launching, "missing", lambda _: "")
    monkeypatch.setattr(launching, "step_many", lambda *xs, **_: seen.extend(xs[1]))
    for rounding in ("nearest", "stochastic", "compensated"):
        seen.clear()

        def make(params: list[torch.Tensor], how: str = rounding) -> Any:
            groups = [{"params": params, "rounding": how}]
            return optim.AdamW(groups, fused="triton")

        steps(make, SHAPES, torch.bfloat16)
        assert len(seen) == 3 * len(SHAPES)


@pytest.mark.parametrize("rate", [1.0, torch.empty((), device="meta")])
def test_nor_does_prodigys_way_to_the_kernels(
    rate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def observe(*_: Any, **__: Any) -> torch.Tensor:
        seen.append("observe")
        return torch.empty(2, device="meta")

    monkeypatch.setattr(launching, "missing", lambda _: "")
    monkeypatch.setattr(two_passes, "observe", observe)
    monkeypatch.setattr(two_passes, "move", lambda *_, **__: seen.append("move"))
    steps(OURS["Prodigy"], SHAPES, torch.float32, fused="triton", lr=rate)
    assert seen.count("observe") == seen.count("move") > 0


@pytest.mark.parametrize("name", CHOOSING)
def test_what_chooses_on_the_host_waits(name: str) -> None:
    with pytest.raises((Waiting, RuntimeError)):
        steps(CHOOSING[name], SHAPES[:4], torch.float32)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: float(x.sum()),
        lambda x: torch._foreach_add_([x], x.sum()),  # reads the number, silently
        lambda x: torch.tensor(1.0, device=x.device),
        lambda x: x.new_tensor([1.0]),
        lambda x: x[[0, 1]],
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.linalg.eigh(x.outer(x)),
    ],
)
def test_the_watch_bites(waits: Callable[[torch.Tensor], object]) -> None:
    x = torch.empty(3, device="meta")
    with pytest.raises((Waiting, RuntimeError)), Numbers(), Kernels():
        waits(x)
