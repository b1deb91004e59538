"""Prodigy in two passes over the memory, its distance found on the device between.

`observe` puts the gradient into m, v and s and leaves partial sums of ⟨g, w₀ − w⟩ and
of the moduli of s; `move` takes the step. The estimate d that lies between them is made
of 0-d tensors, so nothing waits for the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import check_flat, must_launch

BLOCK = 1024


def observe_eager(
    p: Tensor,
    g: Tensor,
    start: Tensor,
    averages: list[Tensor],
    numbers: Tensor,
    *,
    betas: tuple[float, float, float],
) -> Tensor:
    """The first pass, by its definition; arguments as for `observe`."""
    (d, weight), (m, v, s), (beta1, beta2, beta3) = numbers.unbind(), averages, betas
    g, w = g.to(m.dtype), p.to(m.dtype)
    m.mul_(beta1).add_(d * g * (1 - beta1))
    v.mul_(beta2).add_((1 - beta2) * (d * g).square())
    s.mul_(beta3).add_(weight * g)
    return torch.stack([(g * (start - w)).sum(), s.abs().sum()])


def observe(
    p: Tensor,
    g: Tensor,
    start: Tensor,
    averages: list[Tensor],
    numbers: Tensor,
    *,
    betas: tuple[float, float, float],
    finite: Tensor | None = None,
) -> Tensor:
    """The first pass: put the gradient into m, v and s, and measure.

    Parameters
    ----------
    p, g : Tensor
        Parameter and gradient, alike and contiguous; float32, bfloat16 or float16.
    start : Tensor
        w₀, float32.
    averages : list of Tensor
        m, v and s, float32; written.
    numbers : Tensor
        Two float32 on the device: d, and the weight of g in s.
    betas : tuple of float
        β₁, β₂, β₃.
    finite : Tensor, optional
        0-d boolean on the device; where it is False nothing is written, and the sums
        are zero.

    Returns
    -------
    Tensor
        (2,) in float32, on the device: ⟨g, w₀ − w⟩ and ‖s‖₁. The same from run to run.

    Raises
    ------
    RuntimeError
        If Triton or a CUDA device is missing.
    ValueError
        If a tensor does not fit.

    Examples
    --------
    >>> import torch
    >>> from anthology.kernels.launch import missing
    >>> from anthology.kernels.prodigy import observe, observe_eager
    >>> w, w0, g = torch.zeros(3), torch.ones(3), torch.full((3,), 2.0)
    >>> run = observe_eager if missing(w) else observe
    >>> averages = [torch.zeros(3) for _ in "mvs"]
    >>> run(w, g, w0, averages, torch.tensor([1.0, 0.5]), betas=(0.9, 0.99, 0.9))
    tensor([6., 3.])
    """
    check_flat([p, g, start, *averages])
    must_launch(p)
    blocks = -(-p.numel() // BLOCK)
    sums = torch.zeros(2, blocks, device=p.device)
    if blocks:
        from .device.prodigy import observe_kernel

        (beta1, beta2, beta3), (m, v, s) = betas, averages
        constants = (beta1, 1 - beta1, beta2, 1 - beta2, beta3)
        tensors = (p, g, start, m, v, s, numbers, sums, _flag(finite, p))
        sizes = p.numel(), blocks
        with torch.no_grad(), torch.cuda.device_of(p):
            observe_kernel[(blocks,)](
                *tensors, *sizes, *constants, finite is not None, BLOCK
            )
    return sums.sum(1)


def move_eager(
    p: Tensor, averages: list[Tensor], numbers: Tensor, *, decay: float
) -> None:
    """The second pass, by its definition; arguments as for `move`."""
    (rate, least), (m, v) = numbers.unbind(), averages
    w = p.to(m.dtype) * (1 - decay * rate)
    p.copy_(w - rate * m / (v.sqrt() + least))


def move(
    p: Tensor,
    averages: list[Tensor],
    numbers: Tensor,
    *,
    decay: float,
    finite: Tensor | None = None,
) -> None:
    """The second pass: decay, and w ← w − γd·m/(√v + d₊ε).

    Parameters
    ----------
    p : Tensor
        Written; contiguous.
    averages : list of Tensor
        m and v, float32.
    numbers : Tensor
        Two float32 on the device: γd, and d₊ε, above zero.
    decay : float
        κ.
    finite : Tensor, optional
        As for `observe`.

    Raises
    ------
    RuntimeError
        If Triton or a CUDA device is missing.
    ValueError
        If a tensor does not fit.

    Examples
    --------
    >>> import torch
    >>> from anthology.kernels.launch import missing
    >>> from anthology.kernels.prodigy import move, move_eager
    >>> w, averages = torch.zeros(2), [torch.tensor([1.0, -3.0]), torch.ones(2)]
    >>> run = move_eager if missing(w) else move
    >>> run(w, averages, torch.tensor([0.5, 1.0]), decay=0.0)
    >>> w
    tensor([-0.2500,  0.7500])
    """
    check_flat([p, *averages])
    must_launch(p)
    if p.numel():
        from .device.prodigy import move_kernel

        blocks = -(-p.numel() // BLOCK)
        with torch.no_grad(), torch.cuda.device_of(p):
            tensors = (p, *averages, numbers, _flag(finite, p))
            checked = finite is not None
            move_kernel[(blocks,)](*tensors, p.numel(), decay, checked, BLOCK)


def _flag(finite: Tensor | None, p: Tensor) -> Tensor:
    """A flag as Triton takes it; anything where there is none."""
    return p if finite is None else finite.view(torch.uint8)
