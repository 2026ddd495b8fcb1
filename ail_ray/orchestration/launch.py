"""Sweeps from their check to their summary: trials here or by Ray Tune, mirrored into MLflow."""

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import partial
from traceback import clear_frames
from typing import Any

import torch
from upath import UPath

from ail_ray.errors import ConfigError, counted
from ail_ray.files import FileError, digest_of, write_json
from ail_ray.learning.config import described
from ail_ray.learning.precision import Precision
from ail_ray.orchestration.cluster import cannot_start, cluster, concurrency
from ail_ray.orchestration.monitor import Monitor
from ail_ray.orchestration.progress import shown
from ail_ray.orchestration.tasks import OnCluster, check_shared, first_answer
from ail_ray.orchestration.tune import Sweep, run_on_tune
from ail_ray.runs.commits import asked_to_leave
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import Everywhere, Prepared, build_data, here, shared_weights
from ail_ray.runs.references import references
from ail_ray.runs.run import complete_with_onnx, resolve_precision, run_local
from ail_ray.runs.teacher_maps import map_kind, teacher_maps
from ail_ray.sweeps.sweep_file import Ledger
from ail_ray.sweeps.sweep_job import SweepJob, check
from ail_ray.sweeps.trials import proposals
from ail_ray.tracking.champion import crown
from ail_ray.tracking.charts import pictures, table
from ail_ray.tracking.connection import connect, page_of, reason, without_password
from ail_ray.tracking.descriptions import datasets, sweep_note, sweep_params, sweep_title
from ail_ray.tracking.mirror import TABLE, Tracker


