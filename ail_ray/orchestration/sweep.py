"""A sweep: Ray Tune over AIL runs, mirrored into MLflow, with a summary that says what came of each trial."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from upath import UPath

from ail_ray.files import FileError, as_path, digest_of, read_json, write_json
from ail_ray.learning.config import described
from ail_ray.learning.precision import Precision
from ail_ray.orchestration.cluster import IN_JOB, check_shared, cluster, concurrency
from ail_ray.orchestration.job import SweepJob, check
from ail_ray.orchestration.journal import asked_to_leave
from ail_ray.orchestration.monitor import Monitor
from ail_ray.orchestration.prepare import (
    Everywhere,
    OnCluster,
    Prepared,
    build_data,
    here,
    said,
    teacher_maps,
    tiny_teacher,
)  # fmt: skip
from ail_ray.orchestration.rundir import RunDirectory
from ail_ray.orchestration.search import proposals, search_space
from ail_ray.orchestration.trial import RunError, TrialPlan, resolve_precision, run_local, run_on_ray
from ail_ray.orchestration.worker import reported


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep whose data and teachers are there: any of its trials can start. Sent to every trial."""

    job: SweepJob
    prepared: Prepared
    precision: Precision
    teachers: dict[str, tuple[str, UPath]]  # by name: digest of the weights, folder of errors (of outputs if β > 0)
    start: tuple[str, UPath] | None  # digest and path of the weights that students start from

    def plan(self, searched: Mapping[str, Any]) -> TrialPlan:
        """The trial with these searched values."""
        config = self.job.sweep.run(**searched)
        teacher, maps = self.teachers.get(config.teacher, (None, None))
        if "teacher" not in config.reads:
            teacher = maps = None
        errors, outputs = (None, maps) if config.beta > 0 else (maps, None)
        return TrialPlan(
            config=config, prepared=self.prepared, teacher=teacher, errors=errors, precision=self.precision,
            outputs=outputs, start=self.start,
        )  # fmt: skip


