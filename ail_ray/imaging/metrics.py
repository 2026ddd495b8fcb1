"""PSNR and SSIM by the one protocol of all numbers here: on uint8 luma, without `scale` pixels of border."""

import numpy as np
from skimage import metrics  # loads its functions when they are used

SSIM_WINDOW = 11
"""Side in pixels of the Gaussian window of SSIM, which has a sigma of 1.5 and is cut off at 3.5 sigma."""


def to_uint8(sr: np.ndarray) -> np.ndarray:
    """A prediction as it is measured and saved: float on [0, 1], any shape -> clipped and rounded uint8."""
    return np.rint(np.clip(sr, 0, 1) * 255).astype(np.uint8)


def measurable(height: int, width: int, scale: int) -> bool:
    """Whether an image, cropped to a multiple of the scale and shaved by it, is still large enough for SSIM."""
    return min(height, width) // scale * scale - 2 * border(scale) >= SSIM_WINDOW


def border(scale: int) -> int:
    """How many pixels are shaved off each side of an image that was enlarged by a scale; none if it was restored."""
    return scale if scale > 1 else 0


def shave(image: np.ndarray, border: int) -> np.ndarray:
    """(H, W) without `border` pixels on each side: (H - 2 border, W - 2 border), a view."""
    height, width = image.shape
    return image[border : height - border, border : width - border]


def psnr(hr: np.ndarray, sr: np.ndarray, shaved: int) -> float:
    """Peak signal-to-noise ratio in dB against 255; infinite for identical images.

    Args:
        hr, sr: (H, W) uint8.
        shaved: pixels on each side that do not count, `border` by convention.

    Raises:
        ValueError: other dtypes, different shapes, or nothing left after the shave.
    """
    hr, sr = _measured(hr, sr, shaved, smallest=1)
    squares = np.square(hr.astype(np.float64) - sr)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(255**2 / squares.mean()))  # scikit-image's would load SciPy's statistics first


def ssim(hr: np.ndarray, sr: np.ndarray, shaved: int) -> float:
    """Structural similarity of Wang et al., in [-1, 1]; as `psnr`, but 11 pixels a side must be left."""
    hr, sr = _measured(hr, sr, shaved, smallest=SSIM_WINDOW)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(metrics.structural_similarity(hr, sr, data_range=255, **gaussian))


def _measured(hr: np.ndarray, sr: np.ndarray, border: int, smallest: int) -> tuple[np.ndarray, np.ndarray]:
    if hr.dtype != np.uint8 or sr.dtype != np.uint8 or hr.ndim != 2 or hr.shape != sr.shape:
        got = f"{hr.shape} {hr.dtype} and {sr.shape} {sr.dtype}"
        raise ValueError(f"expected two (H, W) uint8 images of one shape, got {got}")
    if border < 0 or min(hr.shape) - 2 * border < smallest:
        raise ValueError(f"shaving {border} pixels off {hr.shape} does not leave {smallest} pixels a side")
    return shave(hr, border), shave(sr, border)
