"""What a norm is: three methods, and a text that `from_spec` reads. Its multiples."""

import ast
import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from numbers import Real
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from anthology.linalg.safe import guarded, require_numeric

Kind = TypeVar("Kind", bound=type)

_REGISTRY: dict[str, Callable[..., Any]] = {}
_POINTS = {1: "vectors", 2: "matrices"}
_ADVICE = (
    "flatten a scalar to one axis and use a vector norm such as RMS, L2 or LInf",
    "for a vector use RMS, L2, LInf, L1 or Lp",
    "for a matrix use RMSToRMS, Spectral, Frobenius or MaxAbs; "
    + "for a kernel with k spatial axes Conv(k)",
)


def real_number(value: float, name: str) -> float:
    """``value`` as a float; TypeError unless it is a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def positive(value: float, name: str) -> float:
    """``value`` as a float; ValueError unless it is positive and finite."""
    if not 0 < real_number(value, name) < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return float(value)


def weight_of(value: float, name: str) -> float:
    """``value`` as a float; ValueError unless it is finite and not negative."""
    if not 0 <= real_number(value, name) < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    return float(value)


def conjugate(p: float) -> float:
    """The exponent q with 1/p + 1/q = 1."""
    if p == 1:
        return math.inf
    return 1.0 if p == math.inf else p / (p - 1)


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

    The text, such as ``"Scaled(RMSToRMS(), 2.0)"``, is parsed, never executed: names of
    norms (`MaxOver` too), numbers, strings, ``None``, ``inf``, lists and tuples are all
    it may hold. ValueError if it is anything else, TypeError if it is no string.
    """
    if not isinstance(spec, str):
        raise TypeError(f"from_spec needs a string, got {type(spec).__name__}")
    return _parsed(spec)


@lru_cache(maxsize=256)  # optimizers ask at every step
def _parsed(spec: str) -> Any:
    reason = "it is not a call such as 'RMSToRMS()'"
    try:
        tree = ast.parse(spec.strip(), mode="eval").body
        if isinstance(tree, ast.Call):
            return _built(tree)
    except (SyntaxError, RecursionError, MemoryError):
        reason = "it cannot be parsed"
    raise ValueError(f"{spec[:80]!r} is not the specification of a norm: {reason}")


