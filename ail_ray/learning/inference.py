"""Running a network over whole images: for the error maps of a shard, for benchmarks, and for single images."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.metrics import border, psnr, ssim, to_uint8
from ail_ray.imaging.shards import Shard
from ail_ray.learning.group import Group
from ail_ray.learning.precision import Precision, autocast, dtype_of
from ail_ray.learning.records import Row
from ail_ray.networks.architectures import Network, device_of
from ail_ray.tensors import as_tensor

STRIP = 360_000  # pixels: the feature maps of a small student stay in the cache, and below the 32 MB that malloc keeps


@torch.inference_mode()
def super_resolve(
    model: Network,
    inputs: torch.Tensor,
    precision: Precision,
    wanted: Callable[[slice], bool] = lambda rows: True,
) -> torch.Tensor:
    """Run a model over one image, in strips if it is large: (H, W) luma on [0, 1] as it reads it, of any float type.

    Args:
        wanted: whether these rows of the result are needed; a strip that is not is 0, and costs nothing.

    Returns:
        (upsampling * H, upsampling * W) in the precision's type.
    """
    height, width = inputs.shape
    u, radius, grid, strips = model.traits.upsampling, model.traits.reach, model.traits.multiple, list[torch.Tensor]()
    kind = dtype_of(precision)  # or as the network returns it
    images = _on_grid(inputs.to(dtype_of(precision))[None, None], grid)
    for top, bottom in _strips(height, width, radius):
        if not wanted(slice(top * u, bottom * u)):
            strips.append(torch.zeros((bottom - top) * u, width * u, device=images.device))
            continue
        first = max(0, top - radius) // grid * grid
        last = min(images.shape[2], -(-(bottom + radius) // grid) * grid)
        with autocast(precision, images.device):
            strip = model(images[..., first:last, :])[0, 0]
        strips.append(strip[(top - first) * u : (bottom - first) * u, : width * u])
        kind = strip.dtype
    return strips[0] if len(strips) == 1 else torch.cat([strip.to(kind) for strip in strips])


def _on_grid(images: torch.Tensor, grid: int) -> torch.Tensor:
    """Images whose last rows and columns are repeated until height and width are multiples of the grid."""
    below, right = -images.shape[2] % grid, -images.shape[3] % grid
    return F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images


def _strips(height: int, width: int, depth: int) -> list[tuple[int, int]]:
    """Rows from and to of about equal strips, so high that the rows they share add less than an eighth."""
    highest = max(STRIP // width - 2 * depth, 16 * depth, 1)
    count = -(-height // highest)
    edges = [height * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def error_map(model: Network, shard: Shard, precision: Precision, importance: np.ndarray | None = None) -> np.ndarray:
    """`|y - s|` on [0, 1] luma for every pixel of a shard: (pixels,) float16 in the shard's order.

    Args:
        importance: (pixels,) float16 of a rule that leaves 1 as it is; where whole strips have it, the errors are not
            computed, and mean nothing.
    """
    model.eval()
    errors = np.empty(shard.pixels, np.float16)
    for place, inputs, hr in shard.images():
        if importance is None:
            sr = super_resolve(model, inputs, precision)
        else:
            sr = super_resolve(model, inputs, precision, partial(_unsettled, importance[place].reshape(hr.shape)))
        errors[place] = error_of(hr, sr)
    return errors


def _unsettled(importance: np.ndarray, rows: slice) -> bool:
    return bool((importance[rows] != 1).any())


def error_of(hr: torch.Tensor, sr: torch.Tensor) -> np.ndarray:
    """`|y - s|` of one image on [0, 1] luma: (pixels,) float16. `hr` is uint8, `sr` on [0, 1]."""
    return (hr.to(sr.dtype) / 255 - sr).abs().half().cpu().numpy().ravel()


def evaluate(
    model: Network | None,
    images: EvaluationImages,
    *,
    precision: Precision = "fp32",
    group: Group | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Row:
    """Mean PSNR and SSIM of a model, or of the bicubic input where there is none, the images split over the workers.

    `advance` is called after each image.
    """
    group = group or Group()
    sums = torch.zeros(2, dtype=torch.float64)
    if model is not None:
        model.eval()
    inputs = images.inputs(model.traits.upsampling if model else 1)
    for i in range(group.rank, len(images), group.size):
        sums += torch.tensor(measured(images.hr[i], predict(model, inputs[i], precision), images.scale))
        advance()
    means = group.sum(sums) / len(images)
    return Row(set=images.set, scale=images.scale, psnr=float(means[0]), ssim=float(means[1]), images=len(images))


def measured(hr: np.ndarray, sr: np.ndarray, scale: int) -> tuple[float, float]:
    """PSNR in dB, at most 100, and SSIM of a picture that was enlarged, both (H, W) uint8."""
    # A perfect image would make the mean infinite, which no record can hold.
    return min(psnr(hr, sr, border(scale)), 100.0), ssim(hr, sr, border(scale))


def predict(model: Network | None, inputs: np.ndarray, precision: Precision = "fp32") -> np.ndarray:
    """Super-resolve one of `EvaluationImages.inputs`: (H, W) uint8, as the image is measured and shown."""
    if model is None:
        return to_uint8(inputs)
    return to_uint8(super_resolve(model, as_tensor(inputs).to(device_of(model)), precision).float().cpu().numpy())


def evaluate_all(
    model: Network | None, benchmarks: Sequence[EvaluationImages], *, precision: Precision, group: Group
) -> tuple[Row, ...]:
    """Evaluate a model on several sets: a row for each set and scale."""
    return tuple(evaluate(model, images, precision=precision, group=group) for images in benchmarks)
