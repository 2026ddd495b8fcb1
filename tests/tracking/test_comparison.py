"""What compares the trials of a sweep: a table, and pictures where there is something to compare."""

import io
import json
from dataclasses import replace
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from ail_ray.learning.records import Row, Rows, Spread
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.trial import Cost, Trial
from ail_ray.sweeps.controls import by_round, pareto_front
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.tracking.charts import parallel_coordinates, pictures, size_and_psnr, table


def row(psnr: float) -> Row:
    return Row(set="val", scale=2, psnr=psnr, ssim=0.9)


def trial(psnr: float, weights: int, **parameters: Any) -> Trial:
    values = {"rho": None, "width": 3, "lam": None, "teacher": None, "rule": "uniform", "seed": 0, **parameters}
    return Trial(
        name=f"f{values['width']}", directory="", parameters=values, rounds=2, status="finished",
        validation=(row(psnr),), cost=Cost(weights=weights, multiply_accumulates=65536 * weights),
    )  # fmt: skip


TRIALS = [
    trial(30.5, 100, width=3, lam=0.1, teacher="/data/vdsr.safetensors", rule="eq7"),
    trial(30.0, 100, width=3),
    trial(31.0, 300, width=5, lam=0.3, teacher="none", rule="eq7"),
    trial(29.0, 500, width=7, lam=0.2, teacher="none", rule="eq7"),
]


def texts(figure: matplotlib.figure.Figure | None) -> list[str]:
    assert figure is not None
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_trial_is_a_line_through_its_values_to_its_psnr() -> None:
    figure = parallel_coordinates(TRIALS)
    assert figure is not None
    axis = figure.axes[0]
    names = [label.get_text() for label in axis.get_xticklabels()]
    assert names == ["width", "λ", "teacher", "rule", "validation PSNR, dB"]  # the seed is the same for all
    lines = sorted(np.asarray(line.get_ydata()).tolist() for line in axis.lines if len(line.get_xdata()) == 5)
    # Numbers to scale, words evenly, and at the bottom what is not read.
    assert lines == [
        pytest.approx([0, 0, 0, 1, 0.5]),
        pytest.approx([0, 1 / 3, 0.5, 0, 0.75]),
        pytest.approx([0.5, 1, 1, 0, 1]),
        pytest.approx([1, 2 / 3, 1, 0, 0]),
    ]
    assert texts(figure).count("not read") == 2
    assert {"vdsr.safetensors", "eq7", "uniform", "0.3", "31"} <= set(texts(figure))


def test_the_front_holds_what_no_smaller_student_reaches() -> None:
    assert pareto_front([(100, 30.5), (100, 30.0), (300, 31.0), (500, 29.0), (200, 30.5)]) == [0, 2]
    assert pareto_front([(10, 30), (20, 29), (20, 31), (5, 28), (30, 31), (10, 27)]) == [3, 0, 2]
    assert pareto_front([]) == []
    assert texts(size_and_psnr(TRIALS)) == ["f3", "f5"]


@pytest.mark.parametrize(
    ("trials", "names"),
    [
        (TRIALS, {"parallel-coordinates.png", "size-and-psnr.png"}),
        (TRIALS[:2], {"parallel-coordinates.png"}),
        (TRIALS[:1], set()),
        ([], set()),
        ([replace(trial, validation=()) for trial in TRIALS], set()),  # nothing was selected
    ],
)
def test_pictures_that_make_no_sense_are_left_out(trials: list[Trial], names: set[str]) -> None:
    drawn = pictures(trials)
    assert set(drawn) == names
    for png in drawn.values():
        with Image.open(io.BytesIO(png)) as image:
            assert (np.asarray(image.convert("L")) < 128).mean() > 0.002


def test_the_table_has_a_row_a_trial_and_null_where_it_reads_nothing() -> None:
    trials = (*TRIALS[:2], replace(TRIALS[3], validation=(), status="failed"))
    content = json.loads(table(Summary(trials=trials)))
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert [row["val ×2 PSNR, dB"] for row in rows] == [30.5, 30.0, None]
    assert [row["λ"] for row in rows] == [0.1, None, 0.2]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert rows[0]["10⁹ multiply-accumulates at 256×256"] == 0.0065536
    assert json.loads(table(Summary(trials=()))) == {"columns": [], "data": []}


