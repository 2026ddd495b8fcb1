"""The mathematics of the importance W: pure functions on arrays, one value per high-resolution pixel.

`importance` is `w` in [0, 1]; `error` is `|y - s|` on [0, 1] luma; `loss` is `d`, the error in the unit that the
configuration names. To try another rule for the W-subproblem, write one function of a `Subproblem` and add it to
`RULES`. docs/RULES.md compares those that are there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ail_ray.files import as_tensor
from ail_ray.learning.records import Spread

Rule = Literal["eq7", "reference", "exact", "uniform", "fixed", "hard-first"]
ErrorUnit = Literal["squared", "absolute"]
Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 131_072  # pixels: two float32 buffers of this length stay in a core's cache, and calls are few


def initial_importance(error: Array, mu0: float = 0.01, alpha0: float = 100.0) -> Array:
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


def pixel_loss(error: Array, unit: ErrorUnit = "squared", factor: float = 1.0) -> Array:
    """`d` of Eq. 6 from `error = |y - s|` on [0, 1]: `factor * error**2` or `factor * error`, float32."""
    error = np.asarray(error, np.float32)
    loss = error * error if unit == "squared" else error
    return loss if factor == 1 else np.float32(factor) * loss


@dataclass(frozen=True, kw_only=True)
class Subproblem:
    """The W-subproblem of a chunk of pixels: all that a rule may read.

    `importance`, `error` and `first` are (n,) float32, converted from the stored float16 whenever they are read.
    """

    halves: dict[str, torch.Tensor]  # what is stored, by name, (n,) float16; `first` only if the rule needs it
    round: int  # t, from 1
    lam: float
    unit: ErrorUnit
    factor: float
    mu0: float

    @property
    def importance(self) -> Array:
        """`w'`, the importance of round t-1."""
        return self.halves["importance"].float().numpy()

    @property
    def error(self) -> Array:
        """`|y - s|` of the student of round t-1."""
        return self.halves["error"].float().numpy()

    @property
    def first(self) -> Array:
        """`w_0`, the importance of round 0; None unless the recipe says `needs_first`."""
        return self.halves["first"].float().numpy()


def eq7(p: Subproblem) -> Array:
    """The paper's rule: `w = min(1, w' + lam * exp(-d))`."""
    return update_importance(p.importance, pixel_loss(p.error, p.unit, p.factor), p.lam)


def reference(p: Subproblem) -> Array:
    """The authors' released code: `w = clip(w_0 + (lam + lam * (t - 1)) * exp(-10 |e|), 0, 1)`.

    The importance of round 0 stays the base, the absolute error decides, the step grows with the round. A pixel that
    the student has come to reconstruct worse can fall again.
    """
    raised = np.exp(np.float32(-10) * p.error)
    raised *= np.float32(p.lam + p.lam * (p.round - 1))
    raised += p.first
    return np.clip(raised, 0, 1, out=raised)


def exact(p: Subproblem) -> Array:
    """The minimiser of `d w^2 + (w - w') (ln((w - w') / lam) - 1)` over `w' <= w <= 1`, Eq. 6 as Eq. 4 has the loss.

    It is `w' + W(x) / (2 d)` with `x = 2 d lam exp(-2 d w')` and Lambert's function `W`. Since `W(x) = x exp(-W(x))`,
    the rise is `lam exp(-2 d w' - W(x))`, which loses no digits as `d -> 0`, where it is `lam`. In float64.
    """
    from scipy.special import lambertw  # here: every process of a run would take a quarter of a second for it

    twice = 2 * pixel_loss(p.error, p.unit, p.factor).astype(np.float64)
    exponent = -twice * p.importance
    rise = p.lam * np.exp(exponent - lambertw(twice * p.lam * np.exp(exponent)).real)
    return np.minimum(p.importance + rise, 1).astype(np.float32)


def uniform(p: Subproblem) -> Array:
    """`w = 1` for every pixel: plain training (Eq. 1) with the same rounds, the control."""
    return np.ones(p.halves["importance"].shape, np.float32)


def fixed(p: Subproblem) -> Array:
    """`w = w_0` in every round (Eq. 9 alone), the control for the updates: what do they add to the start?"""
    return p.importance


def hard_first(p: Subproblem) -> Array:
    """The opposite order: `w = 1` where `|e| >= mu0 * max(0, 1 - lam * t)`, else `w'`; a control.

    The threshold is absolute, so shards need not know of each other, and all pixels are 1 from round `ceil(1 / lam)`.
    """
    left = max(0.0, 1 - p.round / (1 / p.lam))  # lam * round can round to less than 1 where it is 1
    return np.where(p.error >= np.float32(p.mu0 * left), np.float32(1), p.importance)


def mirrored_importance(error: Array, mu0: float, alpha0: float) -> Array:
    """Eq. 8 mirrored, `1 - g(x)`: 0 where the teacher makes no error, near 1 where it fails."""
    return 1 - initial_importance(error, mu0, alpha0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A rule: how it begins, how it goes on, and what of a configuration it reads."""

    solve: Callable[[Subproblem], Array]
    reads: frozenset[str]  # of `READABLE`
    start: Callable[[Array, float, float], Array] = initial_importance  # of the teacher's error, mu0, alpha0
    needs_first: bool = False
    needs_error: bool = True


