"""What a rule does with its hyper-parameters, be they numbers or read by its code.

In eager PyTorch a hyper-parameter is a float, and a list or tensor operation takes it
as it is. In compiled code it is a `Coefficient`, so that a schedule compiles nothing.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anthology.optim.core.state import Coefficient


def value(number: Any) -> Any:
    """A hyper-parameter as a factor."""
    return number.value if isinstance(number, Coefficient) else number


def rest(beta: Any) -> Any:
    """1 − β, exact where β is a number that compiled code reads."""
    return beta.rest if isinstance(beta, Coefficient) else 1 - beta


def kept(lr: Any, decay: Any) -> Any:
    """1 − ηκ, what a decoupled decay leaves."""
    return decay.kept if isinstance(decay, Coefficient) else 1 - lr * decay


def blend(m: Tensor, g: Tensor, beta: Any) -> Tensor:
    """βm + (1−β)g."""
    if isinstance(beta, Coefficient):
        # m − (1−β)m rather than βm: in single precision β and 1 − β do not add to 1
        return m - m * beta.rest + g * beta.rest
    return m.lerp(g, 1 - beta)


def blend_(m: Tensor, g: Tensor, beta: Any) -> Tensor:
    """The same, written into m."""
    if isinstance(beta, Coefficient):
        return m.copy_(blend(m, g, beta))
    return m.lerp_(g, 1 - beta)


def plus(x: Tensor, y: Tensor, rate: Any) -> Tensor:
    """x + rate·y, in one operation where the rate is a plain number."""
    if isinstance(rate, Coefficient):
        return x + y * rate.value
    return x.add(y, alpha=rate)


def add_square(s: Tensor, g: Tensor, rate: Any) -> None:
    """s ← s + rate·g², in one operation where the rate is a plain number."""
    if isinstance(rate, Tensor):
        s.add_(g * g * rate)
    else:
        s.addcmul_(g, g, value=rate)
