"""The networks: a student is a teacher with a share ρ of each layer's filters removed (section 4)."""

import math
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from ail_ray.imaging.images import enlarge


class Network(nn.Module):
    """A network from luma to luma, about [0, 1], without biases unless it says so.

    `width` is its number of feature maps, `depth` its number of convolutions as they are computed. `upsampling` is
    1 where the network reads the bicubic-upsampled image and so serves every scale, else the one scale it serves.
    """

    name: ClassVar[str]
    full_width: ClassVar[int]
    full_depth: ClassVar[int]
    depths: ClassVar[range]
    defaults: ClassVar[dict[str, float]] = {}
    """Fields of a run's configuration in which this network needs other values than the presets have."""

    def __init__(self, width: int, depth: int, upsampling: int = 1) -> None:
        super().__init__()
        self.width, self.depth, self.upsampling = width, depth, upsampling

    @property
    def device(self) -> torch.device:
        """The device on which its weights are; the CPU if it has none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @classmethod
    def thinned(cls, rho: float) -> int:
        """How many feature maps are left, at least 1, if the share `rho` of the full network's is removed."""
        return max(1, round(cls.full_width * (1 - rho)))

    @property
    def radius(self) -> int:
        """How far away, in pixels of the input, the input still has an effect on a pixel of the output."""
        return self.depth

    def start_from_identity(self, noise: float) -> None:
        """Let every layer that has as many maps out as in begin by passing them on (the Dirac kernel).

        The drawn weights of all convolutions are multiplied by `noise`, then the centre taps from each map to its own
        are raised by 1. So whether anything reaches the end no longer depends on luck in the draw. A rectified layer
        whose maps are all negative everywhere lets nothing through and, since it gets no gradient, never will. A
        network without layers that have as many maps out as in keeps its draw.
        """
        weights = [layer.weight for layer in self.modules() if isinstance(layer, nn.Conv2d)]
        passing = [weight for weight in weights if weight.shape[0] == weight.shape[1] > 1]
        with torch.no_grad():
            for weight in weights if passing else ():
                weight.mul_(noise)
            for weight in passing:
                weight.add_(nn.init.dirac_(torch.empty_like(weight)))

    def problems(self, scales: Iterable[int]) -> list[str]:
        """A line for each of these scales that the network does not serve."""
        others = [scale for scale in scales if self.upsampling not in (1, scale)]
        return [f"this {self.name} upsamples by {self.upsampling}, it cannot serve scale {scale}" for scale in others]


class Bicubic(Network):
    """No network but what every network is measured against: the bicubic-upsampled image as it is."""

    name = "bicubic interpolation"

    def __init__(self) -> None:
        super().__init__(width=0, depth=0)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) luma, the same one."""
        return inputs


class VDSR(Network):
    """VDSR (Kim et al. 2016): 3x3 convolutions, ReLU between, and a global skip."""

    name, full_width, full_depth, depths = "vdsr", 64, 20, range(2, 1000)

    def __init__(self, width: int = 64, depth: int = 20) -> None:
        super().__init__(width, depth)
        channels = [1, *[width] * (depth - 1), 1]
        self.layers = nn.ModuleList(_convolution(channels[i], channels[i + 1]) for i in range(depth))
        _draw(self)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Super-resolve.

        Args:
            inputs: (N, 1, H, W) bicubic-upsampled luma in [0, 1].

        Returns:
            (N, 1, H, W) of the inputs' dtype, about [0, 1], not clipped.
        """
        residual = inputs
        for i, layer in enumerate(self.layers):
            residual = layer(residual if i == 0 else torch.relu_(residual))  # in place: half the memory
        return inputs + residual.to(inputs.dtype)


