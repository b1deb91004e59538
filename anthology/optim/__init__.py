"""Optimizers, each a norm, an average and a step rule."""

from .adam import Adam, AdamW
from .base import BaseOptimizer
from .card import Card
from .root_free import RootFreeAdamW, RootFreeRMSProp
from .steepest import SteepestDescent

__all__ = [  # noqa: RUF022 - the order of the table of optimizers
    "SteepestDescent",
    "Adam",
    "AdamW",
    "RootFreeRMSProp",
    "RootFreeAdamW",
    "BaseOptimizer",
    "Card",
]
