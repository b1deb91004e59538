"""Norms written as text: what ``repr`` prints, ``from_spec`` reads."""

import ast
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

Kind = TypeVar("Kind", bound=type)

_REGISTRY: dict[str, Callable[..., Any]] = {}


def register(kind: Kind) -> Kind:
    """Make a class known to ``from_spec`` under its name."""
    taken = _REGISTRY.get(kind.__name__)
    if taken is not None and taken.__module__.startswith("anthology."):
        raise ValueError(
            f"{kind.__name__!r} already names a norm of {taken.__module__}"
        )
    _REGISTRY[kind.__name__] = kind
    _parsed.cache_clear()
    return kind


def from_spec(spec: str) -> Any:
    """Build a norm from its ``repr``: ``from_spec(repr(n)) == n``.

    The text is parsed, never executed: names of norms, numbers, strings, ``None``,
    ``inf``, lists and tuples are all it may hold.

    Parameters
    ----------
    spec : str
        For example ``"Scaled(RMSToRMS(), 2.0)"``.

    Returns
    -------
    Norm or MaxOver
        Equal to the norm whose ``repr`` was given.

    Raises
    ------
    ValueError
        If the text is anything else; unknown names get the list of known ones.
    TypeError
        If ``spec`` is not a string.
    """
    if not isinstance(spec, str):
        raise TypeError(f"from_spec needs a string, got {type(spec).__name__}")
    return _parsed(spec)


@lru_cache(maxsize=256)  # optimizers ask at every step
def _parsed(spec: str) -> Any:
    try:
        tree = ast.parse(spec.strip(), mode="eval").body
        match tree:
            case ast.Call():
                return _build(tree)
        reason = "it is not a call such as 'RMSToRMS()'"
    except (SyntaxError, RecursionError, MemoryError):
        reason = "it cannot be parsed"
    raise ValueError(f"{spec[:80]!r} is not the specification of a norm: {reason}")


def _build(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(name, args, keywords)
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.Name(id="inf"):
            return math.inf
        case ast.UnaryOp(
            op=ast.USub(), operand=ast.Constant(value=int() | float() as value)
        ):
            return -value
        case ast.List(elts=elements):
            return [_build(e) for e in elements]
        case ast.Tuple(elts=elements):
            return tuple(_build(e) for e in elements)
    raise ValueError(
        f"{ast.unparse(node)!r} cannot be part of the specification of a norm"
    )


def _call(name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> Any:
    if name not in _REGISTRY:
        known = ", ".join(sorted(_REGISTRY))
        raise ValueError(f"no norm named {name!r} (known: {known})")
    positional = [_build(a) for a in args]
    named = {k.arg or "**": _build(k.value) for k in keywords}
    try:
        return _REGISTRY[name](*positional, **named)
    except TypeError as error:
        raise ValueError(f"wrong arguments for {name}: {error}") from error
