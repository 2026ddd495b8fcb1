"""Recorded runs as tables: a sweep's trials, and the paper's tables with our numbers beside its own."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from ail_ray.delivery.evaluate import benchmark
from ail_ray.imaging import image_sets
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.learning.inference import predict
from ail_ray.learning.networks import build_model, multiply_accumulates, parameter_count
from ail_ray.paper.methods import METHODS, SETS, TABLES, Method, printed
from ail_ray.paper.study import Outcome, Results, Study, available, teacher_weights
from ail_ray.sweeps.controls import interval

COMPLEXITY: dict[str, tuple[str, int, str, str, float | None]] = {
    "VDSR": ("vdsr", 64, "665K", "2491M", 5.26),
    "VDSR-f32": ("vdsr", 32, "166K", "642M", 2.13),
    "VDSR-f22": ("vdsr", 22, "79K", "311M", 1.46),
    "VDSR-f16": ("vdsr", 16, "42K", "170M", 0.96),
    "VDSR-f13": ("vdsr", 13, "28K", "115M", 0.77),
    "DRRN": ("drrn", 128, "297K", "483337M", 65.98),
    "DRRN-f25": ("drrn", 25, "12K", "18463M", 4.21),
    "FSRCNN": ("fsrcnn", 56, "-", "-", None),
}
"""Table 3: network, width, and what the paper prints: parameters, complexity, seconds an image of Set5 x3."""


def comparison(number: int, study: Study, results: Results) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one of Tables 1, 2 and 4 to 8, and a line for everything that is missing."""
    table, paper = TABLES[number], printed()
    rows, missing = [], []
    for name in table.methods:
        for scale in study.scales:
            trials = results.get((name, scale), {})
            if not trials:
                missing.append(f"{name} ×{scale}: no run has finished")
                continue
            rows += _rows(METHODS[name], scale, trials, results, paper)
            if lacking := [str(seed) for seed in METHODS[name].seeds(study.all_seeds) if seed not in trials]:
                missing.append(f"{name} ×{scale}: not finished with seed {', '.join(lacking)}")
    if table.teacher:
        weights = teacher_weights(study, table.teacher)
        if weights is None:
            missing.append(f"{table.teacher}: the teacher of these runs is {study.teacher}, there are no such weights")
        else:
            sets = tuple(dict.fromkeys(row["set"] for row in rows))
            rows += _measured(table.teacher, str(weights), sets, study.scales, paper)
    measured = {name for experiment in study.experiments() for name in experiment.sweep.test}
    left_out = [name for name in SETS if name not in measured]
    missing += [f"{', '.join(left_out)}: not measured at this budget"] * bool(left_out)
    return rows, missing


def _rows(
    method: Method,
    scale: int,
    trials: Mapping[int, Outcome],
    results: Results,
    paper: Mapping[tuple[str, str, int], tuple[float, float]],
) -> list[dict[str, Any]]:
    """A row for each test set, with means over seeds and half the width of their 95 % interval."""
    control = results.get((method.control or "", scale), {})
    rows = []
    for name in dict.fromkeys(row["set"] for trial in trials.values() for row in trial.test):
        values = {seed: _of(trial, name, scale) for seed, trial in sorted(trials.items())}
        row = _row(method.name, name, scale, list(values.values()), paper) | {"seeds": list(values)}
        paired = [values[seed][0] - _of(control[seed], name, scale)[0] for seed in values if seed in control]
        if paired:
            row |= {
                "control": method.control, "gain": float(np.mean(paired)), "gain_interval": interval(paired),
                "gain_seeds": [seed for seed in values if seed in control],
            }  # fmt: skip
        rows.append(row)
    return rows


def _of(trial: Outcome, name: str, scale: int) -> tuple[float, float]:
    (row,) = (row for row in trial.test if (row["set"], row["scale"]) == (name, scale))
    return row["psnr"], row["ssim"]


def _row(
    method: str,
    name: str,
    scale: int,
    values: Sequence[tuple[float, float]],
    paper: Mapping[tuple[str, str, int], tuple[float, float]],
) -> dict[str, Any]:
    decibels, similarity = ([value[i] for value in values] for i in (0, 1))
    row: dict[str, Any] = {
        "method": method, "set": name, "scale": scale,
        "psnr": float(np.mean(decibels)), "psnr_interval": interval(decibels),
        "ssim": float(np.mean(similarity)), "ssim_interval": interval(similarity),
    }  # fmt: skip
    if there := paper.get((method, name, scale)):
        row |= {"paper_psnr": there[0], "paper_ssim": there[1], "difference": row["psnr"] - there[0]}
    return row


