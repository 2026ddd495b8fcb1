"""Enlarging pictures tile by tile: a student enlarges the luma, bicubic interpolation chroma and alpha.

A tile is cut with so much around it that none of its pixels can tell: the tiles together are the picture that the
network makes of the whole, and memory does not grow with what the network computes in between. The order in which a
processor adds numbers depends on where in a tile a pixel is, so that a value close to half a grey level may be rounded
the other way: tiles and whole picture differ by one grey level here and there.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from upath import UPath

from ail_ray.delivery import film
from ail_ray.errors import ConfigError, one_line, printable
from ail_ray.files import FileError, as_path, create, inside, resolved, unwritable
from ail_ray.imaging import image_sets
from ail_ray.imaging.colour import (
    CUBIC,
    LONGEST_SIDE,
    SUFFIX,
    Format,
    Header,
    encoded,
    pixels_of,
    planes,
    read_header,
    read_picture,
    with_alpha_enlarged,
    without_hidden,
)
from ail_ray.imaging.images import PLUGGED_IN, ImageError, TooLargeError, enlarge
from ail_ray.learning.inference import super_resolve
from ail_ray.learning.precision import Precision, placed
from ail_ray.networks.architectures import SCALES, Network, device_of, unserved
from ail_ray.tensors import as_tensor

SUFFIXES = (*image_sets.SUFFIXES, ".jpe", ".gif", *PLUGGED_IN)
"""Suffixes of the files taken from a folder; more than those of an image set, of which people expect photographs."""
TILE = 512
"""Largest side of a tile, in pixels as the network reads them."""

Span = tuple[int, int]
"""The first row or column of a part of a picture, and the one after its last."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to enlarge, and the file for the result."""

    source: UPath
    target: UPath
    format: Format
    pixels: int  # of the enlarged picture
    lost: str  # what of the picture is not read, in words; empty for most
    is_film: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """A network, the pictures that it is to enlarge, and what is left out of the inputs."""

    network: Network
    jobs: list[Job]
    unreadable: list[tuple[UPath, ImageError]]  # files that should be pictures and are none, and why
    passed_over: str  # files of other kinds, and folders inside, in words; empty if there are none


