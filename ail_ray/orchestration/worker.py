"""One worker of an AIL run: binds Algorithm 1 to its shards, to the store and to the run directory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train.torch import get_device
from upath import UPath

from ail_ray.files import as_tensor, read_tensors
from ail_ray.imaging.bank import Bank, Shard
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.metrics import psnr
from ail_ray.imaging.pictures import as_png, central_crop, grey_map, side_by_side
from ail_ray.learning.algorithm import Importance, Run, adaptive_importance_learning
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.inference import predict
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.theta import NonFiniteLossError, TrainState
from ail_ray.learning.weights import load_model
from ail_ray.orchestration.journal import RunJournal
from ail_ray.orchestration.rundir import RunDirectory, mean_psnr
from ail_ray.orchestration.store import ActorStore

PICTURED_CROP = 96  # pixels


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What every worker of a run is told; plain data."""

    config: RunConfig
    directory: UPath
    shards: list[UPath]
    validation: list[UPath]
    test: list[UPath]
    crops: int
    precision: Precision
    threads: int
    teacher_errors: UPath | None
    teacher_outputs: UPath | None
    start: UPath | None  # weights of the student; random ones if None
    holder: str  # of the lease that the run is worked on under


def train_worker(job: dict[str, Assignment]) -> None:
    """The function Ray Train runs on each worker; reports every committed round."""
    assignment = job["assignment"]
    context, device = ray.train.get_context(), get_device()
    group = Group(context.get_world_rank(), context.get_world_size(), str(device))
    store = ActorStore(assignment.directory, assignment.config, assignment.teacher_errors)
    try:
        work(assignment, store, group, device, lambda record: ray.train.report(reported(record, assignment.directory)))
    except NonFiniteLossError as error:  # on every worker at once; the same numbers would fail again
        if group.rank == 0:
            RunDirectory(assignment.directory).fail(str(error))
    finally:
        store.stop()


def reported(record: dict[str, Any], directory: UPath) -> dict[str, Any]:
    """What Ray Tune's searchers and schedulers see of a round: plain numbers and the run's name."""
    return {
        "run": directory.name,
        "round": record["round"],
        "training_iteration": record["round"] + 1,
        "validation_psnr": mean_psnr(record["validation"]),
        "importance_mean": record["importance"]["mean"],
    }


def work(
    assignment: Assignment,
    importance: Importance,
    group: Group,
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
    asked: Callable[[], bool] = lambda: False,
) -> None:
    """Algorithm 1 on the shards `s` with `s mod size == rank`."""
    a, config = assignment, assignment.config
    torch.set_num_threads(a.threads)
    torch.manual_seed(config.seed)
    student = placed(load_model(a.start) if a.start else config.student(), a.precision, device)
    state = TrainState(student, config)
    mine = {
        s: Shard(path, device, student.upsampling) for s, path in enumerate(a.shards) if s % group.size == group.rank
    }
    bank = Bank(mine, total_shards=len(a.shards), crop=config.crop, seed=config.seed)
    if a.teacher_outputs:
        for s in mine:
            bank.teach(s, read_tensors(a.teacher_outputs / a.shards[s].name)[0]["output"])
    validation, test = ([EvaluationImages.load(path) for path in paths] for paths in (a.validation, a.test))
    gallery = Gallery(
        state, mine, importance, total_shards=len(a.shards), precision=a.precision,
        evaluation=[*validation, *test] if group.rank == 0 else [],
    )  # fmt: skip
    adaptive_importance_learning(
        Run(
            config=config, state=state, crops=a.crops, precision=a.precision, group=group, bank=bank,
            importance=importance, validation=validation, test=test,
            journal=RunJournal(
                RunDirectory(a.directory, a.holder), group, draw=gallery.draw, report=report, asked=asked
            ),
        )
    )  # fmt: skip


class Gallery:
    """The pictures a worker draws of each round: importance of two fixed training images, crops of two fixed others.

    Pictured are the largest image of the first and of the middle shard, by whoever holds them, and by rank 0 the
    first two images of the first evaluation set.
    """

    def __init__(
        self,
        state: TrainState,
        shards: dict[int, Shard],
        importance: Importance,
        *,
        total_shards: int,
        precision: Precision,
        evaluation: list[EvaluationImages],
    ) -> None:
        self.state, self.importance = state, importance
        # As in `measure`: float32, whatever trained it, unless the weights themselves are float64.
        self.precision: Precision = "fp64" if precision == "fp64" else "fp32"
        self.shards = {s: shards[s] for s in dict.fromkeys((0, total_shards // 2)) if s in shards}
        self.evaluation = evaluation[:1]

    def draw(self, round: int) -> dict[str, bytes]:
        """PNG files by name: image and importance (black 0, white 1); bicubic, student and original crops."""
        pictures = {f"importance-{s}.png": self._importance(round, s) for s in self.shards}
        for images in self.evaluation:
            for i in range(min(2, len(images))):
                pictures[f"{images.set}-x{images.scale}-{i}.png"] = self._crops(images, i)
        return pictures

    def _importance(self, round: int, s: int) -> bytes:
        shard, importance = self.shards[s], as_tensor(self.importance.read(round, s))
        place, _, hr = max(shard.images(), key=lambda image: image[2].numel())
        weights = importance[place].view(hr.shape).numpy()
        images = [hr.cpu().numpy(), grey_map(weights)]
        captions = ["image", f"importance, mean {weights.mean():.3f}"]
        return as_png(side_by_side(images, captions, zoom=1), captions)

    def _crops(self, images: EvaluationImages, i: int) -> bytes:
        hr, student = images.hr[i], self.state.student
        candidates = {
            "bicubic": predict(None, images.bicubic[i]),
            "student": predict(student, images.inputs(student.upsampling)[i], self.precision),
        }
        captions = [*(f"{name} {psnr(hr, sr, images.scale):.2f} dB" for name, sr in candidates.items()), "original"]
        crops: list[np.ndarray] = [central_crop(image, PICTURED_CROP) for image in (*candidates.values(), hr)]
        return as_png(side_by_side(crops, captions), captions)
