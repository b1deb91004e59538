"""What `modular_norm` knows of the modules of torch.nn.

Sensitivities bound how much the largest RMS of a position (token, pixel) can grow.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch.nn.functional as F
from torch import nn

from anthology.norms.combine import bond, compose, residual
from anthology.norms.module_rules import Reader, module_rule
from anthology.norms.modules import Modular

# the largest slopes, rounded up: of xΦ(x), of its tanh form, and of x·sigmoid(x)
_GELU, _GELU_TANH, _SILU = 1.128905, 1.129, 1.09984
_SLOPES: dict[Callable[..., Any], float] = {F.relu: 1.0, F.gelu: _GELU, F.silu: _SILU}


@module_rule(nn.Sequential)
def _sequential(module: nn.Sequential, reader: Reader) -> Modular:
    return compose(*(reader(part) for part in module))


@module_rule(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
@module_rule(nn.Embedding)
@module_rule(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
@module_rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
@module_rule(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def _layer(module: nn.Module, reader: Reader) -> Modular:
    return reader.layer(module)


@module_rule(nn.Identity, nn.Flatten, nn.Dropout, nn.ReLU, nn.ReLU6, nn.Tanh)
@module_rule(nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardtanh, nn.Tanhshrink)
@module_rule(nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
@module_rule(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
@module_rule(nn.AvgPool1d)
def _plain(module: nn.Module, reader: Reader) -> Modular:
    return bond()


@module_rule(nn.Sigmoid)
def _sigmoid(module: nn.Sigmoid, reader: Reader) -> Modular:
    return bond(0.25)


@module_rule(nn.GELU)
def _gelu(module: nn.GELU, reader: Reader) -> Modular:
    return bond(_GELU if module.approximate == "none" else _GELU_TANH)


@module_rule(nn.SiLU)
def _silu(module: nn.SiLU, reader: Reader) -> Modular:
    return bond(_SILU)


@module_rule(nn.LeakyReLU)
def _leaky(module: nn.LeakyReLU, reader: Reader) -> Modular:
    return bond(max(1.0, abs(module.negative_slope)))


@module_rule(nn.ELU)
def _elu(module: nn.ELU, reader: Reader) -> Modular:
    return bond(max(1.0, abs(module.alpha)))


@module_rule(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
def _max_pool(module: Any, reader: Reader) -> Modular:
    # each channel may take its maximum elsewhere: up to K positions add up
    dims = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}
    axes = next(n for kind, n in dims.items() if isinstance(module, kind))
    return bond(math.sqrt(_positions(module.kernel_size, axes)))


@module_rule(nn.AvgPool2d, nn.AvgPool3d)
def _avg_pool(module: Any, reader: Reader) -> Modular:
    axes = 2 if isinstance(module, nn.AvgPool2d) else 3
    size = _positions(module.kernel_size, axes)
    divisor = module.divisor_override
    return bond(1.0 if divisor is None else size / abs(divisor))


def _positions(kernel: int | tuple[int, ...], axes: int) -> int:
    return kernel**axes if isinstance(kernel, int) else math.prod(kernel)


@module_rule(nn.MultiheadAttention)
def _attention(module: nn.MultiheadAttention, reader: Reader) -> Modular:
    if module.in_proj_weight is None or module.bias_k is not None:
        raise TypeError(
            "the rule for MultiheadAttention knows neither kdim and vdim nor "
            "add_bias_kv: write one with norms.module_rule"
        )
    # logits q·k/√d of heads with RMS 1 reach √d, and so does their slope
    root = math.sqrt(module.head_dim)
    heads = reader.layer(module, gain=1 + 2 * root, mass=3)
    return compose(heads, reader(module.out_proj))


@module_rule(nn.TransformerEncoderLayer)
def _encoder_layer(module: nn.TransformerEncoderLayer, reader: Reader) -> Modular:
    attention = reader(module.self_attn)
    act = module.activation
    slope = reader(act) if isinstance(act, nn.Module) else bond(_slope(act))
    forward = compose(reader(module.linear1), slope, reader(module.linear2))
    norm1, norm2 = reader(module.norm1), reader(module.norm2)
    if module.norm_first:
        return compose(
            residual(compose(norm1, attention)), residual(compose(norm2, forward))
        )
    return compose(residual(attention), norm1, residual(forward), norm2)


def _slope(activation: Callable[..., Any]) -> float:
    if activation not in _SLOPES:
        raise TypeError(
            f"the slope of {activation!r} is not known: use relu, gelu, silu or a "
            "module as activation"
        )
    return _SLOPES[activation]


@module_rule(nn.TransformerEncoder)
def _encoder(module: nn.TransformerEncoder, reader: Reader) -> Modular:
    parts = [reader(layer) for layer in module.layers]
    if module.norm is not None:
        parts.append(reader(module.norm))
    return reduce(compose, parts, bond())
