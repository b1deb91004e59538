"""What was decided, and what was expected, before the first run of the race."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SHORT = ("digits", "text", "mnist")
# For each problem the standard deviation between seeds, and a loss to get to. Both are
# from runs of torch's AdamW, of other seeds, made before: their deviation at a good
# rate, rounded up, and about their test loss after three quarters of a run.
SIGMA: Mapping[str, float] = {"digits": 0.025, "text": 0.02, "mnist": 0.01}
TARGET: Mapping[str, float] = {"digits": 0.36, "text": 2.5, "mnist": 0.15}

PILOT = (0, -1, 1, -2, 2)  # powers of COARSE around the middle rate
COARSE, FINE = 4.0, 2.0
SEARCH_SEED, SEEDS = 0, (1, 2, 3, 4, 5)
LONG_SEEDS = (1, 2, 3)
LOOKS, WARMUP = 25, 20  # test loss every 25 steps; warm-up of steps/20

DECLARATION = {
    "problems": {
        "digits": "14,090 weights: perceptron 144-64-64-10, 400 steps of 64",
        "text": "82,368 weights: transformer of width 48, 2 blocks, 300 steps of "
        "16 times 32 bytes",
        "mnist": "30,938 weights: residual network of widths 16 and 32, 300 steps of "
        "32 out of 8,000 digits",
    },
    "measure": "cross-entropy of data not trained on, after the last step",
    "budget": "each contestant on each problem: one seed at 5 rates, a factor of 4 "
    "apart; the same seed at half and twice the best of them; five other seeds at the "
    "best of the 7",
    "schedule": "rate up over the first twentieth, then linearly down to zero",
    "second settings": "published defaults; momentum 0.9 where the default is none; "
    "Muon's AdamW at 3e-3 and Scion's radius 30, as first_rates.json found; roots of "
    "KrADagrad every 10 steps",
    "given": "metrize(model) to SteepestDescent, FreeSteepestDescent, Muon and Scion, "
    "plain parameters to the others",
    "without momentum": "the same budget, under the name with -0; Lion and Adam "
    "without it are Signum and AdamW",
    "rule": "a beats b if (mean b - mean a) / sqrt(1/5 + 1/5) is at least 3.09 sigma; "
    "sigma is the stated one, or that of the pair's own runs if larger; a missing or "
    "infinite run makes a mean infinite",
    "steps": "first step at which the median curve of the five seeds is at the target, "
    "by straight lines between looks 25 steps apart",
    "time": "processor time of a step, one thread, median over the pilot; told as a "
    "multiple of torch's SGD",
    "made before": "runs of torch's AdamW with seeds 100 and up, for sigma, the targets "
    "and the size of the network of mnist; steps at the middle rates, to see the time "
    "they take; first_rates.json, whose best rates are the middles",
    "long": "about a million weights, 1,500 steps, the best rate and its two "
    "neighbours, three seeds",
    "sigma": SIGMA,
    "margin": 3.09,
    "target": TARGET,
}


@dataclass(frozen=True)
class Prediction:
    """A sentence that the race can contradict, and the test that does."""

    says: str
    source: str
    test: str  # a function of race_table.py
    given: tuple[str | float, ...]


def _each(
    says: str, source: str, test: str, *given: str | float
) -> tuple[Prediction, ...]:
    """The same prediction for the three problems."""
    return tuple(
        Prediction(f"{where}: {says}", source, test, (where, *given)) for where in SHORT
    )


SD, ADAM, ROOT = "steepest-descent", "adam", "root-free"
BEYOND, COUNTER, COST = "beyond-gradient-descent", "counter-term", "what-it-costs"
PAPER = "Lin et al. 2024, on trial in root-free"

PREDICTIONS: tuple[Prediction, ...] = (
    # the same rule twice
    *_each("our SGD ties with torch's", SD, "ties", "SGD", "torch.SGD"),
    *_each("our AdamW ties with torch's", ADAM, "ties", "AdamW", "torch.AdamW"),
    *_each("Adam ties with AdamW", ADAM, "ties", "Adam", "AdamW"),
    Prediction(
        "text: our Muon ties with torch's, which takes the same matrices",
        SD,
        "ties",
        ("text", "Muon", "torch.Muon"),
    ),
    # steepest-descent: a layer's own norm is worth having
    Prediction("text: Muon beats AdamW", SD, "beats", ("text", "Muon", "AdamW")),
    Prediction(
        "text: Muon is at the target in at most 0.8 of AdamW's steps",
        SD,
        "sooner",
        ("text", "Muon", "AdamW", 0.8),
    ),
    *_each(
        "SteepestDescent in the layers' norms beats SGD",
        SD,
        "beats",
        "SteepestDescent",
        "SGD",
    ),
    *_each(
        "Scion ends within the margin of SteepestDescent, whose step it takes",
        SD,
        "ties",
        "Scion",
        "SteepestDescent",
    ),
    *_each("Shampoo beats SGD", SD, "beats", "Shampoo", "SGD"),
    *_each("SOAP beats AdamW", SD, "beats", "SOAP", "AdamW"),
    # adam
    Prediction("text: AdamW beats SGD", ADAM, "beats", ("text", "AdamW", "SGD")),
    *_each(
        "the best rate of Signum is at most half of AdamW's: its steps are full",
        ADAM,
        "rate",
        "Signum",
        "AdamW",
        0.0,
        0.5,
    ),
    *_each("Lion ties with Signum", ADAM, "ties", "Lion", "Signum"),
    *_each("Prodigy's best factor is within 4 of 1", ADAM, "factor", "Prodigy", 4.0),
    *_each(
        "Prodigy ends within the margin of AdamW or better",
        ADAM,
        "keeps_up",
        "Prodigy",
        "AdamW",
    ),
    # root-free
    Prediction(
        "mnist: RootFreeAdamW ends within the margin of SGD or better",
        PAPER,
        "keeps_up",
        ("mnist", "RootFreeAdamW", "SGD"),
    ),
    Prediction(
        "mnist: SGD beats AdamW: there is a gap to close",
        PAPER,
        "beats",
        ("mnist", "SGD", "AdamW"),
    ),
    Prediction(
        "mnist: SGD has no lead over AdamW",
        ROOT,
        "keeps_up",
        ("mnist", "AdamW", "SGD"),
    ),
    Prediction(
        "text: RootFreeAdamW keeps pace with AdamW",
        ROOT,
        "keeps_up",
        ("text", "RootFreeAdamW", "AdamW"),
    ),
    Prediction(
        "text: SIRFShampoo beats RootFreeRMSProp, its diagonal",
        ROOT,
        "beats",
        ("text", "SIRFShampoo", "RootFreeRMSProp"),
    ),
    *_each(
        "the best rate of RootFreeAdamW is over 10 times AdamW's: no unit of the loss",
        ROOT,
        "rate",
        "RootFreeAdamW",
        "AdamW",
        10.0,
        1e6,
    ),
    *_each(
        "KrADagrad ends within the margin of Shampoo or better",
        ROOT,
        "keeps_up",
        "KrADagrad",
        "Shampoo",
    ),
    # momentum
    *_each(
        "the best rate of SGD grows by 5 to 20 when its momentum of 0.9 goes",
        BEYOND,
        "rate",
        "SGD-0",
        "SGD",
        5.0,
        20.0,
    ),
    *_each(
        "SGD ties with SGD without momentum: at these rates it is a longer step",
        BEYOND,
        "ties",
        "SGD",
        "SGD-0",
    ),
    *_each(
        "Signum beats signs without momentum: only an average makes signs listen",
        BEYOND,
        "beats",
        "Signum",
        "Signum-0",
    ),
    Prediction(
        "text: Muon beats Muon without momentum",
        BEYOND,
        "beats",
        ("text", "Muon", "Muon-0"),
    ),
    Prediction(
        "digits: AdamW beats AdamW-0, which rewards large gradients the more",
        BEYOND,
        "beats",
        ("digits", "AdamW", "AdamW-0"),
    ),
    Prediction(
        "text: the best rate of SteepestDescent moves by less than 8 without momentum: "
        "an average of weight 1 - 0.9 is no longer step",
        COUNTER,
        "rate",
        ("text", "SteepestDescent-0", "SteepestDescent", 0.125, 8.0),
    ),
    # cost
    *_each("a step of Muon takes at most twice SGD's", COST, "costs", "Muon", 0.0, 2.0),
    *_each("a step of AdamW takes at most 1.5", COST, "costs", "AdamW", 0.0, 1.5),
    Prediction(
        "text: a step of Shampoo, with decompositions each time, takes over 3",
        COST,
        "costs",
        ("text", "Shampoo", 3.0, 1e3),
    ),
    Prediction(
        "text: a step of SIRFShampoo, of products alone, is cheaper than Shampoo's",
        ROOT,
        "cheaper",
        ("text", "SIRFShampoo", "Shampoo"),
    ),
    *_each("SGD keeps 4 bytes a weight", COST, "keeps", "SGD", 4.0, 4.0),
    *_each("AdamW keeps 8 bytes a weight", COST, "keeps", "AdamW", 7.9, 8.1),
    *_each("Muon keeps at most 6 bytes a weight", COST, "keeps", "Muon", 4.0, 6.0),
)
