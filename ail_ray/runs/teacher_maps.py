"""A teacher's errors or outputs at every pixel of the corpus, computed once and found by digest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from upath import UPath

from ail_ray.errors import ConfigError, one_line
from ail_ray.files import FileError
from ail_ray.imaging.images import ImageError
from ail_ray.imaging.pairs import Pair
from ail_ray.learning.config import RunConfig
from ail_ray.learning.importance import initial_importance
from ail_ray.learning.inference import error_of
from ail_ray.learning.precision import Precision
from ail_ray.learning.teachers import Luma, Teacher, TeacherError
from ail_ray.networks.code import label
from ail_ray.networks.notebooks import CodeError
from ail_ray.runs.preparation import Data, Everywhere, Prepared, here, said, used
from ail_ray.tensors import as_tensor, read_tensors, write_tensors

Kind = Literal["errors", "outputs"]
TENSOR: dict[Kind, str] = {"errors": "error", "outputs": "output"}
HARDLY_ANY = 0.1  # importance of the median error
UNUSABLE = (FileError, TeacherError, CodeError, ImageError)
"""What a teacher raises that cannot make what is asked of it, or whose pictures cannot be read."""


@dataclass(frozen=True, kw_only=True)
class TeacherMaps:
    """What one teacher makes of a corpus: a folder with a file for each shard."""

    kind: Kind
    teacher: str  # its digest
    folder: UPath

    def of(self, shard: str) -> np.ndarray:
        """The map of a shard by the name of its file: (pixels,) float16."""
        return read_tensors(self.folder / shard)[0][TENSOR[self.kind]]

    def median(self, shard: str) -> float:
        """The median of a shard's map, in two digits.

        Raises:
            FileError: it cannot be read.
        """
        return float(f"{np.median(self.of(shard)):.2g}")

    def remark(self, config: RunConfig, middle: float) -> str:
        """A line on µ0, given the median of the errors: what it is if it follows them, and whether it is far too small.

        By that of one degradation, Eq. 8 makes nearly nothing of the larger errors of another.
        """
        if self.kind != "errors" or "mu0" not in config.reads:
            return ""
        if config.mu0 is None:
            return f"teacher {label(config.teacher)}: --mu0 {middle:g}, the median of its errors"
        (start,) = initial_importance(np.array([middle]), config.mu0, config.alpha0)
        if start >= HARDLY_ANY:
            return ""
        return (
            f"teacher {label(config.teacher)}: half of its errors are above {middle:g}, where --mu0 {config.mu0:g} "
            f"starts the importance at {start:.2f} or less; --mu0 {middle:g} would start it near 0.5"
        )


def planned_maps(teacher: Teacher, config: RunConfig, data: Data, precision: Precision) -> TeacherMaps:
    """Where the maps of a teacher are, or will be: its outputs for distillation, its errors otherwise."""
    kind: Kind = "outputs" if config.beta > 0 else "errors"
    folder = data.storage / kind / f"{teacher.digest}-{data.corpus}-{precision}"
    return TeacherMaps(kind=kind, teacher=teacher.digest, folder=folder)


def teacher_maps(
    teacher: Teacher,
    config: RunConfig,
    prepared: Prepared,
    precision: Precision,
    *,
    device: str,
    threads: int,
    everywhere: Everywhere = here,
    say: Callable[[str], None] = print,
) -> TeacherMaps:
    """The errors `|T(x) - y|` of a teacher, or its outputs `T(x)`, for every shard; computed where they are missing.

    Raises:
        ConfigError: the teacher fails, or a picture has changed; with a line for each shard and reason.
    """
    maps = planned_maps(teacher, config, prepared.data, precision)
    used(maps.folder)
    try:
        teacher = teacher.copied(maps.folder)
    except UNUSABLE as error:
        raise ConfigError([f"teacher {one_line(error)}"]) from error
    missing = [
        (path, maps.kind, prepared.corpus.shard_pairs(s), teacher, precision, device, threads)
        for s, shard in enumerate(prepared.data.shard_paths)
        if not (path := maps.folder / shard.name).exists()
    ]
    failed = said(everywhere(write_map, missing), f"shards of teacher {maps.kind}", len(missing), say)
    if problems := sorted(filter(None, set(failed))):
        prepared.mistrust()
        raise ConfigError([f"teacher {problem}" for problem in problems])
    return maps


def write_map(
    path: UPath, kind: Kind, pairs: Sequence[Pair], teacher: Teacher, precision: Precision, device: str, threads: int
) -> str:
    """Write the teacher's `error` or `output` at every pixel of a shard: (pixels,) float16.

    Returns:
        Why the teacher cannot, in which case nothing is written; else nothing.
    """
    torch.set_num_threads(threads)
    try:
        luma = teacher.ready(precision, torch.device(device))
        pixels = [_mapped(kind, luma, pair) for pair in pairs]
    except UNUSABLE as error:
        return one_line(error)
    write_tensors(path, {TENSOR[kind]: np.concatenate(pixels)})
    return ""


def _mapped(kind: Kind, luma: Luma, pair: Pair) -> np.ndarray:
    """The map of one pair: (pixels,) float16."""
    sides = pair.sides()
    made = luma(sides)
    if kind == "outputs":
        return made.half().cpu().numpy().ravel()
    return error_of(as_tensor(sides.hr).to(made.device), made)
