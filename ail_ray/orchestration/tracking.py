"""Run directories mirrored into MLflow: one parent run per sweep, one child per trial, one step per round.

Only the sweep's driver writes. A run is found by the digests of its sweep and of itself, and a tag on it remembers
the last round sent, so the same record is never sent twice and an outage only delays.
"""

import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import (
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_LOGGED_IMAGES,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
)
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import FileError, as_path, digest_of, is_local, slug, unwritable_file
from ail_ray.imaging.pictures import UNREADABLE, as_webp
from ail_ray.orchestration.notes import trial_note
from ail_ray.orchestration.rundir import RunDirectory

SWEEP, RUN, LAST_ROUND, RESULT = "ail.sweep", "ail.run", "ail.last_round", "ail.result"
NOTE = "ail.note"  # digest of the description as it was written last
RESULTS = ("student.safetensors", "config.json")  # of a run
TABLE = "trials.json"
EXPERIMENT = {
    "mlflow.experimentKind": "custom_model_development",  # else the UI takes it for one about language models
    MLFLOW_RUN_NOTE: "Small super-resolution networks trained by adaptive importance learning. One run a sweep, and "
    "nested in it one a trial; a step is a round. The best student of all is the model `ail-ray-x2` (×3, ×4).",
}


class Tracker:
    """One sweep in MLflow."""

    def __init__(
        self,
        uri: str,
        folder: UPath,
        *,
        sweep: str,
        name: str,
        note: str,
        params: Mapping[str, Any],
        datasets: Sequence[DatasetInput] = (),
    ) -> None:
        """Find or open the sweep's parent run.

        Args:
            uri, folder: as `connect`.
            sweep: digest of the sweep; name, note (Markdown) and params describe it to people.
            datasets: what all its trials read.

        Raises:
            ConfigError: the server or database cannot be reached.
        """
        self.sweep, self.note, self.datasets, self._children = sweep, note, list(datasets), dict[str, str]()
        self.client, self.experiment = connect(uri, folder)
        try:
            self.parent = self._find_or_create(
                f"tags.`{SWEEP}` = '{sweep}' and tags.`{RUN}` = 'parent'", name,
                {SWEEP: sweep, RUN: "parent"}, params, note,
            )  # fmt: skip
        except Exception as error:  # whatever client, database driver or HTTP library raises
            raise ConfigError([unusable(uri, error)]) from error

    def mirror(self, directory: RunDirectory, name: str, params: Mapping[str, Any], rounds: int = 10**9) -> str:
        """Send what is missing of a run: parameters once, then the rounds asked for; returns its MLflow id."""
        run = directory.path.name
        if run not in self._children:
            self._children[run] = self._find_or_create(
                f"tags.`{SWEEP}` = '{self.sweep}' and tags.`{RUN}` = '{run}'", name,
                {SWEEP: self.sweep, RUN: run, LAST_ROUND: "-1", MLFLOW_PARENT_RUN_ID: self.parent}, params,
                trial_note(name, run, self.note), started=_begun(directory),
            )  # fmt: skip
        run_id = self._children[run]
        sent = int(self.client.get_run(run_id).data.tags[LAST_ROUND])
        for record in directory.records(rounds)[sent + 1 :]:
            t, stamp = record["round"], int(record["time"] * 1000)
            self._send(run_id, _step_images(directory, t), "images")
            self.client.log_batch(
                run_id,
                metrics=[Metric(key, value, stamp, t) for key, value in metrics_of(record).items()],
                tags=[RunTag(LAST_ROUND, str(t)), RunTag(RESULT, "running"), RunTag(MLFLOW_LOGGED_IMAGES, "True")],
            )
        return run_id

    def finish(
        self, run_id: str, status: str, directory: RunDirectory | None = None, student: UPath | None = None
    ) -> None:
        """Close a run as `finished`, `stopped` or `failed`; a finished one gets its configuration and student."""
        sent = self.client.get_run(run_id).data.tags.get(RESULT)
        if directory is not None and status == "finished" != sent:
            files = {name: directory.path / name for name in RESULTS} | ({RESULTS[0]: student} if student else {})
            self._send(run_id, {name: path.read_bytes() for name, path in files.items()})
        if sent != status:
            self.client.set_tag(run_id, RESULT, status)
        shown = {"finished": "FINISHED", "failed": "FAILED"}.get(status, "KILLED")
        records = directory.records() if directory is not None else []
        ended = int(records[-1]["time"] * 1000) if records else None  # not when it was sent
        self.client.set_terminated(run_id, shown, ended)

    def close(self, files: Mapping[str, bytes], *, failed: bool) -> None:
        """Give the parent run what compares its trials, of which `trials.json` is shown as a table, and end it."""
        self._send(self.parent, files)
        self.client.set_tag(self.parent, MLFLOW_LOGGED_ARTIFACTS, json.dumps([{"path": TABLE, "type": "table"}]))
        self.finish(self.parent, "failed" if failed else "finished")

    def _find_or_create(
        self,
        query: str,
        name: str,
        tags: dict[str, str],
        params: Mapping[str, Any],
        note: str,
        *,
        started: float | None = None,
    ) -> str:
        found: list[Run] = list(self.client.search_runs([self.experiment], query, max_results=1))
        if found:
            run = found[0]
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            tags = {**tags, MLFLOW_RUN_NAME: name}
            run = self.client.create_run(self.experiment, int((started or time.time()) * 1000), tags, name)
        run_id = str(run.info.run_id)
        there = run.data.tags.get(MLFLOW_RUN_NOTE)
        ours = there is None or run.data.tags.get(NOTE) == digest_of(there)  # not what somebody has written since
        tags = {MLFLOW_RUN_NOTE: note, NOTE: digest_of(note)} if ours and there != note else {}
        missing = [Param(key, str(value)) for key, value in params.items() if key not in run.data.params]
        if missing or tags:  # all of a new run's; those that an outage has kept back
            self.client.log_batch(run_id, params=missing, tags=[RunTag(*tag) for tag in tags.items()])
        if self.datasets and not (run.inputs and run.inputs.dataset_inputs):
            self.client.log_inputs(run_id, self.datasets)
        return run_id

    def _send(self, run_id: str, files: Mapping[str, bytes], folder: str | None = None) -> None:
        """Artifacts keep their names: sent again, they replace themselves."""
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in files.items():
                (Path(scratch) / name).write_bytes(content)
            self.client.log_artifacts(run_id, scratch, folder)


