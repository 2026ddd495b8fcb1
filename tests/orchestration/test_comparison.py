"""What compares the trials of a sweep: a table, and pictures where there is something to compare."""

import io
import json
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from ail_ray.orchestration.comparison import parallel_coordinates, pareto_front, pictures, size_and_psnr, table


def trial(psnr: float, weights: int, **parameters: Any) -> dict[str, Any]:
    values = {"rho": None, "width": 3, "lam": None, "teacher": None, "rule": "uniform", "seed": 0, **parameters}
    return {
        "name": f"f{values['width']}", "parameters": values, "rounds": 2, "status": "finished", "test": [],
        "validation": [{"set": "val", "scale": 2, "psnr": psnr, "ssim": 0.9}],
        "cost": {"weights": weights, "multiply_accumulates": 65536 * weights},
    }  # fmt: skip


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
        ([{**trial, "validation": []} for trial in TRIALS], set()),  # nothing was selected
    ],
)
def test_pictures_that_make_no_sense_are_left_out(trials: list[dict[str, Any]], names: set[str]) -> None:
    drawn = pictures(trials)
    assert set(drawn) == names
    for png in drawn.values():
        with Image.open(io.BytesIO(png)) as image:
            assert (np.asarray(image.convert("L")) < 128).mean() > 0.002


def test_the_table_has_a_row_a_trial_and_null_where_it_reads_nothing() -> None:
    content = json.loads(table([*TRIALS[:2], {**TRIALS[3], "validation": [], "status": "failed"}]))
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert [row["val ×2 PSNR, dB"] for row in rows] == [30.5, 30.0, None]
    assert [row["λ"] for row in rows] == [0.1, None, 0.2]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert rows[0]["10⁹ multiply-accumulates at 256×256"] == 0.0065536
    assert json.loads(table([])) == {"columns": [], "data": []}
