"""What a sweep's driver knows of its trials: it tells user, ledger and MLflow, and sums up."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ail_ray.entry import say

from ail_ray.learning.config import parameters
from ail_ray.learning.inference import compared_by, mean_psnr
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.lease import Lease
from ail_ray.runs.references import Rows, below_bicubic
from ail_ray.runs.run import TrialPlan
from ail_ray.runs.status import describe, title
from ail_ray.sweeps.sweep_file import Ledger, student_cost
from ail_ray.tracking.charts import Reached, by_round
from ail_ray.tracking.connection import reason
from ail_ray.tracking.descriptions import trial_params
from ail_ray.tracking.mirror import Tracker


class Monitor:
    """The trials of a sweep, by the name of their run directories."""

    def __init__(self, tracker: Tracker, ledger: Ledger, say: Callable[[str], None]) -> None:
        self.tracker, self.ledger, self.say = tracker, ledger, say
        self.references: dict[str, Rows] = {}  # what the trials are held against, by name; once that is measured
        self.plans: dict[str, TrialPlan] = {}
        self.status: dict[str, str] = {}
        self._told: dict[str, int] = {}
        self._curves: dict[str, list[tuple[float, float]]] = {}  # by round the time and the PSNR in dB
        self._incidents: dict[str, int] = {}

    def started(self, plan: TrialPlan) -> None:
        """A trial begins or goes on."""
        directory = RunDirectory(plan.directory)
        self.plans[directory.path.name] = plan
        self._told[directory.path.name] = directory.last_round
        begun, over = directory.last_round >= 0, directory.last_round >= plan.config.rounds
        how = "is finished already" if over else "started"
        going_on = f", going on after round {directory.last_round}" if begun and not over else ""
        self._incidents.setdefault(directory.path.name, len(directory.incidents()))
        self.ledger.began(title(plan.config), plan.directory, plan.config)
        self.say(f"[{title(plan.config)}] {how}{going_on} ({directory.path.name})")
        if holder := Lease(plan.directory).worker():
            self.say(f"[{title(plan.config)}] waits for {holder}, which works on the same run")

    def heard(self, plan: TrialPlan) -> None:
        """A trial has committed a round: print it, and send it to MLflow."""
        directory = RunDirectory(plan.directory)
        self._tell_incidents(plan)
        for record in directory.records(plan.config.rounds)[self._told[directory.path.name] + 1 :]:
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
            self.ledger.failed(plan.directory, failure)
            self.say(f"[{title(plan.config)}] failed: {failure}")
        self._tell_incidents(plan)
        if status != "failed" and self._below(directory.records(plan.config.rounds)):
            self.say(f"[{title(plan.config)}] ends at or below bicubic interpolation: this student is of no use")
        self._mirror(plan, status)

    def abandon(self) -> None:
        """The sweep was interrupted: MLflow is told of the trials that were worked on."""
        for run, plan in self.plans.items():
            if run not in self.status:
                self._mirror(plan, "stopped")

    def trials(self) -> list[dict[str, Any]]:
        """What came of each trial, the best on the validation images first."""
        entries = [self._entry(plan, self.status.get(run, "failed")) for run, plan in self.plans.items()]
        return sorted(entries, key=lambda entry: (-mean_psnr(entry["validation"]), entry["name"]))

    def _entry(self, plan: TrialPlan, status: str) -> dict[str, Any]:
        directory = RunDirectory(plan.directory)
        records = directory.records(plan.config.rounds)  # a run may have had more before
        last = records[-1] if records else {"validation": [], "test": []}
        weights = plan.student if status == "finished" else directory.student_path(len(records) - 1)
        return {
            "name": title(plan.config), "parameters": parameters(plan.config), "cost": student_cost(plan.config),
            "rounds": len(records) - 1, "status": status, "validation": [_row(row) for row in last["validation"]],
            "test": [_row(row) for row in last["test"]], "weights": str(weights) if records else None,
            "below_bicubic": self._below(records), "dead": last.get("dead", []),
            "draws": directory.draws(),
            "mlflow_run_id": self._mirror(plan, status), "directory": str(directory.path),
        }  # fmt: skip

    def _tell_incidents(self, plan: TrialPlan) -> None:
        directory = RunDirectory(plan.directory)
        for line in directory.incidents()[self._incidents[directory.path.name] :]:
            self.say(f"[{title(plan.config)}] {line}")
            self._incidents[directory.path.name] += 1

    def _mirror(self, plan: TrialPlan, status: str | None = None) -> str | None:
        """Send what MLflow lacks of a run: its id there, or None while MLflow is away."""
        directory = RunDirectory(plan.directory)
        try:
            rounds = plan.config.rounds
            run_id = self.tracker.mirror(directory, title(plan.config), trial_params(plan.config), rounds)
            records = directory.records(rounds)
            if status:
                self.tracker.finish(run_id, status, directory, plan.student, self._below(records))
            self._curves[directory.path.name] = [(r["time"], compared_by(r)) for r in records]
            self.tracker.compare(self._reached())
            return run_id
        except Exception as error:  # an outage costs nothing: the next call sends what is missing
            say(f"MLflow did not take the latest rounds, they are sent later: {reason(error)}", sys.stderr)
            return None

    def _below(self, records: Sequence[dict[str, Any]]) -> bool:
        """Whether the last round of a run leaves its student at or below bicubic interpolation."""
        return bool(records) and below_bicubic(records[-1], self.references)

    def _reached(self) -> list[Reached]:
        """What the trials have reached together by round, as far as none of them can still change it."""
        if len(self.plans) < self.ledger.content["asked"]:
            return []
        curves = {run: self._curves.get(run, []) for run in self.plans}
        known = min(
            [len(curves[run]) for run in self.plans if run not in self.status],
            default=max(map(len, curves.values())),
        )
        return by_round([(parameters(plan.config), curves[run]) for run, plan in self.plans.items()], known - 1)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("set", "scale", "psnr", "ssim")}
