"""The mathematics of W: values by hand, rules against numerical minimisers of Eq. 6, chunks, quantiles."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import minimize_scalar

from ail_ray.learning.importance import (
    CHUNK,
    histogram,
    initial_importance,
    pixel_loss,
    random_importance,
    spread,
    update_importance,
)
from ail_ray.learning.rules import RULES, Subproblem, first_importance, next_importance, recipe_of, rule_function
from ail_ray.networks.code import resolve

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "rules.py"
EXACT, HARD_FIRST = (resolve(f"{EXAMPLES}:{name}", "rule") for name in ("exact", "hard_first"))

shares = st.floats(0, 1, width=32)
losses = st.floats(0, 20, width=32)
steps = st.floats(0.01, 1.5)
FLOATS = (np.float16, np.float32, np.float64)


def test_eq8_by_hand() -> None:
    # z = 1 + e^-1 = 1.3678794 for mu0 = 0.01, alpha0 = 100.
    errors = np.array([0, 0.01, 0.02, 0.05, 1])
    expected = [1, 1.3678794 / 2, 1.3678794 / (1 + math.e), 1.3678794 / (1 + math.e**4), 0]
    np.testing.assert_allclose(initial_importance(errors), expected, rtol=2e-6, atol=1e-30)
    np.testing.assert_allclose(
        initial_importance(np.array([0.25]), mu0=0.5, alpha0=4), (1 + math.e**-2) / (1 + math.e**-1)
    )


@given(error=arrays.arrays(np.float64, 5, elements=st.floats(0, 1)), mu0=shares, alpha0=st.floats(0.1, 1000))
def test_eq8_is_its_formula(error: np.ndarray, mu0: float, alpha0: float) -> None:
    exponent = np.minimum((error - mu0) * alpha0, 700)
    exact = (1 + math.exp(-mu0 * alpha0)) / (1 + np.exp(exponent))
    # float32 rounds the exponent, of size up to alpha0, by alpha0 * 2^-23; beyond 80 both are 0 for every purpose
    np.testing.assert_allclose(initial_importance(error, mu0, alpha0), exact, rtol=1e-6 * (1 + alpha0), atol=1e-30)


def test_eq7_by_hand() -> None:
    importance, loss = np.array([0, 0.5, 0.5, 0.95, 1]), np.array([0, 0, math.log(3), 0, 50])
    expected = [0.15, 0.65, 0.55, 1, 1]
    np.testing.assert_allclose(update_importance(importance, loss, 0.15), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (0,)])
def test_results_are_float32_of_the_same_shape(kind: type, shape: tuple[int, ...]) -> None:
    values = np.full(shape, 0.25, kind)
    for result in (initial_importance(values), update_importance(values, values, 0.15), pixel_loss(values)):
        assert (result.dtype, result.shape) == (np.float32, shape)
    assert np.all(pixel_loss(values) == 0.0625)
    assert np.all(pixel_loss(values, "absolute", 10.0) == 2.5)
    np.testing.assert_allclose(pixel_loss(values, "squared", 65025.0), 63.75**2)


@settings(deadline=None)
@given(d=losses, lam=steps, previous=st.floats(0, 0.9990234375, width=32))
def test_eq7_minimises_eq6(d: float, lam: float, previous: float) -> None:
    def eq6(w: float) -> float:
        rise = w - previous
        return d * w + (rise * (math.log(rise / lam) - 1) if rise > 0 else 0.0)

    found = minimize_scalar(eq6, bounds=(previous, 1), method="bounded", options={"xatol": 1e-9})
    closed = float(update_importance(np.array(previous), np.array(d), lam))
    # The objective is flat at its minimum: from values good to 1e-16 d a search finds the place to about
    # sqrt(1e-16 d rise) < 1e-7, and float32 rounds the closed form by 6e-8.
    assert closed == pytest.approx(found.x, abs=2e-6)
    # The other route, without a place to lose digits: no point of the interval is better.
    grid = np.linspace(previous, 1, 101)
    assert eq6(closed) <= min(map(eq6, grid)) + 1e-6 * (1 + d)


@pytest.mark.parametrize("previous", [0.0, 0.5, 0.9, 0.99951171875, 1.0])
@pytest.mark.parametrize("lam", [0.01, 0.15, 1.5])
def test_importance_never_exceeds_one(previous: float, lam: float) -> None:
    loss = np.linspace(0, 2, 100)
    raised = update_importance(np.full(100, previous), loss, lam)
    assert raised.max() == np.float32(min(1, np.float32(previous) + np.float32(lam)))
    assert raised.min() >= previous


@given(previous=shares, lam=steps, small=shares, large=shares, unit=st.sampled_from(["squared", "absolute"]))
def test_importance_rises_and_the_more_the_smaller_the_error(
    previous: float, lam: float, small: float, large: float, unit: str
) -> None:
    small, large = sorted((small, large))
    importance, error = np.full(2, previous, np.float16), np.array([small, large], np.float16)
    easy, hard = next_importance("eq7", importance, error, lam=lam, unit=unit, factor=100.0)  # type: ignore[arg-type]
    assert importance[0] <= hard <= easy <= 1
    assert initial_importance(error)[0] >= initial_importance(error)[1]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7])
def test_chunks_change_nothing(size: int) -> None:
    importance, error = np.random.default_rng(size).random((2, size)).astype(np.float16)
    whole = update_importance(importance, 40 * error.astype(np.float32) ** 2, 0.15).astype(np.float16)
    chunked = next_importance("eq7", importance, error, lam=0.15, unit="squared", factor=40.0)
    assert chunked.dtype == np.float16
    np.testing.assert_array_equal(chunked, whole)
    first = first_importance(error, mu0=0.1, alpha0=20.0)
    assert first.dtype == np.float16
    np.testing.assert_array_equal(first, initial_importance(error, 0.1, 20.0).astype(np.float16))
    np.testing.assert_array_equal(
        histogram(importance), np.bincount(np.rint(importance.astype(np.float32) * 1000).astype(int), minlength=16_001)
    )


def test_uniform_is_one_whatever_went_before() -> None:
    importance, error = np.random.default_rng(0).random((2, CHUNK + 3)).astype(np.float16)
    result = next_importance("uniform", importance, error, lam=0.15)
    assert result.dtype == np.float16
    assert np.all(result == 1)


def test_fixed_stays_as_it_was() -> None:
    importance, error = np.random.default_rng(0).random((2, CHUNK + 3)).astype(np.float16)
    np.testing.assert_array_equal(next_importance("fixed", importance, error, lam=0.15, round=5), importance)


def solved(rule: str, importance: Any, error: Any, *, round: int = 1, lam: float = 0.15, first: Any = None) -> Any:
    """A rule's float32 result where d is the error itself, so that no float16 comes between."""
    halves = {"importance": importance, "error": error, "first": importance if first is None else first}
    return rule_function(rule)(
        Subproblem(
            halves={name: torch.tensor(np.array(values, np.float32)) for name, values in halves.items()},
            round=round, lam=lam, unit="absolute", factor=1.0, mu0=0.01,
        )
    )  # fmt: skip


