"""Optimizers, each a norm, an average and a step rule."""

from .adam import Adam, AdamW
from .base import BaseOptimizer, Card
from .root_free import RootFreeAdamW, RootFreeRMSProp
from .steepest import SteepestDescent

__all__ = [
    "SteepestDescent",
    "Adam",
    "AdamW",
    "RootFreeRMSProp",
    "RootFreeAdamW",
    "BaseOptimizer",
    "Card",
]
