"""Steps of weights that stay on a surface, as the option ``constrain`` asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anthology.norms import CONSTRAINTS, Constraint, Norm, Spectral
from anthology.optim.core.limits import one_of
from anthology.optim.core.state import Group, State, States, Tensors, state_dtype

from .matrix.orthogonal import ENTRY, factors, orthogonal, view_of
from .param_norm import as_points, dualize, norm_for

# The step as it is, made ηR long, and back to the sphere: not the steepest along it.
HYPERBALL = "hyperball"
SURFACES = (*CONSTRAINTS, HYPERBALL)
RADIUS = "radius"

Pieces = Callable[[Tensor, Group], tuple[list[Tensor], Norm]]


def check_surface(group: Group) -> None:
    """Refuse a surface that there is not, or what it cannot go with."""
    name = group.get("constrain")
    if name is None:
        return
    one_of("constrain", name, SURFACES)
    if group["decay"] != "plain":
        raise ValueError(
            f"constrain={name!r} takes the place of weight decay: leave decay='plain'"
        )


def must_have_place(tensors: Tensors, pieces: Pieces, group: Group) -> None:
    """Refuse complex weights, and those without a radius where numbers can be read."""
    for p in tensors:
        if p.is_complex():
            raise ValueError("constrain is for real weights, and one is complex")
        if type(p) in (Tensor, torch.nn.Parameter) and not p.is_meta and p.numel():
            _radii(p, pieces, group)


def no_radii(param: Tensor, pieces: Pieces, group: Group) -> State:
    """Zeros for the radius of each point of a weight, where it is constrained."""
    if group.get("constrain") is None:
        return {}
    found, norm = pieces(param, group)
    count = sum(_surface(group).count(piece, norm) for piece in found)
    return {RADIUS: param.new_zeros(count)}


def radii_made(
    p: Tensor, state: State, missing: set[str], pieces: Pieces, group: Group
) -> None:
    """The radii, once they are part of a state."""
    if RADIUS in missing:
        state[RADIUS].copy_(_radii(p, pieces, group))


@torch.no_grad()
def _radii(p: Tensor, pieces: Pieces, group: Group) -> Tensor:
    """The radius of each point of a weight, in one axis; none where it is free."""
    found, norm = pieces(p.to(state_dtype(p.dtype)), group)
    sizes = [_surface(group).radius(piece, norm) for piece in found]
    return torch.cat(sizes) if sizes else p.new_zeros(0)


def _surface(group: Group) -> Constraint:
    name = group["constrain"]
    return CONSTRAINTS["sphere" if name == HYPERBALL else name]


def _onto(
    surface: Constraint, pieces: Tensors, radius: Tensor, norm: Norm
) -> list[Tensor]:
    """The nearest points of a surface, from one axis of radii for all pieces."""
    counts = [surface.count(piece, norm) for piece in pieces]
    own = zip(pieces, radius.split(counts), strict=True)
    return [surface.onto(piece, r, norm) for piece, r in own]


# A tensor under a norm, as SteepestDescent sees it. A vector has no surface, nor has an
# embedding that of matrices.


def piece_of(param: Tensor, group: Group) -> tuple[list[Tensor], Norm]:
    """A tensor as the points of its norm."""
    norm = norm_for(param, group["norm"])
    held = norm.ndim > 1 and _surface(group).fits(norm)
    return [as_points(param, norm)] if held else [], norm


def dualize_along(
    points: Tensors, params: Tensors, states: States, group: Group
) -> list[Tensor]:
    """The steepest unit steps along the surface, at its nearest points."""
    surface, sphere, moves = _surface(group), CONSTRAINTS["sphere"], []
    for u, w, state in zip(points, params, states, strict=True):
        pieces, norm = piece_of(w, group)
        if not pieces:
            moves.append(dualize(u, norm))
        elif group["constrain"] == HYPERBALL:
            (t,) = _onto(sphere, [dualize_as(u, norm)], state[RADIUS], norm)
            moves.append(t.reshape(u.shape))
        else:
            (at,) = _onto(surface, pieces, state[RADIUS], norm)
            t = surface.dualize(as_points(u, norm), at, norm)
            moves.append(t.reshape(u.shape))
    return moves


def dualize_as(u: Tensor, norm: Norm) -> Tensor:
    """The steepest unit step, with the axes of its norm."""
    return norm.dualize(as_points(u, norm))


def put_back(params: Tensors, states: States, group: Group) -> None:
    """Weights to the nearest points of their surface, unless the rate is zero."""
    if not isinstance(group["lr"], Tensor) and group["lr"] == 0:
        return
    for w, state in zip(params, states, strict=True):
        pieces, norm = piece_of(w, group)
        for at in _onto(_surface(group), pieces, state[RADIUS], norm) if pieces else ():
            w.copy_(at.reshape(w.shape))


# A weight as matrices, as Muon sees it.


def matrices_of(param: Tensor, group: Group) -> tuple[list[Tensor], Norm]:
    """The matrices of a weight, and the norm under which Muon is steepest."""
    return view_of(group)(param)[0], Spectral(group["method"], group["ns_steps"])


def muon_along(param: Tensor, point: Tensor, state: State, group: Group) -> None:
    """One step of Muon along a surface."""
    if not isinstance(group["lr"], Tensor) and group["lr"] == 0:
        return
    surface, radius, norm = _surface(group), state[RADIUS], matrices_of(param, group)[1]
    found, back = view_of(group)(param)
    at = _onto(surface, found, radius, norm)
    if group["constrain"] == HYPERBALL:
        rows = state.get(ENTRY)
        free, _ = view_of(group)(orthogonal(point, group, rows))
        moves = _onto(CONSTRAINTS["sphere"], free, radius, norm)
    else:
        seen, _ = view_of(group)(point)
        places = zip(seen, at, factors(point, group), strict=True)
        moves = [surface.dualize(u, w, norm) * s for u, w, s in places]
    moved = [w - group["lr"] * t for w, t in zip(at, moves, strict=True)]
    param.copy_(back(_onto(surface, moved, radius, norm)))


def check_muon_surface(group: Group) -> None:
    """Refuse what only a step as it is can go with."""
    check_surface(group)
    if group.get("constrain") in (None, HYPERBALL):
        return
    as_it_is: dict[str, Any] = {"normalize": "frobenius", "step_rule": "dualize"}
    as_it_is |= {"renormalize": None, "row_beta": None, "ns_dtype": None}
    for name, value in as_it_is.items():
        if group[name] != value:
            raise ValueError(
                f"constrain={group['constrain']!r} solves for the step itself: leave "
                f"{name.removesuffix('_rule')}={value!r}, or take 'hyperball'"
            )
