"""Matrix functions that optimizers need."""

from anthology.linalg.coefficients import (
    COEFFICIENT_SETS,
    CoefficientSet,
    coefficients,
    minimax_quintic,
    polar_express_coefficients,
)
from anthology.linalg.polar import Certificate, certificate, newton_schulz, polar

__all__ = [
    "COEFFICIENT_SETS",
    "Certificate",
    "CoefficientSet",
    "certificate",
    "coefficients",
    "minimax_quintic",
    "newton_schulz",
    "polar",
    "polar_express_coefficients",
]
