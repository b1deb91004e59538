"""What the chapter on inverse-free Shampoo says of experiments/inverse_free_shampoo.py."""

import sys
from statistics import mean, median

import pytest

from tools import address

sys.path.append(str(address.ROOT / "experiments"))

import inverse_free_shampoo as study
import race
from race_declaration import SIGMA, TARGET
from race_statistics import beats, steps_to, ties

RUNS = study.stored()
LOSS = {
    where: {name: study.losses(RUNS, where, name) for name in names}
    for where, names in study.RACERS.items()
}
TEXT, DIGITS, TIME = LOSS["text"], LOSS["digits"], RUNS["time/text"]
RACE = race.slice(["SIRFShampoo", "AdamW", "RootFreeRMSProp"], "text")


def test_everyone_had_as_many_settings_and_seeds() -> None:
    for where, names in study.RACERS.items():
        assert len({len(study.settings(where, name)) for name in names}) == 1
        assert {len(LOSS[where][name]) for name in names} == {3}


@pytest.mark.claim("sirf-transformers", trials=3)
def test_pace_on_a_transformer(claim) -> None:
    told = [round(mean(x), 3) for x in TEXT.values()]
    assert told == [2.218, 2.311, 2.414]
    tuned, sigma = TEXT["dense 1"], SIGMA["text"]
    assert len(tuned) == claim.trials
    assert all(beats(tuned, row["losses"], sigma) for row in RACE.values())
    assert ties(TEXT["dense 10"], RACE["AdamW"]["losses"], sigma)
    assert beats(TEXT["dense 10"], RACE["SIRFShampoo"]["losses"], sigma)
    assert beats(TEXT["Muon"], tuned, sigma)
    assert round(mean(RACE["SIRFShampoo"]["losses"]), 3) == 2.644
    assert round(mean(RACE["AdamW"]["losses"]), 3) == 2.447


@pytest.mark.claim("sirf-clock", trials=3)
def test_on_a_clock(claim) -> None:
    found = {}
    for name in study.BOTH:
        curves = study.curves(RUNS, "text", name)
        assert len(curves) == claim.trials
        found[name] = median(steps_to(c, TARGET["text"]) for c in curves)
    assert [round(x) for x in found.values()] == [99, 177, 263]
    slow = {name: TIME[name]["step"][1] for name in study.BOTH}
    assert slow["Muon"] == 1
    assert slow["dense 10"] < 1.3 and slow["dense 1"] > 1.5
    assert found["Muon"] < min(found[n] * slow[n] for n in ("dense 1", "dense 10"))


@pytest.mark.claim("sirf-rare-updates", trials=3)
def test_rare_updates_cost_on_text() -> None:
    assert beats(TEXT["dense 1"], TEXT["dense 10"], SIGMA["text"])
    assert ties(DIGITS["dense 1"], DIGITS["dense 10"], SIGMA["digits"])


@pytest.mark.claim("sirf-structures-digits", trials=3)
def test_structures_tie_on_digits() -> None:
    names = [f"{name} 10" for name in study.STRUCTURES]
    sigma = SIGMA["digits"]
    assert all(ties(DIGITS[a], DIGITS[b], sigma) for a in names for b in names)
    ends = [mean(DIGITS[name]) for name in names]
    assert 0.304 < min(ends) < max(ends) < 0.33
    behind = [n for n in DIGITS if beats(DIGITS["Muon"], DIGITS[n], sigma)]
    assert behind == [n for n in DIGITS if n not in ("Muon", "dense 1")]
    for refresh in (1, 10):
        cost = {n: TIME[f"{n} {refresh}"]["step"][1] for n in study.STRUCTURES}
        assert min(cost, key=cost.get) == "diagonal"
    assert cost["diagonal"] < cost["dense"] < min(cost["lower"], cost["hierarchical"])


def test_one_run_again() -> None:
    setting = study.best(RUNS, "digits", "dense 10")
    again = study.final(study.train("digits", "dense 10", *setting, 1))
    assert again == pytest.approx(study.losses(RUNS, "digits", "dense 10")[0], rel=0.25)
