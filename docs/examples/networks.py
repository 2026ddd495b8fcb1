"""A network to start from: `--network docs/examples/networks.py:SubPixel`, after ESPCN (Shi et al. 2016)."""

from typing import ClassVar

import torch
from torch import nn

from ail_ray.networks.architectures import Traits


class SubPixel(nn.Module):
    """5x5 and `depth - 1` times 3x3 convolutions on the small picture; the last one's maps are the large one's pixels.

    It takes those of `width`, `depth` and `scale` that it names here. All that it says of itself could be left out:
    radius and upsampling are then measured.
    """

    defaults: ClassVar[dict[str, float]] = {"crop": 48}  # a multiple of every scale

    def __init__(self, width: int = 24, depth: int = 4, scale: int = 2) -> None:
        super().__init__()
        sides = [5, *[3] * (depth - 1)]
        channels = [1, *[width] * (depth - 1), scale**2]
        self.layers = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], side, padding=side // 2) for i, side in enumerate(sides)
        )
        self.grow = nn.PixelShuffle(scale)
        self.traits = Traits(upsampling=scale, radius=2 + depth - 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 1, h, w) luma to (N, 1, scale * h, scale * w): the enlarged picture and what is added to it."""
        features = inputs
        for layer in self.layers[:-1]:
            features = torch.relu(layer(features))
        enlarged = nn.functional.interpolate(inputs, scale_factor=float(self.traits.upsampling), mode="bicubic")
        return enlarged + self.grow(self.layers[-1](features))
