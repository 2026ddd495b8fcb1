"""Sweeps from their check to their summary, whoever runs the trials, and wherever they are recorded."""

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from traceback import clear_frames
from typing import Any, Protocol

import torch
from upath import UPath

from ail_ray.errors import ConfigError, counted
from ail_ray.files import digest_of, write_json
from ail_ray.learning.config import RunConfig, described
from ail_ray.learning.precision import Precision
from ail_ray.runs.commits import asked_to_leave
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import Everywhere, Prepared, build_data, here, shared_weights
from ail_ray.runs.references import Rows, references
from ail_ray.runs.run import TrialPlan, complete_with_onnx, resolve_precision, run_local
from ail_ray.runs.teacher_maps import map_kind, teacher_maps
from ail_ray.sweeps.listeners import Monitor, Recorder
from ail_ray.sweeps.progress import shown
from ail_ray.sweeps.sweep_file import Ledger
from ail_ray.sweeps.sweep_job import SweepJob, check
from ail_ray.sweeps.trials import proposals

NO_GPU = "gpu: torch finds none on this machine; leave --gpu out, or send the sweep to a cluster that has some"
Ended = Callable[[int], None]
"""Is called with the number of a sweep when one of its trials is over."""


class Executor(Protocol):
    """Who runs the trials of sweeps, and the tasks that prepare them."""

    def problems(self, placement: Placement) -> list[str]:
        """A line for whatever keeps trials from running, as far as it is known before anything starts."""

    def running(self) -> AbstractContextManager[object]:
        """Be ready to run within this block; ConfigError if that cannot be."""

    def check(self, job: SweepJob) -> None:
        """Make sure, within the block, that the trials of a sweep can run; ConfigError if they cannot."""

    def precision(self, job: SweepJob, say: Callable[[str], None]) -> Precision:
        """The precision that a sweep's trials have there."""

    def everywhere(self, job: SweepJob, *, heavy: bool) -> Everywhere:
        """Who calls a function with many arguments; a `heavy` one takes what a worker takes."""

    def run(self, sweeps: Sequence["Sweep"], monitors: Sequence[Monitor], *, name: str, ended: Ended) -> None:
        """Run all trials; each monitor is told of the trials of its sweep.

        Args:
            name: digest of all sweeps together.
        """


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep whose data and teachers are there, so that any of its trials can start; it is sent to every trial."""

    job: SweepJob
    prepared: Prepared
    precision: Precision
    teachers: dict[str, tuple[str, UPath]]  # by name: digest of the weights, folder of errors (of outputs if β > 0)
    start: tuple[str, UPath] | None  # digest and path of the weights that students start from
    references: dict[str, Rows]  # what students are held against, by name

    def plan(self, searched: Mapping[str, Any]) -> TrialPlan:
        """The trial with these searched values."""
        config = self.job.sweep.run(**searched)
        teacher, maps = self.teachers.get(config.teacher, (None, None))
        if "teacher" not in config.reads:
            teacher = maps = None
        errors, outputs = (None, maps) if config.beta > 0 else (maps, None)
        return TrialPlan(
            config=config, prepared=self.prepared, teacher=teacher, errors=errors, precision=self.precision,
            outputs=outputs, start=self.start, references=self._references(config),
        )  # fmt: skip

    def _references(self, config: RunConfig) -> dict[str, Rows]:
        """The rows of bicubic interpolation and, if the run has one, of its own teacher."""
        own = {"bicubic": "bicubic", f"teacher={Path(config.teacher).name}": "teacher"}
        names = own if "teacher" in config.reads else {"bicubic": "bicubic"}
        return {name: self.references[key] for key, name in names.items() if key in self.references}


class InThisProcess:
    """Runs one trial after the other, without Ray."""

    def problems(self, placement: Placement) -> list[str]:
        return [NO_GPU] if placement.gpu and not torch.cuda.is_available() else []

    def running(self) -> AbstractContextManager[object]:
        return nullcontext()

    def check(self, job: SweepJob) -> None:
        pass

    def precision(self, job: SweepJob, say: Callable[[str], None]) -> Precision:
        return resolve_precision(job.sweep.precision, job.placement.device)

    def everywhere(self, job: SweepJob, *, heavy: bool) -> Everywhere:
        return here

    def run(self, sweeps: Sequence[Sweep], monitors: Sequence[Monitor], *, name: str, ended: Ended) -> None:
        for number, sweep in enumerate(sweeps):
            for searched in proposals(sweep.job.sweep):
                _run_here(sweep.plan(searched), sweep.job.placement, monitors[number])
                ended(number)


def _run_here(plan: TrialPlan, placement: Placement, monitor: Monitor) -> None:
    monitor.started(plan)
    failure = None
    try:
        run_local(
            plan, placement.threads, torch.device(placement.device), lambda record: monitor.heard(plan),
            leaving=asked_to_leave(monitor.say), complete=complete_with_onnx,
        )  # fmt: skip
    except Exception as error:  # as under Ray: one failed trial does not sink the others
        failure = f"{type(error).__name__}: {error}"
    monitor.ended(plan, failure)


def run_sweeps(
    jobs: Mapping[str, SweepJob],
    executor: Executor,
    recorder: Recorder,
    *,
    command: str = "",
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run sweeps that share placement and storage path as if they were one, so that their trials fill the cluster.

    Each trial goes on from where its run directory stands. Each sweep has its own folder, record and summary
    (`sweep.json`, `summary.json`), which is there as soon as its last trial is over.

    Args:
        jobs: the sweeps by their names.
        command: the command, which is recorded.
        say: is called with a line whenever something happens.

    Returns:
        The summaries, in the order of the jobs: `{"trials": [...], ...}`, the trials sorted by validation PSNR.

    Raises:
        ConfigError: a bad set, image, teacher, storage path, cluster or recorder; nothing has been started then.
        ValueError: as the executor's `run`.
    """
    first = next(iter(jobs.values()))
    checked = _checked(jobs, executor)
    opened = list[_Opened]()

    def ended(number: int) -> None:
        if len(opened[number].monitor.status) == opened[number].asked:
            opened[number].finish()

    tells = {name: say if len(jobs) == 1 else partial(_named, name, say) for name in jobs}
    for (name, job), (prepared, _, _) in zip(jobs.items(), checked, strict=True):
        tells[name](f"{_data(prepared)}; storage {job.storage_path}; {recorder.place(job)}")
    with executor.running():
        try:
            executor.check(first)
            precisions = _data_built(jobs, [prepared for prepared, _, _ in checked], executor, tells)
            for (name, job), found in zip(jobs.items(), checked, strict=True):  # no record is touched before this
                opened.append(
                    _Opened(job, *found, executor, recorder, name=name, command=command, say=say, tell=tells[name])
                )
            monitors, digests = [each.monitor for each in opened], [each.digest for each in opened]
            sweeps = [each.build(precision) for each, precision in zip(opened, precisions, strict=True)]
            with shown(monitors, asked=sum(each.asked for each in opened), storage=first.storage_path):
                name = digests[0] if len(digests) == 1 else digest_of(digests)
                executor.run(sweeps, monitors, name=name, ended=ended)
            return [each.finish() for each in opened]
        except BaseException as error:  # an interrupted sweep is not a running one, and Ray may take its time to end
            _let_go(error)
            for each in opened:
                each.abandon()
            raise


