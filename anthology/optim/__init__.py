"""Optimizers, each a norm, an average and a step rule."""

from .adam import Adam, AdamW
from .base import BaseOptimizer
from .card import Card
from .lion import Lion, Signum
from .root_free import RootFreeAdamW, RootFreeRMSProp
from .shampoo import Shampoo
from .steepest import SteepestDescent

__all__ = [  # noqa: RUF022 - the order of the table of optimizers
    "SteepestDescent",
    "Signum",
    "Lion",
    "Adam",
    "AdamW",
    "Shampoo",
    "RootFreeRMSProp",
    "RootFreeAdamW",
    "BaseOptimizer",
    "Card",
]