def test_the_reference_rule_by_hand() -> None:
    first, error = [0, 0.5, 0.5, 0.9, 1], [0, 0.1, 0, 0.05, 1]
    # e^-10|e| is 1, 0.3678794, 1, 0.6065307 and 0.0000454; the step is 0.15 in round 1 and 0.15 + 2 * 0.15 in round 3.
    for before in (0, 0.3, 1):  # the importance of the round before is not read
        previous = np.full(5, before)
        np.testing.assert_allclose(
            solved("reference", previous, error, round=1, first=first), [0.15, 0.5551819, 0.65, 0.9909796, 1], rtol=1e-6
        )
        np.testing.assert_allclose(
            solved("reference", previous, error, round=3, first=first), [0.45, 0.6655458, 0.95, 1, 1], rtol=1e-6
        )


@settings(deadline=None)
@given(
    d=st.one_of(st.floats(0, 20, width=32), st.floats(0, 2.0**20, width=32)),
    lam=steps,
    previous=st.floats(0, 0.9990234375, width=32),
)
def test_the_exact_rule_minimises_its_objective(d: float, lam: float, previous: float) -> None:
    def objective(rise: float) -> float:  # less d w'^2, a constant that would cost digits
        return d * rise * (2 * previous + rise) + (rise * (math.log(rise / lam) - 1) if rise > 0 else 0.0)

    found = minimize_scalar(objective, bounds=(0, 1 - previous), method="bounded", options={"xatol": 1e-10})
    closed = float(solved(EXACT, [previous], [d], lam=lam)[0])
    assert closed == pytest.approx(previous + found.x, abs=2e-6)
    grid = np.linspace(0, 1 - previous, 101)
    assert objective(closed - previous) <= min(map(objective, grid)) + 1e-6 * (1 + d)


