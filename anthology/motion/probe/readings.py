"""The figures of a probe, which stay on the device until somebody reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anthology.motion.models import FixedBatch, Values, twice_differentiable
from anthology.motion.probe.step_rules import ends, metric, own_norm, penalty
from anthology.motion.radius import sharpness
from anthology.motion.symmetry.pieces import Symmetry
from anthology.optim.core.state import state_dtype
from anthology.optim.parts.param_norm import as_points

Figures = Mapping[str, Tensor | float]
Reading = tuple[Figures, Mapping[str, Figures]]
Moves = Mapping[Tensor, Tensor]


class Watched(NamedTuple):
    """A parameter with its name and its group."""

    name: str
    tensor: Tensor
    group: Mapping[str, Any]


def watched(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Watched]:
    """What the optimizer can move now; a tied weight has one name."""
    names = {p: name for name, p in model.named_parameters()}
    group_of = getattr(optimizer, "group_of", lambda p, group: group)
    found = []
    for number, group in enumerate(optimizer.param_groups):
        given = group.get("param_names")
        for index, p in enumerate(group["params"]):
            if p.requires_grad and p.numel():
                own = given[index] if given else f"{number}.{index}"
                found.append(Watched(names.get(p, own), p, group_of(p, group)))
    return found


def merged(found: Iterable[Reading], laws: Mapping[str, Figures]) -> dict[str, Any]:
    """What was measured at one step; empty if nothing was."""
    whole: dict[str, Any] = {}
    layers: dict[str, dict[str, Any]] = {}
    for figures, rows in found:
        whole.update(figures)
        for name, row in rows.items():
            layers.setdefault(name, {}).update(row)
    if whole or layers or laws:
        whole |= {"layers": layers, "symmetries": laws} if laws else {"layers": layers}
    return whole


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as Python numbers; waits for the device."""
    return {
        k: plain(v) if isinstance(v, Mapping) else v if k == "step" else float(v)
        for k, v in row.items()
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The newest of each figure: a line for the model, for each layer and symmetry."""
    newest: dict[str, Any] = {"layers": {}, "symmetries": {}}
    measured: dict[str, int] = {}
    for row in rows:
        for kind in ("layers", "symmetries"):
            for name, figures in row.get(kind, {}).items():
                newest[kind].setdefault(name, {}).update(figures)
        newest |= {k: v for k, v in row.items() if k not in ("layers", "symmetries")}
        measured |= dict.fromkeys(row, row["step"])
    content = plain(newest)
    tables = {"layer": content.pop("layers"), "symmetry": content.pop("symmetries")}
    words = []
    for name in sorted(content, key=lambda k: -measured[k]):
        late = measured[name] < content["step"]
        when = f" (step {measured[name]})" if late else ""
        words.append(f"{name} {content[name]:.4g}{when}")
    first = "  ".join(words)
    return "\n".join([first, *(_aligned(*t) for t in tables.items() if t[1])])


def _aligned(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    heads = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [[title, *heads]]
    for name, row in rows.items():
        lines.append([name, *(f"{row.get(h, math.nan):.4g}" for h in heads)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    paired = (zip(line, widths, strict=True) for line in lines)
    return "\n".join("  ".join(c.ljust(w) for c, w in row).rstrip() for row in paired)


def at_hand(layers: Sequence[Watched]) -> tuple[Tensor, Values]:
    """The gradients that the next step will use; there is no loss with them."""
    grads = {x.name: x.tensor.grad for x in layers}
    found = {k: g.detach().clone() for k, g in grads.items() if g is not None}
    return torch.tensor(math.nan), found


def of_steps(layers: Sequence[Watched], moves: Moves, before: Moves) -> Reading:
    """Length of each step, and half its change relative to it."""
    parts = {}
    for x in layers:
        if x.tensor in moves:
            size = _length(moves[x.tensor])
            change = torch.full_like(size, math.nan)
            if x.tensor in before:
                change = _length(_widened(moves[x.tensor]) - _widened(before[x.tensor]))
            parts[x.name] = size, change
    return _of_all(parts, lambda size, by: {"size": size, "error": by / size / 2})


def of_turn(
    layers: Sequence[Watched], moves: Moves, old: Values, new: Values
) -> Reading:
    """How far the gradient of the batch turned over the step, and against it."""
    parts = {}
    for x in layers:
        # the batch does not know parameters that are not the model's
        if x.name in old and x.tensor in moves:
            g, move = _widened(old[x.name]), _widened(moves[x.tensor])
            turned = _widened(new[x.name]) - g
            inner = [(v.conj() * move).sum().real for v in (g, turned)]
            parts[x.name] = _length(g), _length(turned), -inner[0], inner[1]
    return _of_all(parts, _turned)


def _turned(length: Tensor, turned: Tensor, gain: Tensor, bend: Tensor) -> Figures:
    overshoot = torch.where(gain > 0, bend / gain, math.nan)
    turn = turned / length / 2
    return {"turn": turn, "gain": gain, "bend": bend, "overshoot": overshoot}


def _of_all(
    parts: Mapping[str, tuple[Tensor, ...]], figures: Callable[..., Figures]
) -> Reading:
    """Figures of all layers together and of each; of two lengths, and then of sums."""
    if not parts:
        return {}, {}
    columns = [_stacked(column) for column in zip(*parts.values(), strict=True)]
    whole = [_length(x) for x in columns[:2]] + [x.sum() for x in columns[2:]]
    return figures(*whole), {name: figures(*own) for name, own in parts.items()}


def of_penalty(
    optimizer: torch.optim.Optimizer, layers: Sequence[Watched], slope: Values
) -> Reading:
    """Dual norms of the gradient in the optimizer's own norms, and φ of them."""
    duals, norms = [], []
    rows: dict[str, Figures] = {}
    for x in layers:
        if x.name not in slope:
            continue
        g, norm = slope[x.name], own_norm(optimizer, x.tensor, x.group)
        g = _widened(g.to_dense() if g.layout != torch.strided else g)
        dual = norm.dual(as_points(g, norm)).sum() / float(x.group.get("scale", 1.0))
        duals.append(dual)
        norms.append(norm)
        rows[x.name] = {"dual": dual}
    return ({"penalty": penalty(optimizer, duals, norms)} if duals else {}), rows


def sharpest(
    batch: FixedBatch, optimizer: torch.optim.Optimizer, layers: Sequence[Watched]
) -> dict[str, float]:
    """Largest eigenvalue of P⁻¹H, and what it is to be compared with."""
    layers = [x for x in layers if x.tensor.grad is not None]
    if not layers:
        return dict.fromkeys(("sharpness", "product", "limit", "stable"), math.nan)
    top = max(float(x.group["lr"]) for x in layers)
    scales: dict[str, Tensor | float] = {}
    for x in layers:
        inverse = metric(optimizer, x.tensor, x.group) if top > 0 else None
        if inverse is not None:
            part = float(x.group["lr"]) / top
            scales[x.name] = torch.as_tensor(inverse * part).sqrt()
    known = len(scales) == len(layers)
    if not known:
        scales = {x.name: 1.0 for x in layers}
    sign = -1.0 if any(x.group.get("maximize") for x in layers) else 1.0
    f, zero = batch.around(scales, sign)
    try:
        with twice_differentiable():
            value = float(sharpness(f, zero)[0])
    except RuntimeError as error:
        if not str(error).startswith("Lanczos"):
            raise
        value = math.nan  # training goes on, whether the eigenvalue was found or not
    limits, stables = zip(*(ends(optimizer, x.group) for x in layers), strict=True)
    found = {"sharpness": value, "product": top * value if known else math.nan}
    return {**found, "limit": min(limits), "stable": min(stables)}


def of_law(symmetry: Symmetry, expected: Tensor, now: Values) -> Figures:
    """Lengths of the weights, of their sums or differences: measured, predicted."""
    measured, norm = symmetry.coordinate(now), torch.linalg.vector_norm
    if symmetry.kind == "scale":
        lengths = [x.sum().sqrt() for x in (measured, expected)]
        drift = norm(measured.sqrt() - expected.sqrt())
    else:
        lengths = [norm(x) for x in (measured, expected)]
        drift = norm(measured - expected)
    if symmetry.kind == "translation":
        drift = drift / symmetry.channels**0.5
    return {"measured": lengths[0], "predicted": lengths[1], "drift": drift}


def _widened(x: Tensor) -> Tensor:
    return x.detach().to(state_dtype(x.dtype))


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(_widened(x))
    return length


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    wide = torch.float64 if any(x.dtype == torch.float64 for x in parts) else None
    return torch.stack([x.to(parts[0].device, wide or torch.float32) for x in parts])
