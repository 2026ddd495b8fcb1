"""Pictures enlarged by a student: luma through the network, chroma and alpha bicubic, tile by tile.

A tile is cut with so much around it that none of its pixels can tell: the tiles together are the picture that the
network makes of the whole, and memory does not grow with what the network computes in between.
"""

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from upath import UPath

from ail_ray.errors import ConfigError, one_line
from ail_ray.files import FileError, as_path, as_tensor, create, unwritable
from ail_ray.imaging import datasets
from ail_ray.imaging.colour import LONGEST_SIDE, SUFFIX, Format, encoded, pixels_of, planes, read_header, read_picture
from ail_ray.imaging.images import ImageError, enlarge
from ail_ray.learning.inference import super_resolve
from ail_ray.learning.models import Network
from ail_ray.learning.precision import Precision

TILE = 512
"""Side of a tile at most, pixels as the network reads them."""
CUBIC = 3
"""Low-resolution pixels around a tile that its bicubic enlargement looks at, and one more."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to enlarge, and where to."""

    source: UPath
    target: UPath
    format: Format
    pixels: int  # of the enlarged picture


def prepare(
    load: Callable[[str, int], Network],
    model: str,
    scale: int,
    inputs: Sequence[str],
    out: str,
    format: Format | None = None,
) -> tuple[Network, list[Job]]:
    """The network, on a GPU if there is one, and what is to be done, from the pictures' headers only.

    Args:
        load: a network by its name, for a scale; raises FileError or ConfigError.
        inputs: image files, folders of them (folders inside are not entered), or named image sets.
        out: folder of the results, `<name>-x<scale>.<format>`.
        format: of the results, instead of each one's own (PNG for what is neither JPEG, PNG nor WebP).

    Raises:
        ConfigError: with a line for all that is wrong with model, scale or out, and for each input that is no
            image, has what the format cannot hold, or would become the same file as another.
    """
    problems, jobs = list[str](), list[Job]()
    if scale not in (2, 3, 4):
        problems.append(f"scale must be 2, 3 or 4, got {scale}")
    network = None
    try:
        network = load(model, scale).to("cuda" if torch.cuda.is_available() else "cpu")
    except ConfigError as error:
        problems += error.problems
    except FileError as error:
        problems.append(f"model: {error}")
    problems += [f"model: {line}" for line in network.problems([scale])] if network else []
    folder = as_path(out)
    for source in _sources(inputs, folder, problems):
        try:
            jobs.append(_job(source, scale, folder, format))
        except ImageError as error:
            problems.append(f"images: {error}")
    same = defaultdict(list)
    for job in jobs:
        same[job.target].append(str(job.source))
    clashes = {target: " and ".join(names) for target, names in same.items() if len(names) > 1}
    problems += [f"images: {names} would become the same {target}" for target, names in clashes.items()]
    problems = problems or [f"out: {line}" for line in unwritable(folder)]
    if problems or network is None:
        raise ConfigError(problems)
    return network, jobs


def enlarge_files(
    model: Network,
    jobs: Sequence[Job],
    scale: int,
    *,
    say: Callable[[str], None],
    advance: Callable[[int], None] = lambda pixels: None,
) -> int:
    """Read, enlarge and write pictures, one after the other; returns how many failed.

    Args:
        say: told a line for each.
        advance: told the enlarged pixels as they are done.
    """
    failed = 0
    for job in jobs:
        start = time.perf_counter()
        if job.target.exists():
            say(f"{job.source}: skipped, {job.target} is there already")
            advance(job.pixels)
            continue
        try:
            picture = read_picture(job.source)
            enlarged = upscale(model, picture.image, scale, advance=advance)
            written = create(job.target, encoded(replace(picture, image=enlarged), job.format))
        except (ImageError, OSError, MemoryError) as error:  # its pixels are damaged, the disk is full: go on
            say(f"{job.source}: failed: {str(error) or type(error).__name__}")
            failed += 1
            continue
        seconds = time.perf_counter() - start
        size = f"{enlarged.width}×{enlarged.height}"
        say(
            f"{job.source}: {job.target} ({size}, {seconds:.1f} s)"
            if written
            else f"{job.target}: came to be meanwhile"
        )
    return failed


