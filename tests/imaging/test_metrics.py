"""The one protocol: golden numbers, the definitions, and the border that is shaved."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ail_ray.imaging.image_sets import find
from ail_ray.imaging.images import degrade, enlarge, luma, modcrop, read_image
from ail_ray.imaging.metrics import psnr, shave, ssim, to_uint8

pictures = arrays.arrays(np.uint8, (16, 19))


def bicubic(name: str, scale: int, data_dir: Path | None = None) -> tuple[float, float]:
    """Mean PSNR and SSIM of bicubic enlargement over an image set."""
    rows = []
    for path in find(name, data_dir).paths:
        hr = modcrop(luma(read_image(path)), scale)
        sr = to_uint8(enlarge(degrade(hr, scale), scale))
        rows.append((psnr(hr, sr, scale), ssim(hr, sr, scale)))
    mean = np.mean(rows, axis=0)
    return float(mean[0]), float(mean[1])


@pytest.mark.parametrize(
    ("name", "scale", "decibels", "similarity"),
    [
        ("Set5", 2, 33.660, 0.9299),
        ("Set5", 3, 30.393, 0.8682),
        ("Set5", 4, 28.421, 0.8104),
        ("Set14", 2, 30.231, 0.8687),
        ("Set14", 3, 27.540, 0.7736),
        ("Set14", 4, 26.002, 0.7019),
    ],
)
def test_bicubic_has_the_published_numbers(
    data_dir: Path, name: str, scale: int, decibels: float, similarity: float
) -> None:
    mean_psnr, mean_ssim = bicubic(name, scale, data_dir)
    assert mean_psnr == pytest.approx(decibels, abs=0.005)
    assert mean_ssim == pytest.approx(similarity, abs=0.0005)


def test_bicubic_on_the_bundled_sample() -> None:
    mean_psnr, mean_ssim = bicubic("sample-val", 2)
    assert mean_psnr == pytest.approx(30.659, abs=0.005)
    assert mean_ssim == pytest.approx(0.8977, abs=0.0005)


@given(hr=pictures, sr=pictures, border=st.integers(0, 7))
def test_psnr_is_its_definition(hr: np.ndarray, sr: np.ndarray, border: int) -> None:
    inside = slice(border, 16 - border), slice(border, 19 - border)
    error = np.mean((hr[inside].astype(float) - sr[inside].astype(float)) ** 2)
    expected = math.inf if error == 0 else 10 * math.log10(255**2 / error)
    assert psnr(hr, sr, border) == pytest.approx(expected)


def test_psnr_of_a_known_error() -> None:
    hr = np.full((20, 20), 100, np.uint8)
    assert psnr(hr, hr + np.uint8(1), 2) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(hr, hr - np.uint8(10), 2) == pytest.approx(28.1308, abs=1e-4)


def test_ssim_is_that_of_wang_et_al() -> None:
    # Without variance only the luminance term is left: (2ab + C1) / (a² + b² + C1), C1 = (0.01 · 255)².
    hr, sr = np.full((16, 16), 100, np.uint8), np.full((16, 16), 120, np.uint8)
    assert ssim(hr, sr, 0) == pytest.approx((2 * 100 * 120 + 6.5025) / (100**2 + 120**2 + 6.5025))


def test_ssim_by_hand_in_one_window() -> None:
    generator = np.random.default_rng(0)
    hr, sr = generator.integers(0, 256, (2, 11, 11), np.uint8)
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(bell, bell) / bell.sum() ** 2
    x, y = hr.astype(float), sr.astype(float)
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    var_x, var_y = (weights * x**2).sum() - mean_x**2, (weights * y**2).sum() - mean_y**2
    covariance = (weights * x * y).sum() - mean_x * mean_y
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    expected /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    assert ssim(hr, sr, 0) == pytest.approx(expected)


@given(hr=pictures, sr=pictures)
def test_metrics_are_symmetric_and_bounded(hr: np.ndarray, sr: np.ndarray) -> None:
    assert psnr(hr, sr, 2) == psnr(sr, hr, 2)
    assert ssim(hr, sr, 2) == pytest.approx(ssim(sr, hr, 2))
    assert -1 <= ssim(hr, sr, 2) <= 1


@given(pictures)
def test_identical_images(hr: np.ndarray) -> None:
    assert psnr(hr, hr, 2) == math.inf
    assert ssim(hr, hr, 2) == pytest.approx(1)


@given(hr=pictures, sr=pictures, border=st.integers(1, 2))
def test_the_border_does_not_count(hr: np.ndarray, sr: np.ndarray, border: int) -> None:
    framed = hr.copy()
    shave(framed, border)[:] = shave(sr, border)
    assert psnr(framed, sr, border) == math.inf
    assert ssim(framed, sr, border) == pytest.approx(1)


def test_only_the_border_does_not_count() -> None:
    hr = np.zeros((20, 24), np.uint8)
    for row, column in ((2, 12), (17, 12), (10, 2), (10, 21)):
        sr = hr.copy()
        sr[row, column] = 255
        assert psnr(hr, sr, 2) < 30
        assert psnr(hr, sr, 3) == math.inf


def test_shave_takes_each_side() -> None:
    image = np.arange(30).reshape(5, 6)
    np.testing.assert_array_equal(shave(image, 2), [[14, 15]])
    np.testing.assert_array_equal(shave(image, 0), image)


def test_bad_pairs_are_refused() -> None:
    image = np.zeros((20, 20), np.uint8)
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match=r"\(20, 20\) uint8 and \(20, 18\) uint8"):
            metric(image, image[:, :18], 2)
        with pytest.raises(ValueError, match=r"\(20, 20\) uint8 and \(20, 20\) float64"):
            metric(image, image.astype(float), 2)
        with pytest.raises(ValueError, match=r"\(H, W\) uint8"):
            metric(np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint8), 2)
        with pytest.raises(ValueError, match="shaving 10 pixels"):
            metric(image, image, 10)
        with pytest.raises(ValueError, match="shaving -1 pixels"):
            metric(image, image, -1)


def test_ssim_needs_a_whole_window() -> None:
    image = np.zeros((14, 30), np.uint8)
    assert ssim(image, image, 1) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"shaving 2 pixels off \(14, 30\) does not leave 11"):
        ssim(image, image, 2)


@given(arrays.arrays(np.uint8, (4, 5)))
def test_to_uint8_undoes_the_division(y: np.ndarray) -> None:
    restored = to_uint8(y.astype(np.float32) / 255)
    np.testing.assert_array_equal(restored, y)
    assert restored.dtype == np.uint8


def test_to_uint8_clips_and_rounds() -> None:
    sr = np.array([-0.3, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 7.0], np.float32)
    np.testing.assert_array_equal(to_uint8(sr), [0, 0, 0, 1, 255, 255, 255])
