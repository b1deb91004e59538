"""One browser for all tests of a file, and one server of the built site."""

from collections.abc import Iterator

import pytest

from tests.book.visits import launched, served


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Closed before another file begins: some run notebooks, which need its loop."""
    with launched() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """Address of the built site."""
    with served() as address:
        yield address
