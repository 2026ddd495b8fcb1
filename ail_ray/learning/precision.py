"""Arithmetic of a run: float32, bfloat16 autocast or float64; bfloat16 where the device accelerates it."""

from contextlib import AbstractContextManager
from typing import Literal, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
Precision = Literal["fp32", "bf16", "fp64"]


def dtype_of(precision: Precision) -> torch.dtype:
    """The type of weights, inputs and loss. With bf16 it is float32, since only convolutions run in bf16 (autocast)."""
    return torch.float64 if precision == "fp64" else torch.float32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Run convolutions in bfloat16 when asked; the global skip, loss and update stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def placed(model: Model, precision: Precision, device: torch.device) -> Model:
    """The model on its device in the run's type, its weights channels-last (1.5 to 3 times faster on a CPU)."""
    model = model.to(device=device, dtype=dtype_of(precision))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fastest(device: torch.device) -> Precision:
    """bf16 where the device computes in it natively, else fp32.

    A CPU does so with AMX or AVX-512 BF16 (small convolutions are 1.7 to 3 times as fast there; elsewhere bf16 is
    emulated and slower), and a GPU from compute capability 8.0 on. The device is asked and not timed: on a busy
    machine a timing would choose differently from time to time, and would change the result.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if device.type == "cpu" and native else "fp32"
