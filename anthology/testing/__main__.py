"""Check an optimizer from the command line.

    python -m anthology.testing torch.optim.AdamW
    python -m anthology.testing anthology.optim.SteepestDescent lr=0.01 norm="'L2()'"

Prints the report; the exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
from pkgutil import resolve_name
from typing import Any

from .contract import contract


def option(text: str) -> tuple[str, Any]:
    """A ``name=value`` from the command line."""
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main(arguments: list[str] | None = None) -> int:
    """Run the suite and print the report."""
    parser = argparse.ArgumentParser(prog="python -m anthology.testing")
    parser.add_argument("optimizer", help="dotted path of the class")
    parser.add_argument("options", nargs="*", type=option, help="name=value")
    given = parser.parse_args(arguments)
    try:
        kind = resolve_name(given.optimizer)
    except (ImportError, AttributeError, ValueError) as error:
        parser.error(f"no class at {given.optimizer!r}: {error}")
    factory = functools.partial(kind, **dict(given.options))
    report = contract(factory, given.optimizer)
    print(report)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
