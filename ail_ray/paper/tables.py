"""Recorded runs as tables: a sweep's trials, and the paper's tables with our numbers beside its own."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from ail_ray.delivery.evaluate import benchmark
from ail_ray.imaging import image_sets
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.learning.inference import predict
from ail_ray.learning.records import Row
from ail_ray.networks.architectures import Network
from ail_ray.networks.building import build_model
from ail_ray.networks.counts import multiply_accumulates, parameter_count
from ail_ray.paper.methods import METHODS, SETS, TABLES, Method, printed
from ail_ray.paper.study import Results, Study, available, teacher_weights
from ail_ray.runs.trial import Trial
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


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A method on a test set: means over seeds, and half the width of their 95 % interval."""

    method: str
    set: str
    scale: int
    psnr: float  # dB
    psnr_interval: float | None = None
    ssim: float
    ssim_interval: float | None = None
    paper_psnr: float | None = None
    paper_ssim: float | None = None
    difference: float | None = None  # dB, to the paper's number
    seeds: tuple[int, ...] = ()  # none for a row that only needed weights
    control: str | None = None
    gain: float | None = None  # dB, against the control of the same seed
    gain_interval: float | None = None
    gain_seeds: tuple[int, ...] = ()

    @property
    def where(self) -> str:
        return f"{self.set} ×{self.scale}"


@dataclass(frozen=True, kw_only=True)
class SizeRow:
    """A network in Table 3."""

    method: str
    parameters: int
    paper_parameters: str
    multiply_accumulates: int
    paper_complexity: str
    seconds: float  # an image
    paper_seconds: float | None
    set: str