def run_sweep(
    job: SweepJob, *, name: str = "sweep", command: str = "", say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run all trials, each from where its run directory stands, and write `sweep.json` and in the end `summary.json`.

    Args:
        name: name of the sweep in MLflow.
        command: the command, which is recorded there.
        say: is called with a line whenever something happens.

    Returns:
        The summary: `{"trials": [...], ...}`, the trials sorted by validation PSNR.

    Raises:
        ConfigError: a bad set, image, teacher, storage path or tracking server; nothing has been started then.
    """
    (summary,) = run_sweeps({name: job}, command=command, say=say)
    return summary


def run_sweeps(
    jobs: Mapping[str, SweepJob], *, command: str = "", say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Run sweeps that share placement and storage path as if they were one, so that their trials fill the cluster.

    Each has its own folder, parent run and summary, which is there as soon as its last trial is over.

    Returns:
        The summaries, in the order of the jobs.

    Raises:
        ConfigError: as `run_sweep`.
        ValueError: as `run_on_tune`.
    """
    first = next(iter(jobs.values()))
    checked = _checked(jobs)
    opened = list[_Opened]()

    def ended(number: int) -> None:
        if len(opened[number].monitor.status) == opened[number].asked:
            opened[number].finish()

    tells = {name: say if len(jobs) == 1 else partial(_named, name, say) for name in jobs}
    for (name, job), (prepared, _, _) in zip(jobs.items(), checked, strict=True):
        connect(job.tracking_uri)  # before the cluster is touched
        tells[name](_data(job, prepared))
    with nullcontext() if first.local else cluster():
        try:
            if not first.local:
                check_shared(first.storage_path)
                concurrency(first.placement, first.max_workers)
            precisions = _data_built(jobs, [prepared for prepared, _, _ in checked], tells)
            for (name, job), found in zip(jobs.items(), checked, strict=True):  # no record is touched before this
                opened.append(_Opened(job, *found, name=name, command=command, say=say, tell=tells[name]))
            monitors, digests = [each.monitor for each in opened], [each.digest for each in opened]
            sweeps = [each.build(precision) for each, precision in zip(opened, precisions, strict=True)]
            if not first.local:
                at_once = concurrency(_begun(first.placement, sweeps), first.max_workers)
            with shown(monitors, asked=sum(each.asked for each in opened), storage=first.storage_path):
                if first.local:
                    for number, sweep in enumerate(sweeps):
                        _run_here(sweep, monitors[number], partial(ended, number))
                else:
                    name = digests[0] if len(digests) == 1 else digest_of(digests)
                    run_on_tune(sweeps, monitors, name=name, at_once=at_once, ended=ended)
            return [each.finish() for each in opened]
        except BaseException as error:  # an interrupted sweep is not a running one, and Ray may take its time to end
            _let_go(error)
            for each in opened:
                each.abandon()
            raise


def _let_go(error: BaseException) -> None:
    """End the transaction in MLflow's database that an error may have interrupted, since we write there now."""
    clear_frames(error.__traceback__)
    gc.collect()  # a connection of sqlite3 is part of a circle


def _checked(jobs: Mapping[str, SweepJob]) -> list[tuple[Prepared, dict[str, UPath | None], tuple[str, UPath] | None]]:
    """What `check` returns for each sweep; ConfigError with everything that keeps any of them from starting."""
    first, checked = next(iter(jobs.values())), []
    problems = cannot_start(first.placement, local=first.local)
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


def _data(job: SweepJob, prepared: Prepared) -> str:
    return (
        f"{counted(len(prepared.corpus.pairs), 'training pair')}, {prepared.corpus.pixels / 1e6:.1f} M pixels"
        + (f" ({prepared.corpus.skipped} smaller than a crop left out)" if prepared.corpus.skipped else "")
        + (f"; {prepared.passed_over}" if prepared.passed_over else "")
        + f"; storage {job.storage_path}; MLflow {without_password(job.tracking_uri)}"
    )


def _data_built(
    jobs: Mapping[str, SweepJob], data: Sequence[Prepared], tells: Mapping[str, Callable[[str], None]]
) -> list[Precision]:
    """Find the precision of each sweep, and build its shards and evaluation files if they are not there.

    Raises:
        ConfigError: no node came, one does not share the storage path, or there are images that cannot be read.
    """
    precisions, problems = [], list[str]()
    for (name, job), prepared in zip(jobs.items(), data, strict=True):
        p, tell = job.placement, tells[name]
        asked = job.sweep.precision, "cuda" if p.gpu else "cpu"
        if job.local:
            precisions.append(resolve_precision(*asked))
        else:
            precisions.append(first_answer(resolve_precision, asked, p, tell))
            check_shared(job.storage_path)  # again: a node may just have come
        tell(f"precision {precisions[-1]}")
        try:
            build_data(prepared, here if job.local else OnCluster(1, 0, job.max_workers), tell)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return precisions


def _begun(placement: Placement, sweeps: Sequence[Sweep]) -> Placement:
    """The placement of the largest trial; one that was begun goes on with its own workers and threads."""
    for sweep in sweeps:
        for searched in proposals(sweep.job.sweep) if sweep.job.sweep.search != "optuna" else ():
            plan = sweep.plan(searched)
            directory = RunDirectory(plan.directory)
            with suppress(FileError):  # not begun
                there = placement.of(directory.manifest())
                larger = placement.most * placement.threads < there.most * there.threads
                if larger and directory.last_round < plan.config.rounds:
                    placement = there
    return placement


class _Opened:
    """A sweep that was checked, with its record and its monitor."""

    def __init__(
        self,
        job: SweepJob,
        prepared: Prepared,
        weights: dict[str, UPath | None],
        start: tuple[str, UPath] | None,
        *,
        name: str,
        command: str,
        say: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        self.job, self.prepared, self.weights, self.start = job, prepared, weights, start
        self.say, self.tell = say, tell
        protocol = described(job.sweep)
        del protocol["rounds"]  # more rounds: the same sweep
        self.digest = digest_of([protocol, prepared.corpus.digest])
        self.tracker = Tracker(
            job.tracking_uri, sweep=self.digest, name=sweep_title(name, job.sweep),
            note=sweep_note(job.sweep, command), params=sweep_params(job.sweep), datasets=datasets(job.sweep, prepared),
        )  # fmt: skip
        self.asked = job.sweep.samples if job.sweep.search == "optuna" else len(proposals(job.sweep))
        self.ledger = Ledger(
            job.out_path / "sweep.json", name=name, command=command, config=asdict(job.sweep), asked=self.asked
        )
        self.monitor = Monitor(self.tracker, self.ledger, say)
        self.summary: dict[str, Any] | None = None
        self.over = False

    def build(self, precision: Precision) -> Sweep:
        """Compute the maps of the teachers, each once and only if they are not there."""
        job, p = self.job, self.job.placement
        everywhere: Everywhere = here if job.local else OnCluster(p.threads, 1 if p.gpu else 0, job.max_workers)
        teachers = {
            name: teacher_maps(
                map_kind(job.sweep), found, self.prepared, precision, device="cuda" if p.gpu else "cpu",
                threads=p.threads, everywhere=everywhere, say=self.tell,
            )
            for name, found in self.weights.items()
            if found is not None
        }  # fmt: skip
        start = self.start and (self.start[0], shared_weights(self.start[1], job.storage_path))
        self.monitor.references = self.tracker.references = references(
            self.prepared, teachers, device="cuda" if p.gpu else "cpu", threads=p.threads, everywhere=everywhere,
            say=self.tell,
        )  # fmt: skip
        return Sweep(
            job=job, prepared=self.prepared, precision=precision, teachers=teachers, start=start,
            references=self.monitor.references,
        )  # fmt: skip

    def finish(self) -> dict[str, Any]:
        """Sum up, once: write `summary.json`, close the record, send MLflow what compares the trials."""
        if self.summary is None:
            summary = {
                "trials": self.monitor.trials(), "sweep": self.digest, "references": self.monitor.references,
                "mlflow_run_id": self.tracker.parent,
                "tracking_uri": without_password(self.job.tracking_uri),
                "mlflow_page": page_of(self.tracker.experiment, self.digest),
            }  # fmt: skip
            write_json(self.job.out_path / "summary.json", summary)
            self.ledger.close("finished")
            self.summary = summary  # only now: what could not be written is not finished
            _send_results(self.tracker, self.summary, self.prepared, self.say)
            self.over = True
        return self.summary

    def abandon(self) -> None:
        """Record that the sweep was interrupted, unless it is finished: on disk first, since MLflow may be slow."""
        if self.summary is None:
            with suppress(Exception):  # what ended it is what is to be heard of
                self.ledger.close("stopped")
        if not self.over:
            with suppress(Exception):
                self.tracker.finish(self.tracker.parent, "stopped")
                self.monitor.abandon()


def _send_results(tracker: Tracker, summary: dict[str, Any], prepared: Prepared, say: Callable[[str], None]) -> None:
    """Send MLflow what compares the trials, and the champion; if MLflow is away, the same command does so later."""
    trials = summary["trials"]
    validation = {
        scale: [file.path for file in prepared.validation if file.scale == scale]
        for scale in sorted({file.scale for file in prepared.validation})
    }
    try:
        shown = {"summary.json": json.dumps(summary, indent=1).encode(), TABLE: table(trials, summary["references"])}
        compared = shown | pictures(trials)
        tracker.close(compared, failed=any(trial["status"] == "failed" for trial in trials))
    except Exception as error:  # all results are on the storage path
        why = reason(error)
        say(f"MLflow did not take the end of the sweep; the same command sends it when MLflow is back: {why}")
    try:
        bicubic = summary["references"]["bicubic"]["validation"]
        for line in crown(tracker.client, trials, validation, bicubic):
            say(line)
    except Exception as error:
        say(f"no student was registered as champion; the same command tries again: {reason(error)}")


def _run_here(sweep: Sweep, monitor: Monitor, ended: Callable[[], None]) -> None:
    device = torch.device("cuda" if sweep.job.placement.gpu else "cpu")
    for searched in proposals(sweep.job.sweep):
        plan = sweep.plan(searched)
        monitor.started(plan)
        failure = None
        try:
            run_local(
                plan, sweep.job.placement.threads, device,
                lambda record, plan=plan: monitor.heard(plan),  # type: ignore[misc]
                leaving=asked_to_leave(monitor.say), complete=complete_with_onnx,
            )  # fmt: skip
        except Exception as error:  # as under Ray: one failed trial does not sink the others
            failure = f"{type(error).__name__}: {error}"
        monitor.ended(plan, failure)
        ended()