@pytest.mark.parametrize("d", [0.0, 1e-45, 1e-30, 1e-12, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("lam", [1e-3, 0.15, 1.0])
def test_the_exact_rule_is_right_to_the_last_digits_for_every_d(d: float, lam: float) -> None:
    (w,) = solved(EXACT, [0.0], [d], lam=lam).astype(np.float64)
    assert w == pytest.approx(lam * math.exp(-2 * float(np.float32(d)) * w), rel=1e-5)  # the derivative is zero there
    if d < 1e-10:
        assert solved(EXACT, [0.25, 0.9], [d, d], lam=lam) == pytest.approx([min(1, 0.25 + lam), min(1, 0.9 + lam)])


@given(
    error=arrays.arrays(np.float16, 40, elements=st.floats(0, 1, width=16)),
    lam=st.floats(0.02, 1.5),
    mu0=st.floats(0, 1),
)
def test_hard_first_rises_to_ones_whatever_the_shard(error: np.ndarray, lam: float, mu0: float) -> None:
    def after(t: int, before: np.ndarray, part: slice = slice(None)) -> np.ndarray:
        return next_importance(HARD_FIRST, before[part], error[part], lam=lam, round=t, mu0=mu0)

    w = first_importance(error, mu0=mu0, alpha0=100.0, rule=HARD_FIRST)
    order = np.argsort(error)
    assert np.all(np.diff(w[order].astype(float)) >= 0), "the harder, the more important"
    for t in range(1, math.ceil(1 / lam) + 1):
        rising = after(t, w)
        assert np.all(rising >= w)
        raised = (rising == 1) & (w < 1)
        kept = rising < 1
        assert not raised.any() or not kept.any() or error[raised].min() > error[kept].max()
        np.testing.assert_array_equal(np.concatenate([after(t, w, slice(7)), after(t, w, slice(7, None))]), rising)
        w = rising
    assert np.all(w == 1)


@pytest.mark.parametrize("lam", [1 / 49, 0.1, 0.15, 1 / 3, 1.0, 7.0])
def test_hard_first_is_all_ones_from_round_one_over_lam(lam: float) -> None:
    importance = error = np.zeros(3, np.float16)
    last = math.ceil(1 / lam)
    assert np.all(next_importance(HARD_FIRST, importance, error, lam=lam, round=last) == 1)
    if last > 1:
        assert np.all(next_importance(HARD_FIRST, importance, error, lam=lam, round=last - 1) == 0)


def test_hard_first_by_hand() -> None:
    # mu0 = 0.01 and lam = 0.15: the threshold of round 2 is 0.007.
    result = solved(HARD_FIRST, [0.1, 0.2, 0.3, 0.4], [0.0069, 0.0071, 0.5, 0], round=2)
    np.testing.assert_allclose(result, [0.1, 1, 1, 0.4])
    mirrored = first_importance(np.array([0, 0.01, 1], np.float16), mu0=0.01, alpha0=100.0, rule=HARD_FIRST)
    np.testing.assert_allclose(mirrored, [0, 1 - 1.3678794 / 2, 1], atol=1e-3)


@pytest.mark.parametrize("rule", [*RULES, EXACT, HARD_FIRST])
@given(
    planes=arrays.arrays(np.float16, (3, 9), elements=st.floats(0, 1, width=16)),
    lam=st.floats(1e-3, 10),
    t=st.integers(1, 30),
    unit=st.sampled_from(["squared", "absolute"]),
    factor=st.sampled_from([1.0, 255.0, 65025.0]),
)
def test_every_rule_stays_in_0_to_1(
    rule: str, planes: np.ndarray, lam: float, t: int, unit: Any, factor: float
) -> None:
    importance, error, first = planes
    given_first = first if recipe_of(rule).needs_first else None
    result = next_importance(
        rule, importance, error, lam=lam, unit=unit, factor=factor, round=t, mu0=0.01, first=given_first
    )
    assert (result.dtype, result.shape) == (np.float16, (9,))
    assert np.all((result >= 0) & (result <= 1))
    if rule != "reference":
        assert np.all(result >= importance)
    begun = first_importance(error, mu0=0.01, alpha0=100.0, rule=rule)
    assert begun.dtype == np.float16
    assert np.all((begun >= 0) & (begun <= 1))


def test_importance_above_one_is_counted_as_it_is() -> None:
    importance = np.array([0, 0.5, 1, 1.5, 16], np.float16)
    shown = spread(histogram(importance))
    assert (shown.mean, shown.saturated, shown.p95) == (3.8, 0.6, 16)


@pytest.mark.parametrize("size", [1, 99, CHUNK + 12_345])
def test_spread_agrees_with_numpy(size: int) -> None:
    importance = np.minimum(np.random.default_rng(1).random(size) * 1.3, 1).astype(np.float16)
    shown, exact = vars(spread(histogram(importance))), importance.astype(np.float64)
    assert shown["mean"] == pytest.approx(exact.mean(), abs=5.1e-4)
    assert shown["saturated"] == pytest.approx(np.mean(exact >= 0.9995), abs=1e-12)
    for q in (5, 25, 50, 75, 95):
        assert shown[f"p{q:02d}"] == pytest.approx(np.quantile(exact, q / 100, method="inverted_cdf"), abs=5.1e-4)


def test_histograms_of_shards_add_up() -> None:
    importance = random_importance(3, 0, 10_000)
    parts = histogram(importance[:1234]) + histogram(importance[1234:])
    np.testing.assert_array_equal(parts, histogram(importance))
    assert parts.sum() == 10_000


def test_random_importance_is_uniform_and_reproducible() -> None:
    importance = random_importance(5, 2, 100_000)
    assert importance.dtype == np.float16
    np.testing.assert_array_equal(importance, random_importance(5, 2, 100_000))
    np.testing.assert_array_equal(importance[:100], random_importance(5, 2, 100))
    for seed, shard in ((6, 2), (5, 3)):
        other = random_importance(seed, shard, 100_000)
        # independent: the correlation of 100,000 pairs has a standard deviation of 0.003
        assert abs(np.corrcoef(importance.astype(float), other.astype(float))[0, 1]) < 0.015
    assert importance.min() >= 0
    assert importance.max() <= 1
    counts, _ = np.histogram(importance.astype(float), bins=20, range=(0, 1))
    assert ((counts - 5000) ** 2 / 5000).sum() < 50, "chi-squared of 19 degrees: 99.99 % lie below 49"
