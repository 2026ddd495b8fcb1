"""Training pairs with both their sides, and the corpus of all pairs, dealt out to shards.

A *pair* is one image at one downsize and one scale. A *corpus* is all pairs, identified by what is in the images and
how they are prepared.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
from upath import UPath

from ail_ray.errors import counted
from ail_ray.files import digest_of, slug
from ail_ray.imaging.catalogue import Look, Seen, look_at_each
from ail_ray.imaging.images import (
    ImageError,
    degrade,
    downsize,
    each_read,
    enlarge,
    luma,
    luma_of,
    modcrop,
    read_image,
)
from ail_ray.imaging.metrics import measurable
from ail_ray.imaging.recipes import Recipe, generator_of

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
    recipe: str = ""  # how the low-resolution side is made; bicubic on luma if there is none
    seed: int = 0  # of the recipe
    copy: int = 0
    small: str = ""  # path of the low-resolution side, if it is a picture of its own
    small_content: str = ""  # SHA-256 of that file

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def name(self) -> str:
        """What its small picture is called as a file, without a suffix: `lena-0123456789ab-0.5-x2`."""
        drawn = f"-{digest_of([self.recipe, self.seed])[:8]}-{self.copy}" if self.recipe else ""
        drawn += f"-{self.small_content[:8]}" if self.small else ""
        return f"{slug(PurePosixPath(self.path).stem)[:100]}-{self.content[:12]}-{self.downsize:g}{drawn}-x{self.scale}"

    def sides(self, dtype: Any = np.float16) -> "Sides":
        """Read both sides; ImageError as `read_image`."""
        image = read_image(self.path, self.content)
        if self.small:
            return GivenSides(self, image, dtype)
        if self.recipe:
            return DrawnSides(self, image, dtype)
        return Sides(self.name, image, self.downsize, self.scale, dtype)


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

    @property
    def small_is_grey(self) -> bool:
        """Whether `small_rgb` has no colour: then its grey is luma already."""
        return self.is_grey

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


class DrawnSides(Sides):
    """The sides of a pair whose small side a recipe has made, of the whole picture in colour."""

    def __init__(self, pair: Pair, image: np.ndarray, dtype: Any) -> None:
        super().__init__(pair.name, image, pair.downsize, pair.scale, dtype)
        self.pair = pair

    @cached_property
    def _made(self) -> np.ndarray:
        planes = [self.image] if self.is_grey else [self.image[..., channel] for channel in range(3)]
        large = [modcrop(downsize(plane, self.downsize), self.scale) for plane in planes]
        generator = generator_of(self.pair.seed, self.pair.content, self.pair.copy)
        picture = large[0] if self.is_grey else np.stack(large, axis=-1)
        return Recipe.of(self.pair.recipe).apply(picture, self.scale, generator)

    @property
    def small_is_grey(self) -> bool:
        return self._made.ndim == 2

    @cached_property
    def small(self) -> np.ndarray:
        return self._made if self.small_is_grey else luma_of(self._made).astype(np.float32)

    @cached_property
    def small_rgb(self) -> np.ndarray:
        rounded = np.clip(np.rint(255 * self._made), 0, 255).astype(np.uint8)
        return rounded if rounded.ndim == 3 else np.stack([rounded] * 3, axis=-1)


class GivenSides(Sides):
    """The sides of a pair that are both pictures; a small one in colour has its luma rounded, as a large one has."""

    def __init__(self, pair: Pair, image: np.ndarray, dtype: Any) -> None:
        super().__init__(pair.name, image, pair.downsize, pair.scale, dtype)
        self._given = read_image(pair.small, pair.small_content)

    @property
    def small_is_grey(self) -> bool:
        return self._given.ndim == 2

    @cached_property
    def small(self) -> np.ndarray:
        return luma(self._given).astype(np.float32) / 255

    @cached_property
    def small_rgb(self) -> np.ndarray:
        return self._given if self._given.ndim == 3 else np.stack([self._given] * 3, axis=-1)


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
    recipe: str = "",
    seed: int = 0,
    copies: int = 1,
    small: Mapping[UPath, UPath] = MappingProxyType({}),
    look: Look = look_at_each,
) -> Corpus:
    """Find the pairs of some images and deal them out to shards; reads files but decodes no pixels.

    Args:
        images: image files; one whose content also appears in `exclude` (validation and test images) is left out.
        downsizes: factors in (0, 1] by which an image is shrunk before it is used.
        scales: super-resolution factors.
        crop: side of a training crop in pixels; a pair smaller than that is skipped and counted.
        shards: number of shards; never depends on the number of workers.
        recipe: how low-resolution sides are made, in `copies` that are drawn from `seed`.
        small: the low-resolution sides of images that have one of their own.
        look: reads image files, or knows them already.

    Raises:
        ImageError: images cannot be read, a line for each.
        ValueError: no pair is left, or there are fewer pairs than shards.
    """
    seen = look([*images, *exclude, *(small[path] for path in images if path in small)])
    excluded = {known.content for path in exclude if isinstance(known := seen[path], Seen)}
    pairs, skipped, left_out, unreadable, marks = [], 0, 0, list[str](), dict[str, str]()
    for path in images:
        try:
            known = _known(seen, path)
            if known.content in excluded:
                left_out += 1
                continue
            marks[known.content] = known.mark
            side, side_content = _given_side(seen, small.get(path), known, scales)
        except ImageError as error:
            unreadable.append(str(error))
            continue
        for factor in downsizes:
            for scale in scales:
                height, width = (side - side % scale for side in _downsized(known.height, known.width, factor))
                if min(height, width) < crop:
                    skipped += 1
                    continue
                pairs += [
                    Pair(
                        content=known.content, downsize=factor, scale=scale, height=height, width=width, path=str(path),
                        recipe=recipe, seed=seed, copy=copy, small=side, small_content=side_content,
                    )
                    for copy in range(copies if recipe else 1)
                ]  # fmt: skip
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
    identity += [[pair.small_content] for pair in pairs if pair.small]
    digest = digest_of([PREPARATION, crop, shards, identity, *([[recipe, seed, copies]] if recipe else [])])
    return Corpus(pairs=tuple(pairs), shards=_deal(pairs, shards), skipped=skipped, digest=digest, left_out=left_out)


def evaluation_pairs(
    images: Sequence[UPath],
    scale: int,
    recipe: str = "",
    seed: int = 0,
    small: Mapping[UPath, UPath] = MappingProxyType({}),
    look: Look = look_at_each,
) -> tuple[list[Pair], list[str]]:
    """The pairs that students are measured on at a scale, in the order of the images, and what they are known by.

    Raises:
        ValueError: with a line for each image that cannot be read, or is too small.
    """
    seen = look([*images, *(small[path] for path in images if path in small)])
    looked, problems = each_read(partial(_known, seen), images)
    if problems:
        raise ValueError("\n".join(problems))
    tiny = [path for path, known in zip(images, looked, strict=True)
            if not measurable(known.height, known.width, scale)]  # fmt: skip
    if tiny:
        raise ValueError("\n".join(f"{path}: too small to measure at scale {scale}" for path in tiny))
    sides, problems = each_read(
        lambda each: _given_side(seen, small.get(each[0]), each[1], (scale,)), zip(images, looked, strict=True)
    )
    if problems:
        raise ValueError("\n".join(problems))
    pairs = [
        Pair(content=known.content, downsize=1.0, scale=scale, height=known.height - known.height % scale,
             width=known.width - known.width % scale, path=str(path), recipe=recipe, seed=seed, small=side,
             small_content=content)
        for path, known, (side, content) in zip(images, looked, sides, strict=True)
    ]  # fmt: skip
    return pairs, [known.content + known.mark for known in looked] + [content for side, content in sides if side]


def _known(seen: Mapping[UPath, Seen | ImageError], path: UPath) -> Seen:
    if isinstance(known := seen[path], ImageError):
        raise known
    return known


def _given_side(
    seen: Mapping[UPath, Seen | ImageError], path: UPath | None, large: Seen, scales: Sequence[int]
) -> tuple[str, str]:
    """Path and digest of a low-resolution side, both empty if there is none; ImageError if it has another size."""
    if path is None:
        return "", ""
    found, (scale,) = _known(seen, path), scales
    height, width = large.height // scale, large.width // scale
    if (found.height, found.width) != (height, width):
        expected = f"{width}×{height}, {scale} times smaller than {large.width}×{large.height}"
        # as many programs do, at another scale thereby
        rounded_up = (found.height, found.width) == (-(-large.height // scale), -(-large.width // scale))
        remedy = f"; crop the large one to multiples of {scale} before it is made smaller" if rounded_up else ""
        raise ImageError(f"{path}: is {found.width}×{found.height} pixels, expected {expected}{remedy}")
    return str(path), found.content


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
