"""A network in the operators that every device computes: convolution, ReLU, sums, products and depth-to-space.

A PReLU becomes sums of rectified values, and a deconvolution that enlarges becomes a convolution to scale² maps whose
values are then laid out as pixels. Both give the same numbers, but for the order in which they are summed.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn


def plain(model: nn.Module) -> nn.Module:
    """A copy of a network, on the CPU in float32, without PReLU and without deconvolution where they can be replaced.

    A deconvolution is replaced if it has one group, no dilation, and makes exactly `stride` pixels of each.
    """
    copied = copy.deepcopy(model).to("cpu", torch.float32)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.PReLU):
                setattr(parent, name, Rectified(child))
            elif isinstance(child, nn.ConvTranspose2d) and _enlarges(child):
                setattr(parent, name, Enlarging(child))
    return copied


class Rectified(nn.Module):
    """PReLU from two ReLUs: max(x, 0) - a max(-x, 0)."""

    def __init__(self, prelu: nn.PReLU) -> None:
        super().__init__()
        self.slopes = nn.Parameter(-prelu.weight.detach()[:, None, None])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.relu(features) + torch.relu(-features) * self.slopes


class Enlarging(nn.Module):
    """A deconvolution as a convolution to the stride² pixels that each becomes, and depth-to-space.

    With stride s and padding p, row s q + r of the result sums w[p + r - s d] x[q + d] over all d for which the kernel
    w has such a row; columns likewise.
    """

    def __init__(self, deconvolution: nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = deconvolution.weight.detach()  # (in, out, k, k)
        (s, _), (p, _), into, out, side = deconvolution.stride, deconvolution.padding, *weight.shape[:3]  # type: ignore[misc]
        rows = [(r, d, p + r - s * d) for r in range(s) for d in range(-side, side + 1) if 0 <= p + r - s * d < side]
        reach = max(abs(d) for _, d, _ in rows)
        kernel = torch.zeros(out, s, s, into, 2 * reach + 1, 2 * reach + 1)
        for row, up, i in rows:
            for column, left, j in rows:
                kernel[:, row, column, :, up + reach, left + reach] = weight[:, :, i, j].T
        self.scale = int(s)
        self.convolution = nn.Conv2d(into, out * s * s, 2 * reach + 1, padding=reach)
        with torch.no_grad():
            self.convolution.weight.copy_(kernel.flatten(0, 2))
            bias = deconvolution.bias
            self.convolution.bias.copy_(  # type: ignore[union-attr]
                torch.zeros(out * s * s) if bias is None else bias.detach().repeat_interleave(s * s)
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.convolution(features), self.scale)


def _enlarges(layer: nn.ConvTranspose2d) -> bool:
    (s, across), (p, aside), (k, wide), (more, beside) = (
        layer.stride, layer.padding, layer.kernel_size, layer.output_padding,
    )  # type: ignore[misc]  # fmt: skip
    square = (s, p, k, more) == (across, aside, wide, beside)
    return square and layer.groups == 1 and layer.dilation == (1, 1) and k - s - 2 * p + more == 0
