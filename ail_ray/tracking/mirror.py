"""Run directories mirrored into MLflow: one parent run per sweep, one child per trial, one step per round.

The parent has what the trials have reached together, and what they are compared with are its children too: bicubic
interpolation, the teacher. Only the sweep's driver writes. A run is found by the digests of its sweep and of itself,
and a tag on it remembers the last round sent, so the same record is never sent twice and an outage only delays.
"""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow.entities import DatasetInput, LifecycleStage, Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import (
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_LOGGED_IMAGES,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
)

from ail_ray.errors import ConfigError
from ail_ray.files import as_path, digest_of, slug
from ail_ray.imaging.panels import UNREADABLE, as_webp
from ail_ray.learning.records import Rows
from ail_ray.runs.directory import STUDENT, RunDirectory
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.trial import Trial
from ail_ray.sweeps.controls import Reached
from ail_ray.tracking.connection import PSNR, SWEEP, alone, connect, unusable
from ail_ray.tracking.descriptions import clipped, trial_note

RUN, RESULT = "ail.run", "ail.result"
LAST_ROUND = "ail.last_round_2"  # the first one counted rounds that were sent under other names
INCIDENTS, BELOW = "ail.incidents", "ail.below_bicubic"
NOTE = "ail.note"  # digest of the description as it was written last
RESULTS = (STUDENT, "config.json")  # of a run
TABLE = "trials.json"
REACHED = {"best": PSNR, "gain": "dB/gain"}
"""Metrics of the parent, by what the trials have reached together."""
LONGEST = {"name": 250, "value": 500, "text": 5000, "part": 150}
"""How many characters MLflow, even an old server, accepts in a run's name, a parameter, a tag, a metric's name."""


