"""A run directory whose commits cost nothing, and two jobs that both believe that they work on it."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tiny_files import newest_manifest
from upath import UPath

from ail_ray import files
from ail_ray.files import WriteError, as_path
from ail_ray.learning.config import RunConfig
from ail_ray.learning.records import EpochLog, Measured, Row, Spread
from ail_ray.learning.theta import TrainState
from ail_ray.networks.architectures import VDSR
from ail_ray.runs import directory as run_directory
from ail_ray.runs import manifests
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.lease import LeaseLostError
from ail_ray.tensors import write_tensors

CONFIG = RunConfig(rounds=6, epochs=2, width=2, depth=3, optimizer="adam", teacher="none")


def state(seed: int, steps: int = 1) -> TrainState:
    """A student whose optimizer has taken some steps."""
    torch.manual_seed(seed)
    made = TrainState(VDSR(width=2, depth=3), CONFIG)
    for _ in range(steps):
        made.student(torch.rand(1, 1, 8, 8)).square().sum().backward()
        made.optimizer.step()
    return made


def log(t: int, e: int) -> EpochLog:
    return EpochLog(round=t, epoch=e, loss=1 / (t + e + 1), squared_error=0.5, crops=100, seconds=2.0)


def measured(t: int, psnr: float = 30.0, dead: tuple[str, ...] = ()) -> Measured:
    spread = Spread(mean=0.5, saturated=0.25, p05=0.1, p25=0.2, p50=0.5, p75=0.8, p95=1.0)
    row = Row(set="val", scale=2, psnr=psnr, ssim=0.9, images=1)
    return Measured(round=t, importance=spread, dead=dead, validation=(row,))


SECONDS = {"evaluation": 0.1}


def whole_round(directory: RunDirectory, t: int, psnr: float = 30.0) -> None:
    """Importance, two epochs and the commit, as a worker writes them."""
    write_tensors(directory.importance_path(t, 0), {"importance": np.full(9, t / 10, np.float16)})
    for e in range(CONFIG.epochs):
        directory.commit_epoch(log(t, e), state(10 * t + e).tensors())
    directory.commit_round(measured(t, psnr), SECONDS, {}, state(10 * t + CONFIG.epochs - 1))


def names(folder: UPath) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


RESOLVED: dict[str, Any] = {"corpus": "c", "precision": "fp64", "threads": 1, "workers": 2}


def slept(folder: Path | UPath, kind: str, later: int, point: int) -> int:
    """Hold a job up in the middle of a commit, until another one has taken the run over; the winner loses nothing.

    Args:
        kind: commit of an `epoch` or of a `round`.
        later: how many more rounds the winner has committed when the sleeper wakes up.
        point: before which line of the commit the job is held up, from 1; with 0 nothing happens.

    Returns:
        How many lines of our code the commit has.
    """
    path = as_path(folder)
    sleeper, winner = (RunDirectory(path, name) for name in ("sleeper", "winner"))
    sleeper.create(CONFIG, **RESOLVED)
    whole_round(sleeper, 0)
    write_tensors(sleeper.importance_path(1, 0), {"importance": np.full(9, 0.1, np.float16)})
    for e in range(2 if kind == "round" else 1):
        sleeper.commit_epoch(log(1, e), state(10 + e).tensors())
    before = dict[str, bytes]()

    def overtake() -> None:
        winner.create(CONFIG)
        winner.mend(shards=1)
        place = winner.place
        assert place is not None
        for e in range(place.epochs, 2):
            winner.commit_epoch(log(1, e), state(10 + e).tensors())
        if winner.last_round < 1:
            winner.commit_round(measured(1, 31.0), SECONDS, {}, state(11))
        for t in range(2, 2 + later):
            whole_round(winner, t)
        before.update(_files(path))

    def commit() -> None:
        if kind == "epoch":
            sleeper.commit_epoch(log(1, 1), state(12).tensors())
        else:
            sleeper.commit_round(measured(1, 29.0), SECONDS, {}, state(11))

    refused, lines = False, 0
    try:
        lines = _interrupted(commit, point, overtake)
    except (LeaseLostError, WriteError):  # or the winner has swept up what was written half
        refused = True
    if point:
        after = _files(path)
        assert {name for name in before if after.get(name) != before[name]} == set(), f"before line {point}"
        assert refused or winner.record(1).psnr == 29.0 or kind == "epoch", "what it committed it committed in time"
        assert winner.mend(shards=1) == []
        whole_round(winner, 2 + later)
    return lines


def _files(folder: UPath) -> dict[str, bytes]:
    """What a winner must not lose: all but manifests that are not the newest, and what is written half."""
    newest = newest_manifest(folder).name
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return {str(p): p.read_bytes() for p in paths if p.parent.name != "manifests" or p.name == newest}


def _interrupted(call: Callable[[], None], point: int, between: Callable[[], None]) -> int:
    """Make a call, and another one before its `point`-th line of our code; returns how many lines it has."""
    ours, lines = (run_directory.__file__, manifests.__file__, files.__file__), 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in ours:
            return None
        if event == "line":
            lines += 1
            if lines == point:
                sys.settrace(None)
                try:
                    between()
                finally:
                    sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines
