"""Every pure form of an optimizer, by name, and what its arguments must say."""

import inspect
from typing import Any

from anthology.optim import functional
from tests.examples import EXAMPLES

FORMS = {
    name: form
    for name, form in vars(functional).items()
    if inspect.isfunction(form)
    and form.__module__ == functional.__name__
    and not name.startswith("_")
}
# A form is named as its class, in small letters between underscores.
_NEEDS = {name.lower(): example.needs for name, example in EXAMPLES.items()}
NEEDED: dict[str, dict[str, Any]] = {
    name: _NEEDS.get(name.replace("_", ""), {}) for name in FORMS
}
