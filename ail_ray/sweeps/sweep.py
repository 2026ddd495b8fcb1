"""Sweeps from their check to their summary, whoever runs the trials, and wherever they are recorded."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch

from ail_ray.entry import about, heed_stop
from ail_ray.errors import ConfigError, Interrupted, counted, one_line
from ail_ray.files import FileError, digest_of
from ail_ray.learning.config import RunConfig
from ail_ray.learning.importance import MU0
from ail_ray.learning.precision import Precision
from ail_ray.learning.records import Rows
from ail_ray.learning.teachers import Teacher
from ail_ray.learning.told import told
from ail_ray.runs.lease import LeaseLostError
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import Data, DataKey, Everywhere, Prepared, build_data, data_key, here, shared_weights
from ail_ray.runs.records import Weights
from ail_ray.runs.references import BICUBIC, as_reference, references
from ail_ray.runs.run import TrialPlan, complete_with_onnx, resolve_precision, run_local
from ail_ray.runs.teacher_maps import TeacherMaps, teacher_maps
from ail_ray.sweeps.listeners import Monitor, Recorder
from ail_ray.sweeps.progress import shown
from ail_ray.sweeps.sweep_file import Ledger, Summary, write_summary
from ail_ray.sweeps.sweep_job import Inputs, SweepJob, check
from ail_ray.sweeps.trials import proposals

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

    def precision(self, asked: str, job: SweepJob, say: Callable[[str], None]) -> Precision:
        """The precision that trials have there which are asked for this one."""

    def everywhere(self, job: SweepJob, *, heavy: bool) -> Everywhere:
        """Who calls a function with many arguments; a `heavy` one takes what a worker takes."""

    def run(self, sweeps: Sequence["Sweep"], monitors: Sequence[Monitor], *, name: str, ended: Ended) -> None:
        """Run all trials; each monitor is told of the trials of its sweep.

        Args:
            name: digest of all sweeps together.
        """


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep whose data and teachers are there, so that any of its trials can start."""

    job: SweepJob
    data: dict[DataKey, Data]
    precisions: dict[str, Precision]  # by what was asked for
    maps: dict[tuple[object, ...], TeacherMaps]
    starts: dict[str | None, Weights | None]
    references: dict[DataKey, dict[str, Rows]]  # what students are held against, by name
    medians: dict[TeacherMaps, float]  # of the teachers' errors

    def plan(self, config: RunConfig) -> TrialPlan:
        """The trial with this configuration; the median of its teacher's errors is its µ0 if it has none of its own."""
        maps = self.maps.get(_maps_key(config))
        if config.mu0 is None:
            config = replace(config, mu0=MU0 if maps is None else self.medians.get(maps, MU0))
        key, names = data_key(config), {BICUBIC: BICUBIC}
        if "teacher" in config.reads:
            names[as_reference(config.teacher)] = "teacher"
        known = self.references[key]
        plan = TrialPlan(
            config=config, told=told(config), data=self.data[key], maps=maps,
            precision=self.precisions[config.precision], start=self.starts[config.start],
            references={role: known[name] for name, role in names.items() if name in known},
        )  # fmt: skip
        _ = plan.directory  # so that only workers need the code of a run
        return plan


def _maps_key(config: RunConfig) -> tuple[object, ...]:
    """What decides which maps of a teacher a run reads; nothing has the key of a run that reads none."""
    return "teacher" in config.reads and config.teacher, config.beta > 0, config.precision, data_key(config)


class InThisProcess:
    """Runs one trial after the other, without Ray."""

    def problems(self, placement: Placement) -> list[str]:
        return no_gpu(placement)

    def running(self) -> AbstractContextManager[object]:
        return nullcontext()

    def check(self, job: SweepJob) -> None:
        pass

    def precision(self, asked: str, job: SweepJob, say: Callable[[str], None]) -> Precision:
        return resolve_precision(asked, job.placement.device)

    def everywhere(self, job: SweepJob, *, heavy: bool) -> Everywhere:
        return here

    def run(self, sweeps: Sequence[Sweep], monitors: Sequence[Monitor], *, name: str, ended: Ended) -> None:
        for number, sweep in enumerate(sweeps):
            for config in proposals(sweep.job.sweep):
                _run_here(sweep.plan(config), sweep.job.placement, monitors[number])
                ended(number)


def no_gpu(placement: Placement) -> list[str]:
    """A line if workers are to have a GPU, and this machine has none that torch can use."""
    missing = placement.gpu and not torch.cuda.is_available()
    line = "gpu: torch finds none on this machine; leave --gpu out, or send the sweep to a cluster that has some"
    return [line] if missing else []


