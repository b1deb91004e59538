"""Norms, their duals and their steepest steps; and the norm a layer deserves.

Of vectors, matrices, convolution kernels, of weights stored otherwise (`Transpose`,
`Split`) and of several tensors (`MaxOver`).
`metrize` chooses for a model (`role_rule` teaches it), and `modular_norm` says how far
each of its weights may move at a time.

>>> import torch
>>> from anthology import norms
>>> g = torch.tensor([3.0, -4.0])
>>> norms.LInf().dual(g)
tensor(7.)
>>> norms.LInf().dualize(g)
tensor([ 1., -1.])
>>> norms.from_spec("Scaled(LInf(), 2.0)") == 2 * norms.LInf()
True
"""

from anthology.norms.base import Norm, Scaled, from_spec
from anthology.norms.by_hand import forget_role_rule, role_rule
from anthology.norms.constraints import (
    CONSTRAINTS,
    Constraint,
    SpectralSphere,
    Sphere,
    Stiefel,
)
from anthology.norms.lp import (
    L1,
    L2,
    RMS,
    ColumnL1,
    Frobenius,
    LInf,
    Lp,
    MaxAbs,
    OneTo,
    OneToRMS,
    RMSToInf,
    RowL1,
    ToInf,
)
from anthology.norms.metrized import Metrized, Row
from anthology.norms.module_rules import Reader, modular_norm, module_rule
from anthology.norms.modules import (
    Leaf,
    MaxOver,
    Modular,
    atom,
    bond,
    compose,
    concat,
    residual,
    tare,
)
from anthology.norms.role_rules import norm_by_shape
from anthology.norms.roles import metrize
from anthology.norms.spectral import (
    Conv,
    FlatConv,
    FlatSpectral,
    KyFan,
    LowRank,
    Nuclear,
    RMSToRMS,
    Schatten,
    Spectral,
)
from anthology.norms.stored import Split, Transpose

__all__ = [
    "CONSTRAINTS",
    "L1",
    "L2",
    "RMS",
    "ColumnL1",
    "Constraint",
    "Conv",
    "FlatConv",
    "FlatSpectral",
    "Frobenius",
    "KyFan",
    "LInf",
    "Leaf",
    "LowRank",
    "Lp",
    "MaxAbs",
    "MaxOver",
    "Metrized",
    "Modular",
    "Norm",
    "Nuclear",
    "OneTo",
    "OneToRMS",
    "RMSToInf",
    "RMSToRMS",
    "Reader",
    "Row",
    "RowL1",
    "Scaled",
    "Schatten",
    "Spectral",
    "SpectralSphere",
    "Sphere",
    "Split",
    "Stiefel",
    "ToInf",
    "Transpose",
    "atom",
    "bond",
    "compose",
    "concat",
    "forget_role_rule",
    "from_spec",
    "metrize",
    "modular_norm",
    "module_rule",
    "norm_by_shape",
    "residual",
    "role_rule",
    "tare",
]
