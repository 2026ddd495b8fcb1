"""Ray Tune over the runs of a sweep. A trial's process loads this file, so nothing of MLflow is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from upath import UPath

from ail_ray.files import FileError, read_json, write_json
from ail_ray.learning.precision import Precision
from ail_ray.orchestration.job import SweepJob
from ail_ray.orchestration.prepare import Prepared
from ail_ray.orchestration.rundir import RunDirectory
from ail_ray.orchestration.search import proposals, search_space
from ail_ray.orchestration.trial import RunError, TrialPlan, run_on_ray
from ail_ray.orchestration.worker import reported

if TYPE_CHECKING:
    from ail_ray.orchestration.monitor import Monitor


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


def run_on_tune(sweep: Sweep, monitor: "Monitor", *, name: str, at_once: int) -> None:
    """Run all trials, so many at once; the monitor is told of each. `name` is the sweep's digest."""
    config = sweep.job.sweep
    recorded = sweep.prepared.storage / "sweeps" / f"{name}.json"
    callback = _Callback(sweep, monitor, recorded)
    space: dict[str, Any] = {"searched": tune.grid_search(proposals(config))}
    searcher = None
    if config.search == "optuna":
        from ray.tune.search.optuna import OptunaSearch  # a second that other searches need not wait for

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

    def __init__(self, sweep: Sweep, monitor: "Monitor", recorded: UPath) -> None:
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
