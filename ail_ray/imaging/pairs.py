"""Training pairs with both their sides, and the corpus of all pairs, dealt out to shards.

A *pair* is one image at one downsize and one scale. A *corpus* is all pairs, identified by what is in the images and
how they are prepared.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from upath import UPath

from ail_ray.errors import counted
from ail_ray.files import digest_of, slug
from ail_ray.imaging.images import (
    ImageError,
    content_digest,
    degrade,
    downsize,
    enlarge,
    image_size,
    luma,
    modcrop,
    read_image,
    reading,
)

PREPARATION = 2  # raise it whenever the pixels of a prepared pair change


@dataclass(frozen=True, kw_only=True, order=True)
class Pair:
    """One image at one downsize and one scale; height and width are those of the high-resolution side, pixels."""

    content: str  # SHA-256 of the image file
    downsize: float
    scale: int
    height: int
    width: int
    path: str

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def name(self) -> str:
        """What its small picture is called as a file, without a suffix: `lena-0123456789ab-0.5-x2`."""
        return f"{slug(PurePosixPath(self.path).stem)[:100]}-{self.content[:12]}-{self.downsize:g}-x{self.scale}"

    def sides(self, dtype: Any = np.float16) -> "Sides":
        """Read both sides; ImageError as `read_image`."""
        return Sides(self.name, read_image(self.path, self.content), self.downsize, self.scale, dtype)


class Sides:
    """The high-resolution and the low-resolution side of a pair, as arrays."""

    def __init__(self, name: str, image: np.ndarray, downsize: float, scale: int, dtype: Any = np.float16) -> None:
        """
        Args:
            name: that of the pair.
            image: (H, W, 3) uint8 RGB, or (H, W) uint8, which is luma already.
            dtype: in which `inputs` are given: float16, as shards hold them, or float32, as students are measured on.
        """
        self.name, self.image, self.downsize, self.scale, self.dtype = name, image, downsize, scale, dtype

    @property
    def is_grey(self) -> bool:
        return self.image.ndim == 2

    @cached_property
    def hr(self) -> np.ndarray:
        """The high-resolution luma: (height, width) uint8, multiples of the scale."""
        return modcrop(downsize(luma(self.image), self.downsize), self.scale)

    @cached_property
    def small(self) -> np.ndarray:
        """The low-resolution luma: (height / scale, width / scale) float32 on [0, 1], not clipped."""
        return degrade(self.hr, self.scale)

    @cached_property
    def bicubic(self) -> np.ndarray:
        """The low-resolution luma, enlarged: (height, width) float32 on [0, 1], not clipped."""
        return enlarge(self.small, self.scale)

    def inputs(self, upsampling: int) -> np.ndarray:
        """What a network reads that enlarges by `upsampling`: `bicubic`, or `small` where that is not 1."""
        return (self.bicubic if upsampling == 1 else self.small).astype(self.dtype)

    @cached_property
    def small_rgb(self) -> np.ndarray:
        """The low-resolution picture in colour, as a file holds it: (height / scale, width / scale, 3) uint8."""
        planes = [self.image] if self.is_grey else [self.image[..., channel] for channel in range(3)]
        small = [degrade(modcrop(downsize(plane, self.downsize), self.scale), self.scale) for plane in planes]
        rounded = [np.clip(np.rint(255 * plane), 0, 255).astype(np.uint8) for plane in small]
        return np.stack(rounded * (3 if self.is_grey else 1), axis=-1)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All training pairs, in shards.

    `digest` names the corpus by content, preparation and number of shards; paths do not enter it.
    """

    pairs: tuple[Pair, ...]
    shards: tuple[tuple[int, ...], ...]  # indices of pairs
    skipped: int  # pairs smaller than a crop
    digest: str
    left_out: int = 0  # images that are measured on too

    @property
    def pixels(self) -> int:
        return sum(pair.pixels for pair in self.pairs)

    def shard_pairs(self, shard: int) -> list[Pair]:
        return [self.pairs[i] for i in self.shards[shard]]


def plan_corpus(
    images: Sequence[UPath],
    *,
    downsizes: Sequence[float],
    scales: Sequence[int],
    crop: int,
    shards: int,
    exclude: Iterable[UPath] = (),
) -> Corpus:
    """Find the pairs of some images and deal them out to shards; reads files but decodes no pixels.

    Args:
        images: image files; one whose content also appears in `exclude` (validation and test images) is left out.
        downsizes: factors in (0, 1] by which an image is shrunk before it is used.
        scales: super-resolution factors.
        crop: side of a training crop in pixels; a pair smaller than that is skipped and counted.
        shards: number of shards; never depends on the number of workers.

    Raises:
        ImageError: images cannot be read, a line for each.
        ValueError: no pair is left, or there are fewer pairs than shards.
    """
    excluded = {content_digest(path.read_bytes()) for path in exclude}
    pairs, skipped, left_out, unreadable, marks = [], 0, 0, list[str](), dict[str, str]()
    for path in images:
        content = path.read_bytes()
        digest = content_digest(content)
        if digest in excluded:
            left_out += 1
            continue
        try:
            full_height, full_width = image_size(path, content)
            marks[digest] = reading(path, content)
        except ImageError as error:
            unreadable.append(str(error))
            continue
        for factor in downsizes:
            for scale in scales:
                height, width = (side - side % scale for side in _downsized(full_height, full_width, factor))
                if min(height, width) < crop:
                    skipped += 1
                    continue
                pairs.append(
                    Pair(content=digest, downsize=factor, scale=scale, height=height, width=width, path=str(path))
                )
    if unreadable:
        raise ImageError("\n".join(unreadable))
    if not pairs:
        raise ValueError(f"no training pair left: all {skipped} are smaller than a crop of {crop}×{crop} pixels")
    if len(pairs) < shards:
        raise ValueError(
            f"{counted(len(pairs), 'training pair')} cannot fill {shards} shards: pass --shards {len(pairs)} or less"
        )
    pairs.sort()
    identity = [[pair.content + marks[pair.content], pair.downsize, pair.scale] for pair in pairs]
    digest = digest_of([PREPARATION, crop, shards, identity])
    return Corpus(pairs=tuple(pairs), shards=_deal(pairs, shards), skipped=skipped, digest=digest, left_out=left_out)


def _downsized(height: int, width: int, factor: float) -> tuple[int, int]:
    return (height, width) if factor == 1 else (round(height * factor), round(width * factor))


def _deal(pairs: Sequence[Pair], shards: int) -> tuple[tuple[int, ...], ...]:
    """Deal pairs out to shards: the largest pair first, and each to the shard that has the fewest pixels so far."""
    hands: list[list[int]] = [[] for _ in range(shards)]
    weights = [(0, s) for s in range(shards)]  # a heap: of equally light shards the first
    for i in sorted(range(len(pairs)), key=lambda i: (-pairs[i].pixels, i)):
        weight, lightest = weights[0]
        hands[lightest].append(i)
        heapq.heapreplace(weights, (weight + pairs[i].pixels, lightest))
    return tuple(tuple(sorted(hand)) for hand in hands)