def _measured(
    method: str,
    weights: str,
    sets: Sequence[str],
    scales: Sequence[int],
    paper: Mapping[tuple[str, str, int], tuple[float, float]],
) -> list[dict[str, Any]]:
    rows = _benchmark(weights, tuple(sets), tuple(scales))
    return [_row(method, row["set"], row["scale"], [(row["psnr"], row["ssim"])], paper) for row in rows]


@cache
def _benchmark(weights: str, sets: tuple[str, ...], scales: tuple[int, ...]) -> list[dict[str, Any]]:
    """The rows of a teacher, which is measured once for all tables that have it."""
    return benchmark(weights, sets, scales, precision="fp32", device="cpu", say=lambda line: None)


def complexity(say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Table 3: parameters, multiply-accumulates at 256x256, and seconds an image on one thread of this CPU.

    The seconds are the median of three passes, or those of one pass that takes longer than 20 s, over Set5 at scale 3;
    without Set5, over the bundled photographs.
    """
    name = "Set5" if available(["Set5"]) else "sample-val"
    images = EvaluationImages.read(name, 3, image_sets.find(name).paths)
    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for method, (network, width, parameters, macs, seconds) in COMPLEXITY.items():
            model = build_model(network, width=width, scale=3).eval()
            row = {
                "method": method, "parameters": parameter_count(model), "paper_parameters": parameters,
                "multiply_accumulates": multiply_accumulates(model), "paper_complexity": macs,
                "seconds": _seconds(model, images), "paper_seconds": seconds, "set": name,
            }  # fmt: skip
            rows.append(row)
            say(f"table 3: {method}, {row['seconds']:.3f} s an image of {name} ×3")
    finally:
        torch.set_num_threads(threads)
    return rows


def _seconds(model: Any, images: EvaluationImages) -> float:
    inputs, passes = images.inputs(model.upsampling), list[float]()
    while len(passes) < 3 and sum(passes) < 20:
        started = time.perf_counter()
        for image in inputs:
            predict(model, image)
        passes.append(time.perf_counter() - started)
    return float(np.median(passes)) / len(inputs)


def comparison_markdown(number: int, rows: Sequence[dict[str, Any]], missing: Sequence[str], note: str) -> str:
    """One of the tables that compare runs (all except Table 3), as Markdown."""
    lines = [
        f"# Table {number}: {TABLES[number].title}", "", note, "",
        "| method | set | PSNR, dB | paper | difference | against w = 1 | SSIM | paper | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        cells = [
            row["method"], f"{row['set']} ×{row['scale']}", _with(row["psnr"], row["psnr_interval"], "{:.2f}"),
            _cell(row.get("paper_psnr"), "{:.2f}"), _cell(row.get("difference"), "{:+.2f}"),
            _with(row.get("gain"), row.get("gain_interval"), "{:+.2f}") + _pairs(row),
            _with(row["ssim"], row["ssim_interval"], "{:.4f}"), _cell(row.get("paper_ssim"), "{:.4f}"),
            str(len(row["seeds"])) if "seeds" in row else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "", "Means over seeds, ± half their 95 % interval. Difference: to the paper's number. Against w = 1: to the "
        "matched control of the same seed.", ""
    ]  # fmt: skip
    return "\n".join([*lines, *(f"Missing: {line}." for line in missing)]).rstrip() + "\n"


def complexity_markdown(rows: Sequence[dict[str, Any]], note: str) -> str:
    """Table 3 as Markdown."""
    lines = [
        "# Table 3: size, work and time of the networks", "", note, "",
        f"| network | parameters | paper | multiply-accumulates at 256×256 | paper | s an image of {rows[0]['set']} ×3 "
        "| paper |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        cells = [
            row["method"], f"{row['parameters']:,}", row["paper_parameters"],
            f"{row['multiply_accumulates'] / 1e6:,.0f} M", row["paper_complexity"], f"{row['seconds']:.3f}",
            _cell(row["paper_seconds"], "{:.2f}"),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "", "The paper's work of DRRN is that at 256×256 too; its work of VDSR fits no single size (665 K weights × "
        "65,536 pixels are 43,562 M). FSRCNN at scale 3, with its biases and slopes. The paper prints no row for it."
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _pairs(row: dict[str, Any]) -> str:
    """A remark on how many seeds the interval of a gain is over, if these are not all seeds of the method."""
    pairs = len(row.get("gain_seeds", ()))
    return f" ({pairs} seeds)" if 1 < pairs < len(row["seeds"]) else ""


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _with(value: float | None, interval: float | None, form: str) -> str:
    return _cell(value, form) + (f" ± {form.replace('+', '').format(interval)}" if interval is not None else "")
