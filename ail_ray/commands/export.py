r"""Write a student as ONNX, a file for phones and other devices, and say how it differs from torch.

    # the best student so far, for a phone
    ail export --precision int8 --bytes \
        --out phone

    # a student of your own, in half precision
    ail export --precision fp16 --scale 3 \
        --model ail_out/runs/RUN/student.safetensors

The file reads and writes luma as BT.601 has it in studio range: Y / 255 for Y = 16 + (65.481 R + 128.553 G + 24.966 B)
/ 255, with R, G and B in 0..255. Exit codes: 0 when it was written, 2 when the command was refused.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from ail_ray.commands.chosen import chosen_model
from ail_ray.commands.parsing import parse, refusals, refuse
from ail_ray.delivery.upscale import prepare
from ail_ray.entry import say


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to write, and how."""

    model: str = "champion"
    """`champion` (the best student so far, from MLflow's registry), a teacher's name (`vdsr`, or one in
    $AIL_TEACHER_DIR), or the path of a .safetensors file."""
    network: str | None = None
    """Code of the model, `file.py:Name` or `package.module:Name`, if it is a network of your own."""
    scale: int = 2
    """Factor by which pictures are enlarged: 2, 3 or 4."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Arithmetic of the file, which int8 makes the smallest and fp32 the most accurate."""
    bytes: bool = False
    """Luma as 8-bit integers, Y itself, in and out, and not Y / 255 as floats."""
    calibration: str = "sample"
    """With --precision int8: folder or named set of images, by which the ranges of its integers are chosen."""
    out: str = "."
    """Folder for the file, whose name says what it is."""


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, write, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="ail export", description=__doc__ or "")
    if o.calibration != Options.calibration and o.precision != "int8":
        refuse(["calibration goes with --precision int8"])
    from ail_ray.delivery.onnx import export  # here: with ONNX it takes seconds to load

    network = prepare(partial(chosen_model, network=o.network), o.model, o.scale, (), o.out).network
    say(export(network, o.out, o.precision, o.scale, eight_bit=o.bytes, calibration=o.calibration))
    return 0
