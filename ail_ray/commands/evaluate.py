r"""Measure PSNR and SSIM of a network, or of bicubic interpolation, on image sets.

    # bicubic interpolation
    ail evaluate --model bicubic --sets Set5

    # a student, on the photographs that come along
    ail evaluate --sets sample-val --json - \
        --model ail_out/runs/RUN/student.safetensors

Both are measured on luma, without the outermost pixels of the image: a border as wide as the scale. Exit codes: 0 when
all was measured, 2 when the command was refused and nothing was measured.
"""

import sys
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch

from ail_ray.commands.chosen import chosen_model
from ail_ray.commands.parsing import deliver, parse, progress, refusals, refuse, undeliverable
from ail_ray.delivery.evaluate import benchmark


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to measure."""

    model: str = "bicubic"
    """`bicubic`, `champion` (the best student so far, from MLflow's registry), a teacher's name (`vdsr`, or one in
    $AIL_TEACHER_DIR), or the path of a .safetensors or .onnx file."""
    network: str | None = None
    """Code of the model, `file.py:Name` or `package.module:Name`, if it is a network of your own."""
    sets: tuple[str, ...] = ("Set5", "Set14")
    """Sets to measure on: names of folders in $AIL_DATA_DIR, paths or addresses of folders, or `sample-val`."""
    sets_lr: tuple[str, ...] = ()
    """The small pictures of --sets, one folder for each, instead of such that are made here."""
    scales: tuple[int, ...] = (2,)
    """Super-resolution factors to measure: 2, 3 or 4; with --degrade or --sets-lr also 1."""
    degrade: str = ""
    """How small pictures are made of large ones, if not by bicubic downsizing: a recipe, as a sweep takes it. At scale
    1 the model `bicubic` is the picture that it has spoilt."""
    degrade_seed: int = 0
    """With --degrade: seed of the draws."""
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Arithmetic of the network; `bf16` can cost 0.1 dB. An ONNX file computes in its own."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device that the network runs on: cpu, cuda, or one GPU such as cuda:1. An ONNX file runs on the CPU."""
    json: str | None = None
    """File for the rows as JSON; `-` is standard output."""


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, measure, print; returns the exit code."""
    e = parse(Evaluation, arguments, default=Evaluation(), prog="ail evaluate", description=__doc__ or "")
    if problems := undeliverable(e.json):
        refuse(problems)
    with progress(1, sys.stderr) as (tell, advance):
        rows = benchmark(
            e.model, e.sets, e.scales, small=e.sets_lr, precision=e.precision, device=e.device, recipe=e.degrade,
            seed=e.degrade_seed, say=tell, load=partial(chosen_model, network=e.network), advance=advance,
        )  # fmt: skip
    deliver([{"model": e.model, **asdict(row)} for row in rows], e.json)
    return 0
