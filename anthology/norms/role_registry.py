"""Rules of one's own for what parameters do."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, overload

from torch import Tensor, nn

from anthology.norms.base import Norm
from anthology.norms.places import Place, Role

Rule = Callable[[str, Tensor, nn.Module], tuple[str, Norm] | None]
Where = type[nn.Module] | str

_RULES: dict[Where, Rule] = {}


@overload
def role_rule(where: Where, role: str, norm: Norm) -> None: ...
@overload
def role_rule(where: Where) -> Callable[[Rule], Rule]: ...
def role_rule(where: Where, role: str | None = None, norm: Norm | None = None) -> Any:
    """Teach `metrize` a module type, or a name.

    With ``role`` and ``norm`` this one call is the rule; alone it is a decorator for
    a function ``(name, param, module) -> (role, norm)``, or None to leave a parameter
    to the other rules. ``name`` is the full one.

    Parameters
    ----------
    where : type of module or str
        Parameters that such modules own (and modules of types derived from it). Text
        is the name of such a type, which need not be imported, or a glob on the full
        name of a parameter.
    role : str, optional
        A word for the table. Muon sends the roles "embedding", "head", "gain",
        "bias", "entrywise" and "depthwise" to AdamW and takes those of the role
        "stack" matrix by matrix.
    norm : Norm, optional
        Parameters with fewer axes than it measures are passed by: a norm of matrices
        leaves the bias of a layer alone.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or only one of role and norm is given.

    Notes
    -----
    The last rule that fits counts, before those of the package and before the search
    for heads; ``overrides`` change what comes out. A rule for the same ``where``
    replaces the earlier one; `forget_role_rule` takes it back.

    Examples
    --------
    A layer that computes x W, with W stored in × out, by the name of its type; and
    filters of which each entry stands for itself:

    >>> import torch
    >>> from torch import nn
    >>> from anthology.norms import LInf, RMSToRMS, Transpose
    >>> from anthology.norms import forget_role_rule, metrize, role_rule
    >>> class Dense(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.kernel = nn.Parameter(torch.zeros(4, 8))
    ...         self.filters = nn.Parameter(torch.zeros(4, 3))
    >>> role_rule("Dense", "linear", Transpose(RMSToRMS()))
    >>> @role_rule("*filters")
    ... def filters(name, param, module):
    ...     return "entrywise", LInf()
    >>> print(metrize(nn.Sequential(Dense())))
    name       shape  role       norm                   scale  why
    0.kernel   4×8    linear     Transpose(RMSToRMS())  1      rule for Dense
    0.filters  4×3    entrywise  LInf()                 1      rule for *filters
    >>> forget_role_rule("Dense")
    >>> forget_role_rule("*filters")
    """
    is_type = isinstance(where, type) and issubclass(where, nn.Module)
    if not is_type and not isinstance(where, str):
        raise TypeError(
            "role_rule needs a type of modules, the name of one or a glob on the "
            f"names of parameters, got {where!r}"
        )
    if role is None and norm is None:

        def keep(rule: Rule) -> Rule:
            if not callable(rule):
                raise TypeError(f"a rule is a function, got {rule!r}")
            _keep(where, rule)
            return rule

        return keep
    if not isinstance(role, str) or not isinstance(norm, Norm):
        raise TypeError(
            "role_rule needs a role and a Norm, or neither and a function to "
            f"decorate, got {role!r} and {norm!r}"
        )
    known = role, norm

    def constant(name: str, p: Tensor, module: nn.Module) -> tuple[str, Norm] | None:
        return known if known[1].ndim <= max(1, p.ndim) else None

    _keep(where, constant)
    return None


def forget_role_rule(where: Where) -> None:
    """Take back what `role_rule` was told.

    Parameters
    ----------
    where : type of module or str
        As given there.

    Raises
    ------
    KeyError
        If there is no such rule.
    """
    if where not in _RULES:
        known = ", ".join(map(_shown, _RULES)) or "none"
        raise KeyError(f"no rule for {_shown(where)} (rules: {known})")
    del _RULES[where]


def registered(place: Place) -> Role | None:
    """What a rule of the user's own says of a parameter."""
    full = f"{place.path}.{place.name}" if place.path else place.name
    for where, rule in reversed(_RULES.items()):
        if not _matches(where, full, place.module):
            continue
        found = rule(full, place.param, place.module)
        if found is None:
            continue
        kinds = tuple(map(type, found)) if isinstance(found, tuple | list) else ()
        if len(kinds) != 2 or kinds[0] is not str or not issubclass(kinds[1], Norm):
            raise TypeError(
                f"the rule for {_shown(where)} must return a role and a Norm, or "
                f"None, got {found!r}"
            )
        role, norm = found
        if norm.ndim > 1:
            norm._check(place.param)
        return Role(role, norm, f"rule for {_shown(where)}")
    return None


def _keep(where: Where, rule: Rule) -> None:
    _RULES.pop(where, None)  # the last one counts, also where it replaces another
    _RULES[where] = rule


def _matches(where: Where, name: str, module: nn.Module) -> bool:
    if isinstance(where, type):
        return isinstance(module, where)
    kinds = type(module).__mro__
    return fnmatchcase(name, where) or any(k.__name__ == where for k in kinds)


def _shown(where: Where) -> str:
    return where if isinstance(where, str) else where.__name__
