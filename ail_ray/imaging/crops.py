"""Which random crops steps have, and where in flat buffers their pixels are, by index arithmetic."""

from collections.abc import Sequence

import numpy as np
import torch


class Draw:
    """The random numbers of some steps: each crop's shard, its position as a fraction in [0, 1), its orientation 0..7.

    (steps * batch,) int64, float64 and int64, one step after the other. The shard is a random permutation of `i mod S`
    for crop `i` of a step, so that each shard serves its share of every batch.
    """

    def __init__(self, seed: int, round: int, epoch: int, steps: range, batch: int, shards: int) -> None:
        counters = ([0, step, epoch, round] for step in steps)
        raw = np.stack([np.random.Philox(key=seed, counter=c).random_raw(2 * batch + shards) for c in counters])
        permutation = np.argsort(raw[:, 2 * batch :], kind="stable")
        self.shard = permutation[:, np.arange(batch) % shards].ravel()
        self.position = (raw[:, :batch] >> np.uint64(11)).astype(np.float64).ravel() * 2.0**-53
        self.orientation = (raw[:, batch : 2 * batch] >> np.uint64(61)).astype(np.int64).ravel()


class Places:
    """All places where a crop fits into the images of some shards; corners lie on the grid of the inputs.

    Its methods take n crops at once: `rank`, which of the shards, (n,) int64; `fraction`, where in it, (n,) float64 in
    [0, 1); they return (n,) int64 unless they say otherwise.
    """

    def __init__(
        self, sizes: Sequence[tuple[np.ndarray, np.ndarray]], crop: int, upsampling: int, joined: bool = False
    ) -> None:
        """
        Args:
            sizes: heights and widths of each shard's images, pixels.
            crop: side of a crop, a multiple of the upsampling, by which the grid of the inputs is coarser.
            joined: whether the shards lie one behind the other in one buffer; else each has its own.
        """
        self.upsampling, self.crop, u = upsampling, crop, upsampling
        heights, self.widths = (np.concatenate(sides) // u for sides in zip(*sizes, strict=True))
        ends = [np.cumsum([0, *(h * w)]) for h, w in sizes]
        starts = np.cumsum([0, *(end[-1] for end in ends[:-1])]) * joined  # of the shards in their buffers
        self.offsets = np.concatenate([end[:-1] + start for end, start in zip(ends, starts, strict=True)]) // u**2
        self.across = self.widths - crop // u + 1
        fits = self.across * (heights - crop // u + 1)
        self.starts = np.concatenate([[0], np.cumsum(fits)])  # of each image among all places
        self.first = np.cumsum([0, *(len(widths) for _, widths in sizes)])  # image of each shard

    def records(self, rank: np.ndarray, fraction: np.ndarray) -> np.ndarray:
        """For each of some uniformly chosen places, the number in its shard of the image in which it lies."""
        return self._within(rank, fraction)[0] - self.first[rank]

    def locate(self, rank: np.ndarray, fraction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, row and column of the top left corners of uniformly chosen places in given shards."""
        image, within = self._within(rank, fraction)
        return image, *np.divmod(within, self.across[image])

    def _within(self, rank: np.ndarray, fraction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each place, its image, and its number among the places of that image."""
        start, end = self.starts[self.first[rank]], self.starts[self.first[rank + 1]]
        place = start + (fraction * (end - start)).astype(np.int64)
        image = np.searchsorted(self.starts, place, side="right") - 1
        return image, place - self.starts[image]

    def pixels(self, place: tuple[np.ndarray, ...], orientation: np.ndarray) -> np.ndarray:
        """How crops read their pixels: the index of the first in its buffer, and what a step down and one to the right
        adds to it; (3, n) int64."""
        return self._reading(place, self.upsampling, self.crop, orientation)

    def inputs(self, place: tuple[np.ndarray, ...], orientation: np.ndarray) -> np.ndarray:
        """The same of the crops' inputs, which have crop / upsampling a side."""
        return self._reading(place, 1, self.crop // self.upsampling, orientation)

    def _reading(self, place: tuple[np.ndarray, ...], factor: int, side: int, orientation: np.ndarray) -> np.ndarray:
        """How crops of this side are read, on a grid `factor` times as fine as the inputs'."""
        image, row, column = place
        stride, last = self.widths[image] * factor, side - 1
        (row_at, column_at), down, across = (DIHEDRAL[orientation, part].T for part in range(3))
        corner = self.offsets[image] * factor**2 + (row * factor + row_at * last) * stride
        corner += column * factor + column_at * last
        return np.stack([corner, down[0] * stride + down[1], across[0] * stride + across[1]])


def indices(reading: torch.Tensor, side: int) -> torch.Tensor:
    """The indices of all pixels of crops from how they are read, computed where that lies: (n, side, side) int64."""
    corner, down, across = reading[..., None]
    steps = torch.arange(side, device=reading.device)
    return (corner + down * steps)[:, :, None] + (across * steps)[:, None, :]


def taken(plane: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """What `plane[index]` returns, in a quarter of the time."""
    return plane.index_select(0, index.view(-1)).view(index.shape)


def _dihedral() -> np.ndarray:
    """How each of the eight rotations and flips reads a crop, in rows and columns: (8, 3, 2) int64.

    The three are where in the crop it starts (0, or 1 for the far end), its step downwards, and its step across.
    """
    rows, columns = np.indices((2, 2))
    turned = [np.rot90(grid, k) for k in range(4) for grid in (rows, columns)]
    both = [*turned, *(np.fliplr(grid) for grid in turned)]
    ways = [
        [(r[0, 0], c[0, 0]), (r[1, 0] - r[0, 0], c[1, 0] - c[0, 0]), (r[0, 1] - r[0, 0], c[0, 1] - c[0, 0])]
        for r, c in zip(both[0::2], both[1::2], strict=True)
    ]
    return np.array(ways)


DIHEDRAL = _dihedral()
