"""Ray Tune over the runs of sweeps."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.train._internal.session import get_session
from ray.tune.execution import class_cache
from ray.tune.schedulers import ASHAScheduler
from upath import UPath

from ail_ray.files import FileError, read_json, write_json
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.orchestration.metrics import Meter
from ail_ray.orchestration.trials import reported, run_on_ray
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.run import RunError, TrialPlan, complete_with_onnx
from ail_ray.sweeps.listeners import Monitor
from ail_ray.sweeps.sweep import Sweep
from ail_ray.sweeps.trials import is_range, proposals

# Tune would tell every trial this process's keys of AWS, in a description of its environment that Ray logs.
class_cache.ENV_VARS_TO_PROPAGATE = {n for n in class_cache.ENV_VARS_TO_PROPAGATE if not n.startswith("AWS_")}

Given = dict[str, Any]
"""What Tune gives a trial: the numbers by which ours are known, or the values that Optuna proposes."""


def run_on_tune(
    sweeps: Sequence[Sweep],
    monitors: Sequence[Monitor],
    *,
    name: str,
    at_once: int,
    ended: Callable[[int], None],
) -> None:
    """Run the trials of several sweeps in order, so many at once; each monitor is told of the trials of its sweep.

    Args:
        name: digest of all sweeps together.
        ended: is called with the number of a sweep when one of its trials is over.

    Raises:
        ValueError: Optuna or ASHA with several sweeps: they compare all trials with each other.
    """
    config, storage = sweeps[0].job.sweep, sweeps[0].job.storage_path
    if len(sweeps) > 1 and any(s.job.sweep.asha or s.job.sweep.search == "optuna" for s in sweeps):
        raise ValueError("a sweep by Optuna or with ASHA wants Tune for itself")
    recorded = storage / "sweeps" / f"{name}.json"
    plans = _Plans(tuple(sweeps), name)
    space: Given = {"trial": tune.grid_search(plans.numbers)}
    searcher = None
    if config.search == "optuna":
        from ray.tune.search.optuna import OptunaSearch  # a second that other searches need not wait for

        space = {}
        searcher = OptunaSearch(
            search_space(config), metric="validation_psnr", mode="max", seed=config.base.seed,
            points_to_evaluate=_repeated(recorded, config),
        )  # fmt: skip
    scheduler = None
    if config.asha:
        scheduler = ASHAScheduler(
            time_attr="training_iteration", metric="validation_psnr", mode="max",
            max_t=config.base.rounds + 10, grace_period=min(2, config.base.rounds + 1), reduction_factor=2,
        )  # fmt: skip
    tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_trial, plans=plans), {"node:__internal_head__": 0.001}
        ),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=scheduler, num_samples=config.samples if searcher else 1,
            max_concurrent_trials=at_once, reuse_actors=True,  # and with an actor the slot that it holds
        ),
        run_config=tune.RunConfig(
            name=f"tune-{name}", storage_path=str(storage / "ray"), verbose=0,
            callbacks=[_Callback(plans, monitors, recorded, ended)],
            failure_config=tune.FailureConfig(max_failures=5),  # of a trial's own process; its workers' are its affair
        ),
    ).fit()  # fmt: skip


def _repeated(recorded: UPath, sweep: SweepConfig) -> list[Given] | None:
    """What Optuna has proposed for this sweep before, and proposes again."""
    if not recorded.exists():
        return None
    return [{name: values[name] for name in sweep.axes if name in values} for values in read_json(recorded)]


class _Plans:
    """The trials of several sweeps, by what Tune gives each of them; it is sent to every trial."""

    def __init__(self, sweeps: tuple[Sweep, ...], name: str) -> None:
        self.sweeps, self.name = sweeps, name
        self.made = [
            [] if sweep.job.sweep.search == "optuna" else [sweep.plan(config) for config in proposals(sweep.job.sweep)]
            for sweep in sweeps
        ]

    @property
    def numbers(self) -> list[tuple[int, int]]:
        """What a trial is known by that nobody proposes: its sweep's number and its own."""
        return [(i, n) for i, plans in enumerate(self.made) for n in range(len(plans))]

    def of(self, tuned: Given) -> tuple[int, TrialPlan]:
        """The sweep and the plan of a trial, from its numbers or from a proposal of Optuna's."""
        if "trial" in tuned:
            sweep, number = tuned["trial"]
            return sweep, self.made[sweep][number]
        return 0, self.sweeps[0].plan(self.sweeps[0].job.sweep.run(tuned))


