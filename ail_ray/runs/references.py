"""What students are compared with: bicubic interpolation and teachers, measured on a sweep's evaluation images.

evaluation/<digest>-bicubic.json            a row of bicubic interpolation on the images of evaluation/<digest>
evaluation/<digest>-<teacher's digest>.json one of a teacher
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from upath import UPath

from ail_ray.errors import printable
from ail_ray.files import read_record, write_record
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.learning.inference import evaluate
from ail_ray.learning.precision import placed
from ail_ray.learning.records import Row, Rows
from ail_ray.learning.weights import load_model
from ail_ray.runs.preparation import Data, Everywhere, here, said
from ail_ray.runs.teacher_maps import TeacherMaps

BICUBIC = "bicubic"


def references(
    data: Data,
    teachers: Mapping[str, TeacherMaps],
    *,
    device: str,
    threads: int,
    everywhere: Everywhere = here,
    say: Callable[[str], None] = print,
) -> dict[str, Rows]:
    """PSNR and SSIM of bicubic interpolation and of each teacher; what is on the storage path is not measured again.

    Args:
        teachers: their maps by their names.

    Returns:
        Rows by the name that people read: `bicubic`, and `teacher=vdsr` for a teacher.
    """
    models = {BICUBIC: (BICUBIC, None)} | {
        as_reference(name): (maps.teacher, maps.weights) for name, maps in teachers.items()
    }
    missing = [
        (path, evaluation, weights, device, threads)
        for digest, weights in models.values()
        for evaluation in dict.fromkeys((*data.validation, *data.test))
        if not (path := _path(evaluation, digest)).exists()
    ]
    said(everywhere(write_reference, missing), "evaluations of bicubic and teachers", len(missing), say)

    def rows(evaluations: tuple[UPath, ...], digest: str) -> tuple[Row, ...]:
        return tuple(read_record(_path(evaluation, digest), Row) for evaluation in evaluations)

    return {
        name: Rows(validation=rows(data.validation, digest), test=rows(data.test, digest))
        for name, (digest, _) in models.items()
    }


def as_reference(teacher: str) -> str:
    """A teacher as people read it beside students: `teacher=vdsr`, whatever its folder."""
    return printable(f"teacher={Path(teacher).name}")


def write_reference(path: UPath, evaluation: UPath, weights: UPath | None, device: str, threads: int) -> None:
    """Measure a network, or bicubic interpolation, in float32 as students are, and write its row."""
    torch.set_num_threads(threads)
    model = placed(load_model(weights), "fp32", torch.device(device)) if weights else None
    write_record(path, evaluate(model, EvaluationImages.load(evaluation)))


def _path(evaluation: UPath, digest: str) -> UPath:
    return evaluation.with_name(f"{evaluation.stem}-{digest}.json")
