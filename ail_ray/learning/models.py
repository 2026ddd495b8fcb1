"""The networks: a student is a teacher with a share ρ of each layer's filters removed (section 4)."""

import math

import torch
from torch import nn

FULL_WIDTH = {"vdsr": 64}
FULL_DEPTH = {"vdsr": 20}


class VDSR(nn.Module):
    """VDSR (Kim et al. 2016): `depth` 3x3 convolutions without biases, ReLU between, and a global skip.

    `width` is the number of feature maps. Weights are drawn as in He et al. 2015 (fan-out) from torch's
    global generator.
    """

    def __init__(self, width: int = 64, depth: int = 20) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        channels = [1, *[width] * (depth - 1), 1]
        self.layers = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], kernel_size=3, padding=1, bias=False) for i in range(depth)
        )
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * layer.out_channels)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Super-resolve.

        Args:
            inputs: (N, 1, H, W) bicubic-upsampled luma in [0, 1].

        Returns:
            (N, 1, H, W) of the inputs' dtype, about [0, 1], not clipped.
        """
        residual = inputs
        for i, layer in enumerate(self.layers):
            residual = layer(residual if i == 0 else torch.relu(residual))
        return inputs + residual.to(inputs.dtype)


def build_model(
    name: str,
    *,
    width: int | None = None,
    rho: float | None = None,
    depth: int | None = None,
    scale: int | None = None,
) -> VDSR:
    """A network with fresh weights.

    Args:
        name: `vdsr`.
        width: feature maps per layer; overrides `rho`.
        rho: share of the full network's filters to remove, in [0, 1); without either, the full network.
        depth: number of convolutions, at least 2; the network's own by default.
        scale: 2, 3 or 4; a VDSR gets its input upsampled and serves every scale with the same weights.

    Raises:
        ValueError: an unknown name, or a width, ρ, depth or scale outside its range.
    """
    if name not in FULL_WIDTH:
        raise ValueError(f"network must be one of {', '.join(FULL_WIDTH)}, got {name!r}")
    if scale is not None and scale not in (2, 3, 4):
        raise ValueError(f"scale must be 2, 3 or 4, got {scale}")
    depth = FULL_DEPTH[name] if depth is None else depth
    if depth < 2:
        raise ValueError(f"depth must be at least 2, got {depth}")
    return VDSR(resolved_width(name, width=width, rho=rho), depth)


def resolved_width(name: str, *, width: int | None = None, rho: float | None = None) -> int:
    """Feature maps of a student: `width` if given, else the full width times `1 - rho`, rounded (64: 13 at ρ = 0.8)."""
    if width is None:
        if rho is not None and not 0 <= rho < 1:
            raise ValueError(f"rho must be in [0, 1), got {rho}")
        width = max(1, round(FULL_WIDTH[name] * (1 - (rho or 0.0))))
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    return width


def parameter_count(model: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in model.parameters())