class Tracker:
    """One sweep in MLflow."""

    def __init__(
        self,
        uri: str,
        *,
        sweep: str,
        name: str,
        note: str,
        params: Mapping[str, Any],
        datasets: Sequence[DatasetInput] = (),
        references: Mapping[str, Rows] | None = None,
    ) -> None:
        """Find or open the sweep's parent run.

        Args:
            uri: as in `connect`.
            sweep: digest of the sweep; name, note (Markdown) and params describe it to people.
            datasets: the image sets that all its trials read.
            references: what the trials are compared with.

        Raises:
            ConfigError: as in `connect`.
        """
        self.sweep, self.note, self.datasets, self._children = sweep, note, list(datasets), dict[str, str]()
        self.references: Mapping[str, Rows] = references or {}  # by what made them: `bicubic`, `teacher=vdsr`
        self._compared = 0  # rounds, by this process
        self.client, self.experiment = connect(uri)
        try:
            with alone(uri):  # the same sweep may be started twice at once
                self.parent = self._find_or_create("parent", name, {}, params, note)
        except Exception as error:  # whatever client, database driver or HTTP library raises
            raise ConfigError([unusable(uri, error)]) from error

    def mirror(self, trial: Trial, params: Mapping[str, Any]) -> str:
        """Send what is missing of a run: parameters once, then rounds; returns its MLflow id."""
        started = trial.manifest.created if trial.manifest else None  # unreadable: then that is why it failed
        run_id, sent = self._child(trial.run, trial.name, params, trial_note(trial.name, trial.run, self.note), started)
        for record in trial.records[sent + 1 :]:
            t = record.round
            self._send(run_id, _step_images(RunDirectory(trial.path), t), "images")
            self._log(run_id, t, record.time, metrics_of(record), {RESULT: "running", MLFLOW_LOGGED_IMAGES: "True"})
        return run_id

    def compare(self, rounds: Sequence[Reached]) -> None:
        """Send what is missing of what the trials have reached together.

        Beside it goes what they are compared with, in every round the same: to the parent, and as runs of their own,
        which are lines in the charts of the trials. What was sent of a round stays, whatever becomes of a trial later.
        """
        if len(rounds) == self._compared:
            return
        for name, rows in self.references.items():
            run_id, sent = self._child(f"reference {name}", name, {}, f"{self.note}\n\n**Compared with.** {name}.")
            for t, (stamp, _) in enumerate(rounds[sent + 1 :], sent + 1):
                self._log(run_id, t, stamp, measured(rows))
            self.finish(run_id, "finished")
        flat = {f"dB/{_short(name)}": rows.psnr for name, rows in self.references.items()}
        sent = self._sent(self.parent)
        for t, (stamp, reached) in enumerate(rounds[sent + 1 :], sent + 1):
            self._log(self.parent, t, stamp, {REACHED[name]: value for name, value in reached.items()} | flat)
        self._compared = len(rounds)

    def finish(self, run_id: str, status: str, ended: float | None = None) -> None:
        """Close a run as `finished`, `stopped` or `failed`, at a time in seconds since 1970, by default now."""
        if self.client.get_run(run_id).data.tags.get(RESULT) != status:
            self.client.set_tag(run_id, RESULT, status)
        shown = {"finished": "FINISHED", "failed": "FAILED"}.get(status, "KILLED")
        self.client.set_terminated(run_id, shown, None if ended is None else int(ended * 1000))

    def finish_trial(self, run_id: str, trial: Trial) -> None:
        """Close a trial's run; a finished one gets its configuration and student."""
        sent = self.client.get_run(run_id).data.tags.get(RESULT)
        if trial.status == "finished" and trial.weights:
            files = {RESULTS[0]: as_path(trial.weights), RESULTS[1]: trial.path / RESULTS[1]}
            there = {file.path for file in self.client.list_artifacts(run_id)} if sent == "finished" else ()
            missing = {name: path for name, path in files.items() if name not in there and path.exists()}
            self._send(run_id, {name: path.read_bytes() for name, path in missing.items()})
        self.client.set_tag(run_id, BELOW, str(trial.below_bicubic).lower())
        if trial.manifest and trial.manifest.incidents:  # a student that died, a file that was damaged
            self.client.set_tag(run_id, INCIDENTS, clipped("; ".join(trial.manifest.incidents), LONGEST["text"]))
        self.finish(run_id, trial.status, trial.records[-1].time if trial.records else None)

    def close(self, files: Mapping[str, bytes], *, failed: bool) -> None:
        """Give the parent run what compares its trials, of which `trials.json` is shown as a table, and end it."""
        self._sent(self.parent)  # restores it, if need be
        self._send(self.parent, files)
        self.client.set_tag(self.parent, MLFLOW_LOGGED_ARTIFACTS, json.dumps([{"path": TABLE, "type": "table"}]))
        self.finish(self.parent, "failed" if failed else "finished")

    def _child(
        self, run: str, name: str, params: Mapping[str, Any], note: str, started: float | None = None
    ) -> tuple[str, int]:
        """The id of a run within the sweep and the last round sent of it."""
        tags = {LAST_ROUND: "-1", MLFLOW_PARENT_RUN_ID: self.parent}
        run_id = self._children.pop(run, None) or self._find_or_create(run, name, tags, params, note, started)
        sent = self._sent(run_id)
        self._children[run] = run_id  # known only as long as it answers: the next call looks for one that is gone
        return run_id, sent

    def _sent(self, run_id: str) -> int:
        """The last round that was sent of a run, -1 for none; it is restored if somebody deleted it meanwhile."""
        run = self.client.get_run(run_id)
        if run.info.lifecycle_stage == LifecycleStage.DELETED:
            self.client.restore_run(run_id)
        return int(run.data.tags.get(LAST_ROUND, -1))

    def _log(
        self, run_id: str, t: int, stamp: float, metrics: Mapping[str, float], tags: Mapping[str, str] | None = None
    ) -> None:
        """Send a round, together with a tag that says that it was sent."""
        tags = {LAST_ROUND: str(t), **(tags or {})}
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, value, int(stamp * 1000), t) for key, value in metrics.items()],
            tags=[RunTag(*tag) for tag in tags.items()],
        )

    def _find_or_create(
        self,
        kind: str,
        name: str,
        tags: dict[str, str],
        params: Mapping[str, Any],
        note: str,
        started: float | None = None,
    ) -> str:
        note, name = clipped(note, LONGEST["text"]), clipped(name, LONGEST["name"])
        query = f"tags.`{SWEEP}` = '{self.sweep}' and tags.`{RUN}` = '{kind}'"
        # One that was deleted is not found.
        found: list[Run] = list(self.client.search_runs([self.experiment], query, max_results=1))
        if found:
            run = found[0]
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            made = {SWEEP: self.sweep, RUN: kind, MLFLOW_RUN_NAME: name, **tags}
            run = self.client.create_run(self.experiment, int((started or time.time()) * 1000), made, name)
        run_id, there = str(run.info.run_id), run.data.tags.get(MLFLOW_RUN_NOTE)
        changed = {key: tags[key] for key in (MLFLOW_PARENT_RUN_ID,) if run.data.tags.get(key) != tags.get(key)}
        if there != note and (there is None or run.data.tags.get(NOTE) == digest_of(there)):
            changed |= {MLFLOW_RUN_NOTE: note, NOTE: digest_of(note)}  # not over what somebody has written since
        values = {key: clipped(str(value), LONGEST["value"]) for key, value in params.items()}
        missing = [Param(key, value) for key, value in values.items() if key not in run.data.params]
        if missing or changed:  # all of a new run's; those that an outage has kept back
            self.client.log_batch(run_id, params=missing, tags=[RunTag(*tag) for tag in changed.items()])
        if self.datasets and not (run.inputs and run.inputs.dataset_inputs):
            self.client.log_inputs(run_id, self.datasets)
        return run_id

    def _send(self, run_id: str, files: Mapping[str, bytes], folder: str | None = None) -> None:
        """Send files under their own names, so that they replace what was sent before."""
        if not files:
            return
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in files.items():
                (Path(scratch) / name).write_bytes(content)
            self.client.log_artifacts(run_id, scratch, folder)


