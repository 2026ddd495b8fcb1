"""A teacher's errors or outputs at every pixel of the corpus, computed once and found by digest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from upath import UPath

from ail_ray.files import read_tensors, write_bytes, write_tensors
from ail_ray.imaging.shards import Shard
from ail_ray.learning.config import RunConfig
from ail_ray.learning.inference import error_map, output_map
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.weights import load_model, weights_digest
from ail_ray.runs.preparation import Data, Everywhere, here, said, used

Kind = Literal["errors", "outputs"]


MAPS = {"errors": ("error", error_map), "outputs": ("output", output_map)}  # by folder: tensor, and what computes it


@dataclass(frozen=True, kw_only=True)
class TeacherMaps:
    """What one teacher makes of a corpus: a folder with a file for each shard, and a copy of the teacher."""

    kind: Kind
    teacher: str  # digest of its weights
    folder: UPath

    @property
    def weights(self) -> UPath:
        """The copy of the teacher, which every worker can read."""
        return self.folder / "teacher.safetensors"

    def of(self, shard: str) -> np.ndarray:
        """The map of a shard by the name of its file: (pixels,) float16."""
        return read_tensors(self.folder / shard)[0][MAPS[self.kind][0]]


def planned_maps(teacher: UPath, config: RunConfig, data: Data, precision: Precision) -> TeacherMaps:
    """Where the maps of a teacher are, or will be: its outputs for distillation, its errors otherwise."""
    kind, digest = "outputs" if config.beta > 0 else "errors", weights_digest(teacher)
    folder = data.storage / kind / f"{digest}-{data.corpus}-{precision}"
    return TeacherMaps(kind=kind, teacher=digest, folder=folder)  # type: ignore[arg-type]


def teacher_maps(
    teacher: UPath,
    config: RunConfig,
    data: Data,
    precision: Precision,
    *,
    device: str,
    threads: int,
    everywhere: Everywhere = here,
    say: Callable[[str], None] = print,
) -> TeacherMaps:
    """The errors `|T(x) - y|` of a teacher, or its outputs `T(x)`, for every shard; computed where they are missing."""
    maps = planned_maps(teacher, config, data, precision)
    used(maps.folder)
    if not maps.weights.exists():
        write_bytes(maps.weights, teacher.read_bytes())
    missing = [
        (path, maps.kind, shard, maps.weights, precision, device, threads)
        for shard in data.shard_paths
        if not (path := maps.folder / shard.name).exists()
    ]
    said(everywhere(write_map, missing), f"shards of teacher {maps.kind}", len(missing), say)
    return maps


def write_map(
    path: UPath, kind: Kind, shard: UPath, teacher: UPath, precision: Precision, device: str, threads: int
) -> None:
    """Write the teacher's `error` or `output` at every pixel of one shard: (pixels,) float16."""
    torch.set_num_threads(threads)
    target = torch.device(device)
    model = placed(load_model(teacher), precision, target)
    name, compute = MAPS[kind]
    write_tensors(path, {name: compute(model, Shard(shard, target, model.traits.upsampling), precision)})