def _run_here(plan: TrialPlan, placement: Placement, monitor: Monitor) -> None:
    monitor.started(plan)
    failure, device = None, torch.device(placement.device)
    complete = partial(complete_with_onnx, network=plan.config.network)
    try:
        run_local(plan, placement.threads, device, lambda measured: monitor.heard(plan), complete)
    except LeaseLostError:  # it is in good hands: wait for them, and find it done
        return _run_here(plan, placement, monitor)
    except (Exception, SystemExit) as error:  # as under Ray: one failed trial does not sink the others
        heed_stop()
        failure = f"{type(error).__name__}: {error}"
    monitor.ended(plan, failure)


def run_sweeps(
    jobs: Mapping[str, SweepJob],
    executor: Executor,
    recorder: Recorder,
    *,
    command: str = "",
    say: Callable[[str], None] = print,
) -> list[Summary]:
    """Run sweeps that share placement and storage path as if they were one, so that their trials fill the cluster.

    Each trial goes on from where its run directory stands. Each sweep has its own folder, record and summary
    (`sweep.json`, `summary.json`), which is there as soon as its last trial is over.

    Args:
        jobs: the sweeps by their names.
        command: the command, which is recorded.
        say: is called with a line whenever something happens.

    Returns:
        The summaries, in the order of the jobs.

    Raises:
        ConfigError: a bad set, image, teacher, storage path, cluster or recorder; nothing has been started then.
        ValueError: as the executor's `run`.
    """
    first = next(iter(jobs.values()))
    checked = _checked(jobs, executor)
    opened = list[_Opened]()

    def ended(number: int) -> None:
        if len(opened[number].monitor.over) == opened[number].asked:
            opened[number].finish()

    tells = [say if len(jobs) == 1 else partial(_named, name, say) for name in jobs]
    for job, inputs, tell in zip(jobs.values(), checked, tells, strict=True):
        for prepared in inputs.prepared.values():
            tell(f"{_described(prepared)}; storage {job.storage_path}; {recorder.place(job)}")
    with executor.running():
        try:
            executor.check(first)
            precisions = _data_built(jobs.values(), checked, executor, tells)
            for (name, job), inputs, tell in zip(jobs.items(), checked, tells, strict=True):
                opened.append(_Opened(job, inputs, executor, recorder, name=name, command=command, say=say, tell=tell))
            monitors, digests = [each.monitor for each in opened], [each.digest for each in opened]
            sweeps = [each.build(found) for each, found in zip(opened, precisions, strict=True)]
            with shown(monitors, asked=sum(each.asked for each in opened), storage=first.storage_path):
                whole = digests[0] if len(digests) == 1 else digest_of(digests)
                with about(sweep=whole):
                    executor.run(sweeps, monitors, name=whole, ended=ended)
            return [each.finish() for each in opened]
        except BaseException:  # an interrupted sweep is not a running one, and Ray may take its time to end
            for each in opened:
                each.abandon()
            raise


def _checked(jobs: Mapping[str, SweepJob], executor: Executor) -> list[Inputs]:
    """What each sweep reads; ConfigError with everything that keeps any of them from starting."""
    checked, problems = list[Inputs](), executor.problems(next(iter(jobs.values())).placement)
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


def _described(prepared: Prepared) -> str:
    return (
        f"{counted(len(prepared.corpus.pairs), 'training pair')}, {prepared.corpus.pixels / 1e6:.1f} M pixels"
        + (f" ({prepared.corpus.skipped} smaller than a crop left out)" if prepared.corpus.skipped else "")
        + (
            f"; {counted(prepared.corpus.left_out, 'image')} that students are measured on left out of training"
            if prepared.corpus.left_out
            else ""
        )
        + (f"; {prepared.passed_over}" if prepared.passed_over else "")
    )


def _data_built(
    jobs: Iterable[SweepJob], checked: Sequence[Inputs], executor: Executor, tells: Sequence[Callable[[str], None]]
) -> list[dict[str, Precision]]:
    """Find the precisions of each sweep, and build its shards and evaluation files if they are not there.

    Raises:
        ConfigError: no node came, one does not share the storage path, or there are images that cannot be read.
    """
    found, problems = list[dict[str, Precision]](), list[str]()
    for job, inputs, tell in zip(jobs, checked, tells, strict=True):
        asked = job.sweep.axes.get("precision", (job.sweep.base.precision,))
        found.append({each: executor.precision(each, job, tell) for each in asked})
        tell(f"precision {', '.join(found[-1].values())}")
        for prepared in inputs.prepared.values():
            try:
                build_data(prepared, executor.everywhere(job, heavy=False), tell)
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return found