class DRRN(Network):
    """DRRN (Tai et al. 2017) with one recursive block: two 3x3 convolutions, the same ones in each recursion.

    Every recursion adds the first layer's output; a global skip is around all. ReLU before each convolution but the
    first, no batch normalisation: so it has the parameters of Table 3. `depth` is `2 + 2 * recursions`.
    """

    name, full_width, full_depth, depths = "drrn", 128, 52, range(4, 1000, 2)

    def __init__(self, width: int = 128, depth: int = 52) -> None:
        super().__init__(width, depth)
        self.first, self.last = _convolution(1, width), _convolution(width, 1)
        self.block = nn.ModuleList(_convolution(width, width) for _ in range(2))
        _draw(self)

    @classmethod
    def thinned(cls, rho: float) -> int:
        """As `Network.thinned`, but rounded down: the paper's DRRN-f25 has 128 maps less 80 %."""
        return max(1, math.floor(cls.full_width * (1 - rho) + 1e-9))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Super-resolve; inputs and output are those of `VDSR.forward`."""
        start = features = self.first(inputs)
        for _ in range(self.depth // 2 - 1):
            residual = features
            for layer in self.block:
                residual = layer(torch.relu(residual))
            features = start + residual
        return inputs + self.last(torch.relu(features)).to(inputs.dtype)


class FSRCNN(Network):
    """FSRCNN (Dong et al. 2016): features, shrinking, mapping, expanding and a deconvolution that upsamples.

    5x5 to `width` maps, 1x1 to 12 (of 56, in proportion), `depth - 4` of 3x3, 1x1 back, and 9x9 with the scale as
    its stride; biases, and a PReLU behind each layer but the last. Weights are drawn as there: He et al. 2015
    (fan-in), the deconvolution's with a deviation of 0.001.
    """

    name, full_width, full_depth, depths = "fsrcnn", 56, 8, range(5, 1000)
    # Small by design: with 0.8 of its filters removed it would end below bicubic. 48 is a multiple of every scale.
    defaults: ClassVar[dict[str, float]] = {"rho": 0.0, "crop": 48}

    def __init__(self, width: int = 56, depth: int = 8, scale: int = 2) -> None:
        super().__init__(width, depth, upsampling=scale)
        shrunk = max(1, round(width * 12 / 56))
        sides = [5, 1, *[3] * (depth - 4), 1]
        channels = [1, width, *[shrunk] * (depth - 3), width]
        self.layers, self.slopes = nn.ModuleList(), nn.ModuleList()
        for side, into, out in zip(sides, channels, channels[1:], strict=False):
            layer = nn.Conv2d(into, out, side, padding=side // 2)
            if not layer.weight.is_meta:
                nn.init.kaiming_normal_(layer.weight, a=0.25)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            self.layers.append(layer)
            self.slopes.append(nn.PReLU(out))
        self.deconvolution = nn.ConvTranspose2d(width, 1, 9, stride=scale, padding=4, output_padding=scale - 1)
        if not self.deconvolution.weight.is_meta:
            nn.init.normal_(self.deconvolution.weight, std=0.001)
        nn.init.zeros_(self.deconvolution.bias)  # type: ignore[arg-type]

    @property
    def radius(self) -> int:
        """In low-resolution pixels: 2 for the 5x5, 1 for each 3x3, the rest for the deconvolution."""
        return 2 + (self.depth - 4) + 1 + 3 // self.upsampling

    def start_from_identity(self, noise: float) -> None:
        """Let the first maps of all layers pass the picture on, and the deconvolution enlarge it as bicubic does.

        The drawn weights of the convolutions are multiplied by `noise`.
        """
        with torch.no_grad():
            for weight in (layer.weight for layer in self.layers if isinstance(layer, nn.Conv2d)):
                weight.mul_(noise).add_(nn.init.dirac_(torch.empty_like(weight)))
            self.deconvolution.weight[0, 0] += _bicubic_kernel(self.upsampling)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Super-resolve.

        Args:
            inputs: (N, 1, H, W) low-resolution luma in [0, 1].

        Returns:
            (N, 1, scale * H, scale * W) of the inputs' dtype, about [0, 1], not clipped.
        """
        features = inputs
        for layer, slopes in zip(self.layers, self.slopes, strict=True):
            features = slopes(layer(features))
        return self.deconvolution(features).to(inputs.dtype)


NETWORKS: dict[str, type[VDSR | DRRN | FSRCNN]] = {"vdsr": VDSR, "drrn": DRRN, "fsrcnn": FSRCNN}


