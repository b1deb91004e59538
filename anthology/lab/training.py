"""A training loop short enough to read, for any optimizer.

>>> from anthology import lab
>>> data, net = lab.digits(), lab.mlp([64, 32, 10])
>>> opt = torch.optim.SGD(net.parameters(), lr=0.5)
>>> run = lab.fit(net, opt, data.batches(64), steps=100, schedule="linear",
...               evaluate=lambda: lab.accuracy(net, *data.test))
>>> len(run.losses), run.metric > 0.8   # metric: the accuracy at the end
(100, True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .runtime import optional

Loss = Callable[[Tensor, Tensor], Tensor]

_CHECK_EVERY = 50


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats; logits (..., classes), targets (...)."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of right answers of a model on a batch, in evaluation mode."""
    return mean_loss(model, x, y, lambda out, y: (out.argmax(-1) == y).float().mean())


@torch.no_grad()
def mean_loss(
    model: nn.Module, x: Tensor, y: Tensor, loss: Loss = cross_entropy
) -> float:
    """The loss of a model on a batch, in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        return loss(model(x), y).item()
    finally:
        model.train(was_training)


@dataclass
class Run:
    """What a training run leaves behind.

    The loss before each step; the ``metric`` after the last, NaN after a divergence;
    ``evaluations`` as (steps taken, value); and whether it ``diverged``: a loss was not
    finite, and the run was ended there.
    """

    losses: list[float] = field(default_factory=list)
    metric: float | None = None
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    diverged: bool = False


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    *,
    loss: Loss = cross_entropy,
    evaluate: Callable[[], float] | None = None,
    every: int | None = None,
    schedule: str = "constant",
    warmup: int = 0,
    name: str = "",
) -> Run:
    """Train a model, and return what happened.

    A run whose loss is not finite is ended; that is looked at every 50 steps.

    Parameters
    ----------
    model, optimizer
        Any; the learning rates are the schedule's peaks, and put back at the end.
    batches : iterable of (Tensor, Tensor)
        What the model is called on and the targets; ``steps`` at least, else a
        ValueError.
    loss : callable
        (outputs, targets) → scalar; cross-entropy by default.
    evaluate : callable, optional
        Called at the end and, if ``every`` is given, each ``every`` steps.
    schedule : str
        ``"constant"``, or ``"linear"``: down to zero after the last step.
    warmup : int
        Steps over which the learning rate first rises linearly.
    name : str
        What the progress bar is called; it is shown only on a terminal.
    """
    tqdm, schedules = optional("tqdm", "tqdm").tqdm, ("constant", "linear")
    if schedule not in schedules:
        raise ValueError(f"schedule is {schedule!r}; it must be one of {schedules}")
    run, recent, source = Run(), [], iter(batches)
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    model.train()
    try:
        # disable=None: no bar unless standard error is a terminal
        for step in tqdm(range(steps), desc=name, disable=None, leave=False):
            fall = 1 - step / steps if schedule == "linear" else 1.0
            _set_rates(optimizer, peaks, min(1.0, (step + 1) / (warmup + 1)) * fall)
            batch = next(source, None)
            if batch is None:
                raise ValueError(f"batches ended after {step} of {steps} steps")
            optimizer.zero_grad()
            value = loss(model(batch[0]), batch[1])
            value.backward()
            optimizer.step()
            recent.append(value.detach())
            done = step + 1
            if done % _CHECK_EVERY == 0 or done == steps:
                _note(run, recent)
                if run.diverged:
                    break
            if evaluate and every and done % every == 0 and done < steps:
                run.evaluations.append((done, float(evaluate())))
    finally:
        _set_rates(optimizer, peaks, 1.0)
    if evaluate:
        run.metric = math.nan if run.diverged else float(evaluate())
        run.evaluations.append((len(run.losses), run.metric))
    return run


def _note(run: Run, recent: list[Tensor]) -> None:
    """Move the latest losses to the record, up to the first that is not finite."""
    for value in torch.stack(recent).tolist():
        if not run.diverged:
            run.losses.append(value)
            run.diverged = not math.isfinite(value)
    recent.clear()


def _set_rates(
    optimizer: torch.optim.Optimizer, peaks: Sequence[float], factor: float
) -> None:
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(peak * factor)
        else:
            group["lr"] = peak * factor


def sweep(
    train: Callable[[float, int], float],
    lrs: Sequence[float],
    seeds: Sequence[int],
    *,
    better: str = "lower",
) -> tuple[float, dict[float, list[float]]]:
    """Try every learning rate with every seed: the same budget for everyone.

    ``train(lr, seed)`` gives the final metric of one run, of which ``"lower"`` or
    ``"higher"`` is ``better``. Returns the rate with the best median (NaN is the worst,
    the smaller rate wins a tie), and for each rate the metrics of the seeds.
    """
    if better not in ("lower", "higher"):
        raise ValueError(f"better is {better!r}; it must be 'lower' or 'higher'")
    if not lrs or not seeds:
        raise ValueError("nothing to try: give learning rates and seeds")
    sign = 1.0 if better == "lower" else -1.0
    results = {lr: [float(train(lr, seed)) for seed in seeds] for lr in lrs}

    def cost(lr: float) -> float:
        return median(math.inf if math.isnan(m) else sign * m for m in results[lr])

    return min(sorted(results), key=cost), results
