"""Bicubic interpolation and teachers: measured once, found again, and who is no better than bicubic."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PlanMaker
from upath import UPath

from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.learning.inference import evaluate
from ail_ray.learning.weights import load_model
from ail_ray.runs.references import below_bicubic, references
from ail_ray.runs.run import run_local
from ail_ray.runs.trial import status
from ail_ray.sweeps.terminal import table


def test_they_are_measured_once_as_students_are(make_plan: PlanMaker, tmp_path: Path) -> None:
    plan, said = make_plan(tmp_path), list[str]()
    assert plan.errors is not None
    teachers = {"/somewhere/named.safetensors": (str(plan.teacher), plan.errors)}
    found = references(plan.prepared, teachers, device="cpu", threads=1, say=said.append)
    assert list(found) == ["bicubic", "teacher=named.safetensors"]
    (file,) = plan.prepared.validation
    images = EvaluationImages.load(file.path)
    assert found["bicubic"] == {"validation": [evaluate(None, images).as_dict()], "test": []}
    teacher = load_model(plan.config.teacher)
    (row,) = found["teacher=named.safetensors"]["validation"]
    assert row.psnr == pytest.approx(evaluate(teacher, images).psnr, abs=1e-3)
    assert said == ["evaluations of bicubic and teachers: 2 to do"]
    assert references(plan.prepared, teachers, device="cpu", threads=1, say=said.append) == found
    assert len(said) == 1, "nothing was left to do"


def _measured(psnr: float, test: float | None = None) -> dict[str, Any]:
    def rows(value: float | None) -> list[dict[str, Any]]:
        return [] if value is None else [{"set": "s", "scale": 2, "psnr": value, "ssim": 0.9}]

    return {"validation": rows(psnr if psnr else None), "test": rows(test)}


def test_at_or_below_bicubic() -> None:
    bicubic = {"bicubic": _measured(30.0, 31.0)}
    assert [below_bicubic(_measured(psnr), bicubic) for psnr in (29.9, 30.0, 30.1)] == [True, True, False]
    assert [below_bicubic(_measured(0, psnr), bicubic) for psnr in (31.0, 31.1)] == [True, False], "no validation"
    assert below_bicubic(_measured(30.1, 1.0), bicubic) is False, "test images choose nothing"
    assert below_bicubic(_measured(1.0), {}) is False, "of an older run nobody knows"


def test_a_run_remembers_what_it_is_held_against(make_plan: PlanMaker, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, rounds=0)
    run_local(plan, 1, torch.device("cpu"), lambda record: None)
    assert status(plan.directory).references == {}, "as one of before"
    held = {"bicubic": _measured(99.0), "teacher": _measured(31.5)}
    directory = run_local(replace(plan, references=held), 1, torch.device("cpu"), lambda record: None)
    assert directory.manifest().references == held
    found = status(UPath(directory.path))
    assert found.below_bicubic
    dead = [" ".join(line.split()) for line in table([replace(found, dead=("layers.3",), draws=1)])]
    assert "finished, dead, at or below bicubic, drawn again 1×" in dead[2]
    lines = [" ".join(line.split()) for line in table([found])]
    assert "finished, at or below bicubic" in lines[2]
    assert lines[3:] == ["bicubic 99.00 dB", "teacher=teacher.safetensors 31.50 dB"]


WORDS = {"psnr": "high", "ssim": 0.9, "scale": 2}


@pytest.mark.parametrize("damaged", ["x", [1], {"bicubic": []}, {"bicubic": {"validation": [WORDS], "test": []}}])
def test_a_manifest_with_other_things_in_their_place_cannot_be_read(
    make_plan: PlanMaker, tmp_path: Path, damaged: Any
) -> None:
    plan = make_plan(tmp_path, rounds=0)
    directory = run_local(plan, 1, torch.device("cpu"), lambda record: None)
    directory.write_manifest(directory.manifest() | {"references": damaged})
    (directory.path / "manifest-previous.json").unlink()  # else that one is used
    assert status(UPath(directory.path)).state == "unreadable"
