"""MLflow as a listener of sweeps: what happens is sent there, and an outage costs nothing."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from ail_ray.entry import heed_stop
from ail_ray.entry import say as print_line
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
from ail_ray.tracking.connection import connect, page_of, reason, without_password
from ail_ray.tracking.descriptions import datasets, sweep_note, sweep_params, sweep_title, trial_params
from ail_ray.tracking.mirror import TABLE, Tracker


class MLflow:
    """Keeps records of sweeps in MLflow."""

    def place(self, job: SweepJob) -> str:
        connect(job.tracking_uri)  # before anything is started
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
        tracker = Tracker(
            job.tracking_uri, sweep=digest, name=sweep_title(name, job.sweep), note=sweep_note(job.sweep, command),
            params=sweep_params(job.sweep), datasets=datasets(job.sweep, prepared),
        )  # fmt: skip
        facts = Facts(
            mlflow_run_id=tracker.parent, tracking_uri=without_password(job.tracking_uri),
            mlflow_page=page_of(tracker.experiment, digest),
        )  # fmt: skip
        return InMLflow(tracker, facts, say)


class InMLflow:
    """The record of one sweep."""

    def __init__(self, tracker: Tracker, facts: Facts, say: Callable[[str], None]) -> None:
        self.tracker, self.facts, self.say = tracker, facts, say

    def compare_with(self, references: Mapping[str, Rows]) -> None:
        self.tracker.references = references

    def trial(self, trial: Trial, config: RunConfig, reached: Sequence[Reached], *, over: bool) -> str | None:
        """Send what MLflow lacks of a trial; its run there has no id while MLflow is away."""
        try:
            run_id = self.tracker.mirror(trial, trial_params(trial, config))
            if over:
                self.tracker.finish_trial(run_id, trial)
            self.tracker.compare(reached)
        except Exception as error:  # the next call sends what is missing
            heed_stop()
            print_line(f"MLflow did not take the latest rounds, they are sent later: {reason(error)}", sys.stderr)
            return None
        return run_id

    def finish(self, summary: Summary, prepared: Iterable[Prepared]) -> None:
        """Send what compares the trials, and the champion; if MLflow is away, the same command does so later."""
        try:
            shown = {"summary.json": json.dumps(summary.plain(), indent=1).encode(), TABLE: table(summary)}
            self.tracker.close(shown | pictures(summary.trials), failed=summary.failed)
        except Exception as error:  # all results are on the storage path
            heed_stop()
            why = reason(error)
            self.say(f"MLflow did not take the end of the sweep; the same command sends it when MLflow is back: {why}")
        files = list(dict.fromkeys(file for each in prepared for file in each.validation))
        validation = {
            scale: [file.path for file in files if file.scale == scale] for scale in sorted({f.scale for f in files})
        }
        try:
            for line in crown(self.tracker.client, summary.trials, validation, summary.references[BICUBIC].validation):
                self.say(line)
        except Exception as error:
            heed_stop()
            self.say(f"no student was registered as champion; the same command tries again: {reason(error)}")

    def stop(self) -> None:
        with suppress(Exception):  # MLflow is away; what ended the sweep is what is to be heard of
            self.tracker.finish(self.tracker.parent, "stopped")
