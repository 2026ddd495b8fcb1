"""A sweep: Ray Tune over AIL runs, mirrored into MLflow, with a summary that says what came of each trial."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from upath import UPath

from ail_ray.files import as_path, digest_of, is_local, read_json, write_json
from ail_ray.learning.config import ConfigError, RunConfig, SweepConfig, parameters
from ail_ray.learning.precision import Precision
from ail_ray.orchestration.prepare import (
    Everywhere,
    OnCluster,
    Prepared,
    build_data,
    find_teacher,
    here,
    plan_data,
    teacher_errors,
    tiny_teacher,
)  # fmt: skip
from ail_ray.orchestration.rundir import RunDirectory, describe, mean_psnr
from ail_ray.orchestration.tracking import Tracker
from ail_ray.orchestration.trial import Placement, TrialPlan, resolve_precision, run_local, run_on_ray
from ail_ray.orchestration.worker import reported

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by `ray job submit` for its entrypoint


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A sweep, where it runs, and where its results go."""

    sweep: SweepConfig = field(default_factory=SweepConfig)
    placement: Placement = field(default_factory=Placement)
    out: str | None = None
    """Folder for summary.json; ./ail_out by default. A submitted job needs an absolute one, or takes ~/ail_out."""
    storage: str | None = None
    """Folder or address (s3://, gs://) of run directories, shards and teacher errors, shared by all nodes; as --out by
    default."""
    max_workers: int | None = None
    """Train workers the cluster can grow to, all trials together; by default as many as it has CPUs or GPUs for."""
    local: bool = False
    """One trial after the other in this process, without Ray."""

    def __post_init__(self) -> None:
        p, problems = self.placement, list[str]()
        counts = {"workers": p.workers, "threads": p.threads, "store-actors": p.store_actors}
        problems += [f"{name} must be at least 1, got {count}" for name, count in counts.items() if count < 1]
        if p.workers > self.sweep.shards:
            problems.append(f"workers must not exceed the {self.sweep.shards} shards, got {p.workers}")
        if self.max_workers is not None and self.max_workers < p.workers:
            problems.append(f"max-workers is {self.max_workers}, but one trial needs {p.workers}")
        if self.local and (p.workers > 1 or self.sweep.asha or self.sweep.search == "optuna"):
            problems.append("local runs one process: it goes with neither workers > 1, asha nor search optuna")
        if IN_JOB in os.environ:
            for name, value in (("out", self.out), ("storage", self.storage)):
                if value is not None and "://" not in value and not Path(value).expanduser().is_absolute():
                    problems.append(f"{name} must be an absolute path in a submitted job, got {value}")
        if problems:
            raise ConfigError(problems)

    @property
    def out_path(self) -> UPath:
        """Where summary.json goes."""
        return as_path(self.out or ("~/ail_out" if IN_JOB in os.environ else "ail_out"))

    @property
    def storage_path(self) -> UPath:
        """Where runs, shards and errors lie."""
        return as_path(self.storage) if self.storage else self.out_path

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI, else a database where the user stands (in a submitted job: in the out folder)."""
        folder = self.out_path if IN_JOB in os.environ else as_path(".")
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep whose data and teachers are there: any of its trials can start. Sent to every trial."""

    job: SweepJob
    prepared: Prepared
    precision: Precision
    teachers: dict[str, tuple[UPath, UPath]]  # name: weights, folder of errors

    def plan(self, searched: Mapping[str, Any]) -> TrialPlan:
        """The trial with these searched values."""
        config = self.job.sweep.run(**searched)
        teacher, errors = self.teachers.get(config.teacher, (None, None))
        if config.initialisation != "teacher":
            teacher = errors = None
        return TrialPlan(
            config=config, prepared=self.prepared, teacher=teacher, errors=errors, precision=self.precision
        )

    @property
    def digest(self) -> str:
        """The sweep's identity: the same command finds its records again, with more rounds too."""
        protocol = asdict(self.job.sweep)
        del protocol["rounds"]
        return digest_of([protocol, self.prepared.corpus.digest])


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
    prepared, weights = _check(job)
    out = job.out_path
    say(
        f"{len(prepared.corpus.pairs)} training pairs, {prepared.corpus.pixels / 1e6:.1f} M pixels"
        + (f" ({prepared.corpus.skipped} smaller than a crop left out)" if prepared.corpus.skipped else "")
        + f"; storage {job.storage_path}; MLflow {job.tracking_uri.rpartition('@')[2]}"
    )
    with _cluster(job):
        sweep = _build(job, prepared, weights, say)
        tracker = Tracker(
            job.tracking_uri, out if IN_JOB in os.environ else as_path("."), sweep=sweep.digest, name=name,
            note=f"`{command}`", params={key: _short(value) for key, value in asdict(job.sweep).items()},
        )  # fmt: skip
        monitor = Monitor(sweep, tracker, say)
        (_run_here if job.local else _run_on_tune)(sweep, monitor)
        summary = monitor.summary()
    write_json(out / "summary.json", summary)
    tracker.describe(table(summary), out / "summary.json")
    failed = any(trial["status"] == "failed" for trial in summary["trials"])
    tracker.finish(tracker.parent, "failed" if failed else "finished")
    return summary


