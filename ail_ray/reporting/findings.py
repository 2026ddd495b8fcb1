"""What a sweep found: its trials, read from run directories, and its conditions over seeds with their controls."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from upath import UPath

from ail_ray.files import as_path, read_record
from ail_ray.learning.config import Plain, Value
from ail_ray.learning.records import Row, Rows
from ail_ray.runs.records import Manifest
from ail_ray.runs.trial import Trial, read_trial
from ail_ray.sweeps.controls import Estimate, condition, from_zeros, is_control, matched
from ail_ray.sweeps.sweep_file import Begun, Summary, SweepFile


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Finished trials that differ in nothing but the seed."""

    parameters: dict[str, Value]  # without the seed
    trials: list[Trial]
    psnr: Estimate
    gain: Estimate | None = None  # dB against the matched control, seed by seed

    @property
    def label(self) -> str:
        return self.trials[0].label

    @property
    def size(self) -> int | None:
        """Number of weights of the student."""
        cost = self.trials[0].cost
        return cost.weights if cost else None

    @property
    def is_control(self) -> bool:
        return is_control(self.parameters)

    @property
    def from_zeros(self) -> bool:
        """Whether round 0 trained nothing, so that there is one round of training less than in the control."""
        return from_zeros(self.parameters)

    def on(self, group: str) -> dict[str, tuple[Estimate, Estimate]]:
        """PSNR in dB and SSIM by image set, of `validation` or `test`."""
        rows = [_by_set(getattr(trial, group)) for trial in self.trials]
        return {
            name: (Estimate.of([r[name].psnr for r in rows]), Estimate.of([r[name].ssim for r in rows]))
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
    config: Plain  # as `SweepConfig.plain`
    trials: list[Trial]
    gone: set[str]  # run directories that are not there; rows are the summary's
    conditions: list[Condition]  # the best first
    summed_up: Mapping[str, Rows] = field(default_factory=dict)  # the summary's references

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of the first run that can be read."""
        return next((trial.manifest for trial in self.trials if trial.manifest), None)

    @property
    def references(self) -> dict[str, Rows]:
        """What the students are held against, by name: `bicubic`, `teacher=vdsr`; empty for sweeps of before."""
        found = dict(self.summed_up)
        for trial in self.trials:
            found |= trial.references
        return found

    def control(self, student: Condition) -> Condition | None:
        """The control of a condition: plain training of the same student, with as many rounds."""
        wanted = matched(student.parameters)
        return next((c for c in self.conditions if c.is_control and matched(c.parameters) == wanted), None)

    def gains(self, student: Condition) -> dict[str, Estimate]:
        """Differences to the control seed by seed, in dB, on each set that was measured."""
        control = None if student.is_control else self.control(student)
        plain = {t.seed: _by_set(t.all) for t in control.trials} if control else {}
        paired: dict[str, list[float]] = {}
        for trial in student.trials:
            there = plain.get(trial.seed, {})
            for name, row in _by_set(trial.all).items():
                if name in there:
                    paired.setdefault(name, []).append(row.psnr - there[name].psnr)
        return {name: Estimate.of(values) for name, values in paired.items()}


def findings(out: UPath) -> Findings:
    """Read `sweep.json` and `summary.json` of a sweep's folder, and the run directories that they name.

    Raises:
        FileError: one of them is damaged, or is something else.
    """
    begun = read_record(path, SweepFile) if (path := out / "sweep.json").exists() else None
    over = read_record(path, Summary) if (path := out / "summary.json").exists() else None
    summed_up = {trial.directory: trial for trial in over.trials} if over else {}
    if begun:
        rounds = begun.config.get("rounds")
        asked = rounds if isinstance(rounds, int) else None  # with several each entry says its own
        trials = [_trial(out, each, each.rounds or asked, summed_up.get(each.directory)) for each in begun.trials]
    else:
        trials = [_trial(out, _entry(trial), None, trial) for trial in summed_up.values()]
    return Findings(
        name=begun.name if begun else "", command=begun.command if begun else "",
        state=begun.state if begun else "finished", started=begun.started if begun else None,
        asked=begun.asked if begun else len(trials), config=begun.config if begun else _common(trials),
        trials=sorted(trials, key=lambda t: (t.status != "finished", -t.psnr, t.name)),
        gone={trial.directory for trial in trials if trial.manifest is None and not trial.path.exists()},
        conditions=_conditions(trials), summed_up=over.references if over else {},
    )  # fmt: skip


def _entry(trial: Trial) -> Begun:
    return Begun(name=trial.name, directory=trial.directory, parameters=trial.parameters)


def _trial(out: UPath, entry: Begun, rounds: int | None, summary: Trial | None) -> Trial:
    """A trial as its run directory says, or as the summary does if that is gone."""
    recorded = as_path(entry.directory)
    moved = out / "runs" / recorded.name  # the folder may have been copied here from elsewhere
    directory = recorded if recorded.exists() or not moved.exists() else moved
    named: Plain = {"name": entry.name, "parameters": entry.parameters}
    if not directory.exists():
        if summary is not None:
            return replace(summary, reason=entry.reason or summary.reason)
        status = "failed" if entry.reason else "unreadable"
        return Trial(**named, directory=entry.directory, status=status, reason=entry.reason or "")  # type: ignore[arg-type]
    found = read_trial(directory, rounds)
    if entry.reason and found.status in ("failed", "stopped"):
        found = replace(found, status="failed", reason=entry.reason)
    return replace(found, **named)


def _common(trials: Sequence[Trial]) -> Plain:
    """The configuration of a sweep that wrote none: that of a run, with everything that the trials searched over."""
    config = next((trial.manifest.config for trial in trials if trial.manifest), None)
    if config is None:
        return {}
    searched = {name: dict.fromkeys(trial.parameters.get(name) for trial in trials) for name in trials[0].parameters}
    return vars(config) | {name: [v for v in values if v is not None] for name, values in searched.items()}


def _conditions(trials: Iterable[Trial]) -> list[Condition]:
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        if trial.status == "finished" and trial.all:
            groups.setdefault(condition(trial.parameters), []).append(trial)
    plain = {matched(t.parameters): t.psnr for group in groups.values() for t in group if is_control(t.parameters)}
    made = []
    for key, group in groups.items():
        gains = [
            t.psnr - plain[m] for t in group if not is_control(t.parameters) and (m := matched(t.parameters)) in plain
        ]
        made.append(
            Condition(
                parameters=dict(key), trials=group, psnr=Estimate.of([trial.psnr for trial in group]),
                gain=Estimate.of(gains) if gains else None,
            )
        )  # fmt: skip
    return sorted(made, key=lambda c: (-c.psnr.mean, c.label))


def _by_set(rows: Iterable[Row]) -> dict[str, Row]:
    return {row.where: row for row in rows}