def _let_go(error: BaseException) -> None:
    """End the transaction of a database that an error may have interrupted, since the record is written there now."""
    clear_frames(error.__traceback__)
    gc.collect()  # a connection of sqlite3 is part of a circle


def _checked(
    jobs: Mapping[str, SweepJob], executor: Executor
) -> list[tuple[Prepared, dict[str, UPath | None], tuple[str, UPath] | None]]:
    """What `check` returns for each sweep; ConfigError with everything that keeps any of them from starting."""
    checked, problems = [], executor.problems(next(iter(jobs.values())).placement)
    for job in jobs.values():
        try:
            checked.append(check(job))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return checked


def _named(name: str, say: Callable[[str], None], line: str) -> None:
    say(f"{name}: {line}")


def _data(prepared: Prepared) -> str:
    return (
        f"{counted(len(prepared.corpus.pairs), 'training pair')}, {prepared.corpus.pixels / 1e6:.1f} M pixels"
        + (f" ({prepared.corpus.skipped} smaller than a crop left out)" if prepared.corpus.skipped else "")
        + (f"; {prepared.passed_over}" if prepared.passed_over else "")
    )


def _data_built(
    jobs: Mapping[str, SweepJob],
    data: Sequence[Prepared],
    executor: Executor,
    tells: Mapping[str, Callable[[str], None]],
) -> list[Precision]:
    """Find the precision of each sweep, and build its shards and evaluation files if they are not there.

    Raises:
        ConfigError: no node came, one does not share the storage path, or there are images that cannot be read.
    """
    precisions, problems = [], list[str]()
    for (name, job), prepared in zip(jobs.items(), data, strict=True):
        precisions.append(executor.precision(job, tells[name]))
        tells[name](f"precision {precisions[-1]}")
        try:
            build_data(prepared, executor.everywhere(job, heavy=False), tells[name])
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return precisions