class StoppedByTuneError(BaseException):
    """A scheduler has stopped this trial; its run has not failed."""


def _trial(tuned: Given, plans: _Plans) -> None:
    """The function of one Tune trial: rounds that are committed already are only reported."""
    torch.set_num_threads(1)
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"  # for `_look` to see that it is stopped; by default two
    sweep, plan = plans.of(tuned)
    placement = plans.sweeps[sweep].job.placement
    complete = partial(complete_with_onnx, network=plan.config.network)
    meter = Meter(plans.name, plan)

    def report(record: RoundRecord) -> None:
        meter.heard(record)
        _report(record, plan.directory)

    try:
        run_on_ray(plan, placement, report, complete, _look, meter.retried)
    except StoppedByTuneError:
        sys.exit(0)  # not a return: Ray would wait in its own last report for ever, and for Tune's next trial with it
    except (RunError, FileError):  # again would fail again; the sweep's callback reads why
        pass
    finally:
        meter.ended()


def _report(record: RoundRecord, directory: UPath) -> None:
    try:
        tune.report(reported(record, directory))
    except SystemExit:  # so it tells that the trial is stopped
        raise StoppedByTuneError from None


def _look() -> None:
    """Leave the trial if Tune wants its actor for another one."""
    session = get_session()
    if session is not None and session.stop_event.is_set():
        raise StoppedByTuneError


class _Callback(tune.Callback):
    """Passes on Tune's events to the monitors."""

    def __init__(
        self, plans: _Plans, monitors: Sequence[Monitor], recorded: UPath, ended: Callable[[int], None]
    ) -> None:
        self.plans, self.monitors, self.recorded, self.ended = plans, monitors, recorded, ended
        self.proposed: list[Given] = read_json(recorded) if recorded.exists() else []
        self.known: dict[str, tuple[int, TrialPlan]] = {}  # by Tune's name of the trial

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave MLflow's address out of the pickle that Tune makes of its callbacks, and that nobody reads."""
        return tune.Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record the searcher's proposal, so that the same command can repeat it."""
        if "trial" not in trial.config and trial.config not in self.proposed:
            self.proposed.append(trial.config)
            write_json(self.recorded, self.proposed)
        monitor, plan = self._of(trial)
        monitor.started(plan)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **_: Any) -> None:
        monitor, plan = self._of(trial)
        monitor.heard(plan)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        Meter(self.plans.name, self._of(trial)[1]).retried()  # its own process was lost

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial, RunDirectory(self._of(trial)[1].directory).failure())

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        # `trial.get_error()` reads the storage path, where the file arrives only later.
        written = trial.error_file and Path(trial.error_file).exists()
        lines = Path(trial.error_file).read_text(encoding="utf-8", errors="replace").splitlines() if written else []
        reason = [line.strip() for line in lines if line.strip()] or ["for a reason that Ray does not tell"]
        self._end(trial, reason[-1])

    def _end(self, trial: Any, failure: str | None) -> None:
        monitor, plan = self._of(trial)
        monitor.ended(plan, failure)
        self.ended(self.known[trial.trial_id][0])

    def _of(self, trial: Any) -> tuple[Monitor, TrialPlan]:
        if trial.trial_id not in self.known:
            self.known[trial.trial_id] = self.plans.of(trial.config)
        sweep, plan = self.known[trial.trial_id]
        return self.monitors[sweep], plan


def search_space(sweep: SweepConfig) -> Given:
    """The search space for Optuna: two or more numbers are the ends of a range, and anything else is a choice."""
    space: Given = {}
    for name, options in (sweep.axes or {"seed": (sweep.base.seed,)}).items():
        if not is_range(name, options):
            space[name] = tune.choice(list(options))
        elif name == "width":
            space[name] = tune.randint(min(options), max(options) + 1)
        else:
            space[name] = tune.uniform(min(options), max(options))
    return space
