"""Images as arrays: reading, luma, cropping, bicubic resampling.

Everything is bicubic with antialiasing (a = -0.5) in floating point, through Pillow's mode "F"; nothing is
rounded between the degradation of an image and its enlargement.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from ail_ray.errors import one_line
from ail_ray.files import AnyPath, as_path

T = TypeVar("T")
R = TypeVar("R")

PLUGGED_IN: tuple[str, ...] = ()
"""Suffixes of what plug-ins of Pillow read that people may have installed."""
with suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()
    PLUGGED_IN = (".heic", ".heif")


class ImageError(ValueError):
    """A file that is not a usable image; the message names its path and what is wrong with it."""


class TooLargeError(ImageError):
    """An image of more pixels than `read_up_to` allows."""


@contextmanager
def opened(path: AnyPath, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open a file as a Pillow image without decoding its pixels; whatever goes wrong becomes an `ImageError`.

    Args:
        content: the file's bytes, if they were read already.
    """
    try:
        with as_path(path).open("rb") if content is None else io.BytesIO(content) as file, Image.open(file) as image:
            # Pillow remembers it, so that the size and the pixels follow the same orientation.
            _header_exif(image)
            yield image
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: {_unknown(path)}") from None
    except Image.DecompressionBombError as error:
        size = next(iter(re.findall(r"\d+", str(error))), "0")
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        said = f"has {int(size) / 1e6:.0f} megapixels, more than the {limit:.0f} that are read"
        raise TooLargeError(f"{path}: {said}") from None
    # Pillow's decoders raise OSError, SyntaxError, struct.error, ...; object stores have errors of their own.
    except Exception as error:
        raise ImageError(f"{path}: cannot be read as an image ({error})") from error


def read_up_to(megapixels: float) -> None:
    """Let this process read images of so many millions of pixels; at first 179, as Pillow has it."""
    Image.MAX_IMAGE_PIXELS = int(megapixels * 1e6 / 2)  # it warns from here on, and refuses at twice that
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _unknown(path: AnyPath) -> str:
    """What is wrong with a file of which Pillow makes nothing."""
    with as_path(path).open("rb") as file:
        head = file.read(12)
    # What phones write, whatever the name that a file has been given since: a box of type "ftyp", then the brand.
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"):
        remedy = "pip install 'ail-ray[heic]', or save the picture as JPEG or PNG"
        return (
            "a HEIC that pillow-heif cannot read: damaged, or of a kind that it does not know"
            if PLUGGED_IN
            else f"a HEIC, which only the plug-in pillow-heif reads: {remedy}"
        )
    return "empty, or not an image of a known format"