def build_model(
    name: str,
    *,
    width: int | None = None,
    rho: float | None = None,
    depth: int | None = None,
    scale: int | None = None,
) -> Network:
    """A network with fresh weights.

    Args:
        name: `vdsr`, `drrn` or `fsrcnn`.
        width: feature maps per layer; overrides `rho`.
        rho: share of the full network's filters to remove, in [0, 1); without either, the full network.
        depth: number of convolutions; the network's own by default.
        scale: 2, 3 or 4. An FSRCNN needs it; the others get their input upsampled and serve every scale.

    Raises:
        ValueError: an unknown name, or a width, ρ, depth or scale outside its range.
    """
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {name!r}")
    if scale is not None and scale not in (2, 3, 4):
        raise ValueError(f"scale must be 2, 3 or 4, got {scale}")
    network = NETWORKS[name]
    depth = network.full_depth if depth is None else depth
    if depth not in network.depths:
        raise ValueError(f"depth must {depth_rule(name)}, got {depth}")
    width = resolved_width(name, width=width, rho=rho)
    if network is not FSRCNN:
        return network(width, depth)
    if scale is None:
        raise ValueError("fsrcnn upsamples by itself: name the scale, 2, 3 or 4")
    return FSRCNN(width, depth, scale)


def depth_rule(name: str) -> str:
    """What the depth of a network must be, in words."""
    depths = NETWORKS[name].depths
    return f"{'be even and ' if depths.step == 2 else ''}lie in {depths[0]}..{depths[-1]}"


def resolved_width(name: str, *, width: int | None = None, rho: float | None = None) -> int:
    """Feature maps of a student: `width` if given, else the full width less the share ρ (64: 13 at ρ = 0.8)."""
    if width is None:
        if rho is not None and not 0 <= rho < 1:
            raise ValueError(f"rho must be in [0, 1), got {rho}")
        return NETWORKS[name].thinned(rho or 0.0)
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    return width


def parameter_count(model: nn.Module) -> int:
    """How many weights a network has."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_accumulates(model: Network, height: int = 256, width: int = 256) -> int:
    """Multiply-accumulates of the convolutions for an output image of this size, pixels (Table 3's is 256x256).

    For a network that upsamples, the size is rounded down to a multiple of its scale. What is counted is a small image,
    and not with torch's own counter, which takes a second to load whatever it could count.
    """
    side, total = 12, 0

    def count(layer: nn.Conv2d | nn.ConvTranspose2d, inputs: tuple[torch.Tensor], outputs: torch.Tensor) -> None:
        nonlocal total
        pixels = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else outputs
        total += pixels.numel() * layer.weight[0].numel()

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    weights = {name: torch.zeros(parameter.shape) for name, parameter in model.named_parameters()}
    with torch.no_grad():
        torch.func.functional_call(model, weights, (torch.zeros(1, 1, side, side),))
    for hook in hooks:
        hook.remove()
    return total * (height // model.upsampling) * (width // model.upsampling) // side**2


def _convolution(into: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel_size=3, padding=1, bias=False)


def _bicubic_kernel(scale: int) -> torch.Tensor:
    """What bicubic enlargement makes of a single pixel, as FSRCNN's deconvolution places it: (9, 9) float32.

    Its nine taps cut the kernel off at scales 3 and 4, so the taps that meet in an output pixel are made to sum to 1.
    """
    pixel = np.zeros((9, 9), np.float32)
    pixel[4, 4] = 1
    kernel = enlarge(pixel, scale)[4 * scale - 4 : 4 * scale + 5, 4 * scale - 4 : 4 * scale + 5]
    for row in range(scale):
        for column in range(scale):
            kernel[row::scale, column::scale] /= kernel[row::scale, column::scale].sum()
    return torch.from_numpy(kernel.astype(np.float32))


def _draw(model: nn.Module) -> None:
    """Draw weights of 3x3 convolutions as in He et al. 2015 (fan-out), from torch's global generator."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:  # for which torch loads a second's worth
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * layer.out_channels)))