def _step_images(directory: RunDirectory, t: int) -> dict[str, bytes]:
    """The pictures of a round under the names by which MLflow's UI knows images with a step.

    `log_image` would end them with a random number and the time now, so that a picture sent again appeared twice. The
    UI asks only that something is there; it shows the WebP, and on a click the PNG.
    """
    files = dict[str, bytes]()
    for path in directory.pictures(t):
        try:
            png = path.read_bytes()
        except FileNotFoundError:  # somebody deletes the run
            continue
        name = f"pictures~{_short(path.stem)}+step+{t}+timestamp+{t}+{directory.path.name}"  # ~ stands for /
        with suppress(*UNREADABLE):  # a damaged one is left out, the round is sent
            files |= {f"{name}.png": png, f"{name}+compressed.webp": as_webp(png)}
    return files


def metrics_of(record: RoundRecord) -> dict[str, float]:
    """A round record as MLflow metrics: `dB/ importance/ ssim/ theta/ time/ system/`, units in the names.

    MLflow's pages sort what is before the slash, and what is after it: the PSNR that trials are compared by is first.
    """
    metrics = measured(record)
    metrics |= {f"importance/{name}": value for name, value in vars(record.importance).items()}
    metrics |= {f"time/{name}_s": value for name, value in record.seconds.items()}
    metrics |= {f"system/{name}": value for name, value in record.system.items()}
    theta = {
        "loss": record.loss, "squared_error": record.squared_error, "crops_per_s": record.patches_per_second
    }  # fmt: skip
    return metrics | {f"theta/{name}": value for name, value in theta.items() if value is not None}


def measured(rows: Rows) -> dict[str, float]:
    """Rows of `validation` and `test` as metrics, and the mean PSNR that trials are compared by."""
    metrics = {PSNR: rows.psnr} if rows.all else {}
    for short, of_group in (("val", rows.validation), ("test", rows.test)):
        for row in of_group:
            name = f"{short}_{_short(row.set)}_x{row.scale}"
            metrics |= {f"dB/{name}": row.psnr, f"ssim/{name}": row.ssim}
    return metrics


def _short(name: str) -> str:
    """A name, such as that of a folder, without characters that MLflow refuses, and no longer than it accepts."""
    name = slug(name)
    return name if len(name) <= LONGEST["part"] else f"{name[: LONGEST['part'] - 12]}--{name[-10:]}"
