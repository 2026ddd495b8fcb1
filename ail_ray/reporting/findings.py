"""What a sweep found: its trials, read from run directories, and its conditions over seeds with their controls."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from upath import UPath

from ail_ray.files import FileError, as_path, read_json
from ail_ray.learning.config import SEARCHED
from ail_ray.learning.inference import mean_psnr
from ail_ray.learning.networks import build_model, parameter_count
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.lease import Lease
from ail_ray.runs.references import Rows, below_bicubic
from ail_ray.sweeps.controls import interval

GROUPS = ("validation", "test")
MALFORMED = (FileError, KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds, and half the width of its 95 % interval (Student's t), which is None for a single seed."""

    mean: float
    half: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        return cls(mean=float(np.mean(values)), half=interval(values), count=len(values))

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run, in the rounds that it was asked for."""

    name: str
    directory: UPath
    parameters: dict[str, Any]
    state: str  # finished, working, failed, stopped, or unreadable
    reason: str = ""  # why it failed, or cannot be read
    gone: bool = False  # its directory is not there; rows are the summary's
    manifest: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)  # rows of the last round
    test: list[dict[str, Any]] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)  # layers that put nothing out after the last round
    below_bicubic: bool = False

    @property
    def useless(self) -> str:
        """Why a finished student is of no use: it is dead, or no better than bicubic interpolation; empty otherwise."""
        if self.state != "finished":
            return ""
        found = [f"{', '.join(self.dead)} lets nothing through: the student is dead"] if self.dead else []
        return "; ".join([*found, *["it ends at or below bicubic interpolation"] * self.below_bicubic])

    @property
    def one_schedule(self) -> bool:
        """Whether one schedule of the learning rate spans all rounds: another kind of control than with restarts."""
        return bool(self.manifest) and self.manifest["config"].get("restart") == "never"

    @property
    def seed(self) -> int:
        return int(self.parameters["seed"])

    @property
    def label(self) -> str:
        """The name of the trial without the seed, which it shares with the others of its condition."""
        return self.name.removesuffix(f" seed={self.seed}")

    @property
    def is_control(self) -> bool:
        """Whether this is plain training: importance 1 everywhere, and no teacher whose outputs are learned."""
        return self.parameters["rule"] == "uniform" and self.parameters["teacher"] is None

    @property
    def psnr(self) -> float:
        """The PSNR that trials are compared by, in dB: the mean over validation sets, or over test sets without any."""
        return mean_psnr(self.validation or self.test)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Finished trials that differ in nothing but the seed."""

    parameters: dict[str, Any]  # without the seed
    trials: list[Trial]
    size: int | None  # parameters of the student
    psnr: Estimate
    gain: Estimate | None = None  # dB against the control of the same width, seed by seed

    @property
    def label(self) -> str:
        return self.trials[0].label

    @property
    def is_control(self) -> bool:
        return self.trials[0].is_control

    @property
    def from_zeros(self) -> bool:
        """Whether round 0 trained nothing, so that there is one round of training less than in the control."""
        return self.parameters["teacher"] == "none"

    def on(self, group: str) -> dict[str, tuple[Estimate, Estimate]]:
        """PSNR in dB and SSIM by image set, of `validation` or `test`."""
        rows = [_by_set(getattr(trial, group)) for trial in self.trials]
        return {
            name: (Estimate.of([r[name]["psnr"] for r in rows]), Estimate.of([r[name]["ssim"] for r in rows]))
            for name in rows[0]
            if all(name in r for r in rows)
        }


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A sweep, finished or not."""

    name: str
    command: str
    state: str  # finished, stopped or running
    started: float | None  # seconds since 1970
    asked: int  # trials
    config: dict[str, Any]
    trials: list[Trial]
    conditions: list[Condition]  # the best first
    summed_up: dict[str, Rows] = field(default_factory=dict)  # the summary's references

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the first run that can be read; empty if there is none."""
        return next((trial.manifest for trial in self.trials if trial.manifest), {})

    @property
    def references(self) -> dict[str, Rows]:
        """What the students are held against, by name: `bicubic`, `teacher=vdsr`; empty for sweeps of before."""
        found = dict(self.summed_up)
        for trial in self.trials:
            for name, rows in trial.manifest.get("references", {}).items():
                teacher = f"teacher={as_path(trial.manifest['config']['teacher']).name}"
                found[name if name == "bicubic" else teacher] = rows
        return found

    def control(self, condition: Condition) -> Condition | None:
        """The control of a condition: plain training at the same width, with as many rounds."""
        same = (c for c in self.conditions if c.is_control and c.parameters["width"] == condition.parameters["width"])
        return next(same, None)

    def gains(self, condition: Condition) -> dict[str, Estimate]:
        """Differences to the control seed by seed, in dB, on each set that was measured."""
        control = None if condition.is_control else self.control(condition)
        plain = {t.seed: _by_set([*t.validation, *t.test]) for t in control.trials} if control else {}
        paired: dict[str, list[float]] = {}
        for trial in condition.trials:
            there = plain.get(trial.seed, {})
            for name, row in _by_set([*trial.validation, *trial.test]).items():
                if name in there:
                    paired.setdefault(name, []).append(row["psnr"] - there[name]["psnr"])
        return {name: Estimate.of(values) for name, values in paired.items()}


