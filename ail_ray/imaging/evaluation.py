"""Whole images, on which students are measured."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from upath import UPath

from ail_ray.files import AnyPath
from ail_ray.imaging.images import (
    ImageError,
    degrade,
    each_read,
    enlarge,
    luma,
    modcrop,
    read_image,
)
from ail_ray.imaging.pairs import Pair
from ail_ray.tensors import read_tensors, write_tensors

SMALL = ".small"  # ends the name of a small image in a file


class EvaluationImages:
    """Whole images on which a student is measured at a scale: the luma of each, and the small image made from it."""

    def __init__(self, name: str, scale: int, hr: list[np.ndarray], small: list[np.ndarray] | None = None) -> None:
        """
        Args:
            name: name of the set.
            scale: super-resolution factor.
            hr: (H, W) uint8 luma of each image, H and W multiples of the scale.
            small: (H / scale, W / scale) float32 luma that a recipe has made of each; by default bicubic makes it.
        """
        self.set, self.scale, self.hr, self._made = name, scale, hr, small

    @classmethod
    def read(cls, name: str, scale: int, images: Sequence[AnyPath]) -> "EvaluationImages":
        """Read image files, as `read_luma` does, and crop them to multiples of the scale.

        Raises:
            ImageError: a line for each image that cannot be read.
            ValueError: an image is smaller than the scale.
        """
        return cls(name, scale, [modcrop(y, scale) for y in read_luma(images)])

    @classmethod
    def load(cls, path: UPath) -> "EvaluationImages":
        """Read a file that `write_evaluation` has written."""
        tensors, metadata = read_tensors(path)
        small = [tensors[name] for name in sorted(tensors) if name.endswith(SMALL)]
        hr = [tensors[name] for name in sorted(tensors) if not name.endswith(SMALL)]
        return cls(metadata["set"], int(metadata["scale"]), hr, small or None)

    def windows(self, side: int, count: int) -> "EvaluationImages":
        """The middles of the first images, at most `side` pixels each way, a multiple of the scale."""
        hr = [middle(image, side, self.scale) for image in self.hr[:count]]
        small = self._made and [middle(image, side // self.scale, 1) for image in self._made[:count]]
        return EvaluationImages(self.set, self.scale, hr, small)

    def __len__(self) -> int:
        return len(self.hr)

    @cached_property
    def small(self) -> list[np.ndarray]:
        """Low-resolution luma of each image: (H / scale, W / scale) float32 on [0, 1]."""
        return self._made or [degrade(hr, self.scale) for hr in self.hr]

    @cached_property
    def bicubic(self) -> list[np.ndarray]:
        """Bicubic-upsampled luma of each image: (H, W) float32, about [0, 1]."""
        return [enlarge(small, self.scale) for small in self.small]

    def inputs(self, upsampling: int) -> list[np.ndarray]:
        """The inputs of a network that enlarges by `upsampling`: `small` images, or `bicubic` ones if it is 1."""
        return self.bicubic if upsampling == 1 else self.small


def middle(image: np.ndarray, side: int, scale: int) -> np.ndarray:
    """The middle of an (H, W) image, at most `side` pixels each way, that begins at a multiple of the scale."""
    top, left = (max(0, (length - side) // scale // 2 * scale) for length in image.shape)
    return image[top : top + side, left : left + side]


def read_luma(images: Sequence[AnyPath]) -> list[np.ndarray]:
    """The luma of image files, (H, W) uint8 each.

    Raises:
        ImageError: a line for each image that cannot be read.
    """
    found, problems = each_read(lambda path: luma(read_image(path)), images)
    if problems:
        raise ImageError("\n".join(problems))
    return found


def write_evaluation(path: UPath, name: str, scale: int, pairs: Sequence[Pair]) -> list[str]:
    """Write the high-resolution luma of some pairs of a scale as one file.

    Returns:
        A line for each image that cannot be read, or has changed; where there is one, nothing is written.
    """
    sides, problems = each_read(_arrays, pairs)
    if problems:
        return problems
    tensors = {f"{i:04d}": hr for i, (hr, _) in enumerate(sides)}
    tensors |= {f"{i:04d}{SMALL}": small for i, (_, small) in enumerate(sides) if small is not None}
    write_tensors(path, tensors, {"set": name, "scale": str(scale)})
    return []


def _arrays(pair: Pair) -> tuple[np.ndarray, np.ndarray | None]:
    """The high-resolution luma, and the small one unless bicubic makes it."""
    sides = pair.sides()
    return sides.hr, sides.small if pair.recipe or pair.small else None
