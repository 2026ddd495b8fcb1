"""Pairs of pictures that people bring: large and small ones in two folders, matched by their names."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from upath import UPath

from ail_ray.errors import counted
from ail_ray.imaging import image_sets
from ail_ray.imaging.images import degrade, luma, modcrop, read_image

SUFFIX = re.compile(r"[-_. ]*(?:x\d|\dx|lr|hr|bi|bd|gt|small|large|low|high|input|target|noisy|clean)$")
"""What people add to the names of one side or of both: `0801x2.png`, `baby_LR.png`."""
LOOKED_AT = 8  # pairs of a set, in which a shift is looked for
NOTICEABLE = 0.25  # of a pixel of the small picture


def beside(large: Sequence[UPath], folder: str, scale: int) -> tuple[dict[UPath, UPath], list[str]]:
    """For each large picture the small one in a folder.

    Returns:
        The pairs, and a line for each that is shifted, of those that were looked at.

    Raises:
        ValueError: the folder cannot be used, or with the lines of `matched`.
    """
    pairs, problems = matched(large, image_sets.find(folder).paths)
    if problems:
        raise ValueError("\n".join(problems))
    return pairs, shifts(pairs, scale)


def matched(large: Sequence[UPath], small: Sequence[UPath]) -> tuple[dict[UPath, UPath], list[str]]:
    """For each large picture the small one of its name, with or without usual suffixes.

    Returns:
        The pairs, and a line for each large picture that has none, or several, and for small ones that are left over.
    """
    by_name, by_stem = dict[str, list[UPath]](), dict[str, list[UPath]]()
    for path in small:
        by_name.setdefault(path.stem.lower(), []).append(path)
        by_stem.setdefault(_bare(path.stem), []).append(path)
    pairs, problems = dict[UPath, UPath](), list[str]()
    for path in large:
        found = by_name.get(path.stem.lower()) or by_stem.get(_bare(path.stem), [])
        if len(found) == 1:
            pairs[path] = found[0]
        else:
            others = f": {' and '.join(each.name for each in found)}" if found else ""
            problems.append(f"{path}: {len(found) or 'no'} small pictures of its name{others}")
    twice = [path for path, count in Counter(pairs.values()).items() if count > 1]
    problems += [f"{path}: is of the name of several large pictures" for path in sorted(twice)]
    if not problems and (left := set(small) - set(pairs.values())):
        names = ", ".join(sorted(path.name for path in left)[:3])
        problems.append(f"{counted(len(left), 'small picture')} without a large one of their name: {names}")
    return pairs, problems


def shifts(pairs: Mapping[UPath, UPath], scale: int) -> list[str]:
    """A line for each of some pairs whose sides do not lie on each other, as phase correlation tells."""
    chosen, lines = list(pairs.items())[:: max(1, len(pairs) // LOOKED_AT)], list[str]()
    for large, small in chosen:
        down, right = shift_of(luma(read_image(large)), luma(read_image(small)), scale)
        if max(abs(down), abs(right)) > NOTICEABLE:
            lines.append(f"{small.name}: lies {down:+.1f} pixels lower and {right:+.1f} to the right of {large.name}")
    return lines


def shift_of(large: np.ndarray, small: np.ndarray, scale: int) -> tuple[float, float]:
    """How far down and to the right a small picture lies, in its pixels: (H, W) uint8 and (h, w) uint8 luma."""
    from skimage.registration import phase_cross_correlation

    expected = 255 * degrade(modcrop(large, scale), scale)
    height, width = (min(sides) for sides in zip(expected.shape, small.shape, strict=True))
    window = np.outer(np.hanning(height), np.hanning(width))  # or the edges of the picture lie on each other
    one, other = (window * (image[:height, :width] - image[:height, :width].mean()) for image in (expected, small))
    if not one.any() or not other.any():  # of one colour: nothing lies anywhere
        return 0.0, 0.0
    moved = phase_cross_correlation(other, one, upsample_factor=10)[0]
    return float(moved[0]), float(moved[1])


def _bare(stem: str) -> str:
    """A name without what is usually added to it."""
    bare = stem.lower()
    while (shorter := SUFFIX.sub("", bare)) and shorter != bare:
        bare = shorter
    return bare
