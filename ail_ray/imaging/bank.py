"""The bank: the shards that a worker holds, and the crops of any step, cut out of flat buffers."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ail_ray.imaging.crops import Draw, Places, indices, taken
from ail_ray.imaging.shards import Shard, join
from ail_ray.tensors import as_tensor

AHEAD = 64
"""For how many steps crops are drawn at once, so that a device gets where they are in one copy."""


def apart(device: torch.device) -> bool:
    """Whether a device works on its own, beside the processor: then every wait for it, and every copy to it, counts."""
    return device.type != "cpu"


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
        (self._device,) = {shard.hr.device for shard in shards.values()}
        (upsampling,) = {shard.upsampling for shard in shards.values()}
        self._numbers = list(shards)
        self._rank = np.full(total_shards, -1)  # of a shard among those here
        self._rank[self._numbers] = np.arange(len(shards))
        # Crops are cut buffer by buffer. In main memory a shard's is its mapped file, which is not copied; a device has
        # one for all shards, so that each kind of pixel takes one kernel.
        self._joined = apart(self._device)
        held = list(shards.values())
        planes = [join(held)] if self._joined else [(shard.hr, shard.inputs) for shard in held]
        self._hr, self._inputs = zip(*planes, strict=True)
        self._importance: dict[int, torch.Tensor] = {}  # by buffer
        self._outputs: dict[int, torch.Tensor] = {}
        self._places = Places([(s.heights, s.widths) for s in held], crop, upsampling, self._joined)

    def weigh(self, shard: int, importance: np.ndarray) -> None:
        """Let the crops of a shard carry this importance: (pixels,) float16, kept by reference in main memory."""
        self._keep(self._importance, shard, "importance", importance)

    def teach(self, shard: int, outputs: np.ndarray) -> None:
        """Let the crops of a shard carry a teacher's outputs too: (pixels,) float16, kept by reference in main
        memory."""
        self._keep(self._outputs, shard, "outputs", outputs)

    def _keep(self, buffers: dict[int, torch.Tensor], shard: int, name: str, values: np.ndarray) -> None:
        expected, rank = self.shards[shard].pixels, int(self._rank[shard])
        if values.shape != (expected,):
            raise ValueError(f"{name} of shard {shard} has shape {values.shape}, expected ({expected},)")
        if not self._joined:
            buffers[rank] = as_tensor(values)
            return
        if not buffers:
            buffers[0] = torch.full_like(self._hr[0], torch.nan, dtype=torch.float16)
        start = sum(self.shards[s].pixels for s in self._numbers[:rank])
        buffers[0][start : start + expected].copy_(as_tensor(values))

    def crops(self, *, round: int, epoch: int, step: int, batch: int) -> Crops:
        """The crops of one step, as `batches` has them."""
        return next(self.batches(round=round, epoch=epoch, steps=range(step, step + 1), batch=batch))

    def batches(self, *, round: int, epoch: int, steps: range, batch: int) -> Iterator[Crops]:
        """Of each step this worker's part of the global batch: the crops that fall on its own shards, random rotations
        and flips applied. On a device nothing waits for the kernels that cut them.

        Args:
            round, epoch, steps: the counters.
            batch: size of the global batch.
        """
        for begin in range(0, len(steps), AHEAD):
            ahead = steps[begin : begin + AHEAD]
            draw = Draw(self.seed, round, epoch, ahead, batch, self.total_shards)
            mine, rank = self._own(draw, batch)
            where = self._places.locate(rank, draw.position[mine]), draw.orientation[mine]
            pixels = inputs = self._sent(self._places.pixels(*where))
            if self._places.upsampling > 1:
                inputs = self._sent(self._places.inputs(*where))
            buffer = np.zeros_like(rank) if self._joined else rank
            for first, end in pairwise(np.searchsorted(mine // batch, np.arange(len(ahead) + 1))):
                yield self._cut(buffer[first:end], pixels[:, first:end], inputs[:, first:end])

    def _cut(self, buffer: np.ndarray, pixels: torch.Tensor, inputs: torch.Tensor) -> Crops:
        """The crops of a step from the buffer in which each lies, in ascending order, and from how each is read."""
        if not buffer.size:
            empty = torch.empty(0, 1, self.crop, self.crop)
            return Crops(empty.half(), empty.byte(), empty.half())
        index = read = indices(pixels, self.crop)
        if self._places.upsampling > 1:
            read = indices(inputs, self.crop // self._places.upsampling)
        parts, (there, begins) = [], np.unique(buffer, return_index=True)
        for i, begin, end in zip(there, begins, [*begins[1:], len(buffer)], strict=True):
            part = slice(begin, end)
            planes = [self._hr[i], self._importance[i], *([self._outputs[i]] if self._outputs else [])]
            parts.append([taken(self._inputs[i], read[part]), *(taken(plane, index[part]) for plane in planes)])
        return Crops(
            *((each[0] if len(each) == 1 else torch.cat(each)).unsqueeze(1) for each in zip(*parts, strict=True))
        )

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        """An array where the pixels are; a GPU copies it in its own time, from memory that stays where it is."""
        tensor = torch.from_numpy(array)
        return (tensor.pin_memory() if self._device.type == "cuda" else tensor).to(self._device, non_blocking=True)

    def sources(self, *, round: int, epoch: int, step: int, batch: int) -> list[tuple[int, int, int]]:
        """Where the crops of `crops` come from, in its order: place in the global batch, shard, pair."""
        draw = Draw(self.seed, round, epoch, range(step, step + 1), batch, self.total_shards)
        mine, rank = self._own(draw, batch)
        records = self._places.records(rank, draw.position[mine])
        return [(int(i), int(draw.shard[i]), int(record)) for i, record in zip(mine, records, strict=True)]

    def _own(self, draw: Draw, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Which crops of some global batches this worker cuts, step by step and in these shard by shard, and for each
        the rank of its shard."""
        rank = self._rank[draw.shard]
        mine = np.flatnonzero(rank >= 0)
        mine = mine[np.argsort(mine // batch * len(self._numbers) + rank[mine], kind="stable")]
        return mine, rank[mine]
