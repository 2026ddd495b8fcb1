"""MLflow as a listener of sweeps: what happens is sent there, and an outage costs nothing."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from ail_ray.addresses import without_password
from ail_ray.entry import say as print_line
from ail_ray.errors import ConfigError
from ail_ray.learning.config import RunConfig
from ail_ray.learning.records import Rows
from ail_ray.runs.preparation import Prepared
from ail_ray.runs.references import BICUBIC
from ail_ray.runs.trial import Trial
from ail_ray.sweeps.controls import Reached
from ail_ray.sweeps.sweep_file import Facts, Summary
from ail_ray.sweeps.sweep_job import SweepJob
from ail_ray.tracking.champion import crown
from ail_ray.tracking.charts import pictures, table
from ail_ray.tracking.connection import connect, page_of, reason, unusable
from ail_ray.tracking.descriptions import datasets, sweep_note, sweep_params, sweep_title, trial_params
from ail_ray.tracking.mirror import TABLE, Tracker
from ail_ray.tracking.sender import STOP, Sender

Made = TypeVar("Made")


class MLflow:
    """Keeps records of sweeps in MLflow."""

    def __init__(self) -> None:
        self.sender = Sender()

    def place(self, job: SweepJob) -> str:
        self._answer(job.tracking_uri, lambda: connect(job.tracking_uri))  # before anything is started
        return f"MLflow {without_password(job.tracking_uri)}"

    def open(
        self,
        job: SweepJob,
        prepared: Sequence[Prepared],
        *,
        digest: str,
        name: str,
        command: str,
        say: Callable[[str], None],
    ) -> "InMLflow":
        tracker = self._answer(job.tracking_uri, lambda: Tracker(
            job.tracking_uri, sweep=digest, name=sweep_title(name, job.sweep), note=sweep_note(job.sweep, command),
            params=sweep_params(job.sweep), datasets=datasets(job.sweep, prepared),
        ))  # fmt: skip
        facts = Facts(
            mlflow_run_id=tracker.parent, tracking_uri=without_password(job.tracking_uri),
            mlflow_page=page_of(tracker.experiment, digest),
        )  # fmt: skip
        return InMLflow(tracker, self.sender, facts, say)

    def _answer(self, uri: str, call: Callable[[], Made]) -> Made:
        try:
            return self.sender.answer(call)
        except TimeoutError as error:
            raise ConfigError([unusable(uri, error)]) from None


class InMLflow:
    """The record of one sweep. It is sent aside: whoever waits for MLflow does so when the sweep ends."""

    def __init__(self, tracker: Tracker, sender: Sender, facts: Facts, say: Callable[[str], None]) -> None:
        self.tracker, self.sender, self.facts, self.say = tracker, sender, facts, say
        self._ids: dict[str, str] = {}  # by run
        self._networks: dict[str, str] = {}  # by run
        self._away = False

    def compare_with(self, references: Mapping[str, Rows]) -> None:
        self.tracker.references = references

    def trial(self, trial: Trial, config: RunConfig, reached: Sequence[Reached], *, over: bool) -> None:
        """Send what MLflow lacks of a trial; during an outage the next call sends it."""
        self._networks[trial.run] = config.network
        self.sender.send(f"{self.tracker.sweep} {trial.run}", partial(self._trial, trial, config, reached, over))

    def ids(self) -> Mapping[str, str]:
        """The runs of MLflow by the names of run directories, when all is sent; not those that an outage kept back."""
        self.sender.settle()
        return self._ids

    def finish(self, summary: Summary, prepared: Iterable[Prepared]) -> None:
        """Send what compares the trials, and the champion; if MLflow is away, the same command does so later."""
        said = list[str]()
        self.sender.send(f"{self.tracker.sweep} end", partial(self._finish, summary, list(prepared), said))
        if not self.sender.settle():
            said = ["MLflow did not take all of the sweep in time; the same command sends it when MLflow is back"]
        for line in said:
            self.say(line)

    def stop(self) -> None:
        self.sender.send(f"{self.tracker.sweep} end", self._stop)
        self.sender.settle(STOP)

    def _trial(self, trial: Trial, config: RunConfig, reached: Sequence[Reached], over: bool) -> None:
        try:
            self._ids[trial.run] = run_id = self.tracker.mirror(trial, trial_params(trial, config))
            if over:
                self.tracker.finish_trial(run_id, trial)
            self.tracker.compare(reached)
            self._away = False
        except Exception as error:
            if over:  # what waits for all of it then waits in vain
                self._ids.pop(trial.run, None)
            if not self._away:
                print_line(f"MLflow does not take the latest rounds, they are sent later: {reason(error)}", sys.stderr)
            self._away = True

    def _finish(self, summary: Summary, prepared: Iterable[Prepared], said: list[str]) -> None:
        try:
            with self.sender.own_work():
                shown = {"summary.json": json.dumps(summary.plain(), indent=1).encode(), TABLE: table(summary)}
                shown |= pictures(summary.trials)
            self.tracker.close(shown, failed=summary.failed)
        except Exception as error:  # all results are on the storage path
            why = reason(error)
            said.append(
                f"MLflow did not take the end of the sweep; the same command sends it when MLflow is back: {why}"
            )
        files = list(dict.fromkeys(file for each in prepared for file in each.validation))
        if any(pair.recipe or pair.small for file in files for pair in file.pairs):
            said.append("no champion: students of a recipe, or of pairs of one's own, are named by their path")
            return
        validation = {
            scale: [file.path for file in files if file.scale == scale] for scale in sorted({f.scale for f in files})
        }
        bicubic = summary.references[BICUBIC].validation
        try:
            said += crown(
                self.tracker.client, summary.trials, validation, bicubic, self.sender.own_work, self._networks
            )
        except Exception as error:
            said.append(f"no student was registered as champion; the same command tries again: {reason(error)}")

    def _stop(self) -> None:
        with suppress(Exception):  # MLflow is away; what ended the sweep is what is to be heard of
            self.tracker.finish(self.tracker.parent, "stopped")