def _check(job: SweepJob) -> tuple[Prepared, dict[str, UPath | None]]:
    """All that can be wrong and can be known before anything starts."""
    problems: list[str] = []
    weights: dict[str, UPath | None] = {}
    storage = job.storage_path
    prepared = None
    try:
        prepared = plan_data(job.sweep, storage)
    except ConfigError as error:
        problems += error.problems
    for teacher in job.sweep.teacher if "eq7" in job.sweep.rule else ():
        try:
            weights[teacher] = find_teacher(teacher)
        except ConfigError as error:
            problems += error.problems
    for folder in {storage, job.out_path}:
        if is_local(folder):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(str(folder), os.W_OK):
                    problems.append(f"{folder}: not writable")
            except OSError as error:
                problems.append(f"{folder}: cannot be created ({error.strerror})")
    if problems or prepared is None:
        raise ConfigError(problems)
    return prepared, weights


@contextmanager
def _cluster(job: SweepJob):  # type: ignore[no-untyped-def]
    """The cluster named by RAY_ADDRESS, else a Ray of our own on this machine's loopback, ended afterwards."""
    if job.local or ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    else:
        # The dashboard also frees what stopped trials leave behind. See __init__.py for the loopback.
        ray.init(
            address="local", include_dashboard=True, dashboard_host="127.0.0.1", _node_ip_address="127.0.0.1",
            log_to_driver=False, logging_level=logging.WARNING,
        )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def _build(job: SweepJob, prepared: Prepared, weights: dict[str, UPath | None], say: Callable[[str], None]) -> Sweep:
    """Precision, shards, evaluation files, teachers and their errors: each once, whatever is there already kept."""
    p = job.placement
    everywhere: Everywhere = here if job.local else OnCluster(p.threads, 1 if p.gpu else 0)
    device = "cuda" if p.gpu else "cpu"
    precision: Precision = (
        resolve_precision(job.sweep.precision, torch.device(device))
        if job.local
        else ray.get(
            ray.remote(num_cpus=p.threads, num_gpus=int(p.gpu))(resolve_precision).remote(
                job.sweep.precision, torch.device(device)
            )
        )
    )
    say(f"precision {precision}; preparing shards")
    build_data(prepared, here if job.local else OnCluster(1))
    teachers = {}
    for name, found in weights.items():
        if name == "tiny":
            say("training a tiny teacher on these images")
            config = tiny_teacher(job.sweep)
            plan = TrialPlan(config=config, prepared=prepared, teacher=None, errors=None, precision=precision)
            everywhere(_train_here, [(plan, p.threads, device)])
            found = plan.directory / "student.safetensors"
        if found is not None:
            say(f"errors of teacher {name} on every training pixel")
            errors = teacher_errors(found, prepared, precision, device=device, threads=p.threads, everywhere=everywhere)
            teachers[name] = (found, errors)
    return Sweep(job=job, prepared=prepared, precision=precision, teachers=teachers)


def _train_here(plan: TrialPlan, threads: int, device: str) -> None:
    run_local(plan, threads, torch.device(device), lambda record: None)


def _run_here(sweep: Sweep, monitor: "Monitor") -> None:
    device = torch.device("cuda" if sweep.job.placement.gpu else "cpu")
    for searched in proposals(sweep.job.sweep):
        plan = sweep.plan(searched)
        monitor.started(plan)
        run_local(plan, sweep.job.placement.threads, device, lambda record, plan=plan: monitor.heard(plan))  # type: ignore[misc]
        monitor.ended(plan, failure=None)