def findings(out: UPath) -> Findings:
    """Read `sweep.json` and `summary.json` of a sweep's folder, and the run directories that they name.

    Raises:
        FileError: one of them is damaged.
        MALFORMED: any of these, if one is whole but is something else.
    """
    begun, over = (read_json(path) if path.exists() else None for path in (out / "sweep.json", out / "summary.json"))
    entries = (begun or over or {})["trials"]
    summary = {trial["directory"]: trial for trial in over["trials"]} if over else {}
    rounds = int(begun["config"]["rounds"]) if begun else None
    trials = [_trial(out, entry, rounds, summary.get(entry["directory"])) for entry in entries]
    config = begun["config"] if begun else _common(trials)
    return Findings(
        name=str((begun or {}).get("name", "")), command=str((begun or {}).get("command", "")),
        state=str(begun["state"] if begun else "finished"), started=float(begun["started"]) if begun else None,
        asked=int(begun["asked"]) if begun else len(trials), config=config,
        trials=sorted(trials, key=lambda t: (t.state != "finished", -t.psnr, t.name)),
        conditions=_conditions(trials, config), summed_up=_references((over or {}).get("references", {})),
    )  # fmt: skip


@cache
def student_size(network: str, width: int, depth: int | None, scale: int | None) -> int:
    """How many parameters a student has."""
    with torch.device("meta"):  # without memory for them: the width is whatever a file says
        return parameter_count(build_model(network, width=width, depth=depth, scale=scale))


def _trial(out: UPath, entry: dict[str, Any], rounds: int | None, summary: dict[str, Any] | None) -> Trial:
    recorded = as_path(entry["directory"])
    moved = out / "runs" / recorded.name  # the folder may have been copied here from elsewhere
    directory = recorded if recorded.exists() or not moved.exists() else moved
    known = Trial(
        name=str(entry["name"]), directory=directory, state="unreadable", reason=str(entry.get("reason") or ""),
        parameters={name: entry["parameters"][name] for name in SEARCHED},
    )  # fmt: skip
    if not directory.exists():
        rows: dict[str, Any] = {group: _rows((summary or {}).get(group, [])) for group in GROUPS}
        state = str(summary["status"]) if summary else "failed" if known.reason else "unreadable"
        rows |= {
            "dead": _names((summary or {}).get("dead")),
            "below_bicubic": bool((summary or {}).get("below_bicubic")),
        }
        return replace(known, state=state, gone=True, **rows)
    run = RunDirectory(directory)
    try:
        manifest = run.manifest()
        asked = manifest["config"]["rounds"] if rounds is None else rounds
        records = run.records()[: asked + 1]
        for record in records:  # all that is shown of it
            record |= {group: _rows(record[group]) for group in GROUPS}
            record["importance"] = {name: float(record["importance"][name]) for name in ("mean", "saturated")}
            record |= {
                name: None if record[name] is None else float(record[name]) for name in ("loss", "squared_error")
            }
            record["round"] = int(record["round"])
        held = _references(manifest.get("references", {}))
        failure = known.reason or run.failure() or ""
    except MALFORMED as error:
        return replace(known, reason=known.reason or f"{type(error).__name__}: {error}")
    finished = len(records) > asked
    state = "finished" if finished else "working" if Lease(directory).worker() else "failed" if failure else "stopped"
    last: dict[str, Any] = {group: records[-1][group] if records else [] for group in GROUPS}
    return replace(
        known, state=state, reason="" if finished else failure, manifest=manifest | {"references": held},
        records=records, dead=_names(records[-1].get("dead")) if records else [],
        below_bicubic=bool(records) and below_bicubic(last, held), **last,
    )  # fmt: skip


def _common(trials: Sequence[Trial]) -> dict[str, Any]:
    """The configuration of a sweep that wrote none: that of a run, with everything that the trials searched over."""
    config = next((trial.manifest["config"] for trial in trials if trial.manifest), None)
    if config is None:
        return {}
    searched = {name: dict.fromkeys(trial.parameters[name] for trial in trials) for name in trials[0].parameters}
    return config | {name: [v for v in values if v is not None] for name, values in searched.items()}


def _conditions(trials: Iterable[Trial], config: dict[str, Any]) -> list[Condition]:
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        if trial.state == "finished" and (trial.validation or trial.test):
            groups.setdefault(tuple(v for k, v in trial.parameters.items() if k != "seed"), []).append(trial)
    made = []
    for group in groups.values():
        parameters = {k: v for k, v in group[0].parameters.items() if k != "seed"}
        size = None
        if config:
            scale = config["scales"][0] if config["network"] == "fsrcnn" else None
            size = student_size(config["network"], parameters["width"], config["depth"], scale)
        psnr = Estimate.of([trial.psnr for trial in group])
        made.append(Condition(parameters=parameters, trials=group, size=size, psnr=psnr))
    controls = {c.parameters["width"]: {t.seed: t.psnr for t in c.trials} for c in made if c.is_control}
    beside = []
    for c in made:
        control = {} if c.is_control else controls.get(c.parameters["width"], {})
        paired = [trial.psnr - control[trial.seed] for trial in c.trials if trial.seed in control]
        beside.append(replace(c, gain=Estimate.of(paired)) if paired else c)
    return sorted(beside, key=lambda c: (-c.psnr.mean, c.label))


def _references(found: Mapping[str, Any]) -> dict[str, Rows]:
    return {str(name): {group: _rows(rows[group]) for group in GROUPS} for name, rows in found.items()}


def _names(found: Sequence[Any] | None) -> list[str]:
    return [str(name) for name in found or ()]


def _rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"set": str(r["set"]), "scale": int(r["scale"]), "psnr": float(r["psnr"]), "ssim": float(r["ssim"])}
        for r in rows
    ]


def _by_set(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"{row['set']} ×{row['scale']}": row for row in rows}
