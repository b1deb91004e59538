"""Optimizers, each a norm, an average and a step rule."""

from .adam import Adam, AdamW
from .certify import Certificates, StepCertificate, certificates
from .core.base import BaseOptimizer
from .core.card import Card, SilentPenalty
from .core.rule import Rule
from .count import BatchCounter, count_batch_size
from .escape import FreeSteepestDescent
from .kradagrad import KrADagrad
from .lion import Lion, Signum
from .muon import Muon
from .parts.kronecker.joined import joined
from .parts.matrix.orthogonal import convert_lr
from .prodigy import Prodigy
from .root_free import RootFreeAdamW, RootFreeRMSProp
from .scion import Scion, scion_norm
from .sgd import SGD
from .shampoo import Shampoo
from .sirf_shampoo import SIRFShampoo
from .soap import SOAP
from .steepest import SteepestDescent

# isort: split
from . import functional  # pure forms of all classes above

__all__ = [  # noqa: RUF022 - the order of the table of optimizers
    "SteepestDescent",
    "FreeSteepestDescent",
    "SGD",
    "Signum",
    "Lion",
    "Adam",
    "AdamW",
    "Shampoo",
    "SOAP",
    "KrADagrad",
    "Muon",
    "Scion",
    "Prodigy",
    "RootFreeRMSProp",
    "RootFreeAdamW",
    "SIRFShampoo",
    "functional",
    "BaseOptimizer",
    "Rule",
    "Card",
    "SilentPenalty",
    "convert_lr",
    "joined",
    "count_batch_size",
    "BatchCounter",
    "scion_norm",
    "certificates",
    "Certificates",
    "StepCertificate",
]