def prepare(
    load: Callable[[str, int], Network],
    model: str,
    scale: int,
    inputs: Sequence[str],
    out: str,
    format: Format | None = None,
) -> Work:
    """The network, on a GPU if there is one, and what is to be done, from the pictures' headers only.

    A file that should be a picture and cannot be read as one is left out, unless there is no other.

    Args:
        load: a network by the word for it, for a scale; raises FileError or ConfigError.
        inputs: image files, folders of them (folders inside are not entered), or named image sets.
        out: folder of the results, `<name>-x<scale>.<format>`.
        format: the format of all results, instead of that of each picture (PNG if it is none of JPEG, PNG and WebP).

    Raises:
        ConfigError: with a line for all that is wrong with model, scale or out, and for each input that is not there,
            has what the format cannot hold, or would become the same file as another.
    """
    problems, jobs, unreadable = list[str](), list[Job](), list[tuple[UPath, ImageError]]()
    if scale not in SCALES:
        problems.append(f"scale must be 1, 2, 3 or 4, got {scale}")
    network = None
    try:
        network = placed(load(model, scale), "fp32", torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    except ConfigError as error:
        problems += error.problems
    except FileError as error:
        problems.append(f"model: {error}")
    problems += [f"model: {line}" for line in unserved(network, [scale])] if network else []
    folder = as_path(out)
    sources, passed_over = _sources(inputs, folder, problems)
    for source in sources:
        try:
            if source.suffix.lower() in film.SUFFIXES:
                jobs.append(_film_job(source, film.read_film(source), scale, folder))
                continue
            header = read_header(source)
        except ImageError as error:
            remedy = "; --megapixels reads more" if isinstance(error, TooLargeError) else ""
            unreadable.append((source, ImageError(f"{error}{remedy}")))
            continue
        try:
            jobs.append(_job(source, header, scale, folder, format))
        except ImageError as error:
            problems.append(f"images: {error}")
    jobs = _apart(jobs)
    same = defaultdict(list)
    for job in jobs:
        same[job.target].append(str(job.source))
    clashes = {target: " and ".join(names) for target, names in same.items() if len(names) > 1}
    problems += [f"images: {names} would become the same {target}" for target, names in clashes.items()]
    problems = problems or [f"out: {line}" for line in unwritable(folder)]
    if problems or (unreadable and not jobs):
        problems += [f"images: {error}" for _, error in unreadable]
    if problems or network is None:
        raise ConfigError(problems)
    return Work(network=network, jobs=jobs, unreadable=unreadable, passed_over=passed_over)


def enlarge_files(
    work: Work,
    scale: int,
    *,
    chroma: bool = False,
    say: Callable[[str], None],
    advance: Callable[[int], None] = lambda pixels: None,
) -> int:
    """Read, enlarge and write pictures, one after the other; returns how many failed.

    Args:
        chroma: as in `upscale`.
        say: is called with a line for each that is left out, for each picture, and at the end if any failed.
        advance: is called with the number of enlarged pixels whenever some are done.
    """
    if work.passed_over:
        say(work.passed_over)
    for source, problem in work.unreadable:
        say(_failed(source, problem))
    failed = len(work.unreadable)
    for job in work.jobs:
        start = time.perf_counter()
        if _exists(job.target):
            say(printable(f"{job.source}: skipped, {job.target} is there already"))
            advance(job.pixels)
            continue
        try:
            if job.is_film:
                say(_film_done(job, _enlarge_film(work.network, job, scale, advance), time.perf_counter() - start))
                continue
            picture = read_picture(job.source)
            enlarged = upscale(work.network, picture.image, scale, chroma=chroma, advance=advance)
            written = create(job.target, encoded(replace(picture, image=enlarged), job.format))
        except (ImageError, OSError, MemoryError) as error:  # its pixels are damaged, the disk is full: go on
            say(_failed(job.source, error))
            failed += 1
            continue
        seconds = time.perf_counter() - start
        size = f"{enlarged.width}×{enlarged.height}"
        done = f"{job.source}: {job.target} ({size}, {seconds:.1f} s)" + (f"; {job.lost}" if job.lost else "")
        say(printable(done if written else f"{job.target}: came to be meanwhile"))
    if failed:
        say(f"{failed} of {len(work.jobs) + len(work.unreadable)} pictures failed")
    return failed


def upscale(
    model: Network,
    image: Image.Image,
    scale: int,
    *,
    tile: int = TILE,
    chroma: bool = False,
    precision: Precision = "fp32",
    advance: Callable[[int], None] = lambda pixels: None,
) -> Image.Image:
    """Enlarge an image of mode L, LA, RGB, RGBA or I;16, of any size; the result has the same mode.

    Args:
        model: serves this scale; best `placed`, which takes about two thirds of the time on a CPU.
        tile: side of a tile at most, pixels as the network reads them; a network that sees further has larger tiles,
            and of one that may see the whole picture (some ONNX files) the picture is one tile.
        chroma: whether the network enlarges Cb and Cr too, as if they were luma.
        advance: is called with the number of enlarged pixels of each tile when it is done.
    """
    model.eval()
    has_alpha = image.mode in ("LA", "RGBA")
    grid = 1 if model.traits.upsampling > 1 else scale  # pixels that the network reads for each of the image's
    reach, side = math.ceil(model.traits.reach / grid), max(tile, model.traits.reach) // grid
    (width, height), enlarged = image.size, Image.new(image.mode, (image.width * scale, image.height * scale))

    def resolved(plane: np.ndarray, read: tuple[Span, Span], seen: tuple[Span, Span]) -> np.ndarray:
        """What the network makes of the part of a plane that it reads, which lies in the part that is seen."""
        inputs = as_tensor((plane if model.traits.upsampling > 1 else enlarge(plane, scale))[_within(read, seen, grid)])
        return super_resolve(model, inputs.to(device_of(model)), precision).cpu().numpy()

    for rows in _parts(height, max(1, side)):
        for columns in _parts(width, max(1, side)):
            part, read = (rows, columns), (_around(rows, reach, height), _around(columns, reach, width))
            # Of hidden pixels in reach of one that is seen, the nearest seen one is in here as well.
            around = CUBIC + (reach + CUBIC if has_alpha else 0)
            (up, down), (left, right) = seen = _around(read[0], around, height), _around(read[1], around, width)
            pixels = np.asarray(image.crop((left, up, right, down)))
            y, *others = colours = planes(without_hidden(pixels) if has_alpha else pixels)
            sr = resolved(y, read, seen)[_within(part, read, scale)]
            if has_alpha:  # what the network adds to the picture without what is hidden, it adds to the one with alpha
                luma, *others = with_alpha_enlarged(pixels, scale)
                sr = sr + (luma - enlarge(y, scale))[_within(part, seen, scale)]
            else:
                others = [enlarge(plane, scale) for plane in others]
            done = [sr, *(plane[_within(part, seen, scale)] for plane in others)]
            if chroma and len(colours) >= 3:
                done[1:3] = [resolved(plane, read, seen)[_within(part, read, scale)] for plane in colours[1:3]]
            enlarged.paste(Image.fromarray(pixels_of(done, pixels.dtype)), (columns[0] * scale, rows[0] * scale))
            advance(sr.size)
    return enlarged


def _failed(source: UPath, error: Exception) -> str:
    """A line for a picture that could not be enlarged."""
    why = one_line(error).removeprefix(f"{source}: ") or type(error).__name__
    return printable(f"{source}: failed: {why}")


def _sources(inputs: Sequence[str], folder: UPath, problems: list[str]) -> tuple[list[UPath], str]:
    """The image files that the inputs name, each once, what is passed over, and a line for each input that is none."""
    sources, sets = dict[UPath, None](), list[image_sets.ImageSet]()
    for name in inputs:
        path = as_path(name)
        try:
            if path.is_file():
                sources[path] = None
            elif path.suffix.lower() in SUFFIXES and not path.exists():
                problems.append(f"images: {path}: no such file")
            else:
                sets.append(image_sets.find(name, suffixes=SUFFIXES))
                sources |= dict.fromkeys(sets[-1].paths)
        except image_sets.DatasetError as error:
            problems.append(f"images: {error}")
        except Exception as error:  # whatever an object store's library raises, or that it is not installed
            problems.append(f"images: {name}: cannot be read ({one_line(error)})")
        if resolved(path) == resolved(folder):
            problems.append(f"out: {folder} is read too, its results would be enlarged next time; name another folder")
    return list(sources), image_sets.passed_over(sets)


def _job(source: UPath, header: Header, scale: int, folder: UPath, format: Format | None) -> Job:
    """The job for a picture; ImageError if it cannot be done."""
    kind, height, width = format or header.format, header.height * scale, header.width * scale
    if kind == "jpeg" and header.mode in ("LA", "RGBA"):
        raise ImageError(f"{source}: JPEG cannot hold its transparency; choose png or webp")
    if max(height, width) > LONGEST_SIDE[kind]:
        raise ImageError(f"{source}: {height}×{width} pixels are too many for {kind}; choose png")
    target = inside(folder, f"{source.stem}-x{scale}{SUFFIX[kind]}")
    return Job(source=source, target=target, format=kind, pixels=height * width, lost=header.lost)


def _film_job(source: UPath, header: film.Film, scale: int, folder: UPath) -> Job:
    suffix = ".mp4" if source.suffix.lower() in (".mp4", ".m4v", ".mov") else ".mkv"
    target = inside(folder, f"{source.stem}-x{scale}{suffix}")
    pixels = header.height * header.width * scale**2 * header.frames
    lost = f"without its {header.lost}" if header.lost else ""
    return Job(source=source, target=target, format="png", pixels=pixels, lost=lost, is_film=True)


def _enlarge_film(network: Network, job: Job, scale: int, advance: Callable[[int], None]) -> int:
    def resolve(y: np.ndarray) -> np.ndarray:
        return np.asarray(upscale(network, Image.fromarray(y), scale))

    return film.enlarge_film(job.source, job.target, scale, resolve, advance)


def _film_done(job: Job, frames: int, seconds: float) -> str:
    done = f"{job.source}: {job.target} ({frames} frames, {seconds:.1f} s)"
    return printable(done + (f"; {job.lost}" if job.lost else ""))


def _apart(jobs: list[Job]) -> list[Job]:
    """Jobs with names of their own: of several `x-x2.png`, that of `x.avif` becomes `x-avif-x2.png`."""
    count = Counter(job.target for job in jobs)
    return [
        replace(job, target=inside(job.target.parent, job.target.name.replace(job.source.stem, named, 1)))
        if count[job.target] > 1 and job.source.suffix.lower() != job.target.suffix
        else job
        for job in jobs
        for named in [f"{job.source.stem}-{job.source.suffix[1:].lower()}"]
    ]


def _exists(path: UPath) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, as writing it will say
        return False


def _parts(length: int, most: int) -> Iterator[Span]:
    """Divide a length into parts of about the same size, none larger than `most`."""
    count = math.ceil(length / most)
    for i in range(count):
        yield length * i // count, length * (i + 1) // count


def _around(part: Span, margin: int, length: int) -> Span:
    """A part, extended by so much on either side as far as the length allows."""
    return max(0, part[0] - margin), min(length, part[1] + margin)


def _within(part: tuple[Span, Span], whole: tuple[Span, Span], scale: int) -> tuple[slice, slice]:
    """Where rows and columns lie in an array of a larger part of the picture, enlarged by the scale."""
    rows, columns = (
        slice((inner[0] - outer[0]) * scale, (inner[1] - outer[0]) * scale)
        for inner, outer in zip(part, whole, strict=True)
    )
    return rows, columns
