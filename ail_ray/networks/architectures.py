"""The networks: a student is a teacher with a share ρ of each layer's filters removed (section 4).

A network of one's own is any `torch.nn.Module` from luma, (N, 1, h, w), to luma, (N, 1, u h, u w). Its constructor gets
those of `width`, `depth` and `scale` that it takes. It may say of itself `traits`, and `defaults` for a run's
configuration; docs/OWN_CODE.md shows how.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ail_ray.imaging.images import enlarge
from ail_ray.networks.code import label

SCALES = (1, 2, 3, 4)
"""The factors by which pictures are enlarged; at 1 they are restored."""
ENLARGING = SCALES[1:]
WHOLE_PICTURE = 1_000_000
"""The radius of a network that looks at all of a picture, however large."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What has to be known of a network that is trained and used."""

    upsampling: int = 1
    """1 where it reads the bicubic-upsampled image, else the factor by which it enlarges."""
    radius: int | None = None
    """How far away, in pixels of the input, the input has an effect on a pixel of the output. None: measure it."""
    scales: tuple[int, ...] = ()
    """The scales that it serves; without any, its `upsampling`, or all of them where that is 1."""
    multiple: int = 1
    """Of what height and width of its input have to be multiples."""

    def __post_init__(self) -> None:
        numbers = [self.upsampling, self.multiple, *self.scales, *([] if self.radius is None else [self.radius + 1])]
        if any(not isinstance(number, int) or number < 1 for number in numbers):
            raise ValueError(f"upsampling, multiple and scales must be 1 or more, radius 0 or more, got {self}")

    @property
    def reach(self) -> int:
        """The radius, once it is known."""
        return WHOLE_PICTURE if self.radius is None else self.radius

    def serves(self, scale: int) -> bool:
        return scale in (self.scales or ((self.upsampling,) if self.upsampling > 1 else SCALES))


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a network was made from: its name, and what its constructor was given."""

    network: str
    width: int | None = None
    depth: int | None = None
    scale: int | None = None

    def __str__(self) -> str:
        given = [(name, value) for name, value in vars(self).items() if name != "network" and value is not None]
        return f"a {label(self.network)}" + " of" * bool(given) + ",".join(f" {name} {value}" for name, value in given)


class Network(nn.Module):
    """A network from luma to luma, about [0, 1], as `build_model` makes it; of ours, or adopted from outside."""

    traits: Traits
    made: Made


class Ours(Network):
    """A network that comes with the package, without biases unless it says so.

    `width` is its number of feature maps, `depth` its number of convolutions as they are computed.
    """

    name: ClassVar[str]
    full_width: ClassVar[int]
    full_depth: ClassVar[int]
    depths: ClassVar[range]
    upsamples: ClassVar[bool] = False
    defaults: ClassVar[dict[str, float]] = {}
    """Fields of a run's configuration in which this network needs other values than the presets have."""

    def __init__(self, width: int, depth: int, scale: int | None = None) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        self.made = Made(network=self.name, width=width, depth=depth, scale=scale)
        self.traits = Traits(upsampling=scale or 1, radius=depth)

    @classmethod
    def thinned(cls, rho: float) -> int:
        """How many feature maps are left, at least 1, if the share `rho` of the full network's is removed."""
        return max(1, round(cls.full_width * (1 - rho)))


class Bicubic(Network):
    """No network but what every network is measured against: the bicubic-upsampled image as it is."""

    traits, made = Traits(radius=0), Made(network="bicubic interpolation")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) luma, the same one."""
        return inputs


class VDSR(Ours):
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


class DRRN(Ours):
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
        """As `Ours.thinned`, but rounded down: the paper's DRRN-f25 has 128 maps less 80 %."""
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


