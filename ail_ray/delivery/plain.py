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
        s, p = int(deconvolution.stride[0]), int(deconvolution.padding[0])
        into, out, side = weight.shape[:3]
        rows = [(r, d, p + r - s * d) for r in range(s) for d in range(-side, side + 1) if 0 <= p + r - s * d < side]
        reach = max(abs(d) for _, d, _ in rows)
        kernel = torch.zeros(out, s, s, into, 2 * reach + 1, 2 * reach + 1)
        for row, up, i in rows:
            for column, left, j in rows:
                kernel[:, row, column, :, up + reach, left + reach] = weight[:, :, i, j].T
        self.scale = s
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
    sides = [(layer.stride[i], layer.padding[i], layer.kernel_size[i], layer.output_padding[i]) for i in (0, 1)]
    s, p, k, more = map(int, sides[0])
    return sides[0] == sides[1] and layer.groups == 1 and layer.dilation == (1, 1) and k - s - 2 * p + more == 0