def read_image(path: AnyPath, digest: str | None = None) -> np.ndarray:
    """Read an image file, local or in an object store, turned upright as its EXIF orientation says.

    Grey images (1, 8 or 16 bits, with or without alpha) stay single-channel. Everything else (palette, CMYK,
    alpha) is converted to RGB, grey-looking ones included. Alpha is dropped, not composited; 16 bits become
    8; an animation gives its first frame.

    Args:
        digest: SHA-256 of the file, if it was looked at before; the bytes that have it are those that are decoded.

    Returns:
        (H, W) uint8 for a single-channel image, else (H, W, 3) uint8 RGB.

    Raises:
        ImageError: missing, changed since, empty, truncated, no image, beyond Pillow's limit, or of 32-bit pixels.
    """
    with opened(path, None if digest is None else unchanged(path, digest)) as image:
        ImageOps.exif_transpose(image, in_place=True)
        # Pillow would otherwise try to carry a transparent colour over, and warn when it cannot.
        image.info.pop("transparency", None)
        if image.mode in ("1", "L", "LA"):
            return np.array(image.convert("L"))
        if image.mode.startswith("I;16"):
            return ((wide_grey(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        if image.mode in ("I", "F"):
            raise ImageError(f"{path}: 32-bit pixels have no defined range; save it with 8 or 16 bits")
        return np.array(image.convert("RGB"))


def wide_grey(image: Image.Image) -> np.ndarray:
    """The pixels of a grey image of more than 8 bits, as a viewer shows them: (H, W) uint16, 65535 for white.

    A TIFF says how many bits it has (10 and 12 fill the lower part of 16), and whether 0 is white; Pillow asks neither.
    """
    values = np.asarray(image).astype(np.uint32)
    most, inverted = _grey_range(image)
    values = (values.clip(0, most) * 65535 + most // 2) // most
    return (65535 - values if inverted else values).astype(np.uint16)


def _grey_range(image: Image.Image) -> tuple[int, bool]:
    """The largest value of a grey image of more than 8 bits, and whether 0 is white."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    return 2 ** min(bits, 16) - 1, tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def reading(path: AnyPath, content: bytes) -> str:
    """What marks an image that older versions have read differently; empty for almost all.

    Pairs of it go by other names, so that nobody takes the one for the other.
    """
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return ""
    with opened(path, content) as image:
        usual = not image.mode.startswith("I;16") or _grey_range(image) == (65535, False)
    return "" if usual else "range"


def content_digest(content: bytes) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def each_read(read: Callable[[T], R], items: Iterable[T]) -> tuple[list[R], list[str]]:
    """Call `read` with each item: what it returned, and a line for each `ImageError` that it raised."""
    found, problems = list[R](), list[str]()
    for item in items:
        try:
            found.append(read(item))
        except ImageError as error:
            problems.append(one_line(error))
    return found, problems


def image_size(path: AnyPath, content: bytes | None = None) -> tuple[int, int]:
    """(height, width) of what `read_image` would return, from the header only.

    Raises:
        ImageError: as `read_image`, as far as the header tells.
    """
    with opened(path, content) as image:
        return upright_size(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an open picture, turned as its EXIF orientation says."""
    width, height = image.size
    sideways = _header_exif(image).get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    # Pillow reports a TIFF's size upright already, and every other format's as it is stored.
    return (width, height) if sideways and image.format != "TIFF" else (height, width)


def luma(image: np.ndarray) -> np.ndarray:
    """Y of MATLAB's `rgb2ycbcr`, rounded: 16 + (65.481 R + 128.553 G + 24.966 B) / 255.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) uint8, which is luma already.

    Returns:
        (H, W) uint8.
    """
    if image.ndim == 2:
        return image
    # In integers, so that no processor rounds a tie differently.
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    return (16 + (65481 * red + 128553 * green + 24966 * blue + 127500) // 255000).astype(np.uint8)


def luma_of(rgb: np.ndarray) -> np.ndarray:
    """`luma` without rounding: (H, W, 3) RGB floats on [0, 1] -> (H, W) on [16 / 255, 235 / 255]."""
    return (16 + rgb @ np.array([65.481, 128.553, 24.966])) / 255


def modcrop(image: np.ndarray, scale: int) -> np.ndarray:
    """The top left part of an (H, W, ...) image whose height and width are multiples of the scale; a view.

    Raises:
        ValueError: the image is smaller than the scale.
    """
    height, width = image.shape[0] // scale * scale, image.shape[1] // scale * scale
    if not height or not width:
        raise ValueError(f"an image of shape {image.shape} is too small for scale {scale}")
    return image[:height, :width]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic with antialiasing: (H, W) float32 of any range -> (height, width) float32, not clipped."""
    picture = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return np.array(picture.resize((width, height), Image.Resampling.BICUBIC))


def downsize(y: np.ndarray, factor: float) -> np.ndarray:
    """A smaller version of a training image: (H, W) uint8 -> (round(H factor), round(W factor)) uint8.

    Raises:
        ValueError: the factor is not in (0, 1].
    """
    if not 0 < factor <= 1:
        raise ValueError(f"downsize factor must be in (0, 1], got {factor}")
    if factor == 1:
        return y
    height, width = (max(1, round(side * factor)) for side in y.shape)
    return np.clip(np.rint(resize(y, height, width)), 0, 255).astype(np.uint8)


def degrade(hr: np.ndarray, scale: int) -> np.ndarray:
    """The low-resolution image: (H, W) uint8 -> (H / scale, W / scale) float32 on [0, 1], not clipped.

    Raises:
        ValueError: H or W is not a multiple of the scale (see `modcrop`).
    """
    height, width = hr.shape
    if height % scale or width % scale:
        raise ValueError(f"an image of shape {hr.shape} is not a multiple of scale {scale}")
    return resize(hr.astype(np.float32) / 255, height // scale, width // scale)


def enlarge(lr: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic enlargement: (h, w) float32 on [0, 1] -> (h scale, w scale) float32, overshoot not clipped."""
    height, width = lr.shape
    return resize(lr, height * scale, width * scale)


def unchanged(path: AnyPath, digest: str) -> bytes:
    """The bytes of a file that had this digest before; ImageError if it cannot be read, or has another now."""
    try:
        content = as_path(path).read_bytes()
    except Exception as error:  # object stores have errors of their own
        raise ImageError(f"{path}: cannot be read ({one_line(error)})") from None
    if content_digest(content) != digest:
        raise ImageError(f"{path}: has changed since the command began; start it again")
    return content


def _header_exif(image: Image.Image) -> Image.Exif:
    # Not the method of Pillow's PNG class, which decodes the whole image in search of EXIF behind the pixels.
    return Image.Image.getexif(image)
