"""Named image sets: the bundled sample, folders under AIL_DATA_DIR, any local folder or object store.

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
        data_dir: folder or address of the named sets, by default the environment's AIL_DATA_DIR.

    Returns:
        The set's image files, known by their suffix, sorted by name; folders inside are not entered. A set
        given by its path is named after its last folder.

    Raises:
        DatasetError: no such set (the message lists those there are), no images in it, or no access to it.
    """
    if name in SAMPLES:
        return ImageSet(name, _exactly(name, as_path(Path(skimage.__file__).parent / "data"), SAMPLES[name]))
    if "/" in name:
        return _folder(name)
    data_dir = data_dir or os.environ.get("AIL_DATA_DIR") or None
    known = {path.name: path for path in _contents(data_dir) if path.is_dir()} if data_dir else {}
    if name == "BSDS200-val" and "BSDS200" in known:
        return ImageSet(name, _exactly(name, known["BSDS200"], BSDS200_VAL))
    if name in known:
        return _folder(known[name])
    if name and Path(name).expanduser().exists():
        return _folder(name)
    there = [*SAMPLES, *(["BSDS200-val"] if "BSDS200" in known else []), *known]
    where = f"folders of {data_dir} included" if data_dir else "AIL_DATA_DIR is not set"
    raise DatasetError(f"unknown image set {name!r}; there are {', '.join(there)} ({where}), and any path")


def content_digest(path: AnyPath) -> str:
    """SHA-256 of the file's bytes, 64 hexadecimal digits; raises OSError if it cannot be read."""
    return hashlib.sha256(as_path(path).read_bytes()).hexdigest()


def _folder(address: AnyPath) -> ImageSet:
    images = tuple(
        path
        for path in _contents(address)
        # A leading dot: the shadow files that macOS leaves beside images.
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not images:
        raise DatasetError(f"{address}: no images in this folder (looked for {' '.join(SUFFIXES)})")
    return ImageSet(images[0].parent.name or str(address), images)


def _exactly(name: str, folder: UPath, files: tuple[str, ...]) -> tuple[UPath, ...]:
    if missing := sorted(set(files) - {path.name for path in _contents(folder)}):
        raise DatasetError(f"image set {name}: {folder} lacks {', '.join(missing)}")
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