def upscale(
    model: Network,
    image: Image.Image,
    scale: int,
    *,
    tile: int = TILE,
    precision: Precision = "fp32",
    advance: Callable[[int], None] = lambda pixels: None,
) -> Image.Image:
    """Enlarge an image of mode L, LA, RGB, RGBA or I;16, of any size; the result has the same mode.

    Args:
        model: serves this scale; best with its weights as `load_model` gives them (see `_steady`).
        tile: side of a tile at most, pixels as the network reads them.
        advance: told the enlarged pixels of each tile when it is done.
    """
    model.eval()
    grid = 1 if model.upsampling > 1 else scale  # pixels that the network reads for each of the image's
    margin = math.ceil(model.radius / grid) + CUBIC
    (width, height), enlarged = image.size, Image.new(image.mode, (image.width * scale, image.height * scale))
    for top, bottom in _parts(height, max(1, tile // grid)):
        for left, right in _parts(width, max(1, tile // grid)):
            up, leftward = max(0, top - margin), max(0, left - margin)
            window = image.crop((leftward, up, min(width, right + margin), min(height, bottom + margin)))
            pixels = np.asarray(window)
            y, *others = planes(pixels)
            inputs = as_tensor(y if model.upsampling > 1 else enlarge(y, scale))
            with _steady(model):
                sr = super_resolve(model, inputs.to(next(model.parameters()).device), precision).cpu().numpy()
            rows = slice((top - up) * scale, (bottom - up) * scale)
            columns = slice((left - leftward) * scale, (right - leftward) * scale)
            done = [plane[rows, columns] for plane in (sr, *(enlarge(plane, scale) for plane in others))]
            enlarged.paste(Image.fromarray(pixels_of(done, pixels.dtype)), (left * scale, top * scale))
            advance(done[0].size)
    return enlarged


def _sources(inputs: Sequence[str], folder: UPath, problems: list[str]) -> list[UPath]:
    """The image files meant, each once; a line for each input that is none."""
    sources: dict[UPath, None] = {}
    for name in inputs:
        path = as_path(name)
        try:
            is_file = path.is_file() or (path.suffix.lower() in datasets.SUFFIXES and not path.is_dir())
            sources |= dict.fromkeys((path,) if is_file else datasets.find(name).paths)
        except datasets.DatasetError as error:
            problems.append(f"images: {error}")
        except Exception as error:  # whatever an object store's library raises, or that it is not installed
            problems.append(f"images: {name}: cannot be read ({one_line(error)})")
        if path == folder:
            problems.append(f"out: {folder} is read too, its results would be enlarged next time; name another folder")
    return list(sources)


def _job(source: UPath, scale: int, folder: UPath, format: Format | None) -> Job:
    """What is to be done with a picture; ImageError if it cannot."""
    header = read_header(source)
    kind, height, width = format or header.format, header.height * scale, header.width * scale
    if kind == "jpeg" and header.mode in ("LA", "RGBA"):
        raise ImageError(f"{source}: JPEG cannot hold its transparency; choose png or webp")
    if max(height, width) > LONGEST_SIDE[kind]:
        raise ImageError(f"{source}: {height}×{width} pixels are too many for {kind}; choose png")
    target = folder / f"{source.stem}-x{scale}{SUFFIX[kind]}"
    return Job(source=source, target=target, format=kind, pixels=height * width)


def _parts(length: int, most: int) -> Iterator[tuple[int, int]]:
    """A length in parts of about the same size, `most` at most: none so small that torch would compute it otherwise."""
    count = math.ceil(length / most)
    for i in range(count):
        yield length * i // count, length * (i + 1) // count


@contextmanager
def _steady(model: Network) -> Iterator[None]:
    """Give a pixel the same bits wherever in a window it stands, as far as torch on a CPU can.

    oneDNN's convolutions do so for weights in torch's own layout (not channels-last); its deconvolution does not,
    torch's own does.
    """
    if model.upsampling == 1:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the switch speaks of Intel's GPUs when it is first used
        with torch.backends.mkldnn.flags(enabled=False):
            yield