def _run_on_tune(sweep: Sweep, monitor: "Monitor") -> None:
    job, config = sweep.job, sweep.job.sweep
    recorded = sweep.prepared.storage / "sweeps" / f"{sweep.digest}.json"
    callback = _Callback(sweep, monitor, recorded)
    space: dict[str, Any] = {"searched": tune.grid_search(proposals(config))}
    searcher = None
    if config.search == "optuna":
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
            max_concurrent_trials=concurrency(job), reuse_actors=False,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{sweep.digest}", storage_path=str(sweep.prepared.storage / "ray"), callbacks=[callback],
            verbose=0,
        ),
    ).fit()  # fmt: skip


def _trial(tuned: dict[str, Any], sweep: Sweep) -> None:
    """The function of one Tune trial: rounds that are committed already are only reported."""
    torch.set_num_threads(1)
    plan = sweep.plan(tuned.get("searched", tuned))
    directory = RunDirectory(plan.directory)
    for record in directory.records():
        tune.report(reported(record, plan.directory))
    run_on_ray(plan, sweep.job.placement, in_tune=True)


def proposals(config: SweepConfig) -> list[dict[str, Any]]:
    """The searched values of every trial of a grid, or of `samples` random ones, seeded."""
    if config.search == "grid":
        return [_searched(run, config) for run in config.grid()]
    generator = np.random.Generator(np.random.Philox(config.seed[0]))
    drawn = []
    for _ in range(config.samples):
        values: dict[str, Any] = {}
        for name, options in axes(config).items():
            if name == "width" and len(options) > 1:
                values[name] = int(generator.integers(min(options), max(options) + 1))
            elif name in ("rho", "lam") and len(options) > 1:
                values[name] = float(generator.uniform(min(options), max(options)))
            else:
                values[name] = options[int(generator.integers(len(options)))]
        drawn.append(values)
    return drawn


def axes(config: SweepConfig) -> dict[str, tuple[Any, ...]]:
    """What is searched over, and the values given for it."""
    size = "width" if config.width else "rho"
    return {name: getattr(config, name) for name in (size, "lam", "teacher", "rule", "seed")}


def search_space(config: SweepConfig) -> dict[str, Any]:
    """The axes for Optuna: two or more numbers are the ends of a range, anything else a choice."""
    space: dict[str, Any] = {}
    for name, options in axes(config).items():
        if name == "width" and len(options) > 1:
            space[name] = tune.randint(min(options), max(options) + 1)
        elif name in ("rho", "lam") and len(options) > 1:
            space[name] = tune.uniform(min(options), max(options))
        else:
            space[name] = tune.choice(list(options))
    return space


