"""A shard: a group of pairs of about equal pixel count in one file, the unit that moves between machines."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from upath import UPath

from ail_ray.imaging.images import each_read
from ail_ray.imaging.pairs import Pair
from ail_ray.tensors import as_tensor, read_tensors, write_tensors


def write_shard(path: UPath, pairs: Sequence[Pair]) -> list[str]:
    """Prepare pairs and write them as one file: `hr` uint8, `inputs` and `small` float16, all flat, and geometry.

    Returns:
        A line for each image that cannot be read; where there is one, nothing is written.
    """
    read, problems = each_read(_arrays, pairs)
    if problems:
        return problems
    write_tensors(
        path,
        {
            "hr": np.concatenate([hr.ravel() for hr, _, _ in read]),
            "inputs": np.concatenate([inputs.ravel() for _, inputs, _ in read]),
            "small": np.concatenate([small.ravel() for _, _, small in read]),
            "heights": np.array([hr.shape[0] for hr, _, _ in read], np.int64),
            "widths": np.array([hr.shape[1] for hr, _, _ in read], np.int64),
            "scales": np.array([pair.scale for pair in pairs], np.int64),
        },
    )
    return []


def _arrays(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The luma of a pair, and the inputs of networks that do not enlarge and of those that do."""
    sides = pair.sides()
    return sides.hr, sides.inputs(1), sides.inputs(pair.scale)


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


def join(shards: Sequence[Shard]) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay the pixels of shards one behind the other: `hr` and `inputs` of all, of which theirs are parts thereafter."""
    hr = torch.cat([shard.hr for shard in shards])
    for shard, part in zip(shards, hr.split([len(shard.hr) for shard in shards]), strict=True):
        shard.hr = part  # before the inputs are joined: at most one of the two is there twice
    inputs = torch.cat([shard.inputs for shard in shards])
    for shard, part in zip(shards, inputs.split([len(shard.inputs) for shard in shards]), strict=True):
        shard.inputs = part
    return hr, inputs