def run_sweep(
    job: SweepJob, *, name: str = "sweep", command: str = "", say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run all trials, each from where its run directory stands, and write `summary.json`.

    Args:
        name: of the sweep in MLflow; command: recorded there.
        say: told a line at a time what happens.

    Returns:
        The summary: `{"trials": [...], ...}`, the trials sorted by validation PSNR.

    Raises:
        ConfigError: a bad set, image, teacher, storage path or tracking server; nothing has been started then.
    """
    from ail_ray.orchestration.tracking import Tracker  # here: no trial's process has to load MLflow

    prepared, weights, start = check(job)
    out = job.out_path
    say(
        f"{len(prepared.corpus.pairs)} training pairs, {prepared.corpus.pixels / 1e6:.1f} M pixels"
        + (f" ({prepared.corpus.skipped} smaller than a crop left out)" if prepared.corpus.skipped else "")
        + f"; storage {job.storage_path}; MLflow {job.tracking_uri.rpartition('@')[2]}"
    )
    protocol = described(job.sweep)
    del protocol["rounds"]  # more rounds: the same sweep
    digest = digest_of([protocol, prepared.corpus.digest])
    tracker = Tracker(
        job.tracking_uri, out if IN_JOB else as_path("."), sweep=digest, name=name, note=f"`{command}`",
        params={key: _short(value) for key, value in asdict(job.sweep).items()},
    )  # fmt: skip
    monitor = Monitor(tracker, say)
    try:
        with nullcontext() if job.local else cluster():
            if not job.local:
                check_shared(job.storage_path)
            at_once = 1 if job.local else concurrency(job.placement, job.max_workers)
            sweep = _build(job, prepared, weights, start, say)
            if job.local:
                _run_here(sweep, monitor)
            else:
                _run_on_tune(sweep, monitor, name=digest, at_once=at_once)
            trials = monitor.trials()
    except BaseException:  # an interrupted sweep is not a running one
        tracker.finish(tracker.parent, "stopped")
        raise
    summary = {
        "trials": trials, "sweep": digest, "mlflow_run_id": tracker.parent,
        "tracking_uri": job.tracking_uri.rpartition("@")[2],
    }  # fmt: skip
    write_json(out / "summary.json", summary)
    try:
        tracker.close(out / "summary.json", failed=any(trial["status"] == "failed" for trial in trials))
    except Exception as error:  # all results are on the storage path
        say(f"MLflow did not take the end of the sweep; the same command sends it when MLflow is back: {error}")
    return summary


def _build(
    job: SweepJob,
    prepared: Prepared,
    weights: dict[str, UPath | None],
    start: tuple[str, UPath] | None,
    say: Callable[[str], None],
) -> Sweep:
    """Precision, shards, evaluation files, teachers and their maps: each once, whatever is there already kept."""
    p = job.placement
    everywhere: Everywhere = here if job.local else OnCluster(p.threads, 1 if p.gpu else 0)
    device = "cuda" if p.gpu else "cpu"
    if job.local:
        precision = resolve_precision(job.sweep.precision, device)
    else:
        probe = ray.remote(num_cpus=p.threads, num_gpus=int(p.gpu))(resolve_precision)
        precision = ray.get(probe.remote(job.sweep.precision, device))
    say(f"precision {precision}")
    build_data(prepared, here if job.local else OnCluster(1), say)
    teachers = {}
    for name, found in weights.items():
        if name == "tiny":
            config = tiny_teacher(job.sweep)
            plan = TrialPlan(config=config, prepared=prepared, teacher=None, errors=None, precision=precision)
            said(everywhere(_train_here, [(plan, p.threads, device)]), "tiny teachers, a minute each", 1, say)
            found = plan.directory / "student.safetensors"
        if found is not None:
            teachers[name] = teacher_maps(
                "outputs" if job.sweep.beta > 0 else "errors",
                found,
                prepared,
                precision,
                device=device,
                threads=p.threads,
                everywhere=everywhere,
                say=say,
            )
    return Sweep(job=job, prepared=prepared, precision=precision, teachers=teachers, start=start)


def _train_here(plan: TrialPlan, threads: int, device: str) -> None:
    run_local(plan, threads, torch.device(device), lambda record: None)


def _run_here(sweep: Sweep, monitor: Monitor) -> None:
    device = torch.device("cuda" if sweep.job.placement.gpu else "cpu")
    with asked_to_leave(monitor.say) as asked:
        for searched in proposals(sweep.job.sweep):
            plan = sweep.plan(searched)
            monitor.started(plan)
            failure = None
            try:
                run_local(
                    plan, sweep.job.placement.threads, device,
                    lambda record, plan=plan: monitor.heard(plan),  # type: ignore[misc]
                    asked=asked,
                )  # fmt: skip
            except Exception as error:  # as under Ray: one failed trial does not sink the others
                failure = f"{type(error).__name__}: {error}"
            monitor.ended(plan, failure)


def _run_on_tune(sweep: Sweep, monitor: Monitor, *, name: str, at_once: int) -> None:
    config = sweep.job.sweep
    recorded = sweep.prepared.storage / "sweeps" / f"{name}.json"
    callback = _Callback(sweep, monitor, recorded)
    space: dict[str, Any] = {"searched": tune.grid_search(proposals(config))}
    searcher = None
    if config.search == "optuna":
        from ray.tune.search.optuna import OptunaSearch

        space = {}
        searcher = OptunaSearch(
            search_space(config), metric="validation_psnr", mode="max", seed=config.seed[0],
            points_to_evaluate=read_json(recorded) if recorded.exists() else None,
        )  # fmt: skip
    scheduler = None
    if config.asha:
        scheduler = ASHAScheduler(
            time_attr="training_iteration", metric="validation_psnr", mode="max",
            max_t=config.rounds + 10, grace_period=min(2, config.rounds + 1), reduction_factor=2,
        )  # fmt: skip
    tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_trial, sweep=sweep), {"node:__internal_head__": 0.001}
        ),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=scheduler, num_samples=config.samples if searcher else 1,
            max_concurrent_trials=at_once, reuse_actors=False,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{name}", storage_path=str(sweep.prepared.storage / "ray"), callbacks=[callback],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=5),  # of a trial's own process; its workers' are its affair
        ),
    ).fit()  # fmt: skip


def _trial(tuned: dict[str, Any], sweep: Sweep) -> None:
    """The function of one Tune trial: rounds that are committed already are only reported."""
    torch.set_num_threads(1)
    plan = sweep.plan(tuned.get("searched", tuned))
    try:
        run_on_ray(plan, sweep.job.placement, lambda record: tune.report(reported(record, plan.directory)))
    except (RunError, FileError) as error:  # again would fail again; the sweep's callback reads it
        RunDirectory(plan.directory).fail(str(error))


class _Callback(tune.Callback):
    """Tune's events as the monitor's."""

    def __init__(self, sweep: Sweep, monitor: Monitor, recorded: UPath) -> None:
        self.sweep, self.monitor, self.recorded = sweep, monitor, recorded
        self.proposed: list[dict[str, Any]] = read_json(recorded) if recorded.exists() else []

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune pickles its callbacks beside the runs, and nobody reads that: keep MLflow's address out of it."""
        return tune.Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record the searcher's proposal, so that the same command can repeat it."""
        if "searched" not in trial.config and trial.config not in self.proposed:
            self.proposed.append(trial.config)
            write_json(self.recorded, self.proposed)
        self.monitor.started(self._plan(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **_: Any) -> None:
        self.monitor.heard(self._plan(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.monitor.ended(self._plan(trial), RunDirectory(self._plan(trial).directory).failure())

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        # `trial.get_error()` reads the storage path, where the file arrives only later.
        written = trial.error_file and Path(trial.error_file).exists()
        lines = Path(trial.error_file).read_text().splitlines() if written else []
        reason = [line.strip() for line in lines if line.strip()] or ["for a reason that Ray does not tell"]
        self.monitor.ended(self._plan(trial), reason[-1])

    def _plan(self, trial: Any) -> TrialPlan:
        return self.sweep.plan(trial.config.get("searched", trial.config))


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
