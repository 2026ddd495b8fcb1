"""The mathematics of the importance W: pure functions on arrays, one value per high-resolution pixel.

`importance` is `w` in [0, 1]; `error` is `|y - s|` on [0, 1] luma; `loss` is `d`, the error in the unit that the
configuration names. The rules that make one round's importance of the last one's are in `rules.py`.
"""

from typing import Any, Literal

import numpy as np
import torch

from ail_ray.learning.losses import bound
from ail_ray.learning.records import Spread
from ail_ray.tensors import as_tensor

ErrorUnit = Literal["squared", "absolute", "loss"]
Array = np.ndarray[Any, np.dtype[Any]]
Arguments = tuple[tuple[str, Any], ...]
"""The parameters of a rule or a loss by their names, in order."""

MU0 = 0.01
"""µ0 of the paper, for a teacher of bicubic pictures."""
MOST = 16.0
"""The largest importance that a rule may give a pixel; those of the paper end at 1."""
CHUNK = 131_072  # pixels: two float32 buffers of this length stay in a core's cache, and calls are few


def initial_importance(error: Array, mu0: float = MU0, alpha0: float = 100.0) -> Array:
    """Eq. 8: `g(x) = z / (1 + exp((x - mu0) * alpha0))`, `z = 1 + exp(-mu0 * alpha0)`, of a teacher's error.

    Args:
        error: `|teacher - y|` on [0, 1] luma, any shape, any float type.
        mu0: the error around which the importance falls; there it is `z / 2`, 0.684 with these constants.
        alpha0: how sharply it falls there, per unit of error.

    Returns:
        float32 of the same shape in [0, 1]: 1 where the teacher makes no error, near 0 where it fails.
    """
    exponent = (np.asarray(error, np.float32) - np.float32(mu0)) * np.float32(alpha0)
    exponent = np.minimum(exponent, np.float32(80))  # exp(80) still fits a float32
    z = np.float32(1 + np.exp(-mu0 * alpha0))
    return np.minimum(z / (1 + np.exp(exponent)), np.float32(1))


def update_importance(importance: Array, loss: Array, lam: float) -> Array:
    """Eq. 7 with the upper bound of Eq. 6: `w = min(1, w' + lam * exp(-d))`.

    Args:
        importance: `w'`, the importance of the round before, in [0, 1].
        loss: `d >= 0`, the student's loss on each pixel, same shape.
        lam: the largest step of one round, > 0.

    Returns:
        float32 of the same shape, `importance <= w <= 1`.
    """
    raised = np.empty(np.shape(loss), np.float32)  # one buffer, in place from here: it stays in the cache
    np.exp(np.negative(loss, out=raised, dtype=np.float32), out=raised)
    raised *= np.float32(lam)
    raised += np.asarray(importance, np.float32)
    torch.from_numpy(raised).clamp_(max=1)  # numpy takes seven times as long
    return raised


def pixel_loss(
    error: Array,
    unit: ErrorUnit = "squared",
    factor: float = 1.0,
    loss: str = "squared",
    arguments: Arguments = (),
) -> Array:
    """`d` of Eq. 6 from `error = |y - s|` on [0, 1]: factor times `error**2`, `error` or the loss."""
    error = np.asarray(error, np.float32)
    if unit == "loss":
        d: Array = bound(loss, arguments)(as_tensor(error)).numpy()
    else:
        d = error * error if unit == "squared" else error
    return d if factor == 1 else np.float32(factor) * d


def as_float32(halves: Array) -> Array:
    """Convert float16 to float32 by torch, which is three times as fast as numpy."""
    return as_tensor(halves).float().numpy()


def random_importance(seed: int, shard: int, pixels: int) -> Array:
    """Uniform importance for a shard, the same whenever it is asked for: (pixels,) float16 in [0, 1]."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 2**63, shard, 0]))
    return generator.random(pixels, np.float32).astype(np.float16)


ONE = 1000  # the bin of importance 1, to three decimals
HISTOGRAM_BINS = int(MOST) * ONE + 1


def histogram(importance: Array) -> Array:
    """How many pixels have which importance: (16001,) int64, bin `i` counting those nearest to `i / 1000`."""
    counts = np.zeros(HISTOGRAM_BINS, np.int64)
    for begin in range(0, importance.size, CHUNK):
        chunk = as_float32(importance[begin : begin + CHUNK])
        counts += np.bincount(np.rint(chunk * ONE).astype(np.int64), minlength=HISTOGRAM_BINS)
    return counts


def spread(counts: Array) -> Spread:
    """Mean, quantiles and saturated share (pixels at 1 or more, to three decimals) of importance by its histogram."""
    counts = counts[: max(ONE, int(counts.nonzero()[0].max(initial=0))) + 1]
    values = np.arange(len(counts)) / ONE
    total = counts.sum()
    cumulative = np.cumsum(counts)
    quantiles = {f"p{q:02d}": float(values[np.searchsorted(cumulative, total * q / 100)]) for q in (5, 25, 50, 75, 95)}
    return Spread(mean=float(counts @ values / total), saturated=float(counts[ONE:].sum() / total), **quantiles)