def _median(maps: TeacherMaps, shard: str, *, needed: bool) -> dict[TeacherMaps, float]:
    """The median of a teacher's errors in a shard, by its maps; nothing if it cannot be read and nobody needs it."""
    try:
        return {maps: maps.median(shard)}
    except FileError as error:  # else for the trial to say
        if needed:
            raise ConfigError([f"teacher: {one_line(error)}; remove that file, and it is made again"]) from None
        return {}


class _Opened:
    """A sweep that was checked, with its record and its monitor."""

    def __init__(
        self,
        job: SweepJob,
        inputs: Inputs,
        executor: Executor,
        recorder: Recorder,
        *,
        name: str,
        command: str,
        say: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        self.job, self.inputs, self.executor, self.tell = job, inputs, executor, tell
        plain, corpora = job.sweep.plain, [prepared.corpus.digest for prepared in inputs.prepared.values()]
        asked = {name: value for name, value in plain.items() if name != "rounds"}  # more rounds: the same sweep
        self.digest = digest_of([asked, corpora[0] if len(corpora) == 1 else corpora])
        self.record = recorder.open(
            job, list(inputs.prepared.values()), digest=self.digest, name=name, command=command, say=say
        )
        self.asked = job.sweep.samples if job.sweep.search == "optuna" else len(proposals(job.sweep))
        self.ledger = Ledger(job.out_path / "sweep.json", name=name, command=command, config=plain, asked=self.asked)
        self.monitor = Monitor(self.record, self.ledger, say, job.sweep.axes)
        self.references: dict[str, Rows] = {}
        self.summary: Summary | None = None
        self.over = False

    def build(self, precisions: dict[str, Precision]) -> Sweep:
        """Compute the maps of the teachers, each once and only if they are not there; say what is odd about them."""
        job, inputs = self.job, self.inputs
        how: dict[str, Any] = {"device": job.placement.device, "threads": job.placement.threads}
        how |= {"everywhere": self.executor.everywhere(job, heavy=True), "say": self.tell}
        data = {key: prepared.data for key, prepared in inputs.prepared.items()}
        maps: dict[tuple[object, ...], TeacherMaps] = {}
        held: dict[DataKey, dict[str, Teacher]] = {key: {} for key in data}
        remarks, medians = set[str](), dict[TeacherMaps, float]()
        for config in job.sweep.grid():
            key, teacher = data_key(config), inputs.teachers.get(config.teacher)
            if teacher is None or "teacher" not in config.reads:
                continue
            if _maps_key(config) not in maps:
                made = teacher_maps(teacher, config, inputs.prepared[key], precisions[config.precision], **how)
                maps[_maps_key(config)], held[key][config.teacher] = made, teacher.copied(made.folder)
                if made.kind == "errors":
                    medians |= _median(made, data[key].shard_paths[0].name, needed=config.mu0 is None)
            made = maps[_maps_key(config)]
            if made in medians:
                remarks.add(made.remark(config, medians[made]))
        for line in sorted(filter(None, remarks)):
            self.tell(line)
        measured = {key: references(inputs.prepared[key], teachers, **how) for key, teachers in held.items()}
        for found in measured.values():
            for name, rows in found.items():
                before = self.references.get(name, Rows())
                both = Rows(validation=before.validation + rows.validation, test=before.test + rows.test)
                self.references[name] = Rows(
                    validation=tuple(dict.fromkeys(both.validation)), test=tuple(dict.fromkeys(both.test))
                )
        self.record.compare_with(self.references)
        starts = {name: found and shared_weights(found, job.storage_path) for name, found in inputs.starts.items()}
        return Sweep(
            job=job, data=data, precisions=precisions, maps=maps, starts=starts, references=measured, medians=medians
        )

    def finish(self) -> Summary:
        """Sum up, once: write `summary.json`, close the record."""
        if self.summary is None:
            summary = Summary(
                trials=self.monitor.trials(), sweep=self.digest, references=self.references, **vars(self.record.facts)
            )
            write_summary(self.job.out_path / "summary.json", summary)
            self.summary = summary  # only now: what could not be written is not finished
            self.ledger.close("finished")
            self.record.finish(self.summary, self.inputs.prepared.values())
            self.over = True
        return self.summary

    def abandon(self) -> None:
        """Record that the sweep was interrupted, unless it is finished: on disk first, since the record may be slow."""
        with suppress(Exception):  # what ended it is what is to be heard of
            self.ledger.close("stopped" if self.summary is None else "finished")
        if not self.over:
            with suppress(Exception, Interrupted):
                self.monitor.abandon()
                self.record.stop()
