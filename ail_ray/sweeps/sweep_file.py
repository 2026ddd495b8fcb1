"""`sweep.json` and `summary.json`: what a sweep was asked and which trials it began, and what came of them."""

import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
from upath import UPath

from ail_ray.files import write_json, write_record
from ail_ray.learning.config import Plain, Value
from ail_ray.learning.records import Rows
from ail_ray.runs.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A trial that a sweep has begun. How far it is, and what it measured, is in its run directory."""

    name: str
    directory: str
    parameters: dict[str, Value]
    rounds: int | None = None  # asked for; older files do not say
    reason: str | None = None  # why it cannot go on


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """`sweep.json`, for whoever reads before the sweep ends."""

    name: str = ""
    command: str = ""
    config: Plain  # as `SweepConfig.plain`
    asked: int  # trials
    state: Literal["running", "stopped", "finished"]
    started: float  # seconds since 1970
    trials: tuple[Begun, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a record in MLflow says of a sweep: its parent run, where that is, and the page that shows it."""

    mlflow_run_id: str | None = None
    tracking_uri: str = ""  # without passwords
    mlflow_page: str = ""


@dataclass(frozen=True, kw_only=True)
class Summary(Facts):
    """`summary.json`: what came of the trials of a sweep, the best on the validation images first."""

    trials: tuple[Trial, ...]
    sweep: str = ""  # digest of all that was asked, and of the images
    references: dict[str, Rows] = field(default_factory=dict)  # what trials are compared with, by name

    @property
    def failed(self) -> bool:
        return any(trial.status == "failed" for trial in self.trials)

    def plain(self) -> Plain:
        """The summary as plain data, without what the run directories have."""
        content: Plain = msgspec.to_builtins(self)
        for trial in content["trials"]:
            del trial["manifest"], trial["records"]
        return content

    def to_pandas(self) -> Any:
        """The trials as a `pandas.DataFrame`: a row each, with its parameters, and PSNR and SSIM on every set."""
        import pandas  # comes with MLflow, and is asked for here only

        return pandas.DataFrame(
            [
                {"trial": trial.name, "status": trial.verdict, **trial.parameters, "psnr": trial.psnr}
                | {f"{row.where} PSNR, dB": row.psnr for row in trial.all}
                | {f"{row.where} SSIM": row.ssim for row in trial.all}
                for trial in self.trials
            ]
        )


class Ledger:
    """Writes the whole of `sweep.json` at every event."""

    def __init__(self, path: UPath, *, name: str, command: str, config: Plain, asked: int) -> None:
        """
        Args:
            config: the configuration of the sweep, as plain data.
            asked: how many trials the sweep has.
        """
        self.path = path
        self.content = SweepFile(
            name=name, command=command, config=config, asked=asked, state="running", started=time.time()
        )
        write_record(self.path, self.content)

    def began(self, begun: Begun) -> None:
        """Record that a trial begins or goes on."""
        others = (trial for trial in self.content.trials if trial.directory != begun.directory)
        self._write(trials=(*others, begun))

    def failed(self, directory: str, reason: str) -> None:
        """Record that a trial that began cannot go on."""
        self._write(
            trials=tuple(
                replace(trial, reason=reason) if trial.directory == directory else trial
                for trial in self.content.trials
            )
        )

    def close(self, state: Literal["stopped", "finished"]) -> None:
        """Record that the sweep is over."""
        self._write(state=state)

    def _write(self, **changes: Any) -> None:
        self.content = replace(self.content, **changes)
        write_record(self.path, self.content)


def write_summary(path: UPath, summary: Summary) -> None:
    """Write `summary.json`."""
    write_json(path, summary.plain())
