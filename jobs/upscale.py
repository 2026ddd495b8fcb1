r"""Enlarge pictures with a trained student. Colour, transparency, profile and camera data are kept.

    # a picture and a folder of pictures, into ./enlarged
    python jobs/upscale.py photo.jpg ~/holidays \
        --model ail_out/runs/RUN/student.safetensors

    # the best student so far, as a file for a phone
    python jobs/upscale.py --model champion --export int8 \
        --bytes --out phone

No file is replaced: started again, the same command skips what is there. Exit codes: 0 when all pictures were enlarged,
1 when one failed, 2 when the command was refused and nothing was started.
"""

from dataclasses import dataclass
from typing import Literal

from ail_ray.entry import GOES_ON, run, say

from tyro.conf import Positional

from ail_ray.commands.chosen import chosen_model
from ail_ray.commands.parsing import parse, progress, refuse
from ail_ray.delivery.onnx import export
from ail_ray.delivery.upscale import enlarge_files, prepare
from ail_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to enlarge, or to export."""

    images: Positional[tuple[str, ...]] = ()
    """Image files, folders of images, or names of image sets."""
    model: str = "champion"
    """`champion` (the best student so far, from MLflow's registry), `bicubic`, a teacher's name (`vdsr`, or one in
    $AIL_TEACHER_DIR), or the path of a .safetensors or .onnx file."""
    scale: int = 2
    """Factor by which pictures are enlarged: 2, 3 or 4."""
    out: str = "enlarged"
    """Folder for the results, which are named NAME-x2.jpg and so on."""
    format: Literal["jpeg", "png", "webp"] | None = None
    """Format of the results; by default that of each picture, and PNG where it is none of these three."""
    export: Literal["fp32", "fp16", "int8"] | None = None
    """Write the student as ONNX too, and say how it differs from torch. The file reads and writes luma as BT.601 has it
    in studio range: Y / 255 for Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255, with R, G and B in 0..255."""
    bytes: bool = False
    """With --export: luma as 8-bit integers, Y itself, in and out, and not Y / 255 as floats."""
    calibration: str = "sample"
    """With --export int8: folder or named set of images, by which the ranges of its integers are chosen."""


def main(arguments: list[str]) -> int:
    """Parse, enlarge, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="upscale.py", description=__doc__ or "")
    problems = ["bytes goes with --export"] if o.bytes and not o.export else []
    if o.calibration != Options.calibration and o.export != "int8":
        problems.append("calibration goes with --export int8")
    if not o.images and not o.export:
        problems.append("images: name files, folders or sets to enlarge, or choose --export")
    if problems:
        refuse(problems)
    try:
        work = prepare(chosen_model, o.model, o.scale, o.images, o.out, o.format)
        if o.export:
            say(export(work.network, o.out, o.export, o.scale, eight_bit=o.bytes, calibration=o.calibration))
    except ConfigError as error:
        refuse(error.problems)
    with progress(sum(job.pixels for job in work.jobs)) as (tell, advance):
        return int(enlarge_files(work, o.scale, say=tell, advance=advance) > 0)


if __name__ == "__main__":
    run(main, again=GOES_ON)
