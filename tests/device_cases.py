"""Every optimizer, set so that a step on a device waits for nothing."""

from collections.abc import Callable
from functools import partial
from typing import Any

from anthology import optim

SHAPES = [(12, 8), (8, 12), (8, 8), (8, 8), (7,), (4, 3, 3, 3), ()]
MUON = "RMSToRMS(method='muon')"
OURS: dict[str, Callable[..., Any]] = {
    "SteepestDescent": partial(optim.SteepestDescent, lr=0.1, norm=MUON),
    "SteepestDescent, max": partial(
        optim.SteepestDescent, lr=0.1, norm="LInf()", step="steepest", momentum=0.9
    ),
    "FreeSteepestDescent": partial(optim.FreeSteepestDescent, norm="LInf()"),
    "SGD": optim.SGD,
    "SGD momentum": partial(optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD dampened": partial(optim.SGD, momentum=0.9, dampening=0.1),
    "SGD normalised": partial(optim.SGD, momentum=0.9, normalised=True),
    "Signum": partial(optim.Signum, nesterov=True),
    "Lion": partial(optim.Lion, weight_decay=0.1),
    "Adam": partial(optim.Adam, weight_decay=0.1, amsgrad=True),
    "AdamW": partial(optim.AdamW, maximize=True),
    "Shampoo": partial(optim.Shampoo, root="newton", capturable=True, refresh=3),
    "Shampoo grafted": partial(
        optim.Shampoo,
        root="newton-schulz",
        grafting="rms",
        momentum=0.9,
        betas=(0.9, 0.99),
    ),
    "Shampoo kl": partial(
        optim.Shampoo, root="newton", capturable=True, factors="kl", eps=1e-2
    ),
    "Shampoo one-sided": partial(optim.Shampoo, root="newton", sides="one"),
    "Muon": optim.Muon,
    "Muon gram": partial(optim.Muon, method="gram", weight_decay=0.1),
    "Muon rows": partial(optim.Muon, row_beta=0.95, step="steepest"),
    "Scion": partial(optim.Scion, norm=MUON, momentum=0.9),
    "Prodigy": partial(optim.Prodigy, use_bias_correction=True),
    "Prodigy per group": partial(optim.Prodigy, per_group=True, weight_decay=0.1),
    "RootFreeRMSProp": partial(optim.RootFreeRMSProp, batch_size=4),
    "RootFreeAdamW": partial(optim.RootFreeAdamW, batch_size=4, bias_correction=True),
    "SIRFShampoo": partial(optim.SIRFShampoo, batch_size=4, capturable=True),
}
MATRICES_ONLY = ("SteepestDescent", "Muon", "Muon gram", "Muon rows", "Scion")
# What waits however it is set, as their docstrings say, because the host chooses.
CHOOSING = {"SOAP": optim.SOAP, "KrADagrad": optim.KrADagrad}
