"""The page about folders of pictures: how many, how large, and what somebody should know before training on them."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from ail_ray.errors import counted
from ail_ray.imaging.images import ImageError
from ail_ray.imaging.survey import Picture, alike, copies, thumbnail

SHOWN = 24  # of each kind
ALIKE = "that look alike"


class Row(NamedTuple):
    """Some pictures and what is said of them."""

    pictures: tuple[Picture, ...]
    text: str


@dataclass(frozen=True)
class Finding:
    """A kind of trouble: a line about it, what it means, and the pictures that have it."""

    title: str
    meaning: str
    rows: tuple[Row, ...]


def findings(sets: Mapping[str, Sequence[Picture]], held_back: Mapping[str, Sequence[Picture]] = {}) -> list[Finding]:
    """What is wrong with the pictures of some sets, and which of them are in sets that are held back as well."""
    pictures, kept = _all(sets), _all(held_back)
    both = [*pictures, *kept]
    there = {picture.digest for picture in pictures if not picture.problem}
    unreadable = [Row((), f"{picture.path}: {picture.problem}") for picture in both if picture.problem]
    same = [Row((group[0],), " = ".join(str(each.path) for each in group)) for group in copies(pictures)]
    leaked = [Row((picture,), f"{picture.path}") for picture in kept if not picture.problem and picture.digest in there]
    near = [Row(pair, f"{pair[0].path} ~ {pair[1].path}") for pair in alike(pictures, kept)]
    enlarged = [Row((each,), f"{each.path}: {_softness(each)}") for each in both if each.enlarged]
    compressed = [Row((each,), f"{each.path}: JPEG quality about {each.quality}") for each in both if each.compressed]
    kinds = [
        ("cannot be read", "A sweep refuses these, and says so before it starts.", unreadable),
        ("in a set that is held back, too", "Training leaves these out by itself, since students are measured on them.",
         leaked),
        ("there more than once", "The same file under several names counts as often as it is there.", same),
        (ALIKE, "Pictures of other content that look alike. One in training and one among those that students "
         "are measured on makes the numbers too good.", near),
        ("perhaps enlarged before", "They hold no finer detail than a smaller picture would: a student learns that "
         "there is none. --downsizes 0.5 makes them sharp again.", enlarged),
        ("heavily compressed", "A student learns the blocks and the ringing of JPEG, too.", compressed),
    ]  # fmt: skip
    return [
        Finding(f"{counted(len(rows), 'pair' if name == ALIKE else 'picture')} {name}", meaning, tuple(rows))
        for name, meaning, rows in kinds
        if rows
    ]


def summary(name: str, pictures: Sequence[Picture]) -> list[tuple[str, str]]:
    """A set in a few words: rows of a label and a value."""
    whole = [picture for picture in pictures if not picture.problem]
    rows = [("set", name), ("pictures", str(len(pictures)))]
    if whole:
        sides = np.array([(each.width, each.height) for each in whole])
        areas = sides.prod(axis=1)
        smallest, largest = sides[areas.argmin()], sides[areas.argmax()]
        formats = Counter(each.format for each in whole)
        rows += [
            ("sizes, pixels", f"{smallest[0]}×{smallest[1]} to {largest[0]}×{largest[1]}, "
                              f"half of them at least {np.median(areas) / 1e6:.2f} megapixels"),
            ("in all", f"{areas.sum() / 1e6:.1f} megapixels, {sum(each.bytes for each in whole) / 1e6:.1f} MB"),
            ("formats", ", ".join(f"{count} {kind}" for kind, count in formats.most_common())),
        ]  # fmt: skip
    return rows


def data_page(
    tables: Sequence[list[tuple[str, str]]], found: Sequence[Finding], *, title: str, command: str, made: str
) -> str:
    """The page as text, with thumbnails in it; every value is escaped."""
    style = (files("ail_ray.reporting") / "page.css").read_text(encoding="utf-8")
    template = (files("ail_ray.reporting") / "data.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = [
        {
            "title": finding.title, "meaning": finding.meaning, "more": max(0, len(finding.rows) - SHOWN),
            "rows": [
                {"text": row.text, "pictures": [*_uris(row.pictures)]} for row in finding.rows[:SHOWN]
            ],
        }
        for finding in found
    ]  # fmt: skip
    return environment.from_string(template).render(
        title=title, tables=[(rows[0][1], rows[1:]) for rows in tables], findings=shown, command=command, made=made,
        style=Markup(style), allowed=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )  # fmt: skip


def _all(sets: Mapping[str, Sequence[Picture]]) -> list[Picture]:
    return [picture for pictures in sets.values() for picture in pictures]


def _softness(picture: Picture) -> str:
    if picture.repeats:
        return "every pixel is there twice in each direction"
    return f"finest details {picture.detail:.0f} dB below coarser ones, about -13 in photographs"


def _uris(pictures: Iterable[Picture]) -> Iterable[str]:
    for picture in pictures:
        try:
            yield "data:image/jpeg;base64," + base64.b64encode(thumbnail(picture.path)).decode()
        except ImageError:  # gone, or another picture, since it was looked at
            continue
