"""One optimizer of every kind, by name: what a test of all of them reads."""

import functools

from anthology import optim
from anthology.norms import LInf, MaxAbs, RMSToRMS, Spectral

steepest = functools.partial(optim.SteepestDescent, lr=0.01)


class ToldOne(optim.SteepestDescent):
    """Polyak's step where nobody says the loss: it is one above the best."""

    def heard(self, loss: object) -> None:
        one = -1.0 if self.param_groups[0]["maximize"] else 1.0
        super().heard(one if loss is None else loss)


polyak = functools.partial(ToldOne, lr=0.01, step="polyak")

OURS = {
    "SGD": functools.partial(optim.SGD, lr=0.01),
    "SGD momentum": functools.partial(
        optim.SGD, lr=0.01, momentum=0.9, dampening=0.1, weight_decay=0.1
    ),
    "SGD loop": functools.partial(
        optim.SGD, lr=0.01, momentum=0.9, nesterov=True, foreach=False
    ),
    "SGD normalised": functools.partial(
        optim.SGD, lr=0.01, momentum=0.9, normalised=True
    ),
    # balls that hold the minimum
    "Scion": functools.partial(optim.Scion, lr=0.01, radius=20.0),
    "Scion loop": functools.partial(
        optim.Scion, lr=0.01, momentum=0.9, radius=20.0, foreach=False
    ),
    "Scion unconstrained": functools.partial(
        optim.Scion, lr=0.01, momentum=0.9, unconstrained=True
    ),
    "Signum": optim.Signum,
    "Signum nesterov": functools.partial(
        optim.Signum, nesterov=True, weight_decay=0.1, foreach=False
    ),
    "sign descent": functools.partial(optim.Signum, momentum=0.0),
    "Lion": functools.partial(optim.Lion, lr=1e-3),
    "Lion loop": functools.partial(optim.Lion, lr=1e-3, foreach=False),
    "Adam": optim.Adam,
    "Adam loop": functools.partial(optim.Adam, foreach=False),
    "Adam amsgrad": functools.partial(optim.Adam, amsgrad=True),
    "AdamW": optim.AdamW,
    "AdamW fused": functools.partial(optim.AdamW, fused=True),
    "AdamW capturable": functools.partial(optim.AdamW, capturable=True),
    "Muon": optim.Muon,
    "Muon loop": functools.partial(optim.Muon, foreach=False, nesterov=False),
    "Muon svd": functools.partial(optim.Muon, method="svd", adjust_lr_fn="rms_to_rms"),
    "Muon bf16": functools.partial(
        optim.Muon, ns_dtype="bfloat16", kernel="positions", capturable=True
    ),
    "Muon rows": functools.partial(optim.Muon, row_beta=0.95, row_side="longer"),
    "Muon stages": functools.partial(
        optim.Muon,
        method="polar-express",
        ns_steps=5,
        normalize="rows",
        renormalize="frobenius",
        row_beta=0.9,
        row_side="longer",
        adjust_lr_fn=0.18,
    ),
    "Muon steepest": functools.partial(
        optim.Muon, lr=0.01, step="steepest", row_beta=0.9, foreach=False
    ),
    "RootFreeRMSProp": functools.partial(optim.RootFreeRMSProp, batch_size=8),
    "RootFreeAdamW": functools.partial(optim.RootFreeAdamW, batch_size=8),
    "SIRFShampoo": functools.partial(optim.SIRFShampoo, batch_size=8),
    "SIRFShampoo loop": functools.partial(
        optim.SIRFShampoo, batch_size=8, foreach=False, refresh=3, structures="lower"
    ),
    "SOAP": optim.SOAP,
    "SOAP at once": functools.partial(optim.SOAP, skip_first=False),
    "KrADagrad": optim.KrADagrad,
    "KrADagrad mm": functools.partial(
        optim.KrADagrad, variant="mm", refresh=2, vectors="full"
    ),
    "KrADagrad grafted": functools.partial(
        optim.KrADagrad, lr=1.0, grafting="sgd", block_size=2
    ),
    "KrADagrad loop": functools.partial(
        optim.KrADagrad, foreach=False, bound="trace", beta2=0.9, vectors="full"
    ),
    "SOAP loop": functools.partial(
        optim.SOAP, skip_first=False, foreach=False, relative_eps=True, vectors="full"
    ),
    "Shampoo": optim.Shampoo,
    "Shampoo, averages, grafting": functools.partial(
        optim.Shampoo,
        betas=(0.9, 0.99),
        eps=1e-8,
        momentum=0.5,
        nesterov=True,
        weight_decay=0.1,
        max_dim=2,
        refresh=3,
        vectors="diagonal",
        grafting="rms",
    ),
    "Shampoo newton": functools.partial(
        optim.Shampoo, root="newton", grafting="sgd", refresh=2, capturable=True
    ),
    "Shampoo kl": functools.partial(optim.Shampoo, lr=0.01, factors="kl"),
    "Shampoo kl loop": functools.partial(
        optim.Shampoo,
        lr=0.01,
        betas=(0.9, 0.95),
        factors="kl",
        refresh=2,
        max_dim=2,
        foreach=False,
    ),
    "Shampoo one-sided": functools.partial(optim.Shampoo, sides="one"),
    "SOAP kl": functools.partial(optim.SOAP, factors="kl"),
    "Shampoo loop": functools.partial(
        optim.Shampoo, foreach=False, eps=0.0, root="newton-schulz"
    ),
    "Prodigy": optim.Prodigy,
    "Prodigy loop": functools.partial(optim.Prodigy, foreach=False, slice_p=3),
    "Prodigy per group": functools.partial(
        optim.Prodigy, per_group=True, use_bias_correction=True, growth_rate=2.0
    ),
    "free": optim.FreeSteepestDescent,
    "free, memory": functools.partial(
        optim.FreeSteepestDescent, momentum=0.5, beta3=0.5, across="l2", foreach=False
    ),
    "by shape": steepest,
    "by shape, momentum": functools.partial(
        steepest, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "steepest, max": functools.partial(steepest, step="steepest", momentum=0.9),
    "steepest, l2": functools.partial(steepest, step="steepest", across="l2"),
    "dualize, l2": functools.partial(steepest, across="l2", momentum=0.5),
    "loop": functools.partial(steepest, foreach=False, step="steepest"),
    "polyak": polyak,
    "polyak, l2": functools.partial(
        polyak, across="l2", weight_decay=0.1, foreach=False
    ),
    **{
        f"{norm!r}": functools.partial(steepest, norm=norm, momentum=0.9)
        for norm in (LInf(), MaxAbs(), Spectral(), RMSToRMS(method="muon"))
    },
    **{
        norm: functools.partial(steepest, norm=norm)
        for norm in ("L1()", "L2()", "Transpose(OneToRMS())", "RMSToInf()", "Conv(2)")
    },
}
