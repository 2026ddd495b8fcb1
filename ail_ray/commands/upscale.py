r"""Enlarge pictures with a trained student. Colour, transparency, profile and camera data are kept.

    # a picture and a folder of pictures, into ./enlarged
    ail upscale photo.jpg ~/holidays \
        --model ail_out/runs/RUN/student.safetensors

    # the pictures of a folder, by the best student so far
    ail upscale ~/holidays --scale 3

    # a film, with its sound: pip install 'ail-ray[video]'
    ail upscale film.mp4

No file is replaced: started again, the same command skips what is there. For files that a phone can run there is
`ail export`. Exit codes: 0 when all pictures were enlarged, 1 when one failed, 2 when the command was refused and
nothing was started.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

from tyro.conf import Positional

from ail_ray.commands.chosen import chosen_model
from ail_ray.commands.parsing import parse, progress, refusals, refuse
from ail_ray.delivery.upscale import enlarge_files, prepare
from ail_ray.imaging.images import read_up_to


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to enlarge, and by which network."""

    images: Positional[tuple[str, ...]] = ()
    """Image files, folders of images, names of image sets, or files of films."""
    model: str = "champion"
    """`champion` (the best student so far, from MLflow's registry), `bicubic`, a teacher's name (`vdsr`, or one in
    $AIL_TEACHER_DIR), or the path of a .safetensors or .onnx file."""
    network: str | None = None
    """Code of the model, `file.py:Name` or `package.module:Name`, if it is a network of your own."""
    scale: int = 2
    """Factor by which pictures are enlarged: 2, 3 or 4; at 1 a network that was trained for it restores their luma."""
    out: str = "enlarged"
    """Folder for the results, which are named NAME-x2.jpg and so on."""
    chroma: bool = False
    """Let the network work on the two planes of colour too, as if they were luma. By default they are enlarged
    bicubically, and at --scale 1 they stay as they are."""
    megapixels: float = 178
    """Largest picture that is read, in millions of pixels. A small file may hold a picture that fills the memory: about
    20 bytes for each of its pixels at --scale 2, and 40 at --scale 3."""
    format: Literal["jpeg", "png", "webp"] | None = None
    """Format of the results; by default that of each picture, and PNG where it is none of these three."""


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, enlarge, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="ail upscale", description=__doc__ or "")
    if not o.images:
        refuse(["images: name files, folders or sets to enlarge"])
    if not 0 < o.megapixels < math.inf:
        refuse([f"megapixels must be positive, got {o.megapixels:g}"])
    read_up_to(o.megapixels)
    work = prepare(partial(chosen_model, network=o.network), o.model, o.scale, o.images, o.out, o.format)
    with progress(sum(job.pixels for job in work.jobs)) as (tell, advance):
        if o.scale == 1 and not o.chroma:
            tell("luma is restored and chroma stays as it is; --chroma restores both")
        return int(enlarge_files(work, o.scale, chroma=o.chroma, say=tell, advance=advance) > 0)
