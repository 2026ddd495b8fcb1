"""A teacher's errors or outputs at every pixel of the corpus, computed once and found by digest."""

from collections.abc import Callable
from typing import Literal

import torch
from upath import UPath

from ail_ray.files import write_bytes, write_tensors
from ail_ray.imaging.shards import Shard
from ail_ray.learning.config import Protocol
from ail_ray.learning.inference import error_map, output_map
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.weights import load_model, weights_digest
from ail_ray.runs.preparation import Everywhere, Prepared, here, said

Kind = Literal["errors", "outputs"]


MAPS = {"errors": ("error", error_map), "outputs": ("output", output_map)}  # by folder: tensor, and what computes it


TEACHER = "teacher.safetensors"


def map_kind(protocol: Protocol) -> Kind:
    """What a run reads of its teacher: `outputs` for distillation, and `errors` otherwise."""
    return "outputs" if protocol.beta > 0 else "errors"


def map_paths(kind: Kind, digest: str, prepared: Prepared, precision: Precision) -> list[UPath]:
    """The files in which the maps of a teacher are, or will be, one for each shard."""
    folder = prepared.storage / kind / f"{digest}-{prepared.corpus.digest}-{precision}"
    return [folder / shard.name for shard in prepared.shard_paths]


def teacher_maps(
    kind: Kind,
    teacher: UPath,
    prepared: Prepared,
    precision: Precision,
    *,
    device: str,
    threads: int,
    everywhere: Everywhere = here,
    say: Callable[[str], None] = print,
) -> tuple[str, UPath]:
    """The digest of a teacher, and the folder with its errors `|T(x) - y|`, or its outputs `T(x)`, for every shard.

    They are computed where they are missing, from a copy of the teacher beside them, which every worker can read.
    """
    digest = weights_digest(teacher)
    paths = map_paths(kind, digest, prepared, precision)
    folder = paths[0].parent
    copy = folder / TEACHER
    if not copy.exists():
        write_bytes(copy, teacher.read_bytes())
    missing = [
        (path, kind, shard, copy, precision, device, threads)
        for path, shard in zip(paths, prepared.shard_paths, strict=True)
        if not path.exists()
    ]
    said(everywhere(write_map, missing), f"shards of teacher {kind}", len(missing), say)
    return digest, folder


def write_map(
    path: UPath, kind: Kind, shard: UPath, teacher: UPath, precision: Precision, device: str, threads: int
) -> None:
    """Write the teacher's `error` or `output` at every pixel of one shard: (pixels,) float16."""
    torch.set_num_threads(threads)
    target = torch.device(device)
    model = placed(load_model(teacher), precision, target)
    name, compute = MAPS[kind]
    write_tensors(path, {name: compute(model, Shard(shard, target, model.upsampling), precision)})
