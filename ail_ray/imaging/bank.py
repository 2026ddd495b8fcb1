"""The bank: the shards that a worker holds, and the crops of any step, cut out of flat buffers."""

from dataclasses import dataclass

import numpy as np
import torch

from ail_ray.imaging.crops import Draw, Places, summed, taken
from ail_ray.imaging.shards import Shard
from ail_ray.tensors import as_tensor


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
