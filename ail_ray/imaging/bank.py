"""Training pairs, the shards they are stored in, and the bank of pixels that crops are drawn from.

A *pair* is one image at one downsize and one scale. A *corpus* is all pairs, identified by what is in the images
and how they are prepared. A *shard* is a group of pairs of about equal pixel count, one file, the unit that moves
between machines. A *bank* is the shards a worker holds; it cuts the crops of any step out of flat buffers.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from upath import UPath

from ail_ray.errors import counted
from ail_ray.files import as_tensor, digest_of, read_tensors, write_tensors
from ail_ray.imaging.crops import Draw, Places, summed, taken
from ail_ray.imaging.datasets import content_digest
from ail_ray.imaging.images import (
    ImageError,
    degrade,
    downsize,
    each_read,
    enlarge,
    image_size,
    luma,
    modcrop,
    read_image,
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

    def prepare(self) -> np.ndarray:
        """The high-resolution luma: (height, width) uint8."""
        return modcrop(downsize(luma(read_image(self.path)), self.downsize), self.scale)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All training pairs, in shards.

    `digest` names the corpus by content, preparation and number of shards; paths do not enter it.
    """

    pairs: tuple[Pair, ...]
    shards: tuple[tuple[int, ...], ...]  # indices of pairs
    skipped: int  # pairs smaller than a crop
    digest: str

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
        images: image files; one whose content also appears in `exclude` (validation images) is left out.
        downsizes: factors in (0, 1] by which an image is shrunk before it is used.
        scales: super-resolution factors.
        crop: side of a training crop in pixels; a pair smaller than that is skipped and counted.
        shards: number of shards; never depends on the number of workers.

    Raises:
        ImageError: images cannot be read, a line for each.
        ValueError: no pair is left, or there are fewer pairs than shards.
    """
    excluded = {content_digest(path) for path in exclude}
    pairs, skipped, unreadable = [], 0, []
    for path in images:
        content = content_digest(path)
        if content in excluded:
            continue
        try:
            full_height, full_width = image_size(path)
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
                    Pair(
                        content=content,
                        downsize=factor,
                        scale=scale,
                        height=height,
                        width=width,
                        path=str(path),
                    )
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
    identity = [[pair.content, pair.downsize, pair.scale] for pair in pairs]
    digest = digest_of([PREPARATION, crop, shards, identity])
    return Corpus(pairs=tuple(pairs), shards=_deal(pairs, shards), skipped=skipped, digest=digest)


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


def write_shard(path: UPath, pairs: Sequence[Pair]) -> list[str]:
    """Prepare pairs and write them as one file: `hr` uint8, `inputs` and `small` float16, all flat, and geometry.

    Returns:
        A line for each image that cannot be read; where there is one, nothing is written.
    """
    images, problems = each_read(Pair.prepare, pairs)
    if problems:
        return problems
    small = [degrade(hr, pair.scale) for hr, pair in zip(images, pairs, strict=True)]
    inputs = [enlarge(image, pair.scale) for image, pair in zip(small, pairs, strict=True)]
    write_tensors(
        path,
        {
            "hr": np.concatenate([hr.ravel() for hr in images]),
            "inputs": np.concatenate([image.ravel() for image in inputs]).astype(np.float16),
            "small": np.concatenate([image.ravel() for image in small]).astype(np.float16),
            "heights": np.array([hr.shape[0] for hr in images], np.int64),
            "widths": np.array([hr.shape[1] for hr in images], np.int64),
            "scales": np.array([pair.scale for pair in pairs], np.int64),
        },
    )
    return []


class Shard:
    """The pixels of one shard, mapped from its file, as a network of some upsampling reads them.

    `hr`: (P,) uint8 luma; `inputs`: float16 luma on [0, 1], (P,) bicubic-upsampled at upsampling 1, else the
    low-resolution image, (P / upsampling^2,); `P` pixels in all.
    """

    def __init__(self, path: UPath, device: torch.device | None = None, upsampling: int = 1) -> None:
        tensors, _ = read_tensors(path)
        if upsampling > 1 and set(tensors["scales"]) != {upsampling}:
            raise ValueError(f"{path}: a network for scale {upsampling} cannot read it, it has others too")
        self.upsampling = upsampling
        self.heights, self.widths = tensors["heights"], tensors["widths"]
        self.offsets = np.concatenate([[0], np.cumsum(self.heights * self.widths)])
        self.hr = as_tensor(tensors["hr"]).to(device or "cpu")
        self.inputs = as_tensor(tensors["inputs" if upsampling == 1 else "small"]).to(device or "cpu")

    @property
    def pixels(self) -> int:
        return int(self.offsets[-1])

    def images(self) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """For each pair its place among the P pixels, its inputs and `hr`, the last two (height, width)."""
        for i, (height, width) in enumerate(zip(self.heights, self.widths, strict=True)):
            start, end = int(self.offsets[i]), int(self.offsets[i + 1])
            u = self.upsampling
            inputs = self.inputs[start // u**2 : end // u**2].view(height // u, width // u)
            yield slice(start, end), inputs, self.hr[start:end].view(height, width)


@dataclass(frozen=True)
class Crops:
    """A batch of (n, 1, crop, crop) tensors: `inputs` float16, `hr` uint8, `importance` and `outputs` float16.

    For a network that upsamples, the sides of `inputs` are those of the crop divided by its upsampling.
    """

    inputs: torch.Tensor
    hr: torch.Tensor
    importance: torch.Tensor
    outputs: torch.Tensor | None = None  # a teacher's, for distillation


class Bank:
    """The shards of one worker, and every crop that can be cut from them.

    Sampling is counter-based: crop `i` of step `k`, epoch `e`, round `t` depends on the seed and these numbers
    alone, so nothing has to be saved or replayed, and the global batch is the same for every number of workers.
    """

    def __init__(self, shards: dict[int, Shard], *, total_shards: int, crop: int, seed: int) -> None:
        """
        Args:
            shards: this worker's shards by number, all as the same network reads them.
            total_shards: how many shards the corpus has.
            crop: side of a crop in pixels, a multiple of the shards' upsampling.
            seed: the seed from which the crops are drawn.
        """
        self.shards, self.total_shards, self.crop, self.seed = shards, total_shards, crop, seed
        self._importance: dict[int, torch.Tensor] = {}
        self._outputs: dict[int, torch.Tensor] = {}
        (upsampling,) = {shard.upsampling for shard in shards.values()}
        self._places = Places([(shard.heights, shard.widths) for shard in shards.values()], crop, upsampling)
        self._numbers = list(shards)
        self._rank = np.full(total_shards, -1)  # of a shard among those here
        self._rank[self._numbers] = np.arange(len(shards))

    def weigh(self, shard: int, importance: np.ndarray) -> None:
        """Let the crops of a shard carry this importance: (pixels,) float16, kept by reference."""
        self._importance[shard] = self._plane(shard, "importance", importance)

    def teach(self, shard: int, outputs: np.ndarray) -> None:
        """Let the crops of a shard carry a teacher's outputs too: (pixels,) float16, kept by reference."""
        self._outputs[shard] = self._plane(shard, "outputs", outputs)

    def _plane(self, shard: int, name: str, values: np.ndarray) -> torch.Tensor:
        expected = self.shards[shard].pixels
        if values.shape != (expected,):
            raise ValueError(f"{name} of shard {shard} has shape {values.shape}, expected ({expected},)")
        return as_tensor(values).to(self.shards[shard].hr.device)

    def crops(self, *, round: int, epoch: int, step: int, batch: int) -> Crops:
        """This worker's part of the global batch: the crops that fall on its own shards, random rotations and flips
        applied.

        Args:
            round, epoch, step: the counters.
            batch: size of the global batch.
        """
        draw = Draw(self.seed, round, epoch, step, batch, self.total_shards)
        mine, rank = self._own(draw)
        if not mine.size:
            empty = torch.empty(0, 1, self.crop, self.crop)
            return Crops(empty.half(), empty.byte(), empty.half())
        where = self._places.locate(rank, draw.position[mine]), draw.orientation[mine]
        grid = pixels = self._places.pixels(*where)
        if self._places.upsampling > 1:
            grid = self._places.inputs(*where)
        parts, (there, begins) = [], np.unique(rank, return_index=True)
        for r, begin, end in zip(there, begins, [*begins[1:], len(rank)], strict=True):
            s = self._numbers[r]
            shard, part = self.shards[s], slice(begin, end)
            index = read = summed(pixels, part, shard.hr.device)
            if grid is not pixels:
                read = summed(grid, part, shard.hr.device)
            planes = [shard.hr, self._importance[s], *([self._outputs[s]] if self._outputs else [])]
            parts.append([taken(shard.inputs, read), *(taken(plane, index) for plane in planes)])
        return Crops(*(torch.cat(tensors).unsqueeze(1) for tensors in zip(*parts, strict=True)))

    def sources(self, *, round: int, epoch: int, step: int, batch: int) -> list[tuple[int, int, int]]:
        """Where the crops of `crops` come from, in its order: place in the global batch, shard, pair."""
        draw = Draw(self.seed, round, epoch, step, batch, self.total_shards)
        mine, rank = self._own(draw)
        records = self._places.records(rank, draw.position[mine])
        return [(int(i), int(draw.shard[i]), int(record)) for i, record in zip(mine, records, strict=True)]

    def _own(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Which crops of a global batch this worker cuts, shard by shard, and for each the rank of its shard."""
        rank = self._rank[draw.shard]
        mine = np.flatnonzero(rank >= 0)
        mine = mine[np.argsort(rank[mine], kind="stable")]
        return mine, rank[mine]
