"""What the chapter on SOAP says of runs: the race, experiments/soap.py, rounding.py."""

import sys
from statistics import mean

import pytest

from tools import address

sys.path.append(str(address.ROOT / "experiments"))

import race
import rounding
import shampoo
import soap
from race_declaration import SIGMA
from race_statistics import beats, steps_to, ties

RUNS = soap.stored()
CHAINS = {name: soap.losses(RUNS, name) for name in soap.CHAINS}
BASES = {name: soap.losses(RUNS, name) for name in soap.REFRESH}
TEXT = {name: soap.losses(RUNS, name) for name in soap.SETTINGS}
RACE = race.slice(["SOAP", "SOAP-0", "Shampoo", "AdamW"], "text")


@pytest.mark.claim("soap-chains", trials=5)
def test_only_whitening_entries_alone_falls_behind_muon() -> None:
    muon, sigma = CHAINS.pop("Muon"), SIGMA["digits"]
    behind = [name for name, x in CHAINS.items() if beats(muon, x, sigma)]
    assert behind == ["Adam"]
    assert not any(beats(x, muon, sigma) for x in CHAINS.values())


@pytest.mark.claim("soap-fewer-steps", trials=5)
def test_steps_to_the_target_on_text() -> None:
    middle = {
        name: sorted(steps_to(curve, 2.5) for curve in row["curves"])[2]
        for name, row in RACE.items()
    }
    told = [middle[name] for name in ("SOAP", "AdamW", "Shampoo")]
    assert [int(x + 0.5) for x in told] == [220, 224, 138]
    published, sigma = TEXT["published"], SIGMA["text"]
    assert beats(published, RACE["AdamW"]["losses"], sigma)
    assert ties(published, RACE["Shampoo"]["losses"], sigma)


@pytest.mark.claim("soap-patient", trials=5)
def test_old_bases_tie_with_young_ones() -> None:
    told = {name: round(mean(x), 3) for name, x in BASES.items()}
    assert told == {"1": 0.205, "10": 0.205, "100": 0.237, "never": 0.248}
    assert all(ties(BASES["10"], x, SIGMA["digits"]) for x in BASES.values())
    assert min(BASES["never"]) > max(BASES["10"])


@pytest.mark.claim("soap-share-costs", trials=5)
def test_a_share_of_three_per_cent_costs_on_text() -> None:
    ours, published, small = RACE["SOAP"]["losses"], *TEXT.values()
    assert beats(published, ours, SIGMA["text"])
    assert beats(small, ours, SIGMA["text"])
    assert ties(published, small, SIGMA["text"])
    assert beats(RACE["SOAP-0"]["losses"], ours, SIGMA["text"])
    told = [round(mean(x), 3) for x in (ours, published, small)]
    assert told == [2.43, 2.328, 2.344]


@pytest.mark.claim("soap-halves", trials=10)
def test_how_far_halves_of_a_batch_lead_away() -> None:
    kept = rounding.json.loads(rounding.STORE.read_text())["results"]
    far = {
        name: max(max(kept[where][name]["apart"]) for where in kept)
        for name in ("SOAP, published", "SOAP, 0.03")
    }
    assert round(far["SOAP, published"]) == 46
    assert round(far["SOAP, 0.03"], 2) == 0.11
    small = [x for name, x in RUNS.items() if name.startswith("apart/")]
    assert len(small) == 10
    assert round(max(small), 1) == 2.2


def test_kl_factors_end_where_sums_do() -> None:
    losses = race.slice(["SOAP kl"], "digits", shampoo.runs())["SOAP kl"]["losses"]
    assert round(mean(losses), 3) == 0.205


def test_every_run_was_made_with_its_seeds() -> None:
    for kind in (*soap.CHAINS, *soap.REFRESH, *soap.SETTINGS):
        assert len(set(soap.losses(RUNS, kind))) == len(soap.SEEDS)