def _built(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            if name not in _REGISTRY:
                known = ", ".join(sorted(_REGISTRY))
                raise ValueError(f"no norm named {name!r} (known: {known})")
            positional = [_built(a) for a in args]
            named = {k.arg or "**": _built(k.value) for k in keywords}
            try:
                return _REGISTRY[name](*positional, **named)
            except TypeError as error:
                raise ValueError(f"wrong arguments for {name}: {error}") from error
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.Name(id="inf"):
            return math.inf
        case ast.UnaryOp(
            op=ast.USub(), operand=ast.Constant(value=int() | float() as value)
        ):
            return -value
        case ast.List(elts=elements):
            return [_built(e) for e in elements]
        case ast.Tuple(elts=elements):
            return tuple(_built(e) for e in elements)
    raise ValueError(
        f"{ast.unparse(node)!r} cannot be part of the specification of a norm"
    )


class Norm:
    """A norm ‖·‖ on vectors, matrices or convolution kernels.

    The last ``ndim`` axes of a tensor make one point; all axes before them are a
    batch of independent points. Three questions can be asked: how long is a step
    (``norm``), how steep is a gradient (``dual``), which unit step is steepest
    (``dualize``). They belong together:

    ``⟨g, dualize(g)⟩ = dual(g)`` and ``norm(dualize(g)) = 1`` for every g ≠ 0.

    Every input type from bfloat16 to float64 is computed in single precision at
    least and returned in its own (in half precision a norm may be too large for its
    type, and is inf); sizes from 1e-30 to 1e30 neither over- nor underflow; a point
    with a non-finite entry gives NaN. Complex tensors are points of a real space with
    the inner product Re⟨g, t⟩. Where several steps are steepest, one is chosen and
    the class says which.

    A subclass is a frozen dataclass with plain fields and three methods, ``_norm``,
    ``_dual`` and ``_dualize``, that get their input in working precision and not
    empty; what they return for a point that is not finite is overwritten. Its
    ``repr`` is its specification: see ``from_spec``.

    Source: Bernstein & Newhouse 2024 (arXiv 2409.20325), Prop. 1.
    """

    _ndim: ClassVar[int] = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):
            register(cls)

    @property
    def ndim(self) -> int:
        """How many trailing axes make one point: 1 vector, 2 matrix, 2+k kernel."""
        return self._ndim

    def norm(self, x: Tensor) -> Tensor:
        """Length ‖x‖ of each point: ``(*batch, *point)`` to ``batch``.

        Type of ``x`` (its real half if complex). ValueError if ``x`` has fewer axes than
        a point, TypeError if it is not a dense floating or complex tensor.
        """
        self._check(x)
        return guarded(x, self.ndim, self._norm, per_point=True)

    def dual(self, g: Tensor) -> Tensor:
        """Dual norm ‖g‖_* = max ⟨g, t⟩ over ‖t‖ ≤ 1 of each point; as for ``norm``."""
        self._check(g)
        return guarded(g, self.ndim, self._dual, per_point=True)

    def dualize(self, g: Tensor) -> Tensor:
        """Duality map: a unit step t, shaped as g, of ⟨g, t⟩ = ‖g‖_*; 0 where g is 0."""
        self._check(g)
        return guarded(g, self.ndim, self._dualize, per_point=False)

    def __repr__(self) -> str:
        shown = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.default is MISSING:
                shown.append(repr(value))
            elif value != field.default:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __mul__(self, factor: float) -> "Norm":
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        return Scaled(self, factor)

    __rmul__ = __mul__

    def _check(self, x: Tensor) -> None:
        require_numeric(x, type(self).__name__)
        if x.ndim < self.ndim:
            raise ValueError(
                f"{type(self).__name__} measures {_POINTS.get(self.ndim, 'kernels')} "
                f"(at least {self.ndim} {'axis' if self.ndim == 1 else 'axes'}), got "
                f"shape {tuple(x.shape)}: {_ADVICE[min(x.ndim, 2)]}"
            )

    def _norm(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _dual(self, g: Tensor) -> Tensor:
        raise NotImplementedError

    def _dualize(self, g: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class _WithExponent(Norm):
    """A norm that is told its exponent p ≥ 1."""

    p: float

    def __post_init__(self) -> None:
        if not real_number(self.p, "p") >= 1:
            raise ValueError(
                f"a norm needs an exponent p >= 1 (inf allowed), got p={self.p!r}"
            )
        object.__setattr__(self, "p", float(self.p))
        object.__setattr__(self, "_p", self.p)


@dataclass(frozen=True, repr=False)
class _Around(Norm):
    """A norm that measures by another one."""

    base: Norm

    def __post_init__(self) -> None:
        if not isinstance(self.base, Norm):
            raise TypeError(f"{type(self).__name__} needs a Norm, got {self.base!r}")

    @property
    def ndim(self) -> int:
        return self.base.ndim

    def _blocks(self, x: Tensor) -> list[Tensor]:
        """What the other norm is asked for."""
        return [x]

    def _check(self, x: Tensor) -> None:
        super()._check(x)
        for block in self._blocks(x):
            self.base._check(block)


@dataclass(frozen=True, repr=False)
class Scaled(_Around):
    """s·‖·‖ (dual norm ‖g‖_*/s, steepest unit step dualize(g)/s).

    ``2 * norm`` is the same as ``Scaled(norm, 2.0)``; s is positive and finite.
    """

    s: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "s", positive(self.s, "s"))

    def _norm(self, x: Tensor) -> Tensor:
        return self.base._norm(x) * self.s

    def _dual(self, g: Tensor) -> Tensor:
        return self.base._dual(g) / self.s

    def _dualize(self, g: Tensor) -> Tensor:
        return self.base._dualize(g) / self.s
