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


class EvaluationImages:
    """Whole images on which a student is measured at a scale: the luma of each, and the small image made from it."""

    def __init__(self, name: str, scale: int, hr: list[np.ndarray]) -> None:
        """
        Args:
            name: name of the set.
            scale: super-resolution factor.
            hr: (H, W) uint8 luma of each image, H and W multiples of the scale.
        """
        self.set, self.scale, self.hr = name, scale, hr

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
        return cls(metadata["set"], int(metadata["scale"]), [tensors[name] for name in sorted(tensors)])

    def __len__(self) -> int:
        return len(self.hr)

    @cached_property
    def small(self) -> list[np.ndarray]:
        """Low-resolution luma of each image: (H / scale, W / scale) float32 on [0, 1]."""
        return [degrade(hr, self.scale) for hr in self.hr]

    @cached_property
    def bicubic(self) -> list[np.ndarray]:
        """Bicubic-upsampled luma of each image: (H, W) float32, about [0, 1]."""
        return [enlarge(small, self.scale) for small in self.small]

    def inputs(self, upsampling: int) -> list[np.ndarray]:
        """The inputs of a network that enlarges by `upsampling`: `small` images, or `bicubic` ones if it is 1."""
        return self.bicubic if upsampling == 1 else self.small


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
    hr, problems = each_read(lambda pair: pair.sides().hr, pairs)
    if problems:
        return problems
    write_tensors(path, {f"{i:04d}": y for i, y in enumerate(hr)}, {"set": name, "scale": str(scale)})
    return []
