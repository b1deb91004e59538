"""What a user says of parameters: rules for every model, and overrides for one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, overload

from torch import Tensor, nn

from anthology.norms.base import Norm, positive
from anthology.norms.layers import Role, Use
from anthology.norms.metrized import Row

Rule = Callable[[str, Tensor, nn.Module], tuple[str, Norm] | None]
Where = type[nn.Module] | str
Selector = Where | Callable[[str, Tensor, nn.Module], bool]
Override = tuple[Selector, Norm | dict[str, Any]]

_RULES: dict[Where, Rule] = {}


@overload
def role_rule(where: Where, role: str, norm: Norm) -> None: ...
@overload
def role_rule(where: Where) -> Callable[[Rule], Rule]: ...
def role_rule(where: Where, role: str | None = None, norm: Norm | None = None) -> Any:
    """Teach `metrize` a module type, or a name.

    With ``role`` and ``norm`` this one call is the rule; alone it is a decorator for
    a function ``(full name, param, module) -> (role, norm)``, or None to leave a
    parameter to the other rules. The last rule that fits counts, before those of the
    package and the search for heads; ``overrides`` change what comes out. A later rule
    for the same ``where`` replaces it; `forget_role_rule` takes it back.

    Parameters
    ----------
    where : type of module or str
        Parameters that modules of such a type, or one derived from it, own. Text is
        the name of the type, which need not be imported, or a glob on the full name of
        a parameter.
    role : str, optional
        A word for the table. Muon sends the roles "embedding", "head", "gain",
        "bias", "entrywise" and "depthwise" to AdamW and takes those of the role
        "stack" matrix by matrix.
    norm : Norm, optional
        Parameters with fewer axes than it measures are passed by, as a layer's bias is
        by a norm of matrices. TypeError if only one of role and norm is given.

    Examples
    --------
    >>> from torch import nn
    >>> from anthology import norms
    >>> norms.role_rule("Bilinear", "stack", norms.RMSToRMS())  # out × in × in
    >>> @norms.role_rule("*.bias")
    ... def biases(name, param, module):
    ...     return "entrywise", norms.LInf()
    >>> print(norms.metrize(nn.Sequential(nn.Bilinear(4, 3, 5))))
    name      shape  role       norm        scale  why
    0.weight  5×4×3  stack      RMSToRMS()  1      rule for Bilinear
    0.bias    5      entrywise  LInf()      1      rule for *.bias
    >>> norms.forget_role_rule("Bilinear"), norms.forget_role_rule("*.bias")
    (None, None)
    """
    if not isinstance(where, str) and not _is_layer(where):
        raise TypeError(
            "role_rule needs a type of modules, the name of one or a glob on the "
            f"names of parameters, got {where!r}"
        )

    def keep(rule: Rule) -> Rule:
        if not callable(rule):
            raise TypeError(f"a rule is a function, got {rule!r}")
        _RULES.pop(where, None)  # the last one counts, also where it replaces another
        _RULES[where] = rule
        return rule

    if role is None and norm is None:
        return keep
    if not isinstance(role, str) or not isinstance(norm, Norm):
        raise TypeError(
            "role_rule needs a role and a Norm, or neither and a function to "
            f"decorate, got {role!r} and {norm!r}"
        )
    keep(lambda name, p, module: (role, norm) if _has_axes(p, norm) else None)
    return None


def forget_role_rule(where: Where) -> None:
    """Take back what `role_rule` was told of ``where``; KeyError if nothing was."""
    if where not in _RULES:
        known = ", ".join(map(_shown, _RULES)) or "none"
        raise KeyError(f"no rule for {_shown(where)} (rules: {known})")
    del _RULES[where]


def by_a_users_rule(use: Use) -> Role | None:
    """What a rule of the user's own says of a parameter."""
    p, module = use.param, use.module
    kinds = {kind.__name__ for kind in type(module).__mro__}
    for where, rule in reversed(_RULES.items()):
        if where not in kinds and not _selects(where, use):
            continue
        match rule(use.full, p, module):
            case None:
                continue
            case (str() as role, Norm() as norm) if type(role) is str:
                if norm.ndim > 1:
                    norm._check(p)
                return Role(role, norm, f"rule for {_shown(where)}")
            case found:
                raise TypeError(
                    f"the rule for {_shown(where)} must return a role and a Norm, or "
                    f"None, got {found!r}"
                )
    return None


def overridden(
    rows: Sequence[Row], uses: Sequence[list[Use]], overrides: Sequence[Override]
) -> list[Row]:
    """The rows with what the user wants changed."""
    rows = list(rows)
    for (selector, change), settings in [(o, _settings(o)) for o in overrides]:
        hits = [
            i
            for i, row in enumerate(rows)
            if any(_selects(selector, use) for use in uses[i])
            and _has_axes(row.param, settings.get("norm"))
        ]
        if not hits:
            raise ValueError(
                f"the override ({selector!r}, {change!r}) fits no parameter of the "
                f"model (names: {', '.join(row.name for row in rows[:8])}, …)"
            )
        for i in hits:
            rows[i] = _changed(rows[i], dict(settings))
    return rows


def _changed(row: Row, settings: dict[str, Any]) -> Row:
    norm, role = settings.pop("norm", row.norm), settings.pop("role", row.role)
    if norm.ndim > 1:
        norm._check(row.param)
    scale = positive(settings.pop("scale", row.scale), "scale")
    row = replace(row, norm=norm, role=role, scale=scale, why="by an override")
    return replace(row, settings=row.settings | settings)


def _settings(override: Override) -> dict[str, Any]:
    """What an override sets, checked."""
    if not isinstance(override, tuple | list) or len(override) != 2:
        raise TypeError(
            f"an override is a pair (selector, Norm or dict), got {override!r}"
        )
    selector, change = override
    known = isinstance(selector, str) or callable(selector)
    if not known or (isinstance(selector, type) and not _is_layer(selector)):
        raise TypeError(
            "a selector is a module type, a glob or a function "
            f"(name, param, module), got {selector!r}"
        )
    settings = change if isinstance(change, dict) else {"norm": change}
    if not all(isinstance(v, Norm) for k, v in settings.items() if k == "norm"):
        raise TypeError(f"an override needs a Norm or a dict, got {change!r}")
    if {"params", "param_names"} & set(settings):
        raise ValueError("an override cannot set the parameters of a group")
    return settings


def _selects(selector: Selector, use: Use) -> bool:
    """Whether a type, a glob or a function means this parameter."""
    if isinstance(selector, str):
        return fnmatchcase(use.full, selector)
    if isinstance(selector, type):
        return isinstance(use.module, selector)
    return selector(use.full, use.param, use.module)


def _has_axes(p: Tensor, norm: Norm | None) -> bool:
    return norm is None or norm.ndim <= max(1, p.ndim)


def _is_layer(where: object) -> bool:
    return isinstance(where, type) and issubclass(where, nn.Module)


def _shown(where: Where) -> str:
    return where if isinstance(where, str) else where.__name__