def concurrency(job: SweepJob) -> int:
    """How many trials may run at once: as many as the workers that the cluster has, or can grow to, suffice for.

    Raises:
        ConfigError: not even one.
    """
    p = job.placement
    if job.max_workers is not None:
        return job.max_workers // p.workers
    there = ray.cluster_resources()
    fits = min(int(there.get(kind, 0) // (need * p.workers)) for kind, need in p.worker_resources().items())
    if fits < 1:
        needs = " and ".join(f"{need * p.workers:g} {kind}" for kind, need in p.worker_resources().items())
        has = " and ".join(f"{there.get(kind, 0):g} {kind}" for kind in p.worker_resources())
        raise ConfigError(
            [f"a trial needs {needs}, the cluster has {has}: ask for fewer workers or threads, or, if it can grow, "
             f"say how far with --max-workers"]
        )  # fmt: skip
    return fits


def _searched(run: RunConfig, config: SweepConfig) -> dict[str, Any]:
    return {name: getattr(run, name) for name in axes(config)}


class Monitor:
    """What the driver knows of its trials: tells the user, tells MLflow, and sums up."""

    def __init__(self, sweep: Sweep, tracker: Tracker, say: Callable[[str], None]) -> None:
        self.sweep, self.tracker, self.say = sweep, tracker, say
        self.plans: dict[str, TrialPlan] = {}
        self.status: dict[str, str] = {}
        self._told: dict[str, int] = {}

    def started(self, plan: TrialPlan) -> None:
        """A trial begins, or goes on."""
        directory = RunDirectory(plan.directory)
        self.plans[directory.path.name] = plan
        self._told[directory.path.name] = directory.last_round
        going_on = f", going on after round {directory.last_round}" if directory.last_round >= 0 else ""
        self.say(f"[{title(plan.config)}] started{going_on} ({directory.path.name})")

    def heard(self, plan: TrialPlan) -> None:
        """A trial has committed a round: print it, send it."""
        directory = RunDirectory(plan.directory)
        for record in directory.records()[self._told[directory.path.name] + 1 :]:
            self.say(f"[{title(plan.config)}] {describe(record)}")
            self._told[directory.path.name] = record["round"]
        self._mirror(plan)

    def ended(self, plan: TrialPlan, failure: str | None) -> None:
        """A trial is over: all its rounds are done, it was stopped, or it failed for a reason."""
        directory = RunDirectory(plan.directory)
        done = directory.last_round >= plan.config.rounds
        status = "failed" if failure else "finished" if done else "stopped"
        self.status[directory.path.name] = status
        if failure:
            self.say(f"[{title(plan.config)}] failed: {failure}")
        run_id = self._mirror(plan)
        if run_id:
            self.tracker.finish(run_id, status, directory)

    def summary(self) -> dict[str, Any]:
        """All trials, the best first."""
        trials = [self._entry(plan, self.status.get(run, "failed")) for run, plan in self.plans.items()]
        trials.sort(key=lambda trial: -mean_psnr(trial["validation"]))
        return {
            "trials": trials, "sweep": self.sweep.digest, "mlflow_run_id": self.tracker.parent,
            "tracking_uri": self.sweep.job.tracking_uri.rpartition("@")[2],
        }  # fmt: skip

    def _entry(self, plan: TrialPlan, status: str) -> dict[str, Any]:
        directory = RunDirectory(plan.directory)
        records = directory.records()
        last = records[-1] if records else {"validation": [], "test": []}
        weights = (
            directory.student_path(len(records) - 1) if status != "finished" else directory.path / "student.safetensors"
        )
        return {
            "name": title(plan.config), "parameters": parameters(plan.config), "rounds": len(records) - 1,
            "status": status, "validation": [_row(row) for row in last["validation"]],
            "test": [_row(row) for row in last["test"]], "weights": str(weights) if records else None,
            "mlflow_run_id": self._mirror(plan), "directory": str(directory.path),
        }  # fmt: skip

    def _mirror(self, plan: TrialPlan) -> str | None:
        try:
            return self.tracker.mirror(
                RunDirectory(plan.directory), title(plan.config),
                {**parameters(plan.config), "student": f"{plan.config.network}-f{plan.config.student_width}"},
            )  # fmt: skip
        except Exception as error:  # an outage costs nothing: the next call sends what is missing
            print(f"MLflow did not take the latest rounds, they are sent later: {error}", file=sys.stderr)
            return None


class _Callback(tune.Callback):
    """Tune's events as the monitor's."""

    def __init__(self, sweep: Sweep, monitor: Monitor, recorded: UPath) -> None:
        self.sweep, self.monitor, self.recorded = sweep, monitor, recorded
        self.proposed: list[dict[str, Any]] = []

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record the searcher's proposal, so that the same command can repeat it."""
        if "searched" not in trial.config:
            self.proposed.append(trial.config)
            write_json(self.recorded, self.proposed)
        self.monitor.started(self._plan(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **_: Any) -> None:
        self.monitor.heard(self._plan(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.monitor.ended(self._plan(trial), failure=None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error()
        lines = str(error).strip().splitlines() or [repr(error)]
        self.monitor.ended(self._plan(trial), failure=lines[-1])

    def _plan(self, trial: Any) -> TrialPlan:
        return self.sweep.plan(trial.config.get("searched", trial.config))


def title(config: RunConfig) -> str:
    """A run as a person would name it: `vdsr-f13 ×2 λ=0.15 teacher=vdsr`, a control as `... w=1`."""
    scales = ",".join(map(str, config.scales))
    learning = "w=1 (control)" if config.rule == "uniform" else f"λ={config.lam:g} teacher={Path(config.teacher).name}"
    return f"{config.network}-f{config.student_width} ×{scales} {learning} seed={config.seed}"


def table(summary: dict[str, Any]) -> str:
    """The trials as a Markdown table, the best first."""
    rows = ["| trial | rounds | status | validation | test |", "|---|---|---|---|---|"]
    for trial in summary["trials"]:
        cells = [
            " / ".join(f"{row['set']} ×{row['scale']} {row['psnr']:.2f} dB {row['ssim']:.4f}" for row in trial[group])
            for group in ("validation", "test")
        ]
        rows.append(f"| {trial['name']} | {trial['rounds']} | {trial['status']} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("set", "scale", "psnr", "ssim")}


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
