"""What students are compared with: bicubic interpolation and teachers, measured on a sweep's evaluation images.

evaluation/<digest>-bicubic.json                 a row of bicubic interpolation on the images of evaluation/<digest>
evaluation/<digest>-<teacher's digest>.json      one of a teacher
pictures/<digest>-<teacher's digest>.safetensors what the teacher makes of the first images, for the pictures of runs
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from upath import UPath

from ail_ray.errors import ConfigError, one_line, printable
from ail_ray.files import read_record, write_record
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.metrics import to_uint8
from ail_ray.learning.inference import evaluate, measured
from ail_ray.learning.records import Row, Rows
from ail_ray.learning.teachers import Teacher
from ail_ray.networks.code import label
from ail_ray.runs.preparation import EvaluationFile, Everywhere, Prepared, here, said
from ail_ray.runs.teacher_maps import UNUSABLE
from ail_ray.tensors import read_tensors, write_tensors

BICUBIC = "bicubic"
PICTURED = 2  # images of a set that runs draw every round, and teachers beside them


def references(
    prepared: Prepared,
    teachers: Mapping[str, Teacher],
    *,
    device: str,
    threads: int,
    everywhere: Everywhere = here,
    say: Callable[[str], None] = print,
) -> dict[str, Rows]:
    """PSNR and SSIM of bicubic interpolation and of each teacher; what is on the storage path is not measured again.

    Args:
        teachers: by their names, such that every worker can load them.

    Returns:
        Rows by the name that people read: `bicubic`, and `teacher=vdsr` for a teacher.

    Raises:
        ConfigError: a teacher fails, or a picture has changed.
    """
    models: dict[str, Teacher | None] = {BICUBIC: None} | {as_reference(name): t for name, t in teachers.items()}
    missing = [
        (path, evaluation, teacher, device, threads)
        for teacher in models.values()
        for evaluation in prepared.evaluation
        if not (path := _path(evaluation.path, teacher)).exists()
        or (teacher is not None and not pictures_path(evaluation.path, teacher.digest).exists())
    ]
    failed = said(everywhere(write_reference, missing), "evaluations of bicubic and teachers", len(missing), say)
    if problems := sorted(filter(None, set(failed))):
        prepared.mistrust()
        raise ConfigError([f"teacher {problem}" for problem in problems])

    def rows(evaluations: tuple[EvaluationFile, ...], teacher: Teacher | None) -> tuple[Row, ...]:
        return tuple(read_record(_path(evaluation.path, teacher), Row) for evaluation in evaluations)

    return {
        name: Rows(validation=rows(prepared.validation, teacher), test=rows(prepared.test, teacher))
        for name, teacher in models.items()
    }


def as_reference(teacher: str) -> str:
    """A teacher as people read it beside students: `teacher=vdsr`, whatever its folder."""
    return printable(f"teacher={label(Path(teacher).name)}")


def write_reference(path: UPath, evaluation: EvaluationFile, teacher: Teacher | None, device: str, threads: int) -> str:
    """Measure a teacher, or bicubic interpolation, in float32 as students are, and write its row.

    Returns:
        Why the teacher cannot, in which case nothing is written; else nothing.
    """
    torch.set_num_threads(threads)
    if teacher is None:
        write_record(path, evaluate(None, EvaluationImages.load(evaluation.path)))
        return ""
    sums, shown = np.zeros(2), dict[str, np.ndarray]()
    try:
        luma = teacher.ready("fp32", torch.device(device))
        for i, pair in enumerate(evaluation.pairs):
            sides = pair.sides(np.float32)
            made = to_uint8(luma(sides).float().cpu().numpy())
            sums += np.array(measured(sides.hr, made, pair.scale), np.float32)  # rounded as students' are
            shown |= {f"{i:04d}": made} if i < PICTURED else {}
    except UNUSABLE as error:
        return one_line(error)
    write_tensors(pictures_path(evaluation.path, teacher.digest), shown)
    psnr, ssim = map(float, sums / len(evaluation.pairs))
    name = evaluation.images.name
    write_record(path, Row(set=name, scale=evaluation.scale, psnr=psnr, ssim=ssim, images=len(evaluation.pairs)))
    return ""


def pictures_path(evaluation: UPath, digest: str) -> UPath:
    """The file of what a teacher makes of the first images of an evaluation file: (H, W) uint8 luma each."""
    return evaluation.parent.parent / "pictures" / f"{evaluation.stem}-{digest}.safetensors"


def teacher_pictures(evaluation: UPath, digest: str) -> list[np.ndarray]:
    """What a teacher has made of the first images of an evaluation file; nothing where it was not asked to."""
    path = pictures_path(evaluation, digest)
    tensors = read_tensors(path)[0] if path.exists() else {}
    return [tensors[name] for name in sorted(tensors)]


def _path(evaluation: UPath, teacher: Teacher | None) -> UPath:
    return evaluation.with_name(f"{evaluation.stem}-{teacher.digest if teacher else BICUBIC}.json")
