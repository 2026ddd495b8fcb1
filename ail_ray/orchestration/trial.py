"""One AIL run: its run directory, its teacher's errors, its store, and one `TorchTrainer.fit()` over all rounds."""

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from ray import train
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer
from upath import UPath

from ail_ray.errors import ConfigError, one_line
from ail_ray.files import FileError, read_json, write_bytes
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.precision import Precision, fastest
from ail_ray.learning.weights import load_model
from ail_ray.orchestration.lease import Lease, LeaseLostError
from ail_ray.orchestration.placement import NODE_TIMEOUT, Placement
from ail_ray.orchestration.prepare import TEACHER, Prepared, run_path
from ail_ray.orchestration.references import Rows
from ail_ray.orchestration.rundir import RunDirectory
from ail_ray.orchestration.store import ImportanceStore
from ail_ray.orchestration.worker import Assignment, train_worker, work

ELASTIC_START_TIMEOUT = 60  # seconds: it takes what is there, and a node that was there may just have gone
ATTEMPTS = 3  # in a row without a commit in between
RESIZE_INTERVAL = 30.0  # seconds between looks for more workers, in an elastic run
NEVER: AbstractContextManager[Callable[[], int]] = nullcontext(lambda: 0)  # whom no signal asks to leave
LOOK = 1.0  # seconds between looks for rounds that were committed


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """A run with everything that it reads and its place on the storage path."""

    config: RunConfig
    prepared: Prepared
    teacher: str | None  # digest of its weights
    errors: UPath | None
    precision: Precision
    outputs: UPath | None = None  # the teacher's, for distillation
    start: tuple[str, UPath] | None = None  # digest and path of the weights that the student starts from
    references: dict[str, Rows] = field(default_factory=dict)  # `bicubic`, and `teacher` if there is one

    @property
    def directory(self) -> UPath:
        return run_path(self.config, self.prepared, self.teacher, self.start)

    @property
    def student(self) -> UPath:
        """Weights after the rounds asked for: the run's result, or that round's student if the run has gone further."""
        directory = RunDirectory(self.directory)
        longer = directory.last_round > self.config.rounds
        return directory.student_path(self.config.rounds) if longer else self.directory / "student.safetensors"

    def open(self, directory: RunDirectory, placement: Placement) -> dict[str, Any]:
        """Mend the run directory, or make it if the run is new; returns its manifest, by which a run goes on."""
        manifest = directory.create(
            self.config, corpus=self.prepared.corpus.digest, pairs=len(self.prepared.corpus.pairs),
            pixels=self.prepared.corpus.pixels, precision=self.precision, threads=placement.threads,
            workers=placement.most, references=self.references,
        )  # fmt: skip
        directory.forget_failure()
        directory.mend(len(self.prepared.corpus.shards))
        return manifest

    def assignment(self, manifest: dict[str, Any], holder: str) -> Assignment:
        """The assignment that all workers get."""
        maps = self.errors or self.outputs
        return Assignment(
            config=self.config, directory=self.directory, shards=self.prepared.shard_paths,
            validation=[file.path for file in self.prepared.validation],
            test=[file.path for file in self.prepared.test],
            crops=self.prepared.crops_per_epoch(self.config), precision=manifest["precision"],
            threads=manifest["threads"], teacher_errors=self.errors, teacher_outputs=self.outputs,
            teacher=maps / TEACHER if maps else None, start=self.start[1] if self.start else None, holder=holder,
        )  # fmt: skip


