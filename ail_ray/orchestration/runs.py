"""The runs on a storage path: how far each is, what one measured, and which files nobody needs any more."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text
from upath import UPath

from ail_ray.commandline import LEFT, as_lines
from ail_ray.errors import ConfigError, one_line
from ail_ray.files import FileError, remove_tree
from ail_ray.learning.config import RunConfig
from ail_ray.learning.inference import mean_psnr
from ail_ray.orchestration.lease import Lease
from ail_ray.orchestration.references import Rows, below_bicubic, verdict
from ail_ray.orchestration.rundir import RunDirectory

SETTLED = 86_400.0  # seconds


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


def table(found: list[Status]) -> Iterator[str]:
    """The runs as lines, grouped by the data they can be compared on, with bicubic and teachers on that data."""
    groups: dict[str, list[Status]] = {}
    for s in found:
        groups.setdefault(s.data, []).append(s)
    for data, runs in groups.items():
        table = Table("run", "state", "round", "best", "left", "commit", "trial", title=data, **LEFT)
        for s in runs:
            over = {"status": s.state, "dead": s.dead, "below_bicubic": s.below_bicubic, "draws": s.draws}
            state = "working" if s.works else verdict(over) if s.state == "finished" else s.state
            of = f"{s.round if s.round >= 0 else '-'} of {s.rounds}" if s.name else "-"
            table.add_row(
                s.run, state, of, f"{s.best:.2f} dB" if s.best else "-",
                in_words(s.seconds_left) if s.seconds_left else "-", in_words(s.age) if s.age < 1e9 else "-",
                Text("\n".join(filter(None, (s.name, s.reason)))),
            )  # fmt: skip
        for name, rows in {name: rows for s in runs for name, rows in s.references.items()}.items():
            table.add_row(Text(name), "", "", f"{mean_psnr(rows['validation'] or rows['test']):.2f} dB")
        yield from as_lines(table)


def rounds(path: UPath) -> Iterator[str]:
    """One run, with a line for each round."""
    found = status(path)
    worker = f", {found.state} works on it" if found.works else f", {found.state}"
    yield f"{found.name or path.name}{worker}{': ' + found.reason if found.reason else ''}"
    for line in RunDirectory(path).incidents():
        yield f"incident: {line}"
    if found.name:
        yield from (describe(record) for record in RunDirectory(path).records())


@dataclass(frozen=True)
class Rubbish:
    """A folder or file that nobody needs, and why."""

    path: UPath
    reason: str
    bytes: int


def rubbish(storage: UPath, *, failed: bool, older: float | None, names: tuple[str, ...] = ()) -> list[Rubbish]:
    """What can be removed: runs that failed, are older or are named, and shards and errors that no other run needs.

    Args:
        failed: include runs that failed, or that cannot be read.
        older: include runs whose last commit was more than so many seconds ago, if they can be read.
        names: names of runs to include in any case.

    A run that somebody works on is never included, nor what it needs, nor what changed in the last day, since a sweep
    may be about to use it.
    """
    found, goes = statuses(storage), []
    kept = list[Status]()
    for s in found:
        reasons = {
            "failed": failed and s.state in ("failed", "unreadable"),
            "old": older is not None and older < s.age < float("inf"),
            "named": s.run in names,
        }
        reason = next((reason for reason, holds in reasons.items() if holds and not s.works), None)
        if reason is None:
            kept.append(s)
        else:
            goes.append(_rubbish(storage / "runs" / s.run, f"{reason}: {s.name or s.reason}"))
    if any(not s.corpus for s in kept):
        return goes  # who knows what these need
    needed = {s.corpus for s in kept}
    for path in _children(storage / "corpora"):
        if path.name not in needed and _settled(path):
            goes.append(_rubbish(path, "shards that no run needs; built again from the images"))
    for kind in ("errors", "outputs"):
        for path in _children(storage / kind):
            if path.name.split("-")[1:2] and path.name.split("-")[1] not in needed and _settled(path):
                goes.append(_rubbish(path, f"teacher {kind} that no run needs; computed again"))
    for path in _children(storage / "ray"):
        if not any(s.works for s in kept) and _settled(path):
            goes.append(_rubbish(path, "what Ray wrote about jobs that are over"))
    return goes


def remove(goes: list[Rubbish]) -> None:
    """Remove folders, and of a run the manifest first, so that a half-removed run is not taken for one."""
    for each in goes:
        (each.path / "manifest.json").unlink(missing_ok=True)
        remove_tree(each.path)


def _rubbish(path: UPath, reason: str) -> Rubbish:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Rubbish(path, reason, size)


def _settled(folder: UPath) -> bool:
    """Whether nothing in a folder has changed for a day."""
    newest = max((file.stat().st_mtime for file in folder.rglob("*") if file.is_file()), default=0.0)
    return time.time() - newest > SETTLED


def _children(folder: UPath) -> list[UPath]:
    return sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.name) if folder.exists() else []


def _tuples(config: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}


def in_words(seconds: float) -> str:
    """A length of time in words, such as `1.5 h`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
