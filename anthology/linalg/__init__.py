"""Matrix functions that optimizers need."""

from anthology.linalg.coefficients import (
    COEFFICIENT_SETS,
    CoefficientSet,
    coefficients,
    minimax_quintic,
    polar_express_coefficients,
)
from anthology.linalg.decompositions import robust_eigh
from anthology.linalg.polar import (
    NORMALIZERS,
    RENORMALIZERS,
    Certificate,
    certificate,
    newton_schulz,
    polar,
)
from anthology.linalg.roots import (
    ROOT_METHODS,
    SQUARE_ROOT_METHODS,
    inverse_root,
    lyapunov,
    square_root,
)
from anthology.linalg.structures import STRUCTURES, Structure, structure

__all__ = [
    "COEFFICIENT_SETS",
    "NORMALIZERS",
    "RENORMALIZERS",
    "ROOT_METHODS",
    "SQUARE_ROOT_METHODS",
    "STRUCTURES",
    "Certificate",
    "CoefficientSet",
    "Structure",
    "certificate",
    "coefficients",
    "inverse_root",
    "lyapunov",
    "minimax_quintic",
    "newton_schulz",
    "polar",
    "polar_express_coefficients",
    "robust_eigh",
    "square_root",
    "structure",
]
