"""What one run is and did, in one type: as its directory says, and as the summary of a sweep keeps it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Literal

from upath import UPath

from ail_ray.errors import printable
from ail_ray.files import FileError, as_path
from ail_ray.learning.config import RunConfig, Value
from ail_ray.learning.records import Rows
from ail_ray.learning.rules import READABLE
from ail_ray.learning.told import PARAMETERS, Told, parameters, told
from ail_ray.networks.code import label
from ail_ray.runs.directory import STUDENT, RunDirectory
from ail_ray.runs.lease import Lease
from ail_ray.runs.records import Manifest, RoundRecord
from ail_ray.runs.references import BICUBIC, as_reference

SETS = ("train", "validation", "test")
State = Literal["finished", "working", "failed", "stopped", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Number of weights of a student, and its multiply-accumulates for an output of 256×256 pixels."""

    weights: int
    multiply_accumulates: int


@dataclass(frozen=True, kw_only=True)
class Trial(Rows):
    """One run in the rounds that it was asked for; its rows are those of the last of them.

    A summary lacks manifest and records, which are in the run directory.
    """

    name: str
    directory: str
    parameters: dict[str, Value]
    status: State
    rounds: int = -1  # the last one that is committed
    asked: int = 0  # rounds
    reason: str = ""  # why it failed, or cannot be read
    worker: str = ""  # process and machine that works on it
    cost: Cost | None = None
    weights: str | None = None  # path of the student after the last round; None where only records are
    below_bicubic: bool = False
    dead: tuple[str, ...] = ()  # layers that put nothing out after the last round
    draws: int = 0  # students that died before this one
    mlflow_run_id: str | None = None
    manifest: Manifest | None = None
    records: tuple[RoundRecord, ...] = ()

    @property
    def path(self) -> UPath:
        """The run directory."""
        return as_path(self.directory)

    @property
    def run(self) -> str:
        """The name of the run directory."""
        return self.path.name

    @property
    def seed(self) -> int:
        return int(self.parameters["seed"] or 0)

    @property
    def label(self) -> str:
        """The name of the trial without the seed, which it shares with the others of its condition."""
        return self.name.removesuffix(f" seed={self.seed}")

    @property
    def best(self) -> float:
        """The best PSNR of a round, in dB; 0 before round 0."""
        return max((record.psnr for record in self.records), default=0.0)

    @property
    def age(self) -> float:
        """Seconds since the last commit, or since the run began; infinite if the run cannot be read."""
        if self.manifest is None:
            return float("inf")
        return time.time() - (self.records[-1].time if self.records else self.manifest.created)

    @property
    def seconds_left(self) -> float:
        """How long the rounds that are left will take, judged by those that are done; 0 where none is."""
        taken = [sum(record.seconds.values()) for record in self.records]
        return median(taken) * (self.asked + 1 - len(taken)) if taken else 0.0

    @property
    def references(self) -> dict[str, Rows]:
        """What the student is compared with, on the same images: `bicubic`, and a teacher as `teacher=vdsr`."""
        if self.manifest is None:
            return {}
        own = as_reference(self.manifest.config.teacher)
        return {name if name == BICUBIC else own: rows for name, rows in self.manifest.references.items()}

    @property
    def data(self) -> str:
        """The names of sets and scales; runs that differ in them have numbers that cannot be compared."""
        if self.manifest is None:
            return "of unknown data"
        c = self.manifest.config
        train, compared = ("+".join(Path(name).name for name in s) for s in (c.train, c.validation or c.test))
        drawn = f", degraded by {c.degrade} (seed {c.degrade_seed})" if c.degrade else ""
        drawn += ", on pairs of one's own" if c.train_lr or c.validation_lr else ""
        return f"trained on {train}, compared on {compared or 'nothing'}, ×{','.join(map(str, c.scales))}{drawn}"

    @property
    def verdict(self) -> str:
        """The status, and with it all that makes the student worth less than it seems."""
        again = f"drawn again {self.draws}×"
        words = {"dead": bool(self.dead), "at or below bicubic": self.below_bicubic, again: self.draws > 0}
        return ", ".join([self.status, *(word for word, holds in words.items() if holds)])

    @property
    def useless(self) -> str:
        """Why a finished student is of no use: it is dead, or no better than bicubic interpolation; empty otherwise."""
        if self.status != "finished":
            return ""
        found = [f"{', '.join(self.dead)} lets nothing through: the student is dead"] if self.dead else []
        return "; ".join([*found, *["it ends at or below bicubic interpolation"] * self.below_bicubic])

    @property
    def summary(self) -> "Trial":
        """What a summary keeps of it."""
        return replace(self, manifest=None, records=())


