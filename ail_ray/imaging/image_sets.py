"""Named image sets: the bundled sample, folders under AIL_DATA_DIR, any local folder or object store.

Nothing is fetched here: the refusal of a public set that is missing, or not all there, says the command that does.

The sample is what scikit-image ships inside its wheel, photographs without restrictions only. By its own
documentation: CC0: brick and gravel (CC0Textures), grass (linolafett), camera (Lav Varshney), chelsea (Stefan
van der Walt), coffee (Rachel Michetti); public domain: rocket (SpaceX), astronaut (NASA), text (Wikipedia);
no known copyright restrictions: coins (Brooklyn Museum). No scene is in both sets.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import skimage
from upath import UPath

from ail_ray.errors import ConfigError, counted, one_line
from ail_ray.files import AnyPath, Entry, as_path, entries, is_local, resolved
from ail_ray.imaging.public_sets import CACHE, default_folder, fetch_command, registered

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".jfif", ".avif", ".jp2")
NEWER = (".jfif", ".avif", ".jp2")
"""Those of them that older versions have passed over: with them a folder is another set of images."""
EVERY_FOLDER = "/**"
"""What the name of a set ends in if the folders inside its folder belong to it too, however deep they lie."""

SAMPLES = {
    "sample": (
        "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png", "rocket.jpg",
    ),
    "sample-val": ("astronaut.png", "coins.png", "text.png"),
}  # fmt: skip

BSDS200_VAL = (
    "100075.png", "12074.png", "151087.png", "176035.png", "198023.png",
    "232038.png", "268002.png", "317080.png", "376020.png", "65010.png",
)  # fmt: skip
"""Every twentieth image of BSDS200, by sorted name: a sweep validates on these, and keeps them out of training."""


class DatasetError(ValueError):
    """An image set that cannot be found or used; the message names it and says where it was looked for."""


@dataclass(frozen=True)
class ImageSet:
    """A named, ordered group of image files; only their names were looked at, not their contents."""

    name: str
    paths: tuple[UPath, ...]
    passed_over: tuple[tuple[str, int], ...] = field(default=(), compare=False)
    """What else is in its folder, and how many of each kind: `folder`, or the suffix of files that are no images."""


def passed_over(sets: Iterable[ImageSet]) -> str:
    """A line about what was left out of some image sets because it is no image; empty if nothing was."""
    kinds: Counter[str] = Counter()
    for images in dict.fromkeys(sets):
        kinds.update(dict(images.passed_over))
    folders = kinds.pop("folder", 0)
    said = [f"{count} {kind}" for kind, count in kinds.most_common()]
    if folders:
        said = [f"{counted(folders, 'folder')} inside (a name that ends in {EVERY_FOLDER} enters them)", *said]
    return f"passed over: {', '.join(said)}" if said else ""


def newly_read(sets: Iterable[ImageSet]) -> str:
    """A line about what of some image sets older versions have passed over; empty if there is nothing."""
    newer = Counter(path.suffix.lower() for each in dict.fromkeys(sets) for path in each.paths)
    read = [f"{newer[suffix]} {suffix}" for suffix in NEWER if newer[suffix]]
    return f"other images than older versions had, which passed over {', '.join(read)}" if read else ""


def find(name: str, data_dir: AnyPath | None = None, *, suffixes: tuple[str, ...] = SUFFIXES) -> ImageSet:
    """Find an image set by name, folder or address.

    Args:
        name: `sample`, `sample-val`, `BSDS200-val`; or a folder of `data_dir`; or a path (`~` expanded)
            or an address such as `s3://bucket/folder`. Either may end in `/**`, which enters the folders inside.
        data_dir: folder or address of the named sets, by default the environment's AIL_DATA_DIR and, for what that
            lacks, the folder that sets are fetched to without it.
        suffixes: the suffixes of the files that are taken from a folder.

    Returns:
        The set's image files, known by their suffix, sorted by name (with `/**`, by their path below the folder);
        without `/**` folders inside are not entered. A set given by its path is named after its last folder.

    Raises:
        DatasetError: no such set (the message lists those there are), no images in it, a public set with fewer or
            more images than it has, or no access to it.
    """
    if name in SAMPLES:
        return ImageSet(name, _exactly(name, as_path(Path(skimage.__file__).parent / "data"), SAMPLES[name]))
    folder = name.removesuffix(EVERY_FOLDER)
    if "/" in folder:
        return _folder(folder, suffixes, enter=folder != name)
    known, where = _named_folders(data_dir)
    if folder != name:
        return _folder(known.get(folder, folder), suffixes, enter=True)
    public = "BSDS200" if name == "BSDS200-val" else name
    fetched_by = fetch_command([public], known[public].parent if public in known else data_dir or default_folder())
    if name == "BSDS200-val" and public in known:
        return ImageSet(name, _exactly(name, known[public], BSDS200_VAL, f"; fetch them with {fetched_by}"))
    if name in known:
        return _complete(name, known[name], fetched_by)
    if name and Path(name).expanduser().exists():
        return _folder(name, suffixes)
    if public in registered():
        raise DatasetError(f"image set {name} is not here ({where}); fetch it with {fetched_by}")
    there = [*SAMPLES, *(["BSDS200-val"] if "BSDS200" in known else []), *known]
    raise DatasetError(f"unknown image set {name!r}; there are {', '.join(there)} ({where}), and any path")


def _named_folders(data_dir: AnyPath | None) -> tuple[dict[str, UPath], str]:
    """The folders of sets by name, those of AIL_DATA_DIR before those of the cache, and where these were looked for."""
    given = data_dir or os.environ.get("AIL_DATA_DIR") or None
    known: dict[str, UPath] = {}
    if not data_dir and as_path(CACHE).is_dir():
        known = _folders(CACHE)
    if not given:
        return known, "AIL_DATA_DIR is not set"
    try:
        return known | _folders(given), f"looked in {given}"
    except DatasetError as error:
        return known, str(error)


def _folders(address: AnyPath) -> dict[str, UPath]:
    return {entry.name: entry.path for entry in _contents(address) if entry.kind == "folder"}


def _folder(address: AnyPath, suffixes: tuple[str, ...] = SUFFIXES, *, enter: bool = False) -> ImageSet:
    images, left_out = _listed(address, suffixes, enter=enter)
    if not images:
        also = passed_over([ImageSet("", (), left_out)])
        where = "in this folder or in one inside it" if enter else "in this folder"
        raise DatasetError(f"{address}: no images {where} (looked for {' '.join(suffixes)}){also and '; '}{also}")
    root = as_path(address) if enter else images[0].parent
    return ImageSet(root.name or str(address), images, left_out)


def _complete(name: str, folder: UPath, fetched_by: str) -> ImageSet:
    """The images of a named folder, which must be as many as the public set of that name has, if there is one."""
    count, expected = len(_listed(folder)[0]), len(registered().get(name, ()))
    if expected and count != expected:
        remedy = f"complete it with {fetched_by}" if count < expected else "remove what is not its own, or rename it"
        raise DatasetError(f"image set {name}: {folder} has {count} images, the set has {expected}; {remedy}")
    return _folder(folder)


def _listed(
    address: AnyPath, suffixes: tuple[str, ...] = SUFFIXES, *, enter: bool = False
) -> tuple[tuple[UPath, ...], tuple[tuple[str, int], ...]]:
    """The images of a folder, and how much of each other kind lies beside them."""
    others = Counter[str]()
    images = tuple(_images(address, others, suffixes, enter=enter))
    return images, tuple(others.most_common())


def _images(
    address: AnyPath,
    others: Counter[str],
    suffixes: tuple[str, ...],
    *,
    enter: bool = False,
    above: tuple[UPath, ...] = (),
) -> Iterator[UPath]:
    """Image files of a folder by name, those of each folder inside where it stands; what else there is is counted.

    Args:
        above: folders that were entered on the way here: a link back to one of them is not followed.
    """
    contents = _contents(address)
    folder = as_path(address)
    above = (*above, resolved(folder))
    for entry in contents:
        if entry.name.startswith("."):  # the shadow files that macOS leaves beside images
            continue
        suffix = PurePosixPath(entry.name).suffix.lower()
        if suffix in suffixes and entry.kind == "file":
            yield entry.path
        elif entry.kind != "folder":
            others[suffix or "without a suffix"] += 1
        elif not enter:
            others["folder"] += 1
        elif not is_local(folder) or resolved(entry.path) not in above:
            yield from _images(entry.path, others, suffixes, enter=True, above=above)


def _exactly(name: str, folder: UPath, files: tuple[str, ...], remedy: str = "") -> tuple[UPath, ...]:
    if missing := sorted(set(files) - {entry.name for entry in _contents(folder)}):
        raise DatasetError(f"image set {name}: {folder} lacks {', '.join(missing)}{remedy}")
    return tuple(folder / file for file in files)


def _contents(address: AnyPath) -> list[Entry]:
    try:
        folder = as_path(address)
        if not is_local(folder):  # its library lists all of it to tell whether it is a folder
            with suppress(FileNotFoundError):
                if found := entries(folder):
                    return found
        if folder.is_dir():
            return entries(folder)
        reason = "is a file, not a folder" if folder.exists() else "no such folder"
    except ConfigError as error:  # which names the address as it may be shown
        raise DatasetError(str(error)) from None
    # Whatever the object store's library raises: not installed, no credentials, no network.
    except Exception as error:
        raise DatasetError(f"{address}: cannot be listed ({one_line(error)})") from error
    raise DatasetError(f"{address}: {reason}")
