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

from ail_ray.commandline import parse, progress, refuse
from ail_ray.errors import ConfigError
from ail_ray.learning.export import export
from ail_ray.learning.models import Network
from ail_ray.learning.upscale import enlarge_files, prepare
from ail_ray.learning.weights import load_model


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to enlarge, or to export."""

    images: Positional[tuple[str, ...]] = ()
    """Image files, folders of images, or names of image sets."""
    model: str = "champion"
    """Path of safetensors weights, or `champion`: the one in MLflow's model registry."""
    scale: int = 2
    """Factor by which pictures are enlarged: 2, 3 or 4."""
    out: str = "enlarged"
    """Folder for the results, which are named NAME-x2.jpg and so on."""
    format: Literal["jpeg", "png", "webp"] | None = None
    """Format of the results; by default that of each picture, and PNG where it is none of these three."""
    export: Literal["fp32", "fp16", "int8"] | None = None
    """Write the student as ONNX with weights of this kind, and say how far its results are from the student's own."""
    bytes: bool = False
    """With --export: let the file take and give luma in 8 bits, instead of floats in [0, 1]."""
    calibration: str = "sample"
    """With --export int8: folder or named set of images, by which the ranges of its integers are chosen."""


def load(name: str, scale: int) -> Network:
    """A network by the path of its weights; `champion` is that of a scale."""
    if name != "champion":
        return load_model(name)
    from ail_ray.orchestration.champion import load_champion  # here: with Ray and MLflow it takes two seconds to load

    return load_champion(scale)


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
        model, jobs = prepare(load, o.model, o.scale, o.images, o.out, o.format)
        if o.export:
            say(export(model, o.out, o.export, o.scale, eight_bit=o.bytes, calibration=o.calibration))
    except ConfigError as error:
        refuse(error.problems)
    with progress(sum(job.pixels for job in jobs)) as (tell, advance):
        return int(enlarge_files(model, jobs, o.scale, say=tell, advance=advance) > 0)


if __name__ == "__main__":
    run(main, again=GOES_ON)
