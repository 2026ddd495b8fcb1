"""The run directory: manifest, snapshots and round records of one AIL run; the only authority on what has happened.

manifest.json                        what the run is, and the last commit; written last, so it never lies
state/round-003-epoch-02.safetensors student and optimizer (the last two commits)
importance/round-003/shard-0007.safetensors  W (round 0, the last two rounds, the best one)
rounds/round-003.json                what the round measured
rounds/round-003/*.png               what it looks like
students/round-003.safetensors       the student at the end of a round
student.safetensors, config.json     the result
"""

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from ail_ray.files import FileError, is_local, read_json, read_tensors, write_bytes, write_json, write_tensors
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.models import VDSR
from ail_ray.learning.theta import EpochLog, TrainState
from ail_ray.learning.weights import save_model

FORMAT = 1


class RunDirectory:
    """Paths, commits and records of one run; any number may read, one worker (rank 0) commits."""

    def __init__(self, path: UPath) -> None:
        self.path = path

    def create(self, config: RunConfig, **resolved: Any) -> dict[str, Any]:
        """The manifest: the recorded one if the run exists, else a new one with what was resolved for this run.

        Args:
            config: of the run; its `rounds` may exceed the recorded ones, which extends the run.
            resolved: plain data: corpus and teacher digests, precision, threads, workers.

        Raises:
            FileError: the directory was written by another format.
        """
        if (self.path / "manifest.json").exists():
            manifest = self.manifest()
            if manifest["config"]["rounds"] != config.rounds:
                manifest["config"]["rounds"] = config.rounds
                self._write_manifest(manifest)
            return manifest
        manifest = {
            "format": FORMAT, "run": self.path.name, "config": asdict(config), **resolved,
            "versions": {name: version(name) for name in ("torch", "ray", "numpy", "mlflow")},
            "machine": {"processor": _processor(), "python": platform.python_version(), "commit": _commit()},
            "created": time.time(), "last_round": -1, "state": None, "epochs": [],
        }  # fmt: skip
        self._write_manifest(manifest)
        return manifest

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            FileError: missing, damaged, or of another format.
        """
        manifest = read_json(self.path / "manifest.json")
        if manifest.get("format") != FORMAT:
            raise FileError(f"{self.path}: format {manifest.get('format')}, this version reads {FORMAT}")
        return manifest

    @property
    def last_round(self) -> int:
        """The last committed round, -1 before the first."""
        try:
            return int(self.manifest()["last_round"])
        except FileError:
            return -1

    def records(self) -> list[dict[str, Any]]:
        """The records of all committed rounds, in order."""
        return [read_json(self.record_path(t)) for t in range(self.last_round + 1)]

    def record_path(self, round: int) -> UPath:
        return self.path / "rounds" / f"round-{round:03d}.json"

    def pictures(self, round: int) -> list[UPath]:
        """The pictures of a round, by name."""
        folder = self.path / "rounds" / f"round-{round:03d}"
        return sorted(folder.glob("*.png"), key=lambda path: path.name) if folder.exists() else []

    def importance_path(self, round: int, shard: int) -> UPath:
        return self.path / "importance" / f"round-{round:03d}" / f"shard-{shard:04d}.safetensors"

    def student_path(self, round: int) -> UPath:
        return self.path / "students" / f"round-{round:03d}.safetensors"

    def load_state(self) -> tuple[dict[str, np.ndarray], int, int] | None:
        """Student and optimizer of the last commit, its round, and the epochs of that round already trained."""
        state = self.manifest()["state"]
        if state is None:
            return None
        arrays, _ = read_tensors(self.path / "state" / state["file"])
        return arrays, state["round"], state["epochs"]

    def commit_epoch(self, log: EpochLog, arrays: dict[str, np.ndarray]) -> None:
        """Write the state after an epoch, then the manifest that points to it."""
        manifest = self.manifest()
        logs = [entry for entry in manifest["epochs"] if entry["round"] == log.round and entry["epoch"] < log.epoch]
        manifest["epochs"] = [*logs, log.as_dict()]
        self._commit_state(manifest, log.round, log.epoch + 1, arrays)

    def commit_round(self, record: dict[str, Any], state: TrainState) -> dict[str, Any]:
        """Write record, student and state of a finished round, then the manifest; returns the whole record."""
        manifest, t = self.manifest(), record["round"]
        logs = [entry for entry in manifest["epochs"] if entry["round"] == t]
        seconds = sum(log["seconds"] for log in logs)
        record = {
            **record,
            "time": time.time(),
            "epochs": logs,
            "loss": logs[-1]["loss"] if logs else None,
            "squared_error": logs[-1]["squared_error"] if logs else None,
            "patches_per_second": sum(log["crops"] for log in logs) / seconds if seconds else None,
        }
        record["seconds"]["theta"] = seconds  # those of an interrupted attempt included
        assert isinstance(state.student, VDSR)
        save_model(self.student_path(t), state.student, {"round": str(t), "run": self.path.name})
        write_json(self.record_path(t), record)
        manifest["last_round"] = t
        self._commit_state(manifest, t, manifest["config"]["epochs"], state.tensors())
        self._prune()
        return record

    def finalise(self) -> UPath:
        """Write the result, the last round's student and the resolved configuration; safe to repeat."""
        manifest = self.manifest()
        write_bytes(self.path / "student.safetensors", self.student_path(manifest["last_round"]).read_bytes())
        write_json(self.path / "config.json", {k: manifest[k] for k in manifest if k not in ("state", "epochs")})
        return self.path / "student.safetensors"

    def _commit_state(self, manifest: dict[str, Any], round: int, epochs: int, arrays: dict[str, np.ndarray]) -> None:
        name = f"round-{round:03d}-epoch-{epochs:02d}.safetensors"
        if manifest["state"] is None or manifest["state"]["file"] != name:  # the last epoch's is the round's too
            write_tensors(self.path / "state" / name, arrays)
        previous = manifest["state"]["file"] if manifest["state"] else name
        manifest["state"] = {"round": round, "epochs": epochs, "file": name}
        self._write_manifest(manifest)
        for path in (self.path / "state").glob("*.safetensors"):
            if path.name not in (name, previous):
                path.unlink(missing_ok=True)

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_json(self.path / "manifest.json", manifest)

    def _prune(self) -> None:
        """Keep the importance of round 0, of the last two rounds and of the best one."""
        records = self.records()
        last = records[-1]["round"]
        best = max(records, key=lambda record: mean_psnr(record["validation"]))["round"]
        kept = {f"round-{t:03d}" for t in (0, last - 1, last, best)}
        for folder in (self.path / "importance").iterdir():
            if folder.name not in kept:
                remove_tree(folder)


