"""What is in folders of pictures: what each is, which are copies of others, and which were enlarged or compressed."""

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.fft
from PIL import Image
from upath import UPath

from ail_ray.errors import one_line
from ail_ray.imaging.images import ImageError, content_digest, luma, opened, read_image
from ail_ray.machine import cores

ALIKE = 8
"""Bits of 64 in which the fingerprints of two pictures may differ that are called alike."""
SOFT = -21.5
"""Decibels of fine detail, `Picture.detail`, below which a picture looks as if it had been enlarged.

Of 89 photographs of Set5, Set14, BSDS200 and T91 none was below -20.7; enlarged twice (bicubic, Lanczos, bilinear) 98 %
of them were below -21.9.
"""
HEAVY = 60
"""Quality of a JPEG below which it is called heavily compressed."""
LOOKED_AT = 512  # pixels a side of what is looked at for fine detail
STANDARD = np.array([16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19])
"""The first entries of JPEG's table for luma at quality 50 that no encoder leaves out, for an average."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What was found out about one picture file."""

    path: UPath
    bytes: int = 0
    digest: str = ""  # SHA-256
    format: str = ""
    height: int = 0
    width: int = 0
    fingerprint: int = 0  # 64 bits, alike for pictures that look alike
    detail: float = 0.0  # dB of the finest octave of detail against the one before
    repeats: bool = False  # whether each pixel is there twice in each direction
    quality: int | None = None  # of a JPEG, about
    problem: str = ""  # why it cannot be read

    @property
    def enlarged(self) -> bool:
        """Whether it looks as if it had been enlarged, or is so soft that no student learns fine detail from it."""
        return not self.problem and (self.repeats or self.detail < SOFT)

    @property
    def compressed(self) -> bool:
        return self.quality is not None and self.quality < HEAVY


def survey(paths: Sequence[UPath], advance: Callable[[float], None] = lambda one: None) -> list[Picture]:
    """Look at every picture, several at once; in their order."""
    with ThreadPoolExecutor(cores()) as pool:
        found = []
        for picture in pool.map(look, paths):
            found.append(picture)
            advance(1)
        return found


def look(path: UPath) -> Picture:
    """Read a picture and find out about it; what keeps it from being read is a part of that."""
    try:
        content = path.read_bytes()
        y = luma(read_image(path, content_digest(content)))
        with opened(path, content) as image:
            format, tables = str(image.format), getattr(image, "quantization", None)
    except Exception as error:  # ImageError, or whatever a file system or an object store raises
        said = one_line(error).removeprefix(f"{path}: ")
        return Picture(path=path, problem=said if isinstance(error, ImageError) else f"cannot be read ({said})")
    return Picture(
        path=path, bytes=len(content), digest=content_digest(content), format=format, height=y.shape[0],
        width=y.shape[1], fingerprint=fingerprint(y), detail=detail(y), repeats=_repeats(y),
        quality=_quality(tables[0]) if tables else None,
    )  # fmt: skip


def copies(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Groups of several files of the same content."""
    groups = dict[str, list[Picture]]()
    for picture in pictures:
        if not picture.problem:
            groups.setdefault(picture.digest, []).append(picture)
    return [group for group in groups.values() if len(group) > 1]


def alike(pictures: Sequence[Picture], others: Sequence[Picture] = ()) -> Iterator[tuple[Picture, Picture]]:
    """Pairs of pictures of other content that look alike: among `pictures`, and of them with `others`."""
    usable = [picture for picture in pictures if not picture.problem and picture.fingerprint]
    prints = np.array([picture.fingerprint for picture in usable], np.uint64)
    for number, picture in enumerate(itertools.chain(usable, (o for o in others if not o.problem and o.fingerprint))):
        start = min(number + 1, len(usable)) if number < len(usable) else 0
        differ = np.bitwise_count(prints[start:] ^ np.uint64(picture.fingerprint))
        for i in np.flatnonzero(differ <= ALIKE):
            if (other := usable[start + int(i)]).digest != picture.digest:
                yield (picture, other) if number < len(usable) else (other, picture)


def fingerprint(y: np.ndarray) -> int:
    """64 bits of (H, W) uint8 luma: which of its slowest waves are above their median; 0 for a flat picture."""
    small = np.asarray(Image.fromarray(y).resize((32, 32), Image.Resampling.BOX), np.float64)
    waves = scipy.fft.dctn(small)[:8, :8].ravel()
    if np.abs(waves[1:]).max() < 1e-6:
        return 0
    bits = waves > np.median(waves[1:])
    return int(sum(1 << i for i, bit in enumerate(bits) if bit))


def detail(y: np.ndarray) -> float:
    """How much weaker the finest details of (H, W) uint8 luma are than coarser ones, in dB; about -13 for photographs.

    The power of waves between 0.9 and 1 of the finest that pixels can hold in a row, against that between 0.3 and 0.45.
    A picture that was enlarged twice has next to nothing of the former.
    """
    top, left = (max(0, (side - LOOKED_AT) // 2) for side in y.shape)
    part = y[top : top + LOOKED_AT, left : left + LOOKED_AT].astype(np.float64)
    part = (part - part.mean()) * np.outer(np.hanning(part.shape[0]), np.hanning(part.shape[1]))
    power = np.abs(scipy.fft.rfft2(part)) ** 2
    rows, columns = np.abs(scipy.fft.fftfreq(part.shape[0]))[:, None] * 2, scipy.fft.rfftfreq(part.shape[1])[None] * 2
    reach = np.hypot(rows, columns)
    fine, coarse = (power[(reach > low) & (reach < high)] for low, high in ((0.9, 1.0), (0.3, 0.45)))
    if not fine.size or not coarse.size or coarse.mean() < 1e-6:
        return 0.0
    return float(10 * np.log10((fine.mean() + 1e-12) / coarse.mean()))


def thumbnail(path: UPath, side: int = 160) -> bytes:
    """A small JPEG of a picture; ImageError if it cannot be read."""
    image = Image.fromarray(read_image(path)).convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=85)
    return buffer.getvalue()


def _repeats(y: np.ndarray) -> bool:
    height, width = y.shape[0] // 2 * 2, y.shape[1] // 2 * 2
    if min(height, width) < 8 or np.ptp(y) == 0:
        return False
    return bool((y[0:height:2] == y[1:height:2]).all() and (y[:, 0:width:2] == y[:, 1:width:2]).all())


def _quality(table: Sequence[int]) -> int:
    """About which quality of the usual encoder a table of a JPEG is: 50 where it is the standard's."""
    share = float(np.mean(np.asarray(table[: len(STANDARD)], np.float64) / STANDARD))
    return round(max(1.0, min(100.0, 100 - 50 * share if share <= 1 else 50 / share)))
