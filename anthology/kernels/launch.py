"""What every launch needs: whether Triton is there, and arguments it can take."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on any device."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing(x: Tensor) -> str:
    """Why a kernel cannot run on this tensor; nothing if it can."""
    if not find_spec("triton"):
        return "triton"
    return "" if x.is_cuda or interpreted() else "a CUDA device"


def must_launch(x: Tensor) -> None:
    """Refuse a tensor on which kernels cannot run."""
    lacking = missing(x)
    if lacking:
        raise RuntimeError(
            f"the kernels need {lacking} (parameters are on {x.device}); call the "
            "eager twin instead"
        )


def check_flat(tensors: list[Tensor]) -> None:
    """Refuse tensors that are not dense lines of one length on one device."""
    first = tensors[0]
    for index, x in enumerate(tensors):
        if x.shape != first.shape or x.device != first.device:
            raise ValueError(
                f"tensor {index} has shape {tuple(x.shape)} on {x.device}, the first "
                f"{tuple(first.shape)} on {first.device}; they must be alike"
            )
        if not x.is_contiguous():
            raise ValueError(
                f"tensor {index} is not contiguous; pass x.contiguous(), and write "
                "the result back"
            )
        if not x.is_floating_point() or x.dtype == torch.float64:
            raise ValueError(
                f"tensor {index} is {x.dtype}; the kernels compute in float32, so "
                "float32, bfloat16 and float16 are right"
            )
