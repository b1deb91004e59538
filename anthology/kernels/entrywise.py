"""Rules that work entry by entry, as one pass over the memory: a launch a tensor.

The learning rate and what depends on the step count are read from the device, and so
is the flag that says whether the gradient may be used: nothing waits for the host,
nothing compiles anew when they change, and a launch can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import check_flat, require

# What each rule does, with one or two averages m and v.
RULES = {"sgd": 1, "signum": 1, "lion": 1, "adamw": 2, "rmsprop": 2, "rootfree": 2}


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
    nesterov: bool = False,
) -> None:
    """One step of one tensor, the definition; arguments as for `step`.

    Parameters
    ----------
    rule, p, g, averages, numbers, betas, eps, decay, terms, nesterov
        As for `step`.
    """
    lr, rate, weight = numbers.unbind()
    w, g = p.to(averages[0].dtype), g.to(averages[0].dtype)
    (beta1, beta2), m = betas, averages[0]
    if rule == "sgd":
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


def step(
    rule: str,
    p: Tensor,
    g: Tensor,
    averages: list[Tensor],
    numbers: Tensor,
    *,
    finite: Tensor | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 0.0,
    decay: float = 0.0,
    terms: float = 1.0,
    nesterov: bool = False,
) -> None:
    """One step of one tensor in one pass; parameter and averages are written.

    Parameters
    ----------
    rule : str
        One of `RULES`: ``"sgd"`` (heavy ball, coupled decay), ``"signum"``,
        ``"lion"``, ``"adamw"``, ``"rmsprop"`` and ``"rootfree"`` (root-free, S in v).
    p, g : Tensor
        Parameter and gradient: one shape, contiguous, float32, bfloat16 or float16.
    averages : list of Tensor
        m, or m and v, in float32.
    numbers : Tensor
        Three float32 on the device: η; η/(1 − β₁ᵗ); and √(1 − β₂ᵗ) (AdamW) or
        1 − β₂ᵗ (root-free). The last two are η and 1 without bias correction.
    finite : Tensor, optional
        0-d boolean on the device; where it is False nothing is written.
    betas : tuple of float
        β₁ (or the momentum) and β₂ (or α). Default (0.9, 0.999).
    eps, decay, terms : float
        ε, κ and the number B of terms of the loss. Default 0, 0, 1.
    nesterov : bool
        Look ahead, for SGD and Signum. Default False.

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
    if rule not in RULES:
        raise ValueError(f"Invalid rule: {rule!r}; it must be one of {list(RULES)}")
    if len(averages) != RULES[rule]:
        raise ValueError(f"{rule} keeps {RULES[rule]} averages, not {len(averages)}")
    check_flat([p, g, *averages])
    if any(x.dtype != torch.float32 for x in (*averages, numbers)):
        raise ValueError("averages and numbers must be float32")
    require(p)
    if not p.numel():
        return
    from .device.entrywise import entrywise

    block = 1024
    grid = (-(-p.numel() // block),)
    beta1, beta2 = betas
    constants = (beta1, 1 - beta1, beta2, 1 - beta2, (1 - beta2) * terms, eps, decay)
    with torch.no_grad():
        entrywise[grid](
            p,
            g,
            averages[0],
            averages[-1],
            numbers,
            p if finite is None else finite.view(torch.uint8),
            p.numel(),
            *constants,
            rule,
            nesterov,
            finite is not None,
            block,
        )
