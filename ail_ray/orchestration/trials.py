"""One AIL run on Ray: a `TorchTrainer.fit()` over all rounds, taken up again where it was lost."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import ray.train
from ray import train
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer, get_device
from upath import UPath

from ail_ray.errors import one_line
from ail_ray.files import FileError
from ail_ray.learning.group import Group
from ail_ray.learning.records import Measured, mean_psnr
from ail_ray.learning.rules import RuleError
from ail_ray.learning.theta import NonFiniteLossError
from ail_ray.networks.notebooks import CodeError
from ail_ray.orchestration.actors import ActorStore
from ail_ray.orchestration.process_group import OwnAddress
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.lease import LeaseLostError
from ail_ray.runs.placement import NODE_TIMEOUT, Placement
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.run import RunError, TrialPlan, held
from ail_ray.runs.work import Assignment, work


def train_worker(job: dict[str, Assignment]) -> None:
    """The function Ray Train runs on each worker; reports every committed round."""
    assignment = job["assignment"]
    context, device = ray.train.get_context(), get_device()
    group = Group(context.get_world_rank(), context.get_world_size(), str(device))
    store = ActorStore(assignment.directory, assignment.config, assignment.maps)
    try:
        work(assignment, store, group, device, lambda found: ray.train.report(reported(found, assignment.directory)))
    except NonFiniteLossError as error:  # on every worker at once; the same numbers would fail again
        if group.rank == 0:
            RunDirectory(assignment.directory, assignment.holder).fail(str(error))
    except (CodeError, RuleError) as error:  # somebody's own code: again would fail again
        with suppress(LeaseLostError, FileError):  # another worker says so just now
            RunDirectory(assignment.directory, assignment.holder).fail(str(getattr(error, "cause", error)))
        raise
    finally:
        store.stop()


def reported(measured: Measured, directory: UPath) -> dict[str, float | str]:
    """What Ray Tune's searchers and schedulers get of a round: plain numbers and the name of the run."""
    return {
        "run": directory.name,
        "round": measured.round,
        "training_iteration": measured.round + 1,
        "validation_psnr": mean_psnr(measured.validation),
        "importance_mean": measured.importance.mean,
    }


ELASTIC_START_TIMEOUT = 60  # seconds: it takes what is there, and a node that was there may just have gone


ATTEMPTS = 3  # in a row without a commit in between


RESIZE_INTERVAL = 30.0  # seconds between looks for more workers, in an elastic run


LOOK = 1.0  # seconds between looks for rounds that were committed


def run_on_ray(
    plan: TrialPlan,
    placement: Placement,
    report: Callable[[RoundRecord], None],
    complete: Callable[[RunDirectory], object] = RunDirectory.finalise,
) -> RunDirectory:
    """Run on the cluster that this process is connected to, from where the run directory stands.

    However often workers and nodes are lost, it goes on as long as it gets further in between.

    Args:
        report: called with every round, also those committed before; with the last one when the result is there,
            since whoever hears of it may end this process.
        complete: writes the result when all rounds are there.

    Raises:
        RunError: it failed several times at the same place, or the loss is no longer finite.
        LeaseLostError: another job has taken the run over; called again, it waits for that one.
    """
    told = 0

    def tell() -> None:
        nonlocal told
        with suppress(FileError):  # damaged; it is told when the run has made it again
            for record in RunDirectory(plan.directory).follow(told - 1, plan.config.rounds - 1):
                told += 1
                report(record)

    with held(plan.directory) as directory:
        manifest = plan.open(directory, placement)
        placement = placement.of(manifest)
        attempts = 0
        while directory.last_round < plan.config.rounds:
            tell()  # whoever hears of it may stop the run, but not one that lacks no more than its result
            before = directory.place
            trainer = _trainer(plan, placement, plan.assignment(manifest, directory.holder))
            reason = _fit(trainer, tell)
            directory.manifests.check()
            mended = directory.mend(plan.data.shards)
            attempts = attempts + 1 if directory.place == before and not mended else 0
            if (failure := directory.failure()) or attempts == ATTEMPTS:
                raise RunError(failure or reason or "its workers ended without a word")
        complete(directory)
    tell()
    report(directory.record(plan.config.rounds))
    return directory


def _trainer(plan: TrialPlan, placement: Placement, assignment: Assignment) -> TorchTrainer:
    """The trainer for all rounds that are left."""
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"  # else every report waits about two seconds
    # A process less for each trial: that a node will go changes nothing here, and that it went is seen anyway.
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    fixed = placement.fewest == placement.most
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(NODE_TIMEOUT if fixed else ELASTIC_START_TIMEOUT)
    return TorchTrainer(
        train_worker,
        train_loop_config={"assignment": assignment},
        torch_config=OwnAddress(),
        scaling_config=train.ScalingConfig(
            num_workers=placement.most if fixed else (placement.fewest, placement.most),  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL, use_gpu=placement.gpu,  # type: ignore[call-arg]
            resources_per_worker=placement.worker_resources(),
        ),
        run_config=train.RunConfig(
            name=plan.directory.name,
            storage_path=str(plan.data.storage / "ray"),
            # Not retried there: a controller that is killed while it starts a group leaves the group's resources held.
            # The second limit is for groups that cannot start; by default Ray tries for ever.
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=3),  # type: ignore[call-arg]
        ),
    )  # fmt: skip


def _fit(trainer: TorchTrainer, tell: Callable[[], None]) -> str | None:
    """Fit, and report every round as soon as it is committed; returns why it ended early, if it did.

    Ray's own way from Train to Tune (`TuneReportCallback`) waits for ever when a trial ends while its last report is
    still on the way. The run directory knows all rounds anyway.
    """
    with ThreadPoolExecutor(1) as aside:
        fitting = aside.submit(trainer.fit)
        while not fitting.done():
            wait([fitting], timeout=LOOK)
            tell()
    error = fitting.exception()
    if error is not None and not isinstance(error, TrainingFailedError):
        raise error
    return one_line(error) if error else None