def test_bicubic_has_a_row_in_the_table_and_who_is_no_better_is_said_to_be() -> None:
    trials = (TRIALS[0], replace(TRIALS[1], below_bicubic=True))
    content = json.loads(table(Summary(trials=trials, references={"bicubic": Rows(validation=(row(30.25),))})))
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert [row["status"] for row in rows] == ["finished", "finished, at or below bicubic", None]
    assert (rows[2]["trial"], rows[2]["val ×2 PSNR, dB"]) == ("bicubic", 30.25)


def records(*decibels: float) -> tuple[RoundRecord, ...]:
    """A round every hundred seconds."""
    spread = Spread(mean=1.0, saturated=1.0, p05=1.0, p25=1.0, p50=1.0, p75=1.0, p95=1.0)
    return tuple(
        RoundRecord(
            round=t, time=100.0 * t, validation=(row(psnr),), importance=spread, seconds={}, epochs=(), loss=None,
            squared_error=None, patches_per_second=None,
        )
        for t, psnr in enumerate(decibels)
    )  # fmt: skip


def test_a_sweep_has_reached_its_best_trial_and_gained_over_the_controls_of_the_same_width_and_seed() -> None:
    trials = [
        replace(TRIALS[0], records=records(30.0, 31.0, 30.5)),  # width 3
        replace(TRIALS[1], records=records(29.0, 30.5, 31.5)),  # its control
        replace(TRIALS[2], records=records(28.0)),  # width 5, stopped, without a control
    ]
    assert by_round(trials, 2) == [
        (0.0, {"best": 30.0, "gain": 1.0}),
        (100.0, {"best": 31.0, "gain": 0.5}),
        (200.0, {"best": 31.5, "gain": -1.0}),
    ]
    assert by_round(trials[:1], 0) == [(0.0, {"best": 30.0})]
    assert by_round([], -1) == []


def legend(figure: matplotlib.figure.Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def shown(figure: matplotlib.figure.Figure) -> list[str]:
    """Numbers on the axis of sizes, those in sight."""
    axis = figure.axes[0]
    low, high = axis.get_xlim()
    return [
        label.get_text()
        for place, label in zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
        if low <= place <= high
    ]


@pytest.mark.parametrize(
    ("sizes", "ticks"),
    [
        ((1419, 2100), ["1.419k", "2.1k"]),
        ((9500, 14000, 64000), ["9.5k", "14k", "64k"]),
        ((9500, 9600, 64000), ["9.5k", "64k"]),  # beside the first there is no room
    ],
)
def test_sizes_are_on_the_axis_and_equal_ones_at_one_place(sizes: tuple[int, ...], ticks: list[str]) -> None:
    kinds = ({}, {"rule": "eq7", "teacher": "none"})
    figure = size_and_psnr([trial(30 + i, size, **kind) for size in sizes for i, kind in enumerate(kinds)])
    assert figure is not None
    figure.draw_without_rendering()
    assert shown(figure) == ticks
    places = {x for points in figure.axes[0].collections for x, _ in np.asarray(points.get_offsets())}
    assert places == set(sizes)


def test_the_two_kinds_of_control_look_different_and_a_flat_front_is_said_to_be_one() -> None:
    plain, once = trial(30.0, 100), trial(30.2, 300)
    once = replace(once, name="vdsr-f5 ×2 w=1 (control) one schedule seed=0")
    figure = size_and_psnr([plain, once, trial(30.1, 300, rule="eq7", teacher="none")])
    assert figure is not None
    kinds = ["with importance", "w = 1, restarted every round", "w = 1, one schedule"]
    assert legend(figure) == ["Pareto front", *kinds]
    shapes = {str(points.get_paths()[0].vertices.tolist()) for points in figure.axes[0].collections}
    assert len(shapes) == 3
    flat = size_and_psnr([trial(30.5, 100), trial(30.0, 300)])
    assert flat is not None
    assert legend(flat)[0] == "Pareto front: flat, no larger student is better"
    (line,) = flat.axes[0].lines
    assert [*zip(*line.get_data(), strict=True)] == [(100, 30.5), (300, 30.5)]
