"""What a sweep's driver knows of its trials: it tells the user, tells MLflow, and sums up."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ail_ray.learning.config import RunConfig, parameters
from ail_ray.orchestration.lease import Lease
from ail_ray.orchestration.rundir import RunDirectory, mean_psnr
from ail_ray.orchestration.trial import TrialPlan

if TYPE_CHECKING:
    from ail_ray.orchestration.tracking import Tracker


class Monitor:
    """The trials of a sweep, by the name of their run directories."""

    def __init__(self, tracker: "Tracker", say: Callable[[str], None]) -> None:
        self.tracker, self.say = tracker, say
        self.plans: dict[str, TrialPlan] = {}
        self.status: dict[str, str] = {}
        self._told: dict[str, int] = {}
        self._incidents: dict[str, int] = {}

    def started(self, plan: TrialPlan) -> None:
        """A trial begins, or goes on."""
        directory = RunDirectory(plan.directory)
        self.plans[directory.path.name] = plan
        self._told[directory.path.name] = directory.last_round
        going_on = f", going on after round {directory.last_round}" if directory.last_round >= 0 else ""
        self._incidents.setdefault(directory.path.name, len(directory.incidents()))
        self.say(f"[{title(plan.config)}] started{going_on} ({directory.path.name})")
        if holder := Lease(plan.directory).worker():
            self.waits(plan, holder)

    def waits(self, plan: TrialPlan, holder: str) -> None:
        """A trial cannot begin yet: another job works on the same run."""
        self.say(f"[{title(plan.config)}] waits for {holder}, which works on the same run")

    def heard(self, plan: TrialPlan) -> None:
        """A trial has committed a round: print it, send it."""
        directory = RunDirectory(plan.directory)
        for line in directory.incidents()[self._incidents[directory.path.name] :]:
            self.say(f"[{title(plan.config)}] {line}")
            self._incidents[directory.path.name] += 1
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
        self._mirror(plan, status)

    def trials(self) -> list[dict[str, Any]]:
        """What came of each trial, the best on the validation images first."""
        entries = [self._entry(plan, self.status.get(run, "failed")) for run, plan in self.plans.items()]
        return sorted(entries, key=lambda entry: (-mean_psnr(entry["validation"]), entry["name"]))

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
            "mlflow_run_id": self._mirror(plan, status), "directory": str(directory.path),
        }  # fmt: skip

    def _mirror(self, plan: TrialPlan, status: str | None = None) -> str | None:
        """The run's MLflow id, or None while MLflow is away."""
        directory = RunDirectory(plan.directory)
        student = f"{plan.config.network}-f{plan.config.student_width}"
        try:
            run_id = self.tracker.mirror(directory, title(plan.config), {**parameters(plan.config), "student": student})
            if status:
                self.tracker.finish(run_id, status, directory)
            return run_id
        except Exception as error:  # an outage costs nothing: the next call sends what is missing
            print(f"MLflow did not take the latest rounds, they are sent later: {error}", file=sys.stderr)
            return None


def title(config: RunConfig) -> str:
    """A run as a person would name it: `vdsr-f13 ×2 λ=0.15 teacher=vdsr seed=0`, a control as `... w=1 (control)`.

    Other rules and conditions are named too: `reference λ=0.15`, `β=0.1`, `one schedule`, `from student.safetensors`.
    """
    words = {
        f"×{','.join(map(str, config.scales))}": True,
        "w=1 (control)": config.rule == "uniform",
        config.rule: config.rule not in ("eq7", "uniform"),
        f"λ={config.lam:g}": "lam" in config.reads,
        f"β={config.beta:g}": config.beta > 0,
        f"teacher={Path(config.teacher).name}": "teacher" in config.reads,
        "one schedule": config.restart == "never",
        f"from {Path(config.start or '').name}": config.start is not None,
        f"seed={config.seed}": True,
    }
    return " ".join([f"{config.network}-f{config.student_width}", *(word for word, said in words.items() if said)])


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("set", "scale", "psnr", "ssim")}


def describe(record: dict[str, Any]) -> str:
    """One line about a round, fit for a log."""
    rows = [f"{row['set']} ×{row['scale']} {row['psnr']:.2f} dB" for row in (*record["validation"], *record["test"])]
    importance = record["importance"]
    speed = f", {record['patches_per_second']:.0f} patches/s" if record.get("patches_per_second") else ""
    return (
        f"round {record['round']}: {', '.join(rows)}; importance mean {importance['mean']:.3f}, "
        f"saturated {100 * importance['saturated']:.1f} %{speed}"
    )