def resolve_precision(asked: str, device: str) -> Precision:
    """The precision asked for, or for `auto` the fastest on this device.

    Raises:
        ConfigError: the device is a GPU, Ray gave us one, and torch cannot use it.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError([f"gpu: torch {torch.__version__} on node {socket.gethostname()} cannot use its GPU"])
    return fastest(torch.device(device)) if asked == "auto" else asked  # type: ignore[return-value]


class RunError(RuntimeError):
    """A run that cannot go on; the message says why."""


@contextmanager
def _held(directory: RunDirectory) -> Iterator[Lease]:
    """Hold the run; whatever ends the block too early is recorded as the failure of the run while it is held."""
    with Lease(directory.path) as lease:
        try:
            yield lease
        except Exception as error:
            known = isinstance(error, RunError | FileError | ConfigError)
            with suppress(LeaseLostError):
                RunDirectory(directory.path, lease.holder).fail(
                    str(error) if known else f"{type(error).__name__}: {error}"
                )
            raise


def run_local(
    plan: TrialPlan,
    threads: int,
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
    *,
    leaving: AbstractContextManager[Callable[[], int]] = NEVER,
    complete: Callable[[RunDirectory], object] = RunDirectory.finalise,
) -> RunDirectory:
    """Run in this process, without Ray, into the same kind of run directory.

    Args:
        report: is called with every committed round.
        complete: writes the result when all rounds are there.
        leaving: entered while it trains; yields what tells the signal that asks to leave at the next step (see
            `asked_to_leave`), 0 for none.
    """
    directory = RunDirectory(plan.directory)
    with _held(directory) as lease:
        manifest = plan.open(directory, Placement(threads=threads))
        if directory.last_round < plan.config.rounds:
            store = ImportanceStore(plan.directory, plan.config, plan.errors)
            with leaving as asked:
                work(plan.assignment(manifest, lease.holder), store, Group(), device, report, asked)
        complete(directory)
    return directory


def run_on_ray(
    plan: TrialPlan,
    placement: Placement,
    report: Callable[[dict[str, Any]], None],
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
    directory, told = RunDirectory(plan.directory), 0

    def tell() -> None:
        nonlocal told
        while told <= min(directory.last_round, plan.config.rounds - 1):
            try:
                record = read_json(directory.record_path(told))
            except FileError:  # damaged; it is told when the run has made it again
                return
            told += 1
            report(record)

    tell()
    with _held(directory) as lease:
        manifest = plan.open(directory, placement)
        placement = placement.of(manifest)
        attempts = 0
        while directory.last_round < plan.config.rounds:
            before = directory.place
            trainer = _trainer(plan, placement, plan.assignment(manifest, lease.holder))
            reason = _fit(trainer, tell)
            lease.check(lease.holder)
            mended = directory.mend(len(plan.prepared.corpus.shards))
            attempts = attempts + 1 if directory.place == before and not mended else 0
            if (failure := directory.failure()) or attempts == ATTEMPTS:
                raise RunError(failure or reason or "its workers ended without a word")
        complete(directory)
    report(read_json(directory.record_path(plan.config.rounds)))
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
        scaling_config=train.ScalingConfig(
            num_workers=placement.most if fixed else (placement.fewest, placement.most),  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL, use_gpu=placement.gpu,  # type: ignore[call-arg]
            resources_per_worker=placement.worker_resources(),
        ),
        run_config=train.RunConfig(
            name=plan.directory.name,
            storage_path=str(plan.prepared.storage / "ray"),
            # Not retried there: a controller that is killed while it starts a group leaves the group's resources held.
            # The second limit is for groups that cannot start; by default Ray tries for ever.
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=3),  # type: ignore[call-arg]
        ),
    )  # fmt: skip


def complete_with_onnx(directory: RunDirectory) -> None:
    """Write the result of a finished run, also as ONNX; if ONNX fails, the run notes why and is finished anyway."""
    directory.finalise()
    path = directory.path / "student.onnx"
    try:
        if not path.exists():
            from ail_ray.learning.export import to_onnx  # seconds of imports that no trial need wait for to begin

            write_bytes(path, to_onnx(load_model(directory.path / "student.safetensors")))
    except Exception as error:  # whatever torch's exporter or a full disk raises
        with suppress(Exception):  # of the same disk
            directory.note(f"no ONNX, the same command tries again: {error}")


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