class RunJournal:
    """The algorithm's memory, kept in a run directory: rank 0 writes, everybody reads."""

    def __init__(
        self,
        directory: RunDirectory,
        group: Group,
        *,
        draw: Callable[[int], dict[str, bytes]],
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        """
        Args:
            draw: makes this worker's pictures of a round, as PNG by file name.
            report: told of every committed round, on every worker.
        """
        self.directory, self.group, self.draw, self.report = directory, group, draw, report

    def resume(self, state: TrainState) -> tuple[int, int]:
        """Load the last commit, if any."""
        saved = self.directory.load_state()
        if saved is None:
            return 0, 0
        arrays, round, epochs = saved
        state.load(arrays)
        return (round + 1, 0) if round == self.directory.last_round else (round, epochs)

    def commit_epoch(self, log: EpochLog, state: TrainState) -> None:
        """Rank 0 writes."""
        if self.group.rank == 0:
            self.directory.commit_epoch(log, state.tensors())

    def commit_round(self, record: dict[str, Any], state: TrainState) -> None:
        """Everybody draws, rank 0 commits, nobody goes on before."""
        folder = self.directory.record_path(record["round"]).with_suffix("")
        for name, png in self.draw(record["round"]).items():
            write_bytes(folder / name, png)
        self.group.barrier()
        if self.group.rank == 0:
            record = self.directory.commit_round(record, state)
        self.group.barrier()
        self.report(record)


def mean_psnr(rows: list[dict[str, Any]]) -> float:
    """Mean PSNR (dB) over a record's rows; 0 where there are none."""
    return sum(row["psnr"] for row in rows) / len(rows) if rows else 0.0


def remove_tree(folder: UPath) -> None:
    """Remove a folder and all in it."""
    if is_local(folder):
        shutil.rmtree(str(folder), ignore_errors=True)
    else:
        folder.fs.rm(folder.path, recursive=True)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} × {os.cpu_count()}"


def _commit() -> str | None:
    """The commit of the code, if it runs from a repository."""
    git = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return git.stdout.strip() or None


def describe(record: dict[str, Any]) -> str:
    """One line about a round, fit for a log."""
    rows = [f"{row['set']} ×{row['scale']} {row['psnr']:.2f} dB" for row in (*record["validation"], *record["test"])]
    importance = record["importance"]
    speed = f", {record['patches_per_second']:.0f} patches/s" if record.get("patches_per_second") else ""
    return (
        f"round {record['round']}: {', '.join(rows)}; importance mean {importance['mean']:.3f}, "
        f"saturated {100 * importance['saturated']:.1f} %{speed}"
    )


def as_json(content: Any) -> str:
    """Plain data on one line."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
