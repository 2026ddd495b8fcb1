"""One worker of an AIL run: binds Algorithm 1 to its shards, to the store and to the run directory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from upath import UPath

from ail_ray.files import read_tensors
from ail_ray.imaging.bank import Bank
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.shards import Shard
from ail_ray.learning.algorithm import Importance, Run, adaptive_importance_learning
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.theta import TrainState
from ail_ray.learning.weights import load_model
from ail_ray.runs.commits import RunJournal
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.round_pictures import Gallery


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What every worker of a run needs to know, as plain data."""

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
    teacher: UPath | None  # weights, for pictures
    start: UPath | None  # weights of the student; random ones if None
    holder: str  # of the lease that the run is worked on under


def work(
    assignment: Assignment,
    importance: Importance,
    group: Group,
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
    asked: Callable[[], int] = lambda: 0,
) -> None:
    """Do Algorithm 1 on the shards `s` with `s mod size == rank`."""
    a, config = assignment, assignment.config
    torch.set_num_threads(a.threads)
    student = placed(load_model(a.start) if a.start else config.drawn(), a.precision, device)
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
        evaluation=[*validation, *test] if group.rank == 0 else [], teacher=a.teacher,
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
