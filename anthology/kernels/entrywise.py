"""Rules that work entry by entry, as one pass over the memory.

Entries whose gradient is not finite are left alone, averages and all. The learning rate
and what depends on the step count are read from the device: nothing waits for the host,
nothing compiles anew when they change, and a launch can be captured in a CUDA graph.
`anthology.kernels.many` does the same for many small tensors in one launch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import check_flat, must_launch

# What each rule does, with none, one or two averages m and v.
RULES = {"descent": 0, "sgd": 1, "signum": 1, "lion": 1}
RULES |= {"adamw": 2, "rmsprop": 2, "rootfree": 2}
BLOCK = 1024
LARGEST = torch.finfo(torch.float32).max


def step_eager(
    rule: str,
    p: Tensor,
    g: Tensor,
    averages: list[Tensor],
    numbers: Tensor,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 0.0,
    decay: float = 0.0,
    terms: float = 1.0,
    limit: float = LARGEST,
    nesterov: bool = False,
    residual: Tensor | None = None,
) -> None:
    """One step of one tensor, the definition; arguments as for `step`.

    Parameters
    ----------
    rule, p, g, averages, numbers, betas, eps, decay, terms, limit, nesterov, residual
        As for `step`.
    """
    lr, rate, weight = numbers.unbind()
    written = [p, *averages, *([] if residual is None else [residual])]
    kept, fine = [x.clone() for x in written], g.abs() <= limit
    w, g = p.to(numbers.dtype), g.to(numbers.dtype)
    if residual is not None:
        w = w + residual
    (beta1, beta2), m = betas, averages[0] if averages else g
    if rule == "descent":
        w = w - lr * (g + decay * w)
    elif rule == "sgd":
        g = g + decay * w
        m.mul_(beta1).add_(g)
        w = w - lr * (g + beta1 * m if nesterov else m)
    elif rule == "signum":
        m.lerp_(g, 1 - beta1)
        w = w * (1 - lr * decay) - lr * (g.lerp(m, beta1) if nesterov else m).sign()
    elif rule == "lion":
        w = w * (1 - lr * decay) - lr * m.lerp(g, 1 - beta1).sign()
        m.lerp_(g, 1 - beta2)
    else:
        v = averages[1].mul_(beta2).addcmul_(g, g, value=(1 - beta2) * terms)
        if rule == "rmsprop":
            m.mul_(beta1).add_(g / (v + eps) + decay * w)
            w = w - lr * m
        else:
            m.lerp_(g, 1 - beta1)
            below = v.sqrt() / weight if rule == "adamw" else v / weight
            w = w * (1 - lr * decay) - rate * m / (below + eps)
    p.copy_(w)
    if residual is not None:
        residual.copy_(torch.where(p.isfinite(), w - p, 0.0))
    for x, old in zip(written, kept, strict=True):
        x.copy_(torch.where(fine, x, old))


def step(
    rule: str,
    p: Tensor,
    g: Tensor,
    averages: list[Tensor],
    numbers: Tensor,
    *,
    finite: Tensor | None = None,
    refused: Tensor | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 0.0,
    decay: float = 0.0,
    terms: float = 1.0,
    limit: float = LARGEST,
    nesterov: bool = False,
    residual: Tensor | None = None,
    seed: Tensor | None = None,
) -> None:
    """One step of one tensor in one pass; parameter and averages are written.

    Parameters
    ----------
    rule : str
        One of `RULES`: ``"descent"`` and ``"sgd"`` (without and with heavy ball,
        coupled decay), ``"signum"``, ``"lion"``, ``"adamw"``, ``"rmsprop"`` and
        ``"rootfree"`` (root-free, S in v).
    p, g : Tensor
        Parameter and gradient: one shape, contiguous, float32, bfloat16 or float16.
    averages : list of Tensor
        None, m, or m and v, in float32.
    numbers : Tensor
        Three float32 on the device: η; η/(1 − β₁ᵗ); and √(1 − β₂ᵗ) (AdamW) or
        1 − β₂ᵗ (root-free). The last two are η and 1 without bias correction.
    finite : Tensor, optional
        0-d boolean on the device; where it is False nothing is written.
    refused : Tensor, optional
        One float32 on the device, which becomes 1 if an entry is left alone.
    betas : tuple of float
        β₁ (or the momentum) and β₂ (or α). Default (0.9, 0.999).
    eps, decay, terms : float
        ε, κ and the number B of terms of the loss. Default 0, 0, 1.
    limit : float
        Entries with a gradient beyond it, or NaN, are left alone: p, averages and
        residual. Default: the largest float32.
    nesterov : bool
        Look ahead, for SGD and Signum. Default False.
    residual : Tensor, optional
        Like `p`, bfloat16: added to it before, and written with what rounding took
        off. Default None.
    seed : Tensor, optional
        One int64 on the device. With it a bfloat16 `p` is rounded up or down at
        random, on average to the result. Default None: to the nearest.

    Raises
    ------
    RuntimeError
        If Triton or a CUDA device is missing.
    ValueError
        If the rule is unknown or a tensor does not fit.

    Examples
    --------
    >>> import torch
    >>> from anthology.kernels.entrywise import step, step_eager
    >>> from anthology.kernels.launch import missing
    >>> w, g, m = torch.zeros(2), torch.tensor([3.0, -0.1]), torch.zeros(2)
    >>> run = step_eager if missing(w) else step
    >>> run("lion", w, g, [m], torch.tensor([0.5, 0.5, 1.0]))
    >>> w
    tensor([-0.5000,  0.5000])
    """
    check_step(rule, p, g, averages, numbers, residual, seed)
    must_launch(p)
    if not p.numel():
        return
    from .device.entrywise import entrywise

    grid = (-(-p.numel() // BLOCK),)
    rounding = rounding_name(residual, seed)
    if refused is None:
        refused = torch.zeros((), device=p.device)
    with torch.no_grad(), torch.cuda.device_of(p):
        entrywise[grid](
            p,
            g,
            averages[0] if averages else p,
            averages[-1] if averages else p,
            p if residual is None else residual,
            numbers if seed is None else seed,
            numbers,
            p if finite is None else finite.view(torch.uint8),
            p.numel(),
            *constants(betas, eps, decay, terms, limit),
            refused,
            rule,
            nesterov,
            rounding,
            finite is not None,
            BLOCK,
        )


def constants(
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 0.0,
    decay: float = 0.0,
    terms: float = 1.0,
    limit: float = LARGEST,
) -> tuple[float, ...]:
    """What the kernels take for these settings, which are those of `step`.

    Parameters
    ----------
    betas : tuple of float
        β₁ and β₂. Default (0.9, 0.999).
    eps, decay, terms, limit : float
        ε, κ, B and the largest gradient. Default 0, 0, 1 and the largest float32.

    Returns
    -------
    tuple of float
        β₁, 1 − β₁, β₂, 1 − β₂, (1 − β₂)B, ε, κ, the limit.
    """
    beta1, beta2 = betas
    shares = (beta1, 1 - beta1, beta2, 1 - beta2, (1 - beta2) * terms)
    return (*shares, eps, decay, limit)


def rounding_name(residual: object | None, seed: object | None) -> str:
    """How the kernels round, by what they are given.

    Parameters
    ----------
    residual, seed : object or None
        As for `step`.

    Returns
    -------
    str
        ``"nearest"``, ``"compensated"`` or ``"stochastic"``.
    """
    if residual is not None:
        return "compensated"
    return "nearest" if seed is None else "stochastic"


def check_step(
    rule: str,
    p: Tensor,
    g: Tensor,
    averages: list[Tensor],
    numbers: Tensor,
    residual: Tensor | None,
    seed: Tensor | None,
) -> None:
    """Refuse what `step` cannot take; arguments as there.

    Parameters
    ----------
    rule, p, g, averages, numbers, residual, seed
        As for `step`.

    Raises
    ------
    ValueError
        Saying what does not fit.
    """
    if rule not in RULES:
        raise ValueError(f"Invalid rule: {rule!r}; it must be one of {list(RULES)}")
    if len(averages) != RULES[rule]:
        raise ValueError(f"{rule} keeps {RULES[rule]} averages, not {len(averages)}")
    check_flat([p, g, *averages, *([] if residual is None else [residual])])
    if any(x.dtype != torch.float32 for x in (*averages, numbers)):
        raise ValueError("averages and numbers must be float32")
    if residual is not None and seed is not None:
        raise ValueError("a residual and a seed exclude each other; pass one of them")
    if seed is not None and p.dtype != torch.bfloat16:
        raise ValueError(f"a seed rounds to bfloat16, and the parameter is {p.dtype}")
