"""The pictures of a page as data URIs: maps of a run through its rounds, and crops by several students."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from upath import UPath

from ail_ray.imaging.panels import UNREADABLE, panels
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.trial import Trial

MOST_PICTURES, MOST_ROUNDS, LONGEST = 3, 12, 480  # pictures of a kind, rounds of each, pixels of a side


@dataclass(frozen=True)
class Frame:
    """One image of the page."""

    caption: str
    uri: str
    width: int
    height: int
    round: int = 0


@dataclass(frozen=True)
class Film:
    """A picture of every round, and what it is a picture of, if that is shown beside it."""

    name: str
    still: Frame | None
    frames: list[Frame]


@dataclass(frozen=True)
class Comparison:
    """The same crop, enlarged in several ways."""

    name: str
    frames: list[Frame]


def films(trial: Trial) -> Iterator[Film]:
    """The pictures of a run that compare nothing, importance first; of one with several panels the importance."""
    run, last = RunDirectory(trial.path), len(trial.records) - 1
    names = [path.name for path in run.pictures(last)]
    shown = [name for name in names if not _compares(_panels(run, last, name))]
    rounds = np.unique(np.linspace(0, last, min(MOST_ROUNDS, last + 1)).round().astype(int)).tolist()
    for name in sorted(shown, key=lambda name: (not name.startswith("importance"), name))[:MOST_PICTURES]:
        seen = {t: _panels(run, t, name) for t in rounds}
        frames = [frame(*(_called(parts, "importance") or parts[-1]), round=t) for t, parts in seen.items() if parts]
        still = _called(seen[last], "training image")
        if frames:
            yield Film(_spoken(name), frame(*still) if still else None, frames)


def comparisons(trial: Trial, control: Trial | None) -> Iterator[Comparison]:
    """Crops of the last round that show a student, together with the control's student if it drew the same crop."""
    run, last = RunDirectory(trial.path), len(trial.records) - 1
    chosen = [(path.name, parts) for path in run.pictures(last) if _compares(parts := _panels(run, last, path.name))]
    for name, parts in chosen[:MOST_PICTURES]:
        if control is not None and control.records:
            plain = _called(_panels(RunDirectory(control.path), len(control.records) - 1, name), "student")
            at = next(i for i, (caption, _) in enumerate(parts) if caption.startswith("student"))
            if plain is not None:
                parts = [*parts[:at], (plain[0].replace("student", "plain training", 1), plain[1]), *parts[at:]]
        yield Comparison(_spoken(name), [frame(caption, image, exact=True) for caption, image in parts])


def frame(
    caption: str, image: Image.Image, *, round: int = 0, exact: bool = False, longest: int = LONGEST
) -> Frame:  # fmt: skip
    """An image as WebP whose longest side has at most so many pixels, without loss if it is to be looked at closely."""
    image = image.convert("RGB" if image.mode in ("RGB", "RGBA", "P", "CMYK") else "L")
    image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=exact, quality=55, method=4)
    uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Frame(caption, uri, image.width, image.height, round)


Panels = list[tuple[str, Image.Image]]


def _panels(run: RunDirectory, round: int, name: str) -> Panels:
    """The panels of a picture; none if it is missing or damaged, since a page can do without it."""
    path: UPath = run.record_path(round).with_suffix("") / name
    try:
        return panels(path.read_bytes())
    except UNREADABLE:
        return []


def _called(parts: Panels, word: str) -> tuple[str, Image.Image] | None:
    """The first panel whose caption begins with these words."""
    return next((part for part in parts if part[0].startswith(word)), None)


def _compares(parts: Panels) -> bool:
    """Whether these panels are one crop enlarged in several ways, instead of what is known about a training image."""
    return _called(parts, "student") is not None and _called(parts, "importance") is None


def _spoken(name: str) -> str:
    """The name of a picture in words: `Set5-x2-0.png` becomes `Set5 ×2, image 1`."""
    stem = name.rpartition(".")[0]
    if found := re.fullmatch(r"(.+)-x(\d)-(\d+)", stem):
        return f"{found[1]} ×{found[2]}, image {int(found[3]) + 1}"
    if found := re.fullmatch(r"importance-(\d+)", stem):
        return f"the largest training image of shard {found[1]}"
    return stem
