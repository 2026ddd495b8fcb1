"""One AIL run: its run directory, its teacher's errors, its store, and one `TorchTrainer.fit()` over all rounds."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import train
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from upath import UPath

from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.precision import Precision, fastest
from ail_ray.orchestration.prepare import Prepared
from ail_ray.orchestration.rundir import RunDirectory
from ail_ray.orchestration.store import ActorStore, ImportanceStore
from ail_ray.orchestration.worker import Assignment, train_worker, work

GROUP_START_TIMEOUT = 1800  # seconds: a GPU node may have to boot first


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a run runs; never part of its identity."""

    workers: int = 1
    """Train workers of one run; each holds its share of the shards."""
    threads: int = 1
    """CPU threads of a worker. Workers × threads × concurrent trials should be the cores there are."""
    gpu: bool = False
    """Give every worker a GPU."""
    store_actors: int = 2
    """Actors that hold and update the importance of one run."""

    def worker_resources(self) -> dict[str, float]:
        """What Ray must find free for a worker."""
        return {"CPU": self.threads, **({"GPU": 1} if self.gpu else {})}


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """A run with everything it reads and its place on the storage path."""

    config: RunConfig
    prepared: Prepared
    teacher: str | None  # digest of its weights
    errors: UPath | None
    precision: Precision

    @property
    def directory(self) -> UPath:
        digest = self.config.digest(
            corpus=self.prepared.corpus.digest,
            evaluation=[file.path.stem for file in (*self.prepared.validation, *self.prepared.test)],
            teacher=self.teacher,
        )
        return self.prepared.storage / "runs" / digest

    def open(self, placement: Placement) -> tuple[RunDirectory, dict[str, Any]]:
        """The run directory and its manifest, made if the run is new; a recorded manifest decides."""
        directory = RunDirectory(self.directory)
        manifest = directory.create(
            self.config, corpus=self.prepared.corpus.digest, pairs=len(self.prepared.corpus.pairs),
            pixels=self.prepared.corpus.pixels, precision=self.precision, threads=placement.threads,
            workers=placement.workers,
        )  # fmt: skip
        return directory, manifest

    def assignment(self, manifest: dict[str, Any], importance: Any) -> Assignment:
        """What the workers are told."""
        return Assignment(
            config=self.config, directory=self.directory, shards=self.prepared.shard_paths,
            validation=[file.path for file in self.prepared.validation],
            test=[file.path for file in self.prepared.test],
            crops=self.prepared.crops_per_epoch(self.config), precision=manifest["precision"],
            threads=manifest["threads"], importance=importance,
        )  # fmt: skip


def resolve_precision(asked: str, device: str) -> Precision:
    """The precision asked for, or for `auto` the fastest on this device."""
    return fastest(torch.device(device)) if asked == "auto" else asked  # type: ignore[return-value]


def run_local(
    plan: TrialPlan, threads: int, device: torch.device, report: Callable[[dict[str, Any]], None]
) -> RunDirectory:
    """A run in this process, without Ray, into the same kind of run directory."""
    directory, manifest = plan.open(Placement(threads=threads))
    if directory.last_round < plan.config.rounds:
        store = ImportanceStore(plan.directory, plan.config, plan.errors)
        for s, pixels in enumerate(plan.prepared.shard_pixels):
            store.initialise(s, pixels)
        work(plan.assignment(manifest, store), Group(), device, report)
    directory.finalise()
    return directory


def run_on_ray(plan: TrialPlan, placement: Placement, *, in_tune: bool) -> RunDirectory:
    """A run on the cluster this process is connected to; goes on where its run directory stands.

    Args:
        in_tune: whether a Tune trial is to hear of every round.
    """
    directory, manifest = plan.open(placement)
    if directory.last_round < plan.config.rounds:
        store = ActorStore.start(
            min(placement.store_actors, len(plan.prepared.shard_paths)),
            plan.directory,
            plan.config,
            plan.errors,
        )
        store.initialise(plan.prepared.shard_pixels)
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"  # else every report waits about two seconds
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(GROUP_START_TIMEOUT)
        TorchTrainer(
            train_worker,
            train_loop_config={"assignment": plan.assignment(manifest, store)},
            scaling_config=train.ScalingConfig(
                num_workers=manifest["workers"], use_gpu=placement.gpu,
                resources_per_worker=placement.worker_resources(),
            ),
            run_config=train.RunConfig(
                name=directory.path.name,
                storage_path=str(plan.prepared.storage / "ray"),
                # The second limit is for groups that cannot start; by default Ray tries for ever.
                failure_config=train.FailureConfig(max_failures=3, controller_failure_limit=10),  # type: ignore[call-arg]
                callbacks=[TuneReportCallback()] if in_tune else [],  # type: ignore[list-item]
            ),
        ).fit()  # fmt: skip
        for actor in store.actors:
            ray.kill(actor)
    directory.finalise()
    return directory
