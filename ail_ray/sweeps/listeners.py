"""Who listens to a sweep: the user, `sweep.json`, and a record in which people compare its trials, such as MLflow's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ail_ray.entry import about
from ail_ray.errors import printable
from ail_ray.learning.config import RunConfig
from ail_ray.learning.records import Rows, mean_psnr
from ail_ray.learning.told import parameters, told
from ail_ray.runs.lease import Lease
from ail_ray.runs.preparation import Prepared
from ail_ray.runs.run import TrialPlan
from ail_ray.runs.trial import Cost, State, Trial, read_trial, title
from ail_ray.sweeps.controls import Reached, by_round
from ail_ray.sweeps.sweep_file import Begun, Facts, Ledger, Summary
from ail_ray.sweeps.sweep_job import SweepJob


class Record(Protocol):
    """A sweep as it is kept for comparison. An outage costs nothing: whatever is called later sends what is missing."""

    @property
    def facts(self) -> Facts:
        """What the summary of the sweep says of its record."""

    def compare_with(self, references: Mapping[str, Rows]) -> None:
        """From now on the trials are compared with these."""

    def trial(self, trial: Trial, config: RunConfig, reached: Sequence[Reached], *, over: bool) -> None:
        """Send what is missing of a trial.

        Args:
            reached: what the trials have reached together.
            over: whether the trial is.
        """

    def ids(self) -> Mapping[str, str]:
        """Once all is sent: the names of trials there, by run directory; not those that an outage kept back."""

    def finish(self, summary: Summary, prepared: Iterable[Prepared]) -> None:
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
        self,
        job: SweepJob,
        prepared: Sequence[Prepared],
        *,
        digest: str,
        name: str,
        command: str,
        say: Callable[[str], None],
    ) -> Record:
        """Find or begin the record of a sweep; ConfigError as in `place`."""


class Unrecorded:
    """The recorder, and the record, of a sweep that is kept in its files alone."""

    facts = Facts()

    def place(self, job: SweepJob) -> str:
        return "recorded there alone"

    def open(self, *_: object, **__: object) -> "Unrecorded":
        return self

    def compare_with(self, references: Mapping[str, Rows]) -> None:
        pass

    def trial(self, trial: Trial, config: RunConfig, reached: Sequence[Reached], *, over: bool) -> None:
        pass

    def ids(self) -> Mapping[str, str]:
        return {}

    def finish(self, summary: Summary, prepared: Iterable[Prepared]) -> None:
        pass

    def stop(self) -> None:
        pass


class Monitor:
    """The trials of a sweep as they were seen last, by the name of their run directories."""

    def __init__(self, record: Record, ledger: Ledger, say: Callable[[str], None], axes: Mapping[str, object]) -> None:
        self.record, self.ledger, self.say, self.axes = record, ledger, say, axes
        self.plans: dict[str, TrialPlan] = {}
        self.seen: dict[str, Trial] = {}
        self.over: dict[str, tuple[State, str]] = {}  # status and reason of those that are over
        self._told: dict[str, tuple[int, int]] = {}  # the last round and the number of incidents that were said

    def started(self, plan: TrialPlan) -> None:
        """A trial begins or goes on."""
        run = plan.directory.name
        self.plans[run] = plan
        self.over.pop(run, None)  # it begins again
        trial = self._look(run)
        incidents = len(trial.manifest.incidents) if trial.manifest else 0
        self._told[run] = trial.rounds, self._told.get(run, (-1, incidents))[1]
        how = "is finished already" if trial.status == "finished" else "started"
        going_on = f", going on after round {trial.rounds}" if 0 <= trial.rounds < trial.asked else ""
        self.ledger.began(
            Begun(name=trial.name, directory=trial.directory, parameters=trial.parameters, rounds=trial.asked)
        )
        self._say(trial, f"{how}{going_on} ({run})")
        if holder := Lease(plan.directory).worker():
            self._say(trial, f"waits for {holder}, which works on the same run")

    def heard(self, plan: TrialPlan) -> None:
        """A trial has committed a round: print it, and record it."""
        trial = self._look(plan.directory.name)
        self._tell(trial)
        self._send(trial)

    def ended(self, plan: TrialPlan, failure: str | None) -> None:
        """A trial is over: all its rounds are done, it was stopped, or it failed for a reason."""
        run = plan.directory.name
        done = self._look(run).rounds >= plan.config.rounds
        self.over[run] = "failed" if failure else "finished" if done else "stopped", failure or ""
        trial = self._look(run)
        if failure:
            self.ledger.failed(trial.directory, failure)
            with about(levelname="ERROR"):
                self._say(trial, f"failed: {failure}")
        self._tell(trial, rounds=False)
        if not failure and trial.below_bicubic:
            self._say(trial, "ends at or below bicubic interpolation: this student is of no use")
        self._send(trial)

    def abandon(self) -> None:
        """The sweep was interrupted: so were the trials that were worked on."""
        for run in self.plans:
            if run not in self.over:
                self.over[run] = "stopped", ""
                self._send(self._look(run))

    def trials(self) -> tuple[Trial, ...]:
        """What came of each trial, the best on the validation images first."""
        for run in self.plans:
            self.over.setdefault(run, ("failed", ""))
            self._send(self._look(run))
        ids = self.record.ids()
        found = [replace(self.seen[run].summary, mlflow_run_id=ids.get(run)) for run in self.plans]
        return tuple(sorted(found, key=lambda trial: (-mean_psnr(trial.validation), trial.name)))

    def _look(self, run: str) -> Trial:
        """Read what is new of a trial."""
        plan, before = self.plans[run], self.seen.get(run)
        found = read_trial(plan.directory, plan.config.rounds, before.records if before else ())
        config, known = plan.config, told(plan.config)
        status, reason = self.over.get(run, (found.status, found.reason))
        self.seen[run] = replace(
            found, name=title(config, self.axes), parameters=parameters(config, self.axes),
            cost=Cost(weights=known.weights, multiply_accumulates=known.multiply_accumulates),
            status=status, reason=reason,
        )  # fmt: skip
        return self.seen[run]

    def _tell(self, trial: Trial, *, rounds: bool = True) -> None:
        """Say the rounds and the incidents of a trial that were not said yet."""
        last, incidents = self._told[trial.run]
        new = trial.manifest.incidents[incidents:] if trial.manifest else ()
        for line in (*new, *(map(str, trial.records[last + 1 :]) if rounds else ())):
            self._say(trial, line)
        self._told[trial.run] = max(last, trial.rounds) if rounds else last, incidents + len(new)

    def _say(self, trial: Trial, line: str) -> None:
        with about(run=trial.run):
            self.say(printable(f"[{trial.name}] {line}"))

    def _send(self, trial: Trial) -> None:
        """Send what the record lacks of a trial."""
        over = trial.run in self.over
        self.record.trial(trial, self.plans[trial.run].config, self._reached(), over=over)

    def _reached(self) -> list[Reached]:
        """What the trials have reached together by round, as far as none of them can still change it."""
        if len(self.plans) < self.ledger.content.asked:
            return []
        lengths = {run: len(trial.records) for run, trial in self.seen.items()}
        known = min((n for run, n in lengths.items() if run not in self.over), default=max(lengths.values()))
        return by_round(self.seen.values(), known - 1)
