"""Every pure form of an optimizer, by name, and what its arguments must say."""

import inspect
from typing import Any

from anthology.optim import functional

NEEDED: dict[str, dict[str, Any]] = {
    "steepest_descent": {"lr": 0.1},
    "root_free_rmsprop": {"batch_size": 4},
    "root_free_adamw": {"batch_size": 4},
    "sirf_shampoo": {"batch_size": 4},
}
FORMS = {
    name: form
    for name, form in vars(functional).items()
    if inspect.isfunction(form)
    and form.__module__ == functional.__name__
    and not name.startswith("_")
}
