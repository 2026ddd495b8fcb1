"""The trials of a sweep compared: a table, and pictures of what was searched and of what a student costs.

They are drawn here and not in `reporting`, because the sweep itself sends them to MLflow; they know plain trials only.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from ail_ray.learning.config import Value
from ail_ray.learning.records import Rows, mean_psnr
from ail_ray.runs.trial import Trial
from ail_ray.sweeps.controls import is_control, pareto_front
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.tracking.descriptions import SYMBOLS

TEXT = 0.06  # of an axis' length, what a written number takes
TICK = 0.12  # of the distance of the smallest and the largest, what a written size takes
IMPORTANCE, RESTARTED, ONE_SCHEDULE = "with importance", "w = 1, restarted every round", "w = 1, one schedule"
KINDS = {IMPORTANCE: "o", RESTARTED: "s", ONE_SCHEDULE: "D"}  # markers


def table(summary: Summary) -> bytes:
    """The trials, and what they are held against, as a table of MLflow: JSON with `columns` and `data`.

    What a row lacks is null there.
    """
    rows = [_row(trial) for trial in summary.trials]
    rows += [{"trial": name, **_measured(of)} for name, of in summary.references.items()]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return json.dumps({"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}).encode()


def pictures(trials: Sequence[Trial]) -> dict[str, bytes]:
    """Pictures of the trials that have a validation PSNR, as PNG by file name; only those that have enough to show."""
    shown = [trial for trial in trials if trial.validation and trial.cost]
    drawn = {"parallel-coordinates.png": parallel_coordinates(shown), "size-and-psnr.png": size_and_psnr(shown)}
    return {name: _as_png(figure) for name, figure in drawn.items() if figure is not None}


def parallel_coordinates(trials: Sequence[Trial]) -> Figure | None:
    """A line for each trial through what was searched, to its PSNR; None where nothing has two values."""
    values = {
        name: [trial.parameters.get(name) for trial in trials] for name in (trials[0].parameters if trials else ())
    }
    names = [name for name, all_of in values.items() if len(set(all_of) - {None}) > 1]
    if "width" in names and "rho" in names:
        names.remove("width")  # follows from ρ
    if not names:
        return None
    decibels = [mean_psnr(trial.validation) for trial in trials]
    figure = Figure(figsize=(2.2 * (len(names) + 1), 4), layout="constrained")
    axis = figure.subplots()
    heights = [_heights(axis, x, values[name]) for x, name in enumerate(names)]
    heights.append(_heights(axis, len(names), decibels))
    for line in sorted(zip(*heights, strict=True), key=lambda line: line[-1]):  # the best on top
        axis.plot(range(len(names) + 1), line, color=colormaps["viridis"](line[-1]), marker="o", linewidth=2)
    axis.set_xticks(range(len(names) + 1), [*(SYMBOLS.get(name, name) for name in names), "validation PSNR, dB"])
    axis.set(yticks=(), ylim=(-0.08, 1.08), xlim=(-0.3, len(names) + 0.5))
    axis.spines[:].set_visible(False)
    return figure


def size_and_psnr(trials: Sequence[Trial]) -> Figure | None:
    """Draw PSNR against the number of weights, with arithmetic as colour, ρ or width as label, and the Pareto front.

    None if all students are of one size.
    """
    costs = [trial.cost for trial in trials if trial.cost]
    weights = [cost.weights for cost in costs]
    if len(set(weights)) < 2:
        return None
    decibels = [mean_psnr(trial.validation) for trial in trials]
    work = [cost.multiply_accumulates / 1e9 for cost in costs]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    places = list(zip(weights, decibels, strict=True))
    front = [places[i] for i in pareto_front(places)]
    edge = [*front, (max(weights), front[-1][1])]  # to where the largest is: what costs more and is no better is below
    said = "Pareto front" if len(front) > 1 else "Pareto front: flat, no larger student is better"
    axis.step(*zip(*edge, strict=True), where="post", color="0.6", linestyle="--", label=said, zorder=1)
    norm = Normalize(min(work), max(work))
    kinds = [_kind(trial) for trial in trials]
    for kind, marker in KINDS.items():
        if chosen := [i for i, k in enumerate(kinds) if k == kind]:
            x, y, c = ([values[i] for i in chosen] for values in (weights, decibels, work))
            points = axis.scatter(x, y, c=c, s=60, marker=marker, norm=norm, label=kind, zorder=2)
    for trial, weight, psnr in zip(trials, weights, decibels, strict=True):
        if (weight, psnr) in front:
            rho, width = trial.parameters["rho"], trial.parameters["width"]
            text = f"f{width}" if rho is None else f"f{width}, ρ = {rho:.2g}"
            axis.annotate(text, (weight, psnr), xytext=(6, -12), textcoords="offset points", fontsize="small")
    figure.colorbar(points, label="multiply-accumulates at 256×256, 10⁹")
    axis.set(xscale="log", xlabel="weights of the student", ylabel="validation PSNR, dB")
    axis.margins(x=0.2, y=0.1)
    axis.xaxis.set(
        major_locator=FixedLocator(_ticks(weights)), major_formatter=EngFormatter(sep=""), minor_locator=NullLocator()
    )
    figure.legend(loc="outside upper left", ncols=2, fontsize="small")  # inside it would hide students
    return figure


def _kind(trial: Trial) -> str:
    """How a trial was trained: with importance, or as which kind of control."""
    if not is_control(trial.parameters):
        return IMPORTANCE
    return ONE_SCHEDULE if "one schedule" in trial.name else RESTARTED


def _ticks(weights: Sequence[int]) -> list[int]:
    """Sizes to label on the axis: those of the students, without any that is too near to the one before it."""
    ticks = list[int]()
    for weight in sorted(set(weights)):
        if not ticks or weight / ticks[-1] > (max(weights) / min(weights)) ** TICK:
            ticks.append(weight)
    return ticks


def _row(trial: Trial) -> dict[str, Value]:
    size = {
        "weights": trial.cost.weights, "10⁹ multiply-accumulates at 256×256": trial.cost.multiply_accumulates / 1e9
    } if trial.cost else {}  # fmt: skip
    searched = {SYMBOLS.get(name, name): value for name, value in trial.parameters.items()}
    measured = _measured(trial)
    return {"trial": trial.name, **measured, **size, **searched, "rounds": trial.rounds, "status": trial.verdict}


def _measured(rows: Rows) -> dict[str, Value]:
    return {
        f"{row.where} {name}": round(value, digits)
        for row in rows.all
        for name, value, digits in (("PSNR, dB", row.psnr, 3), ("SSIM", row.ssim, 4))
    }


def _heights(axis: Axes, x: int, values: Sequence[Any]) -> list[float]:
    """Label the vertical line at `x` with these values; their heights in [0, 1]: numbers to scale, others evenly.

    None, which stands for a value that its trial does not read, is at the bottom.
    """
    rest = sorted({value for value in values if value is not None})
    named = [*([None] if None in values else []), *rest]
    if len(named) > 1 and named == rest and not isinstance(rest[0], str):
        height = {number: (number - rest[0]) / (rest[-1] - rest[0]) for number in rest}
        named = [rest[-1]]
        for number in reversed(rest):
            named += [number] if height[named[-1]] - height[number] > TEXT else []
    else:
        height = {value: i / max(1, len(named) - 1) for i, value in enumerate(named)}
    axis.axvline(x, color="0.8", zorder=0)
    for value in named:
        text = (
            f"{value:.4g}" if isinstance(value, float) else Path(str(value)).name if value is not None else "not read"
        )
        axis.annotate(text, (x, height[value]), xytext=(5, 4), textcoords="offset points", fontsize="small")
    return [height[value] for value in values]


def _as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    return buffer.getvalue()
