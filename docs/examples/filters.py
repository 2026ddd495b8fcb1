"""PSNR of a median and of a non-local-means filter, beside which a student that denoises can be judged.

    python docs/examples/filters.py 25 Set14 BSDS200-val

The luma of each picture gets Gaussian noise of this sigma (in grey levels, not clipped), the same as by
`--degrade luma,noise=25`. Non-local means is told sigma, and of several strengths the best for the whole set counts.
"""

import sys
from collections.abc import Callable

import numpy as np
from skimage.filters import median
from skimage.restoration import denoise_nl_means

from ail_ray.imaging import image_sets
from ail_ray.imaging.metrics import psnr, to_uint8
from ail_ray.imaging.pairs import evaluation_pairs


def main(sigma: float, names: list[str]) -> None:
    s = sigma / 255

    def means(strength: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda noisy: denoise_nl_means(noisy, patch_size=5, patch_distance=6, h=strength * s, sigma=s)

    filters = {"noisy": lambda noisy: noisy}
    filters |= {f"median {side}×{side}": lambda x, n=side: median(x, np.ones((n, n), bool)) for side in (3, 5)}
    filters |= {f"non-local means, h = {strength} sigma": means(strength) for strength in (0.5, 0.6, 0.7, 0.8, 1.0)}
    for name in names:
        pairs, _ = evaluation_pairs(image_sets.find(name).paths, 1, f"luma,noise={sigma:g}")
        sides = [pair.sides(np.float32) for pair in pairs]
        for what, filtered in filters.items():
            found = np.mean([psnr(each.hr, to_uint8(filtered(each.small)), 0) for each in sides])
            print(f"{name}: {what}: {found:.2f} dB", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
