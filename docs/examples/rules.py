"""Rules to start from: each is named on the command line, `--rule docs/examples/rules.py:exact`, and may be edited.

A rule gets a `Subproblem` and returns the importance of the next round, one value for each pixel. What it takes besides
is named only: `--rule.share 0.3 0.5` gives it values, several of them for a search.
"""

import numpy as np
from scipy.special import lambertw

from ail_ray.learning.importance import Array, initial_importance
from ail_ray.learning.rules import READABLE, Beginning, Subproblem, rule

ONE_GREY_LEVEL = 1 / 255


def exact(p: Subproblem) -> Array:
    """The minimiser of `d w^2 + (w - w') (ln((w - w') / lam) - 1)` over `w' <= w <= 1`, Eq. 6 as Eq. 4 has the loss.

    It is `w' + W(x) / (2 d)` with `x = 2 d lam exp(-2 d w')` and Lambert's function `W`. Since `W(x) = x exp(-W(x))`,
    the rise is `lam exp(-2 d w' - W(x))`, which loses no digits as `d -> 0`, where it is `lam`. In float64.
    """
    twice = 2 * p.loss.astype(np.float64)
    exponent = -twice * p.importance
    rise = p.lam * np.exp(exponent - lambertw(twice * p.lam * np.exp(exponent)).real)
    return np.minimum(p.importance + rise, 1).astype(np.float32)


def mirrored(b: Beginning) -> Array:
    """Eq. 8 mirrored, `1 - g(x)`: 0 where the teacher makes no error, near 1 where it fails; 1 without a teacher."""
    if b.error is None:
        return np.ones(b.pixels, np.float32)
    return 1 - initial_importance(b.error, b.mu0, b.alpha0)


@rule(reads=READABLE - {"error_unit", "error_factor"}, start=mirrored)
def hard_first(p: Subproblem) -> Array:
    """The opposite order: `w = 1` where `|e| >= mu0 * max(0, 1 - lam * t)`, else `w'`; a control.

    The threshold is absolute, so shards need not know of each other, and all pixels are 1 from round `ceil(1 / lam)`.
    """
    left = max(0.0, 1 - p.round / (1 / p.lam))  # lam * round can round to less than 1 where it is 1
    return np.where(p.error >= np.float32(p.mu0 * left), np.float32(1), p.importance)


def from_uncertainty(b: Beginning, *, least: float = ONE_GREY_LEVEL) -> Array:
    """The logarithm of the teacher's error in units of the smallest one that counts, raised by 1."""
    if b.error is None:
        return np.ones(b.pixels, np.float32)
    return 1 + np.log(np.maximum(b.error, np.float32(least)) / np.float32(least))


@rule(reads={"teacher"}, start=from_uncertainty, needs_error=False)
def uncertainty(p: Subproblem, *, least: float = ONE_GREY_LEVEL) -> Array:
    """Weights by uncertainty, in the spirit of UDL-SR (Ning et al. 2021): the harder for the teacher, the heavier.

    Their network estimates each pixel's variance and weighs it by the logarithm, shifted to begin at the bottom. Here
    the teacher's error stands for the deviation, and the weights begin at 1, where it is `least` or less. They stay.
    """
    return p.importance


def all_ones(b: Beginning) -> Array:
    """Importance 1 in round 0, whatever the teacher."""
    return np.ones(b.pixels, np.float32)


@rule(reads=set(), start=all_ones, whole=True)
def hard_examples(p: Subproblem, *, share: float = 0.5, also: float = 0.1) -> Array:
    """Hard-example mining: the `share` of a shard's pixels with the largest errors, and a random tenth of all."""
    hard = p.error >= np.quantile(p.error, 1 - share)
    return np.where(hard | (p.random.random(hard.size) < also), np.float32(1), np.float32(0))


@rule(reads=set(), start=all_ones, whole=True)
def without_outliers(p: Subproblem, *, share: float = 0.05) -> Array:
    """Loss pruning: the `share` of a shard's pixels with the largest errors is left out."""
    return np.where(p.error > np.quantile(p.error, 1 - share), np.float32(0), np.float32(1))
