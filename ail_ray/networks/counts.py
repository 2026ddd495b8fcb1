"""How large a network is: its weights, and the multiplications and additions that an image costs (Table 3)."""

import torch
from torch import nn

from ail_ray.networks.architectures import Network, Ours, device_of


def parameter_count(model: nn.Module) -> int:
    """How many weights a network has."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_accumulates(model: Network, height: int = 256, width: int = 256) -> int:
    """Multiply-accumulates of the layers for an output image of this size, pixels (Table 3's is 256x256).

    For a network that upsamples, the size is rounded down to a multiple of its scale. What is counted is a small image.
    Of ours the convolutions are counted here, since torch's own counter takes a second to load whatever it could count.
    """
    u, side = model.traits.upsampling, 12 * model.traits.multiple
    image = torch.zeros(1, 1, side, side)
    total = _of_convolutions(model, image) if isinstance(model, Ours) else _of_operators(model, image)
    return total * (height // u) * (width // u) // side**2


def _of_convolutions(model: Network, image: torch.Tensor) -> int:
    total = 0

    def count(layer: nn.Conv2d | nn.ConvTranspose2d, inputs: tuple[torch.Tensor], outputs: torch.Tensor) -> None:
        nonlocal total
        pixels = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else outputs
        total += pixels.numel() * layer.weight[0].numel()

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    weights = {name: torch.zeros(parameter.shape) for name, parameter in model.named_parameters()}
    with torch.no_grad():
        torch.func.functional_call(model, weights, (image,))
    for hook in hooks:
        hook.remove()
    return total


def _of_operators(model: Network, image: torch.Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image.to(device_of(model)))
    return int(counter.get_total_flops()) // 2
