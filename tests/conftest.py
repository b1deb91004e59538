"""What every test shares: claims, seeds, one thread per process, and who is slow."""

import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "book", deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("book")


@dataclass(frozen=True)
class Claim:
    """The figures a test was declared with, so that it can only use those.

    ``@pytest.mark.claim("steepest-descent", tol=1e-10, trials=200)`` ties a
    test to rows of the claims page. The page reads tolerance and number of
    trials from the decorator; the test reads them from this object.
    """

    ids: tuple[str, ...]
    _tol: float | None
    _trials: int | None

    @property
    def tol(self) -> float:
        if self._tol is None:
            raise pytest.UsageError(f"claim {self.ids}: the marker gives no tol=")
        return self._tol

    @property
    def trials(self) -> int:
        if self._trials is None:
            raise pytest.UsageError(f"claim {self.ids}: the marker gives no trials=")
        return self._trials


def claim_from_marker(marker: pytest.Mark) -> Claim:
    """The claim a marker declares; a usage error says what is wrong with it."""
    unknown = set(marker.kwargs) - {"tol", "trials"}
    if unknown:
        raise pytest.UsageError(
            f"claim marker takes tol= and trials=, not {sorted(unknown)}"
        )
    if not marker.args or not all(isinstance(a, str) for a in marker.args):
        raise pytest.UsageError("claim marker needs at least one id, as a string")
    return Claim(
        tuple(marker.args), marker.kwargs.get("tol"), marker.kwargs.get("trials")
    )


# The slow tests by name, in whatever case: over half a second, or over one in all.
SLOW_LIST = Path(__file__).with_name("slow.txt")
SLOW = frozenset(SLOW_LIST.read_text(encoding="utf-8").splitlines())
# The folders that `make check` runs without them.
QUICK = ("unit", "identities")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: tests/slow.txt names it")
    config.addinivalue_line(
        "markers",
        "claim(*ids, tol=None, trials=None): this test checks claims of the book",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.partition("[")[0] in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Skip what compares with a class that an old PyTorch does not have."""
    try:
        return (yield)
    except AttributeError as error:
        if str(error) == "module 'torch.optim' has no attribute 'Muon'":
            pytest.skip("PyTorch 2.9 brought its Muon")
        raise


@pytest.fixture
def claim(request: pytest.FixtureRequest) -> Claim:
    """Tolerance and number of trials from the test's own ``claim`` marker."""
    marker = request.node.get_closest_marker("claim")
    if marker is None:
        raise pytest.UsageError(
            f"{request.node.nodeid} asks for the claim fixture: "
            "decorate it with @pytest.mark.claim(id, tol=..., trials=...)"
        )
    return claim_from_marker(marker)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test draws the same numbers, whatever ran before it."""
    import torch

    torch.manual_seed(0)