class _Opened:
    """A sweep that was checked, with its record and its monitor."""

    def __init__(
        self,
        job: SweepJob,
        prepared: Prepared,
        weights: dict[str, UPath | None],
        start: tuple[str, UPath] | None,
        executor: Executor,
        recorder: Recorder,
        *,
        name: str,
        command: str,
        say: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        self.job, self.prepared, self.weights, self.start = job, prepared, weights, start
        self.executor, self.tell = executor, tell
        protocol = described(job.sweep)
        del protocol["rounds"]  # more rounds: the same sweep
        self.digest = digest_of([protocol, prepared.corpus.digest])
        self.record = recorder.open(job, prepared, digest=self.digest, name=name, command=command, say=say)
        self.asked = job.sweep.samples if job.sweep.search == "optuna" else len(proposals(job.sweep))
        self.ledger = Ledger(
            job.out_path / "sweep.json", name=name, command=command, config=asdict(job.sweep), asked=self.asked
        )
        self.monitor = Monitor(self.record, self.ledger, say)
        self.summary: dict[str, Any] | None = None
        self.over = False

    def build(self, precision: Precision) -> Sweep:
        """Compute the maps of the teachers, each once and only if they are not there."""
        job, everywhere = self.job, self.executor.everywhere(self.job, heavy=True)
        how: dict[str, Any] = {"device": job.placement.device, "threads": job.placement.threads}
        how |= {"everywhere": everywhere, "say": self.tell}
        teachers = {
            name: teacher_maps(map_kind(job.sweep), found, self.prepared, precision, **how)
            for name, found in self.weights.items()
            if found is not None
        }
        start = self.start and (self.start[0], shared_weights(self.start[1], job.storage_path))
        self.monitor.references = references(self.prepared, teachers, **how)
        self.record.compare_with(self.monitor.references)
        return Sweep(
            job=job, prepared=self.prepared, precision=precision, teachers=teachers, start=start,
            references=self.monitor.references,
        )  # fmt: skip

    def finish(self) -> dict[str, Any]:
        """Sum up, once: write `summary.json`, close the record."""
        if self.summary is None:
            summary = {
                "trials": self.monitor.trials(), "sweep": self.digest, "references": self.monitor.references,
                **self.record.facts,
            }  # fmt: skip
            write_json(self.job.out_path / "summary.json", summary)
            self.ledger.close("finished")
            self.summary = summary  # only now: what could not be written is not finished
            self.record.finish(self.summary, self.prepared)
            self.over = True
        return self.summary

    def abandon(self) -> None:
        """Record that the sweep was interrupted, unless it is finished: on disk first, since the record may be slow."""
        if self.summary is None:
            with suppress(Exception):  # what ended it is what is to be heard of
                self.ledger.close("stopped")
        if not self.over:
            with suppress(Exception):
                self.record.stop()
                self.monitor.abandon()
