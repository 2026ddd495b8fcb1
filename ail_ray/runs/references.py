"""What students are compared with: bicubic interpolation and teachers, measured on a sweep's evaluation images.

evaluation/<digest>-bicubic.json            a row of bicubic interpolation on the images of evaluation/<digest>
evaluation/<digest>-<teacher's digest>.json one of a teacher
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from upath import UPath

from ail_ray.files import read_json, write_json
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.learning.inference import evaluate, mean_psnr
from ail_ray.learning.precision import placed
from ail_ray.learning.weights import load_model
from ail_ray.runs.preparation import Everywhere, Prepared, here, said
from ail_ray.runs.teacher_maps import TEACHER

Rows = dict[str, list[dict[str, Any]]]
"""`validation` and `test`: a row for each set and scale, as a round's record has them."""


def references(
    prepared: Prepared,
    teachers: Mapping[str, tuple[str, UPath]],
    *,
    device: str,
    threads: int,
    everywhere: Everywhere = here,
    say: Callable[[str], None] = print,
) -> dict[str, Rows]:
    """PSNR and SSIM of bicubic interpolation and of each teacher; what is on the storage path is not measured again.

    Args:
        teachers: by name, as `teacher_maps` gives them: digest of the weights, and the folder that holds a copy.

    Returns:
        Rows by the name that people read: `bicubic`, and `teacher=vdsr` for a teacher.
    """
    files = dict.fromkeys((*prepared.validation, *prepared.test))
    models = {"bicubic": ("bicubic", None)} | {
        f"teacher={Path(name).name}": (digest, folder / TEACHER) for name, (digest, folder) in teachers.items()
    }
    missing = [
        (path, file.path, weights, device, threads)
        for digest, weights in models.values()
        for file in files
        if not (path := _path(file.path, digest)).exists()
    ]
    said(everywhere(write_reference, missing), "evaluations of bicubic and teachers", len(missing), say)
    return {
        name: {
            group: [read_json(_path(file.path, digest)) for file in of_group]
            for group, of_group in (("validation", prepared.validation), ("test", prepared.test))
        }
        for name, (digest, _) in models.items()
    }


def write_reference(path: UPath, evaluation: UPath, weights: UPath | None, device: str, threads: int) -> None:
    """Measure a network, or bicubic interpolation, in float32 as students are, and write its row."""
    torch.set_num_threads(threads)
    model = placed(load_model(weights), "fp32", torch.device(device)) if weights else None
    write_json(path, evaluate(model, EvaluationImages.load(evaluation)).as_dict())


def below_bicubic(measured: Mapping[str, Any], rows: Mapping[str, Rows]) -> bool:
    """Whether a student, as measured, is no better than bicubic interpolation on the same images.

    Their mean PSNRs on the validation images are compared, or on the test images where there are none.

    Args:
        measured: has the rows `validation` and `test`.
        rows: as `references` returns them, or none.
    """
    group = "validation" if measured["validation"] else "test"
    of_bicubic = rows["bicubic"][group] if "bicubic" in rows else []
    return bool(of_bicubic) and mean_psnr(measured[group]) <= mean_psnr(of_bicubic)


def verdict(trial: Mapping[str, Any]) -> str:
    """The status of a trial of a summary, and with it all that makes its student worth less than it seems."""
    words = {
        "dead": bool(trial.get("dead")), "at or below bicubic": bool(trial.get("below_bicubic")),
        f"drawn again {trial.get('draws')}×": bool(trial.get("draws")),
    }  # fmt: skip
    return ", ".join([trial["status"], *(word for word, holds in words.items() if holds)])


def _path(evaluation: UPath, digest: str) -> UPath:
    return evaluation.with_name(f"{evaluation.stem}-{digest}.json")
