"""Norms as text, and every wrong argument of a norm."""

import copy
import math
import pickle

import pytest

from anthology import norms as N
from anthology.norms import base
from tests.norm_catalogue import CASES, INF, Case

every_norm = pytest.mark.parametrize("case", CASES, ids=str)


@every_norm
def test_a_specification_gives_the_norm_back(case: Case) -> None:
    n = case.norm
    for other in (
        N.from_spec(repr(n)),
        copy.deepcopy(n),
        pickle.loads(pickle.dumps(n)),
    ):
        assert other == n
        assert hash(other) == hash(n)
        assert repr(other) == repr(n)


def test_specifications_in_full() -> None:
    assert repr(N.Spectral("muon", 5)) == "Spectral(method='muon', steps=5)"
    assert N.from_spec("Spectral(method='muon', steps=5)") == N.Spectral("muon", 5)
    assert repr(N.Transpose(2 * N.OneTo(INF))) == "Transpose(Scaled(OneTo(inf), 2.0))"
    both = N.MaxOver([(N.Split(N.RMSToRMS("you"), 3), 1), (N.Lp(3), 0.5)])
    assert N.from_spec(repr(both)) == both
    assert N.from_spec("MaxOver(terms=((L2(), 1),))") == N.MaxOver([(N.L2(), 1)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Spectra()", r"no norm named 'Spectra' \(known: .*Spectral"),
        ("__import__('os')", "no norm named"),
        ("L2", "not a call"),
        ("L2().norm", "not a call"),
        ("(lambda: 0)()", "cannot be part"),
        ("Lp(1 + 1)", "cannot be part"),
        ("Lp(p)", "cannot be part"),
        ("Lp(**{})", "cannot be part"),
        ("Lp(p=", "cannot be parsed"),
        ("(" * 5000, "cannot be parsed"),
        ("", "cannot be parsed"),
        ("L2(3)", "wrong arguments for L2"),
        ("Lp(q=3)", "wrong arguments for Lp"),
        ("Lp(0.5)", "p >= 1"),
        ("Scaled(L2(), -1)", "positive"),
    ],
)
def test_what_is_no_specification_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        N.from_spec(text)


def test_specifications_are_strings() -> None:
    with pytest.raises(TypeError, match="string"):
        N.from_spec(N.L2())  # type: ignore[arg-type]


def test_own_norms_join_under_their_own_name(monkeypatch) -> None:
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))

    class Half(N.L2):
        """Half the Euclidean norm."""

    assert isinstance(N.from_spec("Half()"), Half)
    with pytest.raises(ValueError, match="already names a norm"):

        class L2(N.Norm):
            """Takes a name that is taken."""

    assert N.from_spec("L2()") == N.L2()


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: N.Lp(0.5), ValueError, "p >= 1"),
        (lambda: N.Lp(math.nan), ValueError, "p >= 1"),
        (lambda: N.Schatten("2"), TypeError, "p must be a number"),
        (lambda: N.OneTo(0), ValueError, "p >= 1"),
        (lambda: N.ToInf(-1), ValueError, "p >= 1"),
        (lambda: N.Spectral("newton"), ValueError, "'gram' or one of 'cubic', 'pade'"),
        (lambda: N.RMSToRMS("you", 7), ValueError, "has 6 polynomials"),
        (lambda: N.Spectral("svd", 3), ValueError, "takes no steps"),
        (lambda: N.KyFan(0), ValueError, "at least 1"),
        (lambda: N.LowRank(2.0), TypeError, "integer"),
        (lambda: N.Conv(0), ValueError, "at least 1"),
        (lambda: N.Conv(2.0), TypeError, "integer"),
        (lambda: 0 * N.L2(), ValueError, "positive and finite"),
        (lambda: N.L2() * math.inf, ValueError, "positive and finite"),
        (lambda: "2" * N.L2(), TypeError, "."),
        (lambda: N.Transpose(N.L2()), ValueError, "norm on matrices"),
        (lambda: N.Transpose("L2()"), TypeError, "needs a Norm"),
        (lambda: N.Split(N.L2(), 0), ValueError, "at least 1"),
        (lambda: N.Split(N.L2(), True), TypeError, "integer"),
    ],
)
def test_wrong_arguments_say_what_is_right(wrong, error, said) -> None:
    with pytest.raises(error, match=said):
        wrong()
