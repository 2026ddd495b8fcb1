"""What the page of a sweep shows, as plain data, charts and pictures for its template."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from upath import UPath

from ail_ray.entry import called
from ail_ray.errors import counted
from ail_ray.reporting import sentences
from ail_ray.reporting.films import comparisons, films
from ail_ray.reporting.findings import Findings, findings
from ail_ray.reporting.page import Content
from ail_ray.reporting.svg import Series, curves, scatter
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.trial import Trial
from ail_ray.sweeps.controls import is_control, pareto_front

MARKED, ROWS, CHARTS = 8, 200, 6  # conditions with a colour, rows of a table, charts of PSNR
DASHES = 4  # ways of drawing a control
LOG = "log scale"  # in place of a unit
Chart = tuple[str, Markup]


def sweep_page(out: UPath) -> Content:
    """The values that `page.html` shows of the sweep in a folder."""
    sweep = findings(out)
    marks = _marks(sweep)
    shown, beside = _shown(sweep)
    return {
        "kind": "sweep", "title": f"Sweep {sweep.name}" if sweep.name else "A sweep",
        "answers": list(sentences.answers(sweep)),
        "state": sentences.state(sweep), "question": sentences.question(sweep), "asked": _asked(sweep),
        "config": {name: _plain(value) for name, value in sweep.config.items()},
        "marks": marks, "conditions": sweep.conditions[:ROWS], "references": sentences.references(sweep),
        "where": sentences.where(sweep.conditions[0]) if sweep.conditions else "", "sets": _others(sweep),
        "gains": {condition.label: sweep.gains(condition) for condition in sweep.conditions[:ROWS]},
        "charts": _curves(sweep, marks), "front": _front(sweep, marks),
        "films": list(films(shown)) if shown else [], "comparisons": list(comparisons(shown, beside)) if shown else [],
        "shown": shown.name if shown else "",
        "troubles": [t for t in sweep.trials if t.reason or t.useless or t.directory in sweep.gone][:ROWS],
        "gone": sweep.gone,
        "incidents": [(t.name, line) for t in sweep.trials if t.manifest for line in t.manifest.incidents][:ROWS],
        "trials": sweep.trials[:ROWS], "left_out": max(0, len(sweep.trials) - ROWS),
        "origin": _origin(sweep), "commands": _commands(sweep, shown),
    }  # fmt: skip


def _shown(sweep: Findings) -> tuple[Trial | None, Trial | None]:
    """The trial whose pictures are shown, which is the best one with a run directory, and its control."""
    students = sorted(sweep.conditions, key=lambda c: c.is_control)  # stable: the best of each kind first
    for condition in students:
        there = [trial for trial in condition.trials if trial.records]
        if there:
            best = max(there, key=lambda trial: trial.psnr)
            control = None if condition.is_control else sweep.control(condition)
            return best, next((t for t in (control.trials if control else []) if t.seed == best.seed), None)
    begun = [trial for trial in sweep.trials if trial.records]
    return max(begun, key=lambda trial: trial.psnr, default=None), None


def _asked(sweep: Findings) -> dict[str, str]:
    names = {"teacher": "Teacher", "rule": "Rules", "lam": "λ", "rho": "ρ", "width": "Width", "seed": "Seeds",
             "train": "Training images", "validation": "Validation", "test": "Test sets"}  # fmt: skip
    several = {name for name, value in sweep.config.items() if isinstance(value, list | tuple) and len(value) > 1}
    names |= {name: name.replace("_", " ").capitalize() for name in sorted(several - names.keys())}
    shown = {
        label: _plain(sweep.config[name])
        for name, label in names.items()
        if sweep.config.get(name) not in (None, [], ())
    }
    if "Width" in shown:
        shown.pop("ρ", None)
    return shown


def _origin(sweep: Findings) -> str:
    """On which machine and by which code the runs were made."""
    manifest = sweep.manifest
    if manifest is None:
        return ""
    begun = sentences.date(manifest.created if sweep.started is None else sweep.started)
    where, with_what = (
        ", ".join(f"{name} {value}" for name, value in several.items())
        for several in (manifest.machine, manifest.versions)
    )
    shape = f"{manifest.precision}, {counted(manifest.workers, 'worker')} × {counted(manifest.threads, 'thread')}"
    return f"Begun {begun}; {shape}; {where}; {with_what}."


def _marks(sweep: Findings) -> dict[str, tuple[str, str]]:
    """A letter and a style for each condition, by label: the best comes first, unfinished ones last.

    Controls have no colour, and each its own dashes; those of one schedule are told from those with restarts.
    """
    labels = dict.fromkeys([*(c.label for c in sweep.conditions), *(t.label for t in sweep.trials)])
    plain = {t.label: " once" if "one schedule" in t.name else "" for t in sweep.trials if is_control(t.parameters)}
    controls = {label: f"control k{n % DASHES}{once}" for n, (label, once) in enumerate(plain.items())}
    marks: dict[str, tuple[str, str]] = {}
    colours = iter(range(MARKED))
    for i, label in enumerate(labels):
        style = controls[label] if label in controls else f"c{next(colours, 0)}"
        marks[label] = (chr(ord("A") + i), style) if i < MARKED else ("", "faint")
    return marks


def _curves(sweep: Findings, marks: dict[str, tuple[str, str]]) -> list[Chart]:
    """Charts of what every round measured: means over seeds for each condition, and thin lines for each seed."""
    trials = [trial for trial in sweep.trials if trial.records]
    sets = dict.fromkeys(row.where for trial in trials for row in trial.records[0].all)
    wanted: list[tuple[str, str, Callable[[RoundRecord], float | None]]] = []
    for where in list(sets)[:CHARTS]:
        wanted.append((f"PSNR on {where}", "dB", partial(_psnr, where=where)))
    wanted += [
        ("Mean importance", "", lambda r: r.importance.mean),
        ("Pixels of importance 1", "%", lambda r: 100 * r.importance.saturated),
        ("Weighted training loss", LOG, lambda r: r.loss),
        ("Squared error of training crops", LOG, lambda r: r.squared_error),
    ]
    return [chart for what, unit, of in wanted if (chart := _curve(what, unit, of, trials, marks))]


def _psnr(record: RoundRecord, where: str) -> float | None:
    """The PSNR of a round; None before anything was trained, since random weights would only stretch the axis."""
    rows = (row.psnr for row in record.all if row.where == where)
    return None if record.loss is None else next(rows, None)


def _curve(
    what: str, unit: str, of: Callable[[RoundRecord], float | None], trials: Sequence[Trial],
    marks: dict[str, tuple[str, str]],
) -> Chart | None:  # fmt: skip
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    for trial in trials:
        points = [
            (float(r.round), value) for r in trial.records if (value := of(r)) is not None and math.isfinite(value)
        ]
        if points := [(x, y) for x, y in points if unit != LOG or y > 0]:
            lines.setdefault(trial.label, []).append(points)
    if not lines:
        return None
    series = []
    for label, each in lines.items():
        mark, style = marks[label]
        if mark and len(each) > 1:
            series += [Series(mark="", style=f"{style} thin", points=points, said=label) for points in each]
        by_round: dict[float, list[float]] = {}
        for x, y in (point for points in each for point in points):
            by_round.setdefault(x, []).append(y)
        mean = [(x, float(np.mean(ys))) for x, ys in sorted(by_round.items()) if len(ys) == len(each)]
        series.append(Series(mark=mark, style=style, points=mean, said=label))
    flat = [(s.mark, s.points[0][1]) for s in series if s.mark and len({y for _, y in s.points}) == 1 < len(s.points)]
    caption = f"{what}{', ' + unit if unit else ''}{''.join(f'; {mark} is flat at {y:.4g}' for mark, y in flat)}"
    svg = curves(f"{caption}, by round", "round", "" if unit == LOG else unit, series, log=unit == LOG)
    return caption, Markup(svg)


def _front(sweep: Findings, marks: dict[str, tuple[str, str]]) -> Content | None:
    """A chart of PSNR against parameters; None unless there are students of two sizes."""
    sized = [(c, float(c.size)) for c in sweep.conditions if c.size is not None]
    if len({size for _, size in sized}) < 2:
        return None
    points = [(size, c.psnr.mean) for c, size in sized]
    on = pareto_front(points)
    series = [
        Series(mark=marks[c.label][0], style=marks[c.label][1], points=[point], bars=[c.psnr.half],
               said=f"{c.label}: {c.size:,} parameters, {sentences.estimate(c.psnr)} dB")
        for (c, _), point in zip(sized, points, strict=True)
    ]  # fmt: skip
    chart = Markup(scatter("PSNR in dB against parameters", "parameters", series, [points[i] for i in on]))
    return {"chart": chart, "members": [sized[i][0] for i in on]}


def _others(sweep: Findings) -> list[str]:
    """The sets with a column of their own: all, except for a single set that conditions are compared on."""
    groups = [list(dict.fromkeys(n for c in sweep.conditions for n in c.on(g))) for g in ("validation", "test")]
    compared = groups[0] or groups[1]
    return [name for group in groups for name in group if group is not compared or len(group) > 1]


def _commands(sweep: Findings, shown: Trial | None) -> list[tuple[str, str]]:
    commands = [("The sweep; goes on where it stands", sweep.command)] if sweep.command else []
    if shown is not None and shown.weights and shown.manifest:
        weights, config = shown.path / "students" / f"round-{shown.rounds:03d}.safetensors", shown.manifest.config
        named = dict.fromkeys([*config.test, *config.validation])
        if named:
            scales = dict.fromkeys(str(row.scale) for row in shown.all)
            measure = called("evaluate", "--model", str(weights), "--sets", *named, "--scales", *scales)
            commands.append(("PSNR and SSIM of the best student", measure))
        storage, run = str(shown.path.parent.parent), shown.run
        commands.append(("Its run, round by round", called("runs", "--storage", storage, "--show", run)))
    return commands


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
