"""Recipes by which pictures are made worse: blur, downsizing, noise and compression, in an order, each from a range.

A recipe is written as `blur=0.2..1.5,noise=0..10,jpeg=40..95`, or in a YAML or JSON file as `blur: [0.2, 1.5]` and so
on. What is drawn from its ranges follows from a seed, the content of the picture and the number of the copy, so that it
is the same on every machine and in every order.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import yaml
from PIL import Image

from ail_ray.errors import one_line
from ail_ray.files import as_path
from ail_ray.imaging.images import luma_of

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "area": Image.Resampling.BOX}
FILES = (".yaml", ".yml", ".json")
Planes = np.ndarray
"""(H, W, C) float32 on about [0, 1]: RGB, or one plane of a grey picture or of luma."""


class RecipeError(ValueError):
    """A recipe that cannot be read; the message says what is wrong with it."""


def _blur(planes: Planes, low: float, high: float, generator: np.random.Generator) -> Planes:
    sigma = generator.uniform(low, high)
    return scipy.ndimage.gaussian_filter(planes, (sigma, sigma, 0), mode="nearest")


def _aniso(planes: Planes, low: float, high: float, generator: np.random.Generator) -> Planes:
    """Two sigmas along two axes that are turned by any angle; as one kernel."""
    (first, second), angle = generator.uniform(low, high, 2), generator.uniform(0, np.pi)
    reach = int(np.ceil(3 * max(first, second, 0.1)))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-0.5 * ((along / max(first, 1e-3)) ** 2 + (across / max(second, 1e-3)) ** 2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    blurred = [scipy.ndimage.convolve(plane, kernel, mode="nearest") for plane in np.moveaxis(planes, -1, 0)]
    return np.stack(blurred, axis=-1)


def _noise(planes: Planes, low: float, high: float, generator: np.random.Generator) -> Planes:
    sigma = generator.uniform(low, high) / 255
    return planes + np.float32(sigma) * generator.standard_normal(planes.shape, np.float32)


def _poisson(planes: Planes, low: float, high: float, generator: np.random.Generator) -> Planes:
    """As if white were so many photons that their noise has this sigma there."""
    sigma = generator.uniform(low, high) / 255
    photons = 1 / max(sigma, 1e-4) ** 2
    return (generator.poisson(planes.clip(0, 1) * photons) / photons).astype(np.float32)


def _jpeg(planes: Planes, low: float, high: float, generator: np.random.Generator) -> Planes:
    quality = int(generator.integers(round(low), round(high) + 1))
    pixels = np.rint(planes.clip(0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "jpeg", quality=quality)
    decoded = np.asarray(Image.open(buffer)).astype(np.float32) / 255
    return decoded.reshape(pixels.shape)


Step = Callable[[Planes, float, float, np.random.Generator], Planes]
STEPS: dict[str, tuple[Step, float, float]] = {
    "blur": (_blur, 0, 100), "aniso": (_aniso, 0, 10), "noise": (_noise, 0, 255), "poisson": (_poisson, 0, 255),
    "jpeg": (_jpeg, 1, 100),
}  # fmt: skip
"""By name: the step, and between what its range has to lie. Blurs are sigmas in pixels, noises sigmas in grey levels of
255, the last is the quality of a JPEG."""


@dataclass(frozen=True)
class Recipe:
    """Steps in their order: name, lower and upper end of the range; of `down` and `luma` only the name counts."""

    steps: tuple[tuple[str, float, float], ...]

    @classmethod
    def of(cls, text: str) -> "Recipe":
        """Read a recipe as it is written on the command line, or the path of a .yaml, .yml or .json file that has one.

        Raises:
            RecipeError: the file cannot be read, a step is not known, or its range is none.
        """
        steps = []
        text = _read(text) if text.lower().endswith(FILES) else text
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.partition("=")
            if name == "luma" and not value:
                steps.append((name, 0.0, 0.0))
            elif name == "down":
                if value not in FILTERS:
                    raise RecipeError(f"down must be one of {', '.join(FILTERS)}, got {value!r}")
                steps.append((f"down={value}", 0.0, 0.0))
            elif name in STEPS:
                steps.append((name, *_range(name, value)))
            else:
                raise RecipeError(f"{name!r} is no step; there are luma, down, {', '.join(STEPS)}")
        if sum(name.startswith("down=") for name, *_ in steps) > 1:
            raise RecipeError("down can be named once")
        return cls(tuple(steps))

    def __str__(self) -> str:
        return ",".join(name if name not in STEPS else f"{name}={low:g}..{high:g}" for name, low, high in self.steps)

    def apply(self, image: np.ndarray, scale: int, generator: np.random.Generator) -> np.ndarray:
        """The low-resolution side of a picture: (h, w) or (h, w, 3) float32 on about [0, 1], not clipped.

        The picture is made smaller where `down` stands, else before the first noise or compression.

        Args:
            image: (H, W) uint8 luma or (H, W, 3) uint8 RGB, H and W multiples of the scale.
        """
        planes: np.ndarray = (image[..., None] if image.ndim == 2 else image).astype(np.float32) / 255
        names = [name for name, *_ in self.steps]
        small = scale == 1
        for name, low, high in self.steps:
            if name == "luma":
                planes = luma_of(planes).astype(np.float32)[..., None] if planes.shape[-1] == 3 else planes
            elif name.startswith("down="):
                planes, small = (planes if small else _smaller(planes, scale, name.partition("=")[2])), True
            else:
                if not small and name in ("noise", "poisson", "jpeg") and not any(n.startswith("down=") for n in names):
                    planes, small = _smaller(planes, scale, "bicubic"), True
                planes = STEPS[name][0](planes, low, high, generator)
        planes = planes if small else _smaller(planes, scale, "bicubic")
        return planes[..., 0] if planes.shape[-1] == 1 else planes


def generator_of(seed: int, content: str, copy: int) -> np.random.Generator:
    """The random numbers of one copy of a picture, whose content has this SHA-256."""
    words = [int(content[i : i + 8], 16) for i in range(0, 32, 8)]
    return np.random.default_rng(np.random.SeedSequence([seed, copy, *words]))


def _read(path: str) -> str:
    """The recipe of a file as one writes it on the command line: a mapping of steps, or a list where one occurs twice.

    A range is written as `[0.2, 1.5]` or `0.2..1.5`, and a step without one, such as `luma`, by its name alone.
    """
    try:
        content = yaml.load(as_path(path).read_text(encoding="utf-8"), _OnceEach)  # JSON is YAML too
    except Exception as error:  # whatever a file system, an object store's library or the parser raises
        raise RecipeError(f"{path}: cannot be read ({one_line(error)})") from error
    steps = list[tuple[object, object]]()
    for part in content if isinstance(content, list) else [content]:
        steps += part.items() if isinstance(part, dict) else [(part, None)]
    if not steps or any(not isinstance(name, str) for name, _ in steps):
        raise RecipeError(f"{path}: expected steps such as `blur: [0.2, 1.5]`, got {content!r:.80}")
    written = [(name, "..".join(map(str, ends)) if isinstance(ends, list) else ends) for name, ends in steps]
    return ",".join(str(name) if ends is None or ends is True else f"{name}={ends}" for name, ends in written)


class _OnceEach(yaml.SafeLoader):
    """Reads plain data, and refuses a name that a mapping has twice instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(problem=f"{twice[0]} twice: write a list of steps then")
        return super().construct_mapping(node, deep)


def _range(name: str, value: str) -> tuple[float, float]:
    _, least, most = STEPS[name]
    low, dots, high = value.partition("..")
    try:
        ends = float(low), float(high if dots else low)
    except ValueError:
        raise RecipeError(
            f"{name} needs a number or a range such as {name}={least:g}..{most:g}, got {value!r}"
        ) from None
    if not least <= ends[0] <= ends[1] <= most:
        raise RecipeError(f"{name} must be a range within {least:g}..{most:g}, got {value}")
    return ends


def _smaller(planes: Planes, scale: int, name: str) -> Planes:
    height, width = planes.shape[0] // scale, planes.shape[1] // scale
    made = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), FILTERS[name]))
        for plane in np.moveaxis(planes, -1, 0)
    ]
    return np.stack(made, axis=-1)