class FSRCNN(Ours):
    """FSRCNN (Dong et al. 2016): features, shrinking, mapping, expanding and a deconvolution that upsamples.

    5x5 to `width` maps, 1x1 to 12 (of 56, in proportion), `depth - 4` of 3x3, 1x1 back, and 9x9 with the scale as
    its stride; biases, and a PReLU behind each layer but the last. Weights are drawn as there: He et al. 2015
    (fan-in), the deconvolution's with a deviation of 0.001.
    """

    name, full_width, full_depth, depths, upsamples = "fsrcnn", 56, 8, range(5, 1000), True
    # Small by design: with 0.8 of its filters removed it would end below bicubic. 48 is a multiple of every scale.
    defaults: ClassVar[dict[str, float]] = {"rho": 0.0, "crop": 48}

    def __init__(self, width: int = 56, depth: int = 8, scale: int = 2) -> None:
        super().__init__(width, depth, scale)
        # In low-resolution pixels: 2 for the 5x5, 1 for each 3x3, the rest for the deconvolution.
        self.traits = Traits(upsampling=scale, radius=2 + (depth - 4) + 1 + 3 // scale)
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

    def start_from_identity(self, noise: float) -> None:
        """Let the first maps of all layers pass the picture on, and the deconvolution enlarge it as bicubic does.

        The drawn weights of the convolutions are multiplied by `noise`.
        """
        with torch.no_grad():
            for weight in (layer.weight for layer in self.layers if isinstance(layer, nn.Conv2d)):
                weight.mul_(noise).add_(nn.init.dirac_(torch.empty_like(weight)))
            self.deconvolution.weight[0, 0] += _bicubic_kernel(self.traits.upsampling)

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


class ABPN(Ours):
    """A network for phones after ABPN (Du et al. 2021): plain 3x3 convolutions on the small image, with biases.

    ReLU between them; to each of the last one's `scale ** 2` maps the small image is added, and depth-to-space lays
    these maps out as the large image. So convolution, ReLU, add and depth-to-space are all that a device has to know,
    and no tensor has more than four dimensions. The image that is added, called the anchor, is nearest-neighbour
    enlargement. The network of the paper is one from RGB to RGB, and has `3 * scale ** 2` maps before its last
    convolution; here it has `width`, since luma alone would leave four at scale 2. Weights are drawn as in He et al.
    2015 (fan-in), the last convolution's with a deviation of 0.001.
    """

    name, full_width, full_depth, depths, upsamples = "abpn", 28, 7, range(2, 1000), True
    # Small by design, as FSRCNN is. 48 is a multiple of every scale.
    defaults: ClassVar[dict[str, float]] = {"rho": 0.0, "crop": 48}

    def __init__(self, width: int = 28, depth: int = 7, scale: int = 2) -> None:
        super().__init__(width, depth, scale)
        channels = [1, *[width] * (depth - 1), scale**2]
        layers = [nn.Conv2d(channels[i], channels[i + 1], 3, padding=1) for i in range(depth)]
        for i, layer in enumerate(layers):
            if not layer.weight.is_meta:
                nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * channels[i])) if i < depth - 1 else 0.001)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.layers = nn.ModuleList(layers)

    def start_from_identity(self, noise: float) -> None:
        """Let the first maps of all layers pass the picture on, and the last one make bicubic enlargement of it.

        The drawn weights of all layers but the last are multiplied by `noise`. Of bicubic enlargement the last layer
        has what nine pixels of the small image tell.
        """
        weights = [layer.weight for layer in self.layers if isinstance(layer, nn.Conv2d)]
        with torch.no_grad():
            for weight in weights[:-1]:
                weight.mul_(noise).add_(nn.init.dirac_(torch.empty_like(weight)))
            weights[-1][:, 0] += _bicubic_taps(self.traits.upsampling)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Super-resolve; inputs and output are those of `FSRCNN.forward`.

        Map `scale * i + j` has the pixels in row i and column j of each block of `scale` by `scale`. As there is one
        channel of output, this is the order both of ONNX's DepthToSpace "CRD" and of its "DCR".
        """
        features = inputs
        for i, layer in enumerate(self.layers):
            features = layer(features if i == 0 else torch.relu_(features))
        return nn.functional.pixel_shuffle(inputs + features.to(inputs.dtype), self.traits.upsampling)


NETWORKS: dict[str, type[VDSR | DRRN | FSRCNN | ABPN]] = {n.name: n for n in (VDSR, DRRN, FSRCNN, ABPN)}


def device_of(model: nn.Module) -> torch.device:
    """The device on which a network's weights are; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def unserved(model: Network, scales: Iterable[int]) -> list[str]:
    """A line for each of these scales that the network does not serve."""
    t = model.traits
    does = f"upsamples by {t.upsampling}" if t.upsampling > 1 else f"serves {' '.join(map(str, t.scales))}"
    others = [scale for scale in scales if not model.traits.serves(scale)]
    return [f"this {label(model.made.network)} {does}, it cannot serve scale {scale}" for scale in others]


def start_from_identity(model: nn.Module, noise: float) -> None:
    """Let every layer that has as many maps out as in begin by passing them on (the Dirac kernel).

    The drawn weights of all convolutions are multiplied by `noise`, then the centre taps from each map to its own are
    raised by 1. So whether anything reaches the end no longer depends on luck in the draw. A rectified layer whose maps
    are all negative everywhere lets nothing through and, since it gets no gradient, never will. A network without
    layers that have as many maps out as in keeps its draw, and one with a method of this name does it in its own way.
    """
    own: Any = getattr(model, "start_from_identity", None)
    if callable(own):
        own(noise)
        return
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    passing = [weight for weight in weights if weight.shape[0] == weight.shape[1] > 1]
    with torch.no_grad():
        for weight in weights if passing else ():
            weight.mul_(noise)
        for weight in passing:
            weight.add_(nn.init.dirac_(torch.empty_like(weight)))


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


def _bicubic_taps(scale: int) -> torch.Tensor:
    """What 3x3 convolutions add to a repeated pixel to make bicubic enlargement of it: (scale ** 2, 3, 3) float32.

    Of the four by four taps those outside of the nine pixels are left out, and the others made to sum to 1.
    """
    taps = np.zeros((scale**2, 3, 3), np.float32)
    for row in range(3):
        for column in range(3):
            pixel = np.zeros((9, 9), np.float32)
            pixel[3 + row, 3 + column] = 1
            taps[:, row, column] = enlarge(pixel, scale)[4 * scale : 5 * scale, 4 * scale : 5 * scale].ravel()
    taps /= taps.sum(axis=(1, 2), keepdims=True)
    taps[:, 1, 1] -= 1
    return torch.from_numpy(taps)


def _draw(model: nn.Module) -> None:
    """Draw weights of 3x3 convolutions as in He et al. 2015 (fan-out), from torch's global generator."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:  # for which torch loads a second's worth
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * layer.out_channels)))
