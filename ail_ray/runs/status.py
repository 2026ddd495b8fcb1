"""The runs on a storage path: how far each is, what one measured, and which files nobody needs any more."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from upath import UPath

from ail_ray.errors import ConfigError, one_line
from ail_ray.files import FileError
from ail_ray.learning.config import RunConfig
from ail_ray.learning.inference import mean_psnr
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.lease import Lease
from ail_ray.runs.references import Rows, below_bicubic


@dataclass(frozen=True, kw_only=True)
class Status:
    """One run, as its directory says."""

    run: str
    name: str
    corpus: str
    state: str  # finished, failed, interrupted, unreadable, or who works on it
    round: int  # last committed
    rounds: int
    best: float  # dB, mean over the validation images; over the test images if there are none; 0 before round 0
    seconds_left: float  # 0 when it is over
    age: float  # seconds since the last commit
    reason: str  # why it failed or cannot be read
    data: str = "of unknown data"  # what it was trained and compared on
    below_bicubic: bool = False
    dead: tuple[str, ...] = ()  # layers that put nothing out after the last round
    draws: int = 0  # students that died before this one
    references: Mapping[str, Rows] = field(default_factory=dict)  # bicubic and teacher on its evaluation images

    @property
    def works(self) -> bool:
        return self.state.startswith("process")


def title(config: RunConfig) -> str:
    """The name of a run for people: `vdsr-f13 ×2 λ=0.15 teacher=vdsr seed=0`, a control as `... w=1 (control)`.

    Other rules and conditions are named too: `reference λ=0.15`, `β=0.1`, `one schedule`, `from student.safetensors`.
    """
    words = {
        f"×{','.join(map(str, config.scales))}": True,
        "w=1 (control)": config.rule == "uniform" and not config.beta,
        "w=1": config.rule == "uniform" and config.beta > 0,
        config.rule: config.rule not in ("eq7", "uniform"),
        f"λ={config.lam:g}": "lam" in config.reads,
        f"β={config.beta:g}": config.beta > 0,
        f"teacher={Path(config.teacher).name}": "teacher" in config.reads,
        "one schedule": config.restart == "never",
        f"from {Path(config.start or '').name}": config.start is not None,
        "init=he": config.init == "he" and config.start is None,
        f"seed={config.seed}": True,
    }
    return " ".join([f"{config.network}-f{config.student_width}", *(word for word, said in words.items() if said)])


def describe(record: dict[str, Any]) -> str:
    """A line about a round for a log."""
    rows = [f"{row['set']} ×{row['scale']} {row['psnr']:.2f} dB" for row in (*record["validation"], *record["test"])]
    importance = record["importance"]
    speed = f", {record['patches_per_second']:.0f} crops/s" if record.get("patches_per_second") else ""
    return (
        f"round {record['round']}: {', '.join(rows)}; importance mean {importance['mean']:.3f}, "
        f"saturated {100 * importance['saturated']:.1f} %{speed}"
    )


def statuses(storage: UPath) -> list[Status]:
    """The status of all runs, the latest commit first."""
    folder = storage / "runs"
    runs = [path for path in folder.iterdir() if path.is_dir()] if folder.exists() else []
    return sorted((status(path) for path in runs), key=lambda found: (found.age, found.run))


def status(path: UPath) -> Status:
    """The status of a run."""
    directory = RunDirectory(path)
    try:
        manifest, records = directory.manifest(), directory.records()
        config = RunConfig(**_tuples(manifest["config"]))
    except (ConfigError, FileError, TypeError, ValueError) as error:
        return Status(
            run=path.name, name="", corpus="", state=Lease(path).worker() or "unreadable", round=-1, rounds=0,
            best=0.0, seconds_left=0.0, age=float("inf"), reason=one_line(error),
        )  # fmt: skip
    finished, failure = directory.last_round >= config.rounds, directory.failure()
    worker = Lease(path).worker()
    state = "finished" if finished else worker or ("failed" if failure else "interrupted")
    times = [manifest["created"], *(record["time"] for record in records)]
    rounds = [sum(record["seconds"].values()) for record in records]
    return Status(
        run=path.name, name=title(config), corpus=manifest["corpus"], state=state, round=len(records) - 1,
        rounds=config.rounds, best=max((mean_psnr(r["validation"] or r["test"]) for r in records), default=0.0),
        seconds_left=0.0 if finished or not rounds else median(rounds) * (config.rounds + 1 - len(records)),
        age=time.time() - times[-1], reason="" if finished else failure or "", data=_data(config),
        below_bicubic=bool(records) and below_bicubic(records[-1], manifest.get("references", {})),
        dead=tuple(records[-1].get("dead", ())) if records else (), draws=directory.draws(),
        references={
            name if name == "bicubic" else f"teacher={Path(config.teacher).name}": rows
            for name, rows in manifest.get("references", {}).items()
        },
    )  # fmt: skip


def _data(config: RunConfig) -> str:
    """The names of sets and scales; runs that differ in them have numbers that cannot be compared."""
    train, compared = (
        "+".join(Path(name).name for name in s) for s in (config.train, config.validation or config.test)
    )
    return f"trained on {train}, compared on {compared or 'nothing'}, ×{','.join(map(str, config.scales))}"


def _tuples(config: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