def read_trial(path: UPath, asked: int | None = None, seen: Sequence[RoundRecord] = ()) -> Trial:
    """A run as its directory says now.

    Args:
        asked: rounds that it was asked for, by default as many as its manifest says; more rounds are left out.
        seen: records that were read before, and are not read again.
    """
    directory, worker = RunDirectory(path), Lease(path).worker() or ""
    try:
        manifest = directory.manifest()
        known = manifest.known
    except ValueError as error:  # damaged, or what only its code could tell is missing
        status: State = "working" if worker else "unreadable"
        unknown = Trial(name="", directory=str(path), parameters={}, status=status, worker=worker, reason=str(error))
        return replace(unknown, asked=asked or 0)
    config, damage = manifest.config, ""
    asked = config.rounds if asked is None else asked
    last_round = min(manifest.last_round, asked)
    records = list(seen[: last_round + 1])
    try:
        records += directory.follow(len(records) - 1, last_round)
    except FileError as error:  # the rounds before the damaged one are known
        damage = str(error)
    last, failure = records[-1] if records else None, directory.failure() or ""
    finished = len(records) > asked
    result = path / STUDENT  # not there yet in a run that was stopped before it was written; nor in records alone
    if not finished or manifest.last_round > asked or not result.exists():
        result = directory.student_path(len(records) - 1)
    over: State = "finished" if finished else "unreadable" if damage else "failed" if failure else "stopped"
    return Trial(
        name=title(config, known=known), directory=str(path), parameters=parameters(config, known=known),
        rounds=len(records) - 1, asked=asked,
        status="working" if worker and not finished else over, reason="" if finished else damage or failure,
        worker="" if finished else worker,
        cost=Cost(weights=known.weights, multiply_accumulates=known.multiply_accumulates),
        weights=str(result) if records and result.exists() else None,
        validation=last.validation if last else (), test=last.test if last else (),
        below_bicubic=last is not None and last.at_or_below(manifest.references.get(BICUBIC)),
        dead=last.dead if last else (), draws=len(manifest.draws), manifest=manifest, records=tuple(records),
    )  # fmt: skip


def trials_in(storage: UPath) -> list[Trial]:
    """All runs on a storage path, the latest commit first; each name has what tells it from others on the same data."""
    folder = storage / "runs"
    runs = [path for path in folder.iterdir() if path.is_dir()] if folder.exists() else []
    found = sorted(map(read_trial, runs), key=lambda trial: (trial.age, trial.run))
    known: dict[str, list[Manifest]] = {}
    for trial in found:
        known.setdefault(trial.data, []).extend([trial.manifest] if trial.manifest else [])
    apart = {data: _apart(manifests) for data, manifests in known.items()}
    return [
        replace(trial, name=title(trial.manifest.config, apart[trial.data], known=trial.manifest.known))
        if trial.manifest
        else trial
        for trial in found
    ]


def _apart(manifests: Sequence[Manifest]) -> list[str]:
    """The fields in which runs differ that read them."""
    names = [f.name for f in fields(RunConfig) if f.name not in ("arguments", "rounds", *SETS)]
    names += [] if all(m.config.restart == "round" for m in manifests) else ["rounds"]
    values = {
        name: {getattr(m.config, name) for m in manifests if name in m.known.reads or name not in READABLE}
        for name in names
    }
    return [name for name in names if len(values[name]) > 1]


def title(config: RunConfig, also: Iterable[str] = (), known: Told | None = None) -> str:
    """The name of a run for people: `vdsr-f13 ×2 λ=0.15 teacher=vdsr seed=0`, a control as `... w=1 (control)`.

    Other rules and conditions are named too: `reference λ=0.15`, `β=0.1`, `one schedule`, `from student.safetensors`.

    Args:
        also: further fields that tell it from others, such as those that a sweep varies: `learning_rate=0.003`.
        known: what its code tells, where it is known already.
    """
    known, own, also = known or told(config), dict(config.arguments), tuple(also)
    said = {*PARAMETERS, "network", "scales", "beta", "restart", "start", "init", "loss", *own}
    words = {
        f"×{','.join(map(str, config.scales))}": True,
        "w=1 (control)": config.unweighed and not config.beta,
        "w=1": config.unweighed and config.beta > 0,
        _word(config, "rule", also): config.rule != RunConfig.rule and not config.unweighed,
        f"loss={_word(config, 'loss', also)}": config.loss != "squared",
        **{f"{key}={own[key]}": key in also or key not in known.usual for key in own},
        f"λ={config.lam:g}": "lam" in known.reads,
        f"β={config.beta:g}": config.beta > 0,
        as_reference(config.teacher): "teacher" in known.reads,
        "one schedule": config.restart == "never",
        f"from {Path(config.start or '').name}": config.start is not None,
        "init=he": config.init == "he" and config.start is None,
        **{
            f"{name}={value}": True
            for name, value in parameters(config, also, known).items()
            if "." not in name and name not in said
        },
        f"seed={config.seed}": True,
    }
    return printable(" ".join([student_name(config, known, also), *(word for word, holds in words.items() if holds)]))


def student_name(config: RunConfig, known: Told | None = None, also: Iterable[str] = ()) -> str:
    """The student of a run in a word: its network and, where it has one, the number of its feature maps."""
    width = (known or told(config)).width
    return _word(config, "network", also) + ("" if width is None else f"-f{width}")


def _word(config: RunConfig, kind: str, also: Iterable[str]) -> str:
    """The name of network, rule or loss; with digits of its code's digest where that tells runs apart."""
    return label(getattr(config, kind), 6 if kind in also else 0)
