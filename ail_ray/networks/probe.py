"""Whether a network from outside is one that can be trained and used here, found out by running it on small images."""

import warnings
from collections.abc import Iterable

import torch
from torch import nn

from ail_ray.errors import one_line
from ail_ray.networks.architectures import WHOLE_PICTURE, Network, unserved
from ail_ray.networks.code import label
from ail_ray.networks.notebooks import CodeError

SIDE, LARGEST = 160, 512
"""Sides in pixels of the images on which a radius is looked for: up to a quarter of either can be told."""


def upsampling_of(model: nn.Module, multiple: int) -> int:
    """By how much a network enlarges; CodeError if it makes no image of 1, 2, 3 or 4 times the size."""
    height, width = 12 * multiple, 15 * multiple
    made = _run(model, torch.zeros(1, 1, height, width))
    for factor in (1, 2, 3, 4):
        if made.shape == (1, 1, height * factor, width * factor):
            return factor
    raise CodeError(
        f"{_name(model)}: makes {list(made.shape)} of [1, 1, {height}, {width}]; needed is 1 to 4 times that"
    )


def radius_of(model: nn.Module, multiple: int, upsampling: int) -> int:
    """How far away, in pixels of the input, an input pixel has an effect, on any side.

    That is as far as a NaN in it is carried, which unlike a gradient goes through layers that happen to be silent, or
    as far as anything changes with its value, if that is farther. The pixels are the corners and the middle.
    """
    for side in (SIDE * multiple, LARGEST // multiple * multiple):
        places = [(y, x) for y in (0, side - 1) for x in (0, side - 1)] + [(side // 2, side // 2)]
        image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(1))
        spoilt, changed = image.clone(), image.clone()
        for y, x in places:
            spoilt[..., y, x], changed[..., y, x] = torch.nan, 1 - image[..., y, x]
        before = _run(model, image)[0, 0]
        reached = _run(model, spoilt)[0, 0].isnan() | (_run(model, changed)[0, 0] != before)
        rows, columns = (axis // upsampling for axis in reached.nonzero(as_tuple=True))
        away = [torch.maximum((rows - y).abs(), (columns - x).abs()) for y, x in places]
        extent = int(torch.stack(away).min(0).values.max()) if len(rows) else 0
        if extent < side // 4:
            return extent + multiple - 1
    return WHOLE_PICTURE


def problems_of(model: Network, scales: Iterable[int]) -> list[str]:
    """A line for everything about a network that training, strips of large images or resuming could not cope with.

    They are: layers that mix the images of a batch, draw random numbers or change what they hold, an output of another
    size, values that are not finite, a radius that it states and that its outputs contradict.
    """
    traits, name, found = model.traits, _name(model), list[str]()
    scales = list(scales)
    if others := unserved(model, scales):
        return [f"network: {line}" for line in others]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return [f"{name}: has no weights that could be trained"]
    mixing = [key for key, layer in model.named_modules() if isinstance(layer, nn.modules.batchnorm._NormBase)]
    mixing = [key for key in mixing if getattr(model.get_submodule(key), "track_running_stats", True)]
    if mixing:
        found.append(
            f"{name}: its layer {mixing[0]} normalises over a batch, which workers and strips split; leave it out"
        )
    if found:
        return found
    multiple = traits.multiple
    height, width = 12 * multiple, 17 * multiple
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 1, height, width, generator=generator)
    held = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    try:
        pair, other, again = _run(model, images[:2]), _run(model, images[[0, 2]]), _run(model, images[:2])
    except CodeError as error:
        return [str(error)]
    expected = (2, 1, height * traits.upsampling, width * traits.upsampling)
    if pair.shape != expected:
        return [f"{name}: makes {list(pair.shape)} of {list(images[:2].shape)}; needed is {list(expected)}"]
    if not pair.is_floating_point() or not pair.isfinite().all():
        return [f"{name}: makes values of an image that are not finite floats"]
    if not torch.equal(pair, again):
        found.append(f"{name}: makes something else of the same image; it may draw no random numbers, as dropout does")
    elif not torch.allclose(pair[0], other[0], rtol=1e-4, atol=1e-5):
        found.append(f"{name}: mixes the images of a batch, which workers and strips split")
    if any(not torch.equal(value, held[key]) for key, value in model.state_dict().items()):
        found.append(f"{name}: changes its buffers as it runs, which no two workers would do alike")
    if not found and (radius := radius_of(model, multiple, traits.upsampling)) > traits.reach:
        sees = "the whole picture" if radius == WHOLE_PICTURE else f"{radius} pixels away"
        found.append(f"{name}: states a radius of {traits.radius}, and its outputs depend on {sees}")
    return found


def _name(model: nn.Module) -> str:
    return f"network {label(model.made.network) if hasattr(model, 'made') else type(model).__name__}"  # type: ignore[union-attr, arg-type]


@torch.no_grad()
def _run(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the network makes of images, by plain loops: a fast convolution spreads a NaN over its blocks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about hardware that it has not found
            with torch.backends.mkldnn.flags(enabled=False):
                made = model(images.to(next(model.parameters(), images)))
    except (Exception, SystemExit) as error:  # whatever somebody else's code raises
        why = f"{type(error).__name__}: {one_line(error)}"
        hint = (
            "" if hasattr(model, "traits") else "; if its input's sides must be multiples of a number, say so in traits"
        )
        raise CodeError(f"{_name(model)}: fails on {list(images.shape)} ({why}){hint}") from error
    if not isinstance(made, torch.Tensor):
        raise CodeError(f"{_name(model)}: makes a {type(made).__name__}, and no tensor")
    return made
