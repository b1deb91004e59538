"""Variants of Shampoo on the race's terms: KL factors, an average, one side.

Same problems, same search and same seeds as the race, which was declared before these
options existed; so they run apart and are judged by the race's margin.

Expected before the first run:
- "one-sided" ends within the margin of Shampoo or better;
- "average", β₂ = 0.98 for the sum, ends within the margin of Shampoo;
- "kl", with the same β₂, ends within the margin of "average" or better, at a best rate
  within a factor of 10 of AdamW's, as its steps are of Adam's size;
- "SOAP kl" ties with SOAP.

    python experiments/shampoo.py [digits] [text]

Each run is a line of results/shampoo.jsonl; started again, it goes on.
"""

from __future__ import annotations

import sys

import race
from race_contestants import VARIANTS
from race_declaration import PILOT, SEARCH_SEED, SEEDS
from race_runs import RESULTS, Runs, final_rate, neighbours, pilot_rates


def runs(**options: object) -> Runs:
    """The race's runs and these; new ones are stored apart."""
    found = Runs(RESULTS / "shampoo.jsonl", **options)  # type: ignore[arg-type]
    found.found = Runs().found | found.found
    return found


def compete(where: str) -> None:
    """The race's budget for each variant: seven rates, then five seeds."""
    known = runs(train=race.train)
    for name in VARIANTS:
        for k in range(len(PILOT)):
            known.get((where, name, pilot_rates(where, name)[k], SEARCH_SEED))
        best = known.best(where, name, pilot_rates(where, name))
        for rate in neighbours(best):
            known.get((where, name, rate, SEARCH_SEED))
        for seed in SEEDS:
            known.get((where, name, final_rate(known, where, name), seed), curve=True)


if __name__ == "__main__":
    race.torch.set_num_threads(1)
    for where in sys.argv[1:] or ["digits", "text"]:
        compete(where)