def _begun(directory: RunDirectory) -> float | None:
    """When a run began, seconds of the epoch; None if its manifest cannot be read, which is why it failed then."""
    with suppress(FileError):
        return float(directory.manifest()["created"])
    return None


def _step_images(directory: RunDirectory, t: int) -> dict[str, bytes]:
    """The pictures of a round under the names by which MLflow's UI knows images with a step.

    `log_image` would end them with a random number and the time now, so that a picture sent again appeared twice. The
    UI asks only that something is there; it shows the WebP, and on a click the PNG.
    """
    files = dict[str, bytes]()
    for path in directory.pictures(t):
        png = path.read_bytes()
        name = f"pictures~{slug(path.stem)}+step+{t}+timestamp+{t}+{directory.path.name}"  # ~ stands for /
        with suppress(*UNREADABLE):  # a damaged one is left out, the round is sent
            files |= {f"{name}.png": png, f"{name}+compressed.webp": as_webp(png)}
    return files


def metrics_of(record: Mapping[str, Any]) -> dict[str, float]:
    """A round record as MLflow metrics: `theta/ importance/ val/ test/ time/ system/`, units in the names."""
    metrics = {f"importance/{name}": value for name, value in record["importance"].items()}
    metrics |= {f"time/{name}_s": value for name, value in record["seconds"].items()}
    metrics |= {f"system/{name}": value for name, value in record.get("system", {}).items()}  # older ones lack it
    for group, rows in (("val", record["validation"]), ("test", record["test"])):
        for row in rows:
            name = f"{group}/{slug(row['set'])}_x{row['scale']}"  # a folder's name may hold what MLflow refuses
            metrics |= {f"{name}_psnr_dB": row["psnr"], f"{name}_ssim": row["ssim"]}
    for name, key in (
        ("loss", "loss"),
        ("squared_error", "squared_error"),
        ("patches_per_second", "patches_per_s"),
    ):
        if record[name] is not None:
            metrics[f"theta/{key}"] = record[name]
    return metrics


def connect(uri: str, folder: UPath) -> tuple[MlflowClient, str]:
    """A client, and the id of the experiment of all sweeps; it and its database are made if they are not there.

    Args:
        uri: the tracking server or database.
        folder: where artifacts go if the database is a local file; a server has its own place for them.

    Raises:
        ConfigError: the server or database cannot be reached.
    """
    database = database_file(uri)
    if database and (problems := unwritable_file(database)):
        raise ConfigError(
            [f"MLflow's database: {line}; stand elsewhere, or set MLFLOW_TRACKING_URI" for line in problems]
        )
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name("ail_ray")
        if found is None:
            location = (folder / "mlartifacts").as_uri() if database and is_local(folder) else None
            return client, str(client.create_experiment("ail_ray", artifact_location=location, tags=EXPERIMENT))
        for key, value in EXPERIMENT.items():
            if key not in found.tags:
                client.set_experiment_tag(found.experiment_id, key, value)
        return client, str(found.experiment_id)
    except Exception as error:  # whatever client, database driver or HTTP library raises
        raise ConfigError([unusable(uri, error)]) from error


def database_file(uri: str) -> UPath | None:
    """The SQLite file that an address means; None for a server, or a database that is no file."""
    if not uri.startswith("sqlite"):
        return None
    with suppress(ArgumentError):
        path = make_url(uri).database
        return as_path(path) if path and path != ":memory:" else None
    return None


def unusable(uri: str, error: Exception) -> str:
    """Why MLflow cannot be used, in a line that holds no password."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"MLflow at {without_password(uri)} cannot be used: {without_password(reason)[:300]}"


def without_password(text: str) -> str:
    """An address, or a text with addresses in it, without their users and passwords."""
    return re.sub(r"(?<!sqlite)://\S+@", "://", text)