READABLE = frozenset({"lam", "teacher", "mu0", "alpha0", "error_unit", "error_factor"})
"""What rules may or may not read of a configuration; a run's name leaves out what its rule does not read."""

RULES: dict[str, Recipe] = {
    "eq7": Recipe(solve=eq7, reads=READABLE),
    "reference": Recipe(solve=reference, reads=READABLE - {"error_unit", "error_factor"}, needs_first=True),
    "exact": Recipe(solve=exact, reads=READABLE),
    "uniform": Recipe(solve=uniform, reads=frozenset(), needs_error=False),
    "fixed": Recipe(solve=fixed, reads=frozenset({"teacher", "mu0", "alpha0"}), needs_error=False),
    "hard-first": Recipe(solve=hard_first, reads=READABLE - {"error_unit", "error_factor"}, start=mirrored_importance),
}


def next_importance(
    rule: Rule,
    importance: Array,
    error: Array,
    *,
    lam: float,
    unit: ErrorUnit = "squared",
    factor: float = 1.0,
    round: int = 1,
    mu0: float = 0.01,
    first: Array | None = None,
) -> Array:
    """Solve the W-subproblem for a whole shard, in chunks that fit into the cache.

    Args:
        importance: (N,) float16, `w'`.
        error: (N,) float16, `|y - s|`.
        round: t, from 1.
        first: (N,) float16, `w_0`, for a rule that `needs_first`.

    Returns:
        (N,) float16.
    """
    halves = {"importance": importance, "error": error} | ({} if first is None else {"first": first})
    result = np.empty(importance.shape, np.float16)
    parts = {name: as_tensor(array).split(CHUNK) for name, array in halves.items()}
    for i, target in enumerate(torch.from_numpy(result).split(CHUNK)):
        chunk = {name: tensors[i] for name, tensors in parts.items()}
        raised = RULES[rule].solve(Subproblem(halves=chunk, round=round, lam=lam, unit=unit, factor=factor, mu0=mu0))
        target.copy_(torch.from_numpy(raised))
    return result


def _float32(halves: Array) -> Array:
    """Convert float16 to float32 by torch, which is three times as fast as numpy."""
    return as_tensor(halves).float().numpy()


def first_importance(error: Array, *, mu0: float, alpha0: float, rule: Rule = "eq7") -> Array:
    """Eq. 8, or what the rule starts from instead, for a whole shard in chunks: (N,) float16 of (N,) float16 errors."""
    result = np.empty(error.shape, np.float16)
    for begin in range(0, error.size, CHUNK):
        part = slice(begin, begin + CHUNK)
        as_tensor(result[part]).copy_(as_tensor(RULES[rule].start(_float32(error[part]), mu0, alpha0)))
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


def spread(counts: Array) -> Spread:
    """Mean, quantiles and saturated share (pixels at 1, to three decimals) of importance from its histogram."""
    values = np.arange(HISTOGRAM_BINS) / 1000
    total = counts.sum()
    cumulative = np.cumsum(counts)
    quantiles = {f"p{q:02d}": float(values[np.searchsorted(cumulative, total * q / 100)]) for q in (5, 25, 50, 75, 95)}
    return Spread(mean=float(counts @ values / total), saturated=float(counts[-1] / total), **quantiles)
