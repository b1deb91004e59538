"""Norms, their duals and their steepest steps; and the norm a layer deserves."""

from anthology.norms.base import Norm, Scaled, Split, Transpose, from_spec
from anthology.norms.modular import MaxOver
from anthology.norms.operator import (
    ColumnL1,
    Conv,
    Frobenius,
    MaxAbs,
    Nuclear,
    OneTo,
    OneToRMS,
    RMSToInf,
    RMSToRMS,
    RowL1,
    Schatten,
    Spectral,
    ToInf,
)
from anthology.norms.vector import L1, L2, RMS, LInf, Lp

__all__ = [
    "ColumnL1",
    "Conv",
    "Frobenius",
    "L1",
    "L2",
    "LInf",
    "Lp",
    "MaxAbs",
    "MaxOver",
    "Norm",
    "Nuclear",
    "OneTo",
    "OneToRMS",
    "RMS",
    "RMSToInf",
    "RMSToRMS",
    "RowL1",
    "Scaled",
    "Schatten",
    "Spectral",
    "Split",
    "ToInf",
    "Transpose",
    "from_spec",
]
