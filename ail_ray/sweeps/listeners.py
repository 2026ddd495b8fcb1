"""Who listens to a sweep: the user, `sweep.json`, and a record in which people compare its trials, such as MLflow's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ail_ray.learning.config import parameters
from ail_ray.learning.inference import compared_by, mean_psnr
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.lease import Lease
from ail_ray.runs.preparation import Prepared
from ail_ray.runs.references import Rows, below_bicubic
from ail_ray.runs.run import TrialPlan
from ail_ray.runs.status import describe, title
from ail_ray.sweeps.controls import Reached, by_round
from ail_ray.sweeps.sweep_file import Ledger, student_cost
from ail_ray.sweeps.sweep_job import SweepJob


class Record(Protocol):
    """A sweep as it is kept for comparison. An outage costs nothing: whatever is called later sends what is missing."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the summary of the sweep says of its record."""

    def compare_with(self, references: Mapping[str, Rows]) -> None:
        """From now on the trials are compared with these."""

    def trial(self, plan: TrialPlan, status: str | None, *, below: bool, reached: Sequence[Reached]) -> dict[str, Any]:
        """Send what is missing of a trial; returns what the summary says of the trial's record.

        Args:
            status: `finished`, `stopped` or `failed` once it is over.
            below: whether its student is at or below bicubic interpolation.
            reached: what the trials have reached together.
        """

    def finish(self, summary: Mapping[str, Any], prepared: Prepared) -> None:
        """Send what compares the trials."""

    def stop(self) -> None:
        """The sweep was interrupted."""


class Recorder(Protocol):
    """Where records are kept."""

    def place(self, job: SweepJob) -> str:
        """Name the place for people, without passwords.

        Raises:
            ConfigError: nothing can be recorded there.
        """

    def open(
        self, job: SweepJob, prepared: Prepared, *, digest: str, name: str, command: str, say: Callable[[str], None]
    ) -> Record:
        """Find or begin the record of a sweep; ConfigError as in `place`."""


class Monitor:
    """The trials of a sweep, by the name of their run directories."""

    def __init__(self, record: Record, ledger: Ledger, say: Callable[[str], None]) -> None:
        self.record, self.ledger, self.say = record, ledger, say
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
        """A trial has committed a round: print it, and record it."""
        directory = RunDirectory(plan.directory)
        self._tell_incidents(plan)
        for record in directory.records(plan.config.rounds)[self._told[directory.path.name] + 1 :]:
            self.say(f"[{title(plan.config)}] {describe(record)}")
            self._told[directory.path.name] = record["round"]
        self._send(plan)

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
        self._send(plan, status)

    def abandon(self) -> None:
        """The sweep was interrupted: so were the trials that were worked on."""
        for run, plan in self.plans.items():
            if run not in self.status:
                self._send(plan, "stopped")

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
            "directory": str(directory.path), **self._send(plan, status),
        }  # fmt: skip

    def _tell_incidents(self, plan: TrialPlan) -> None:
        directory = RunDirectory(plan.directory)
        for line in directory.incidents()[self._incidents[directory.path.name] :]:
            self.say(f"[{title(plan.config)}] {line}")
            self._incidents[directory.path.name] += 1

    def _send(self, plan: TrialPlan, status: str | None = None) -> dict[str, Any]:
        """Send what the record lacks of a trial; returns what the summary says of that."""
        directory = RunDirectory(plan.directory)
        records = directory.records(plan.config.rounds)
        self._curves[directory.path.name] = [(r["time"], compared_by(r)) for r in records]
        return self.record.trial(plan, status, below=self._below(records), reached=self._reached())

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
