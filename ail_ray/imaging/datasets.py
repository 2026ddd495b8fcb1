"""Named image sets: the bundled sample, folders under AIL_DATA_DIR, any local folder or object store.

Nothing is fetched here: the refusal of a public set that is missing, or not all there, says the command that does.

The sample is what scikit-image ships inside its wheel, photographs without restrictions only. By its own
documentation: CC0: brick and gravel (CC0Textures), grass (linolafett), camera (Lav Varshney), chelsea (Stefan
van der Walt), coffee (Rachel Michetti); public domain: rocket (SpaceX), astronaut (NASA), text (Wikipedia);
no known copyright restrictions: coins (Brooklyn Museum). No scene is in both sets.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import skimage
from upath import UPath

from ail_ray.files import AnyPath, as_path
from ail_ray.imaging.registry import CACHE, default_folder, fetch_command, registered

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")

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
"""Every twentieth image of BSDS200, by sorted name: what a sweep validates on and keeps out of training."""


class DatasetError(ValueError):
    """An image set that cannot be found or used; the message names it and says where it was looked for."""


@dataclass(frozen=True)
class ImageSet:
    """A named, ordered group of image files; only their names were looked at, not their contents."""

    name: str
    paths: tuple[UPath, ...]


def find(name: str, data_dir: AnyPath | None = None) -> ImageSet:
    """Find an image set by name, folder or address.

    Args:
        name: `sample`, `sample-val`, `BSDS200-val`; or a folder of `data_dir`; or a path (`~` expanded)
            or an address such as `s3://bucket/folder`.
        data_dir: folder or address of the named sets, by default the environment's AIL_DATA_DIR and, for what that
            lacks, the folder that sets are fetched to without it.

    Returns:
        The set's image files, known by their suffix, sorted by name; folders inside are not entered. A set
        given by its path is named after its last folder.

    Raises:
        DatasetError: no such set (the message lists those there are), no images in it, a public set with fewer or
            more images than it has, or no access to it.
    """
    if name in SAMPLES:
        return ImageSet(name, _exactly(name, as_path(Path(skimage.__file__).parent / "data"), SAMPLES[name]))
    if "/" in name:
        return _folder(name)
    known, where = _named_folders(data_dir)
    public = "BSDS200" if name == "BSDS200-val" else name
    fetched_by = fetch_command([public], known[public].parent if public in known else data_dir or default_folder())
    if name == "BSDS200-val" and public in known:
        return ImageSet(name, _exactly(name, known[public], BSDS200_VAL, f"; fetch them with {fetched_by}"))
    if name in known:
        return _complete(name, known[name], fetched_by)
    if name and Path(name).expanduser().exists():
        return _folder(name)
    if public in registered():
        raise DatasetError(f"image set {name} is not here ({where}); fetch it with {fetched_by}")
    there = [*SAMPLES, *(["BSDS200-val"] if "BSDS200" in known else []), *known]
    raise DatasetError(f"unknown image set {name!r}; there are {', '.join(there)} ({where}), and any path")


def content_digest(path: AnyPath) -> str:
    """SHA-256 of the file's bytes, 64 hexadecimal digits; raises OSError if it cannot be read."""
    return hashlib.sha256(as_path(path).read_bytes()).hexdigest()


def _named_folders(data_dir: AnyPath | None) -> tuple[dict[str, UPath], str]:
    """The folders that a set may be named after, AIL_DATA_DIR's before the cache's, and where was looked."""
    given = data_dir or os.environ.get("AIL_DATA_DIR") or None
    known: dict[str, UPath] = {}
    if not data_dir and as_path(CACHE).is_dir():
        known = {path.name: path for path in _contents(CACHE) if path.is_dir()}
    if not given:
        return known, "AIL_DATA_DIR is not set"
    try:
        return known | {path.name: path for path in _contents(given) if path.is_dir()}, f"looked in {given}"
    except DatasetError as error:
        return known, str(error)


def _folder(address: AnyPath) -> ImageSet:
    images = _images(address)
    if not images:
        raise DatasetError(f"{address}: no images in this folder (looked for {' '.join(SUFFIXES)})")
    return ImageSet(images[0].parent.name or str(address), images)


def _complete(name: str, folder: UPath, fetched_by: str) -> ImageSet:
    """A named folder; one that is named like a public set has to have as many images."""
    count, expected = len(_images(folder)), len(registered().get(name, ()))
    if expected and count != expected:
        remedy = f"complete it with {fetched_by}" if count < expected else "remove what is not its own, or rename it"
        raise DatasetError(f"image set {name}: {folder} has {count} images, the set has {expected}; {remedy}")
    return _folder(folder)


def _images(address: AnyPath) -> tuple[UPath, ...]:
    return tuple(
        path
        for path in _contents(address)
        # A leading dot: the shadow files that macOS leaves beside images.
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _exactly(name: str, folder: UPath, files: tuple[str, ...], remedy: str = "") -> tuple[UPath, ...]:
    if missing := sorted(set(files) - {path.name for path in _contents(folder)}):
        raise DatasetError(f"image set {name}: {folder} lacks {', '.join(missing)}{remedy}")
    return tuple(folder / file for file in files)


def _contents(address: AnyPath) -> list[UPath]:
    try:
        folder = as_path(address)
        if folder.is_dir():
            return sorted(folder.iterdir(), key=lambda path: path.name)
        reason = "is a file, not a folder" if folder.exists() else "no such folder"
    # Whatever the object store's library raises: not installed, no credentials, no network.
    except Exception as error:
        raise DatasetError(f"{address}: cannot be listed ({error})") from error
    raise DatasetError(f"{address}: {reason}")
