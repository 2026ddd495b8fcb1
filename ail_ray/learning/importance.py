"""The mathematics of the importance W: pure functions on arrays, one value per high-resolution pixel.

`importance` is `w` in [0, 1]; `error` is `|y - s|` on [0, 1] luma; `loss` is `d`, the error in the unit that the
configuration names. To try another rule for the W-subproblem, write one function and add it to `RULES`.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ail_ray.files import as_tensor

Rule = Literal["eq7", "uniform"]
ErrorUnit = Literal["squared", "absolute"]
Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 65_536  # pixels: a few float32 buffers of this length stay in a core's cache


def initial_importance(error: Array, mu0: float = 0.01, alpha0: float = 100.0) -> Array:
    """Eq. 8: `g(x) = z / (1 + exp((x - mu0) * alpha0))`, `z = 1 + exp(-mu0 * alpha0)`, of a teacher's error.

    Args:
        error: `|teacher - y|` on [0, 1] luma, any shape, any float type.
        mu0: the error at which the importance is about one half.
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
    raised = np.array(loss, np.float32)  # one buffer, in place from here: it stays in the cache
    np.exp(np.negative(raised, out=raised), out=raised)
    raised *= np.float32(lam)
    raised += np.asarray(importance, np.float32)
    return np.minimum(raised, np.float32(1), out=raised)


def pixel_loss(error: Array, unit: ErrorUnit = "squared", factor: float = 1.0) -> Array:
    """`d` of Eq. 6 from `error = |y - s|` on [0, 1]: `factor * error**2` or `factor * error`, float32."""
    error = np.asarray(error, np.float32)
    return np.float32(factor) * (error * error if unit == "squared" else error)


def eq7(importance: Array, error: Array, lam: float, unit: ErrorUnit, factor: float) -> Array:
    """The paper's rule."""
    return update_importance(importance, pixel_loss(error, unit, factor), lam)


def uniform(importance: Array, error: Array, lam: float, unit: ErrorUnit, factor: float) -> Array:
    """`w = 1` for every pixel: plain training (Eq. 1) with the same rounds, the control."""
    return np.ones(np.shape(importance), np.float32)


RULES: dict[str, Callable[[Array, Array, float, ErrorUnit, float], Array]] = {"eq7": eq7, "uniform": uniform}


def next_importance(
    rule: Rule,
    importance: Array,
    error: Array,
    *,
    lam: float,
    unit: ErrorUnit = "squared",
    factor: float = 1.0,
) -> Array:
    """Solve the W-subproblem for a whole shard, in chunks that fit the cache.

    Args:
        importance: (N,) float16, `w'`.
        error: (N,) float16, `|y - s|`.

    Returns:
        (N,) float16.
    """
    result = np.empty(importance.shape, np.float16)
    for begin in range(0, importance.size, CHUNK):
        part = slice(begin, begin + CHUNK)
        raised = RULES[rule](_float32(importance[part]), _float32(error[part]), lam, unit, factor)
        as_tensor(result[part]).copy_(as_tensor(raised))
    return result


def _float32(halves: Array) -> Array:
    """float16 to float32 by torch, which converts three times as fast as numpy."""
    return as_tensor(halves).float().numpy()


def first_importance(error: Array, *, mu0: float, alpha0: float) -> Array:
    """Eq. 8 for a whole shard in chunks: (N,) float16 errors to (N,) float16 importance."""
    result = np.empty(error.shape, np.float16)
    for begin in range(0, error.size, CHUNK):
        part = slice(begin, begin + CHUNK)
        as_tensor(result[part]).copy_(as_tensor(initial_importance(_float32(error[part]), mu0, alpha0)))
    return result


def random_importance(seed: int, shard: int, pixels: int) -> Array:
    """Uniform importance for a shard, the same whenever it is asked for: (pixels,) float16 in [0, 1]."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 2**63, shard, 0]))
    return generator.random(pixels, np.float32).astype(np.float16)


HISTOGRAM_BINS = 1001  # importance to three decimals


def histogram(importance: Array) -> Array:
    """How many pixels have which importance: (1001,) int64, bin `i` counting those nearest to `i / 1000`."""
    counts = np.zeros(HISTOGRAM_BINS, np.int64)
    for begin in range(0, importance.size, CHUNK):
        chunk = _float32(importance[begin : begin + CHUNK])
        counts += np.bincount(np.rint(chunk * 1000).astype(np.int64), minlength=HISTOGRAM_BINS)
    return counts


def summary(counts: Array) -> dict[str, float]:
    """Mean, quantiles and saturated share (pixels at 1, to three decimals) of importance from its histogram."""
    values = np.arange(HISTOGRAM_BINS) / 1000
    total = counts.sum()
    cumulative = np.cumsum(counts)
    quantiles = {f"p{q:02d}": float(values[np.searchsorted(cumulative, total * q / 100)]) for q in (5, 25, 50, 75, 95)}
    return {"mean": float(counts @ values / total), "saturated": float(counts[-1] / total), **quantiles}
