"""Public weights of architectures that `spandrel` knows, as teachers; the extra `[teachers]` installs it."""

import importlib.metadata
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import safetensors.torch
import torch
from upath import UPath

from ail_ray.errors import one_line
from ail_ray.learning.precision import Precision

TILE, OVERLAP = 192, 32
"""Sides in pixels of the small picture: large pictures are enlarged in squares of TILE, each with what is around it.

Windows of transformers, of 8 to 32 pixels, begin at multiples of themselves in every square, as in the whole picture.
"""


LAYERS = 5000  # that a file may speak of


class PublicWeightsError(ValueError):
    """Weights that `spandrel` cannot load, or that it is not there to load."""


def problems_of(path: UPath, scales: Iterable[int]) -> list[str]:
    """A line for all that keeps public weights from being a teacher at these scales."""
    try:
        model = _loaded(path)
    except PublicWeightsError as error:
        return [str(error)]
    name, channels = model.architecture.name, (model.input_channels, model.output_channels)
    found = [
        f"this {name} enlarges by {model.scale}, it cannot serve scale {scale}"
        for scale in scales
        if scale != model.scale
    ]
    if channels not in ((1, 1), (3, 3)):
        found.append(f"this {name} makes {channels[1]} channels of {channels[0]}; a teacher makes 3 of 3, or 1 of 1")
    return found


def enlarger(
    path: UPath, precision: Precision, device: torch.device
) -> tuple[Callable[[torch.Tensor], torch.Tensor], bool]:
    """What enlarges (1, C, h, w) float32 on [0, 1] to (1, C, scale h, scale w) float32, and whether C is 3, RGB.

    It computes in float32, and in float16 where the run's precision is bf16, the device is a GPU and the architecture
    bears it. In bfloat16 two values near 1 are a grey level apart, which would be the better part of a teacher's error.
    """
    model = _loaded(path)
    half = precision == "bf16" and device.type == "cuda" and model.supports_half
    dtype = torch.float16 if half else torch.float32
    model.to(device, dtype).eval()

    def enlarge(picture: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return in_tiles(model, picture.to(device, dtype), model.scale).float()

    return enlarge, model.input_channels == 3


def in_tiles(model: Callable[[torch.Tensor], torch.Tensor], picture: torch.Tensor, scale: int) -> torch.Tensor:
    """Enlarge (1, C, h, w) in squares that overlap, if it is larger than one of them."""
    height, width = picture.shape[2:]
    if max(height, width) <= TILE + 2 * OVERLAP:
        return model(picture)
    rows = []
    for top in range(0, height, TILE):
        row = []
        for left in range(0, width, TILE):
            above, before = min(top, OVERLAP), min(left, OVERLAP)
            square = picture[..., top - above : top + TILE + OVERLAP, left - before : left + TILE + OVERLAP]
            made = model(square)[..., above * scale : (above + TILE) * scale, before * scale : (before + TILE) * scale]
            row.append(made)
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


def _loaded(path: UPath) -> Any:
    """The model that `spandrel` makes of the tensors of a safetensors file; it is given no file, and no pickle.

    Raises:
        PublicWeightsError: it does not know them, or cannot be imported.
    """
    spandrel = _spandrel()
    try:
        tensors = safetensors.torch.load(path.read_bytes())
        # An architecture has as many layers as the largest number in a name says, and memory for them all.
        if any(int(number) > LAYERS for name in tensors for number in re.findall(r"\d{4,}", name)):
            raise PublicWeightsError(f"speaks of more than {LAYERS} layers")
        if any(not tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point()):
            raise PublicWeightsError("holds values that are not finite")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of somebody else's code about somebody else's code
            model = spandrel.ModelLoader().load_from_state_dict(tensors)
    except PublicWeightsError:
        raise
    except Exception as error:  # whatever the code of some forty architectures raises
        why = one_line(error)[:300] or type(error).__name__
        raise PublicWeightsError(f"spandrel {_version('spandrel')} does not know it either ({why})") from None
    if not isinstance(model, spandrel.ImageModelDescriptor):
        raise PublicWeightsError(f"{model.architecture.name} needs more than a picture, it cannot be a teacher")
    return model


def _spandrel() -> Any:
    """The library; PublicWeightsError with what to do, where it cannot be imported."""
    try:
        import spandrel
    except ModuleNotFoundError as error:
        raise PublicWeightsError(
            f"weights of others are read by spandrel, which lacks {error.name} here: pip install 'ail-ray[teachers]'"
        ) from None
    except Exception as error:  # of torchvision's, whose build belongs to one build of torch
        builds = ", ".join(f"{name} {_version(name)}" for name in ("torchvision", "torch"))
        raise PublicWeightsError(
            f"weights of others are read by spandrel, which cannot be imported ({one_line(error)}): here are {builds}; "
            "install the build of torchvision that goes with this torch, from where torch has come"
        ) from None
    return spandrel


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
