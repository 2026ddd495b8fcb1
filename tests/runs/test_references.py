"""Bicubic interpolation and teachers: measured once, found again, and who is no better than bicubic."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_files import PlanMaker, newest_manifest, rewrite_manifest
from upath import UPath

from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.learning.inference import evaluate, predict
from ail_ray.learning.records import Row, Rows
from ail_ray.learning.teachers import OurWeights, Teacher
from ail_ray.runs.preparation import plan_data
from ail_ray.runs.references import references, teacher_pictures
from ail_ray.runs.run import run_local
from ail_ray.runs.trial import read_trial
from ail_ray.sweeps.terminal import table


def test_they_are_measured_once_as_students_are(make_plan: PlanMaker, tmp_path: Path) -> None:
    plan, said = make_plan(tmp_path), list[str]()
    teacher, prepared = OurWeights(UPath(plan.config.teacher)), plan_data(plan.config, UPath(tmp_path))
    teachers: dict[str, Teacher] = {"/somewhere/named.safetensors": teacher}
    found = references(prepared, teachers, device="cpu", threads=1, say=said.append)
    assert list(found) == ["bicubic", "teacher=named.safetensors"]
    (file,) = plan.data.validation
    images = EvaluationImages.load(file)
    assert found["bicubic"] == Rows(validation=(evaluate(None, images),))
    assert found["teacher=named.safetensors"] == Rows(validation=(evaluate(teacher.model(), images),))
    shown = [predict(teacher.model(), inputs) for inputs in images.inputs(1)]
    for made, expected in zip(teacher_pictures(file, teacher.digest), shown, strict=True):
        np.testing.assert_array_equal(made, expected)
    assert said == ["evaluations of bicubic and teachers: 2 to do"]
    assert references(prepared, teachers, device="cpu", threads=1, say=said.append) == found
    assert len(said) == 1, "nothing was left to do"


def _measured(psnr: float | None, test: float | None = None) -> Rows:
    def rows(value: float | None) -> tuple[Row, ...]:
        return () if value is None else (Row(set="s", scale=2, psnr=value, ssim=0.9),)

    return Rows(validation=rows(psnr), test=rows(test))


def test_at_or_below_bicubic() -> None:
    bicubic = _measured(30.0, 31.0)
    assert [_measured(psnr).at_or_below(bicubic) for psnr in (29.9, 30.0, 30.1)] == [True, True, False]
    assert [_measured(None, psnr).at_or_below(bicubic) for psnr in (31.0, 31.1)] == [True, False], "no validation"
    assert _measured(30.1, 1.0).at_or_below(bicubic) is False, "test images choose nothing"
    assert _measured(1.0).at_or_below(None) is False, "of an older run nobody knows"


def test_a_run_remembers_what_it_is_held_against(make_plan: PlanMaker, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, rounds=0)
    run_local(plan, 1, torch.device("cpu"), lambda record: None)
    assert read_trial(plan.directory).references == {}, "as one of before"
    held = {"bicubic": _measured(99.0), "teacher": _measured(31.5)}
    directory = run_local(replace(plan, references=held), 1, torch.device("cpu"), lambda record: None)
    assert directory.manifest().references == held
    found = read_trial(directory.path)
    assert found.below_bicubic
    dead = [" ".join(line.split()) for line in table([replace(found, dead=("layers.3",), draws=1)])]
    assert "finished, dead, at or below bicubic, drawn again 1×" in dead[2]
    lines = [" ".join(line.split()) for line in table([found])]
    assert "finished, at or below bicubic" in lines[2]
    assert lines[3:] == ["bicubic 99.00 dB", "teacher=teacher.safetensors 31.50 dB"]


WORDS = {"set": "s", "psnr": "high", "ssim": 0.9, "scale": 2}


@pytest.mark.parametrize("damaged", ["x", [1], {"bicubic": []}, {"bicubic": {"validation": [WORDS], "test": []}}])
def test_a_manifest_with_other_things_in_their_place_cannot_be_read(
    make_plan: PlanMaker, tmp_path: Path, damaged: Any
) -> None:
    plan = make_plan(tmp_path, rounds=0)
    directory = run_local(plan, 1, torch.device("cpu"), lambda record: None)
    path = newest_manifest(directory.path)
    rewrite_manifest(path, references=damaged)
    for other in directory.path.glob("manifests/*.json"):  # else the one before is used
        if other != path:
            other.unlink()
    found = read_trial(directory.path)
    assert (found.status, found.manifest) == ("unreadable", None)
    assert re.search(
        r"manifests/\d{8}\.json: damaged, or written by another version \(.* at `\$\.references", found.reason
    )
