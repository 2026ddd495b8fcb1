"""One worker of an AIL run: binds Algorithm 1 to its shards, to the store and to the run directory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from upath import UPath

from ail_ray.imaging.bank import Bank
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.shards import Shard
from ail_ray.learning.algorithm import Importance, Run, adaptive_importance_learning
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.records import Measured
from ail_ray.learning.theta import TrainState
from ail_ray.learning.weights import load_model
from ail_ray.runs.commits import RunJournal
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.preparation import Data
from ail_ray.runs.references import teacher_pictures
from ail_ray.runs.round_pictures import Gallery
from ail_ray.runs.teacher_maps import TeacherMaps


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What every worker of a run needs to know, as plain data."""

    config: RunConfig
    directory: UPath
    data: Data
    precision: Precision
    threads: int
    maps: TeacherMaps | None
    start: UPath | None  # weights of the student; random ones if None
    holder: str | None  # of the lease that the run is worked on under


def work(
    assignment: Assignment,
    importance: Importance,
    group: Group,
    device: torch.device,
    report: Callable[[Measured], None] = lambda measured: None,
    each_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Do Algorithm 1 on the shards `s` with `s mod size == rank`.

    Args:
        report: is called with what was measured of every committed round.
        each_epoch: is called after every committed epoch; what it raises ends the work.
    """
    a, config = assignment, assignment.config
    torch.set_num_threads(a.threads)
    student = placed(load_model(a.start, config.network) if a.start else config.drawn(), a.precision, device)
    state, paths = TrainState(student, config), a.data.shard_paths
    mine = {
        s: Shard(path, device, student.traits.upsampling)
        for s, path in enumerate(paths)
        if s % group.size == group.rank
    }
    bank = Bank(mine, total_shards=len(paths), crop=config.crop, seed=config.seed)
    if a.maps and a.maps.kind == "outputs":
        for s in mine:
            bank.teach(s, a.maps.of(paths[s].name))
    validation, test = ([EvaluationImages.load(path) for path in files] for files in (a.data.validation, a.data.test))
    measured = [*a.data.validation, *a.data.test]
    taught = teacher_pictures(measured[0], a.maps.teacher) if a.maps and measured else []
    gallery = Gallery(
        state, mine, importance, total_shards=len(paths), precision=a.precision,
        evaluation=[*validation, *test] if group.rank == 0 else [], taught=taught,
    )  # fmt: skip
    directory = RunDirectory(a.directory, a.holder)
    journal = RunJournal(directory, group, draw=gallery.draw, report=report, each_epoch=each_epoch)
    adaptive_importance_learning(
        Run(
            config=config, state=state, crops=a.data.crops_per_epoch(config), precision=a.precision, group=group,
            bank=bank, importance=importance, validation=validation, test=test, journal=journal,
        )
    )  # fmt: skip