@dataclass(frozen=True, kw_only=True)
class RunTable:
    """One of Tables 1, 2 and 4 to 8 as a file has it: its rows, where they come from, what is missing."""

    note: str
    rows: tuple[RunRow, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SizeTable:
    """Table 3 as a file has it."""

    note: str
    rows: tuple[SizeRow, ...]
    missing: tuple[str, ...] = ()


Printed = Mapping[tuple[str, str, int], tuple[float, float]]
"""The paper's PSNR in dB and SSIM, by method, set and scale."""


def comparison(number: int, study: Study, results: Results) -> tuple[list[RunRow], list[str]]:
    """The rows of one of Tables 1, 2 and 4 to 8, and a line for everything that is missing."""
    table, paper = TABLES[number], printed()
    rows, missing = list[RunRow](), list[str]()
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
            measured = _benchmark(str(weights), tuple(dict.fromkeys(row.set for row in rows)), tuple(study.scales))
            rows += [_row(table.teacher, row.set, row.scale, [row], paper) for row in measured]
    sets = {name for experiment in study.experiments() for name in experiment.sweep.base.test}
    left_out = [name for name in SETS if name not in sets]
    missing += [f"{', '.join(left_out)}: not measured at this budget"] * bool(left_out)
    return rows, missing


def _rows(
    method: Method, scale: int, trials: Mapping[int, Trial], results: Results, paper: Printed
) -> Iterator[RunRow]:
    """A row for each test set."""
    control = results.get((method.control or "", scale), {})
    for name in dict.fromkeys(row.set for trial in trials.values() for row in trial.test):
        values = {seed: _of(trial, name, scale) for seed, trial in sorted(trials.items())}
        row = replace(_row(method.name, name, scale, list(values.values()), paper), seeds=tuple(values))
        paired = {seed: values[seed].psnr - _of(control[seed], name, scale).psnr for seed in values if seed in control}
        if paired:
            gains = list(paired.values())
            row = replace(
                row, control=method.control, gain=float(np.mean(gains)), gain_interval=interval(gains),
                gain_seeds=tuple(paired),
            )  # fmt: skip
        yield row


def _of(trial: Trial, name: str, scale: int) -> Row:
    (row,) = (row for row in trial.test if (row.set, row.scale) == (name, scale))
    return row


def _row(method: str, name: str, scale: int, values: Sequence[Row], paper: Printed) -> RunRow:
    decibels, similarity = [row.psnr for row in values], [row.ssim for row in values]
    psnr, there = float(np.mean(decibels)), paper.get((method, name, scale))
    return RunRow(
        method=method, set=name, scale=scale, psnr=psnr, psnr_interval=interval(decibels),
        ssim=float(np.mean(similarity)), ssim_interval=interval(similarity),
        paper_psnr=there[0] if there else None, paper_ssim=there[1] if there else None,
        difference=psnr - there[0] if there else None,
    )  # fmt: skip


@cache
def _benchmark(weights: str, sets: tuple[str, ...], scales: tuple[int, ...]) -> list[Row]:
    """The rows of a teacher, which is measured once for all tables that have it."""
    return benchmark(weights, sets, scales, precision="fp32", device="cpu", say=lambda line: None)


def complexity(say: Callable[[str], None]) -> list[SizeRow]:
    """Table 3: parameters, multiply-accumulates at 256x256, and seconds an image on one thread of this CPU.

    The seconds are the median of three passes, or those of one pass that takes longer than 20 s, over Set5 at scale 3;
    without Set5, over the bundled photographs.
    """
    name = "Set5" if available(["Set5"]) else "sample-val"
    images = EvaluationImages.read(name, 3, image_sets.find(name).paths)
    threads, rows = torch.get_num_threads(), list[SizeRow]()
    torch.set_num_threads(1)
    try:
        for method, (network, width, parameters, macs, seconds) in COMPLEXITY.items():
            model = build_model(network, width=width, scale=3).eval()
            row = SizeRow(
                method=method, parameters=parameter_count(model), paper_parameters=parameters,
                multiply_accumulates=multiply_accumulates(model), paper_complexity=macs,
                seconds=_seconds(model, images), paper_seconds=seconds, set=name,
            )  # fmt: skip
            rows.append(row)
            say(f"table 3: {method}, {row.seconds:.3f} s an image of {name} ×3")
    finally:
        torch.set_num_threads(threads)
    return rows


def _seconds(model: Network, images: EvaluationImages) -> float:
    inputs, passes = images.inputs(model.traits.upsampling), list[float]()
    while len(passes) < 3 and sum(passes) < 20:
        started = time.perf_counter()
        for image in inputs:
            predict(model, image)
        passes.append(time.perf_counter() - started)
    return float(np.median(passes)) / len(inputs)


def comparison_markdown(number: int, rows: Sequence[RunRow], missing: Sequence[str], note: str) -> str:
    """One of the tables that compare runs (all except Table 3), as Markdown."""
    lines = [
        f"# Table {number}: {TABLES[number].title}", "", note, "",
        "| method | set | PSNR, dB | paper | difference | against w = 1 | SSIM | paper | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        cells = [
            row.method, row.where, _with(row.psnr, row.psnr_interval, "{:.2f}"),
            _cell(row.paper_psnr, "{:.2f}"), _cell(row.difference, "{:+.2f}"),
            _with(row.gain, row.gain_interval, "{:+.2f}") + _pairs(row),
            _with(row.ssim, row.ssim_interval, "{:.4f}"), _cell(row.paper_ssim, "{:.4f}"),
            str(len(row.seeds) or ""),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "", "Means over seeds, ± half their 95 % interval. Difference: to the paper's number. Against w = 1: to the "
        "matched control of the same seed.", ""
    ]  # fmt: skip
    return "\n".join([*lines, *(f"Missing: {line}." for line in missing)]).rstrip() + "\n"


def complexity_markdown(rows: Sequence[SizeRow], note: str) -> str:
    """Table 3 as Markdown."""
    lines = [
        "# Table 3: size, work and time of the networks", "", note, "",
        f"| network | parameters | paper | multiply-accumulates at 256×256 | paper | s an image of {rows[0].set} ×3 "
        "| paper |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        cells = [
            row.method, f"{row.parameters:,}", row.paper_parameters, f"{row.multiply_accumulates / 1e6:,.0f} M",
            row.paper_complexity, f"{row.seconds:.3f}", _cell(row.paper_seconds, "{:.2f}"),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "", "The paper's work of DRRN is that at 256×256 too; its work of VDSR fits no single size (665 K weights × "
        "65,536 pixels are 43,562 M). FSRCNN at scale 3, with its biases and slopes. The paper prints no row for it."
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _pairs(row: RunRow) -> str:
    """A remark on how many seeds the interval of a gain is over, if these are not all seeds of the method."""
    pairs = len(row.gain_seeds)
    return f" ({pairs} seeds)" if 1 < pairs < len(row.seeds) else ""


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _with(value: float | None, interval: float | None, form: str) -> str:
    return _cell(value, form) + (f" ± {form.replace('+', '').format(interval)}" if interval is not None else "")
