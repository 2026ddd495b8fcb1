"""The pictures of a round: importance and error on training images, a student beside what it is compared with."""

from collections.abc import Sequence

import numpy as np

from ail_ray.imaging.evaluation import EvaluationImages, middle
from ail_ray.imaging.metrics import border, psnr, to_uint8
from ail_ray.imaging.panels import as_png, central_crop, grey_map, side_by_side
from ail_ray.imaging.shards import Shard
from ail_ray.learning.algorithm import Importance
from ail_ray.learning.inference import predict, super_resolve
from ail_ray.learning.precision import Precision
from ail_ray.learning.theta import TrainState
from ail_ray.runs.references import PICTURED
from ail_ray.tensors import as_tensor

SHOWN = 96  # pixels of an evaluation image, from its middle
WINDOW = SHOWN + 2 * 24  # that networks see of it: so large, that they cost little, and what is shown has surroundings
SHOWN_OF_TRAINING = 320  # pixels
WHITE = 0.1  # absolute error on [0, 1] luma


class Gallery:
    """The pictures that a worker draws of each round, each a grid of images under their captions.

    Two are of the largest training image of the first and of the middle shard, drawn by the workers that hold these.
    Two more, drawn by rank 0, are of the middle of the first two images of the first evaluation set.
    """

    def __init__(
        self,
        state: TrainState,
        shards: dict[int, Shard],
        importance: Importance,
        *,
        total_shards: int,
        precision: Precision,
        evaluation: Sequence[EvaluationImages],
        taught: Sequence[np.ndarray] = (),
    ) -> None:
        """
        Args:
            taught: what the teacher has made of the first images of the first evaluation set, (H, W) uint8 luma.
        """
        self.state, self.importance = state, importance
        # As in `measure`: float32, whatever trained it, unless the weights themselves are float64.
        self.precision: Precision = "fp64" if precision == "fp64" else "fp32"
        self.shards = {s: shards[s] for s in dict.fromkeys((0, total_shards // 2)) if s in shards}
        self.windows = [images.windows(WINDOW, PICTURED) for images in evaluation[:1]]
        self.unchanging = [_unchanging(images, taught) for images in self.windows]

    def draw(self, round: int) -> dict[str, bytes]:
        """Draw the pictures of a round: PNG files by name."""
        pictures = {f"importance-{s}.png": self._importance(round, s) for s in self.shards}
        for images, unchanging in zip(self.windows, self.unchanging, strict=True):
            for i, candidates in enumerate(unchanging):
                pictures[f"{images.set}-x{images.scale}-{i}.png"] = self._crops(images, i, candidates)
        return pictures

    def _importance(self, round: int, s: int) -> bytes:
        """The importance of a training image, the error by which it rises next, the image, and the student's."""
        shard, importance = self.shards[s], as_tensor(self.importance.read(round, s))
        place, inputs, hr = max(shard.images(), key=lambda image: image[2].numel())
        weights = importance[place].view(hr.shape).numpy()
        original = hr.cpu().numpy()
        sr = super_resolve(self.state.student, inputs, self.precision).cpu().numpy()
        error = np.abs(original / 255 - sr)
        panels = {
            f"importance, mean {weights.mean():.3f}": grey_map(weights),
            f"student's error, mean {error.mean():.4f}, white {WHITE}": grey_map(error, high=WHITE),
            "training image": original,
            "student": to_uint8(sr),
        }
        return _grid({name: central_crop(panel, SHOWN_OF_TRAINING) for name, panel in panels.items()}, 2, zoom=1)

    def _crops(self, images: EvaluationImages, i: int, candidates: dict[str, np.ndarray]) -> bytes:
        """The crop by bicubic interpolation, by the student, and as it is; below it what explains them."""
        hr, student = images.hr[i], self.state.student
        sr = predict(student, images.inputs(student.traits.upsampling)[i], self.precision)
        original = central_crop(hr, SHOWN)
        panels = {}
        for name, image in {"bicubic": candidates["bicubic"], "student": sr, **candidates}.items():
            shown = central_crop(image, SHOWN)
            panels[f"{name} {psnr(original, shown, border(images.scale)):.2f} dB"] = shown
            if name == "student":
                panels["original"] = original
        error = np.abs(hr.astype(np.float32) - sr) / 255
        panels[f"student's error, white {WHITE}"] = central_crop(grey_map(error, high=WHITE), SHOWN)
        return _grid(panels, 3, zoom=2)


def _unchanging(images: EvaluationImages, taught: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What no round changes of each image: the small image, and its enlargements by bicubic and by the teacher."""
    scale = images.scale
    made = [
        {"low resolution": to_uint8(small).repeat(scale, 0).repeat(scale, 1), "bicubic": predict(None, bicubic)}
        for small, bicubic in zip(images.small, images.bicubic, strict=True)
    ]
    for candidates, whole in zip(made, taught, strict=False):
        candidates["teacher"] = middle(whole, WINDOW, scale)
    return made


def _grid(panels: dict[str, np.ndarray], columns: int, *, zoom: int) -> bytes:
    captions = list(panels)
    return as_png(side_by_side(list(panels.values()), captions, zoom=zoom, columns=columns), captions, columns)
