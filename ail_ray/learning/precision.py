"""Arithmetic of a run: float32, bfloat16 autocast or float64, and which of the first two a device does faster."""

import time
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16", "fp64"]


def dtype_of(precision: Precision) -> torch.dtype:
    """The type of weights, inputs and loss; bf16 is autocast, so these stay float32."""
    return torch.float64 if precision == "fp64" else torch.float32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Run convolutions in bfloat16 when asked; the global skip, loss and update stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def placed(model: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """The model on its device in the run's type, its weights channels-last (1.5 to 3 times faster on a CPU)."""
    model = model.to(device=device, dtype=dtype_of(precision))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fastest(device: torch.device) -> Precision:
    """Time a small convolution's forward and backward pass in fp32 and bf16, and name the faster.

    bf16 must win by a tenth: it is the less exact of the two.
    """
    seconds: dict[Precision, float] = {}
    images = torch.zeros(16, 16, 41, 41, device=device).contiguous(memory_format=torch.channels_last)
    for precision in ("fp32", "bf16"):
        model = placed(nn.Sequential(*[nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)]), precision, device)
        times = []
        for _ in range(6):
            start = time.perf_counter()
            with autocast(precision, device):
                output = model(images)
            output.float().sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
        seconds[precision] = min(times[1:])
    return "bf16" if seconds["bf16"] < 0.9 * seconds["fp32"] else "fp32"
