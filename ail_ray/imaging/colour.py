"""Colour pictures: reading them with their colour profile and EXIF, taking them apart into planes, and encoding them.

Luma is Y of `images.luma`, not rounded; chroma are Cb and Cr of the same transform (ITU-R BT.601). A grey picture has
only luma, which is its grey.
"""

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.ndimage
from PIL import ExifTags, Image, ImageCms, ImageOps, TiffImagePlugin

from ail_ray.files import AnyPath
from ail_ray.imaging.images import ImageError, enlarge, opened, upright_size, wide_grey

Format = Literal["jpeg", "png", "webp"]

SUFFIX: dict[Format, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
LONGEST_SIDE: dict[Format, int] = {"jpeg": 65_500, "png": 2**31 - 1, "webp": 16_383}
"""The most pixels that a side of a picture can have in a format."""
LARGEST_EXIF = 65_527
"""The most bytes of EXIF that fit into a segment of a JPEG file."""

CUBIC = 3
"""How many pixels around a part of a picture its bicubic enlargement looks at, plus one."""

TO_YCC = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112], [112, -93.786, -18.214]]) / 255
FROM_YCC = np.linalg.inv(TO_YCC)
OFFSET = np.array([16, 128, 128]) / 255


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An upright picture with its colour profile and its EXIF, from which the orientation has been removed."""

    image: Image.Image  # of mode L, LA, RGB, RGBA or I;16
    profile: bytes | None
    exif: bytes | None


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the header of a file says: height and width of the upright picture, and the mode `read_picture` gives it."""

    height: int
    width: int
    mode: str
    format: Format  # in which it is kept: its own, or PNG
    lost: str = ""  # what of it is not read, in words


def read_header(path: AnyPath) -> Header:
    """Read the header of a picture file.

    Raises:
        ImageError: as `read_picture`, as far as the header tells.
    """
    with opened(path) as image:
        height, width = upright_size(image)
        kept: dict[str | None, Format] = {"JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}
        return Header(
            height=height, width=width, mode=_mode(path, image), format=kept.get(image.format, "png"), lost=_lost(image)
        )


def read_picture(path: AnyPath) -> Picture:
    """Read a picture of any mode, turned upright as its EXIF orientation says.

    Grey stays grey, 16 bits of it included; palettes and all else become RGB, with alpha if there is transparency.
    CMYK is converted through its colour profile to sRGB if it has one. Other 16-bit colour has 8 bits in Pillow.

    Raises:
        ImageError: as `read_image`.
    """
    with opened(path) as image:
        mode, profile, is_tiff = _mode(path, image), image.info.get("icc_profile"), image.format == "TIFF"
        ImageOps.exif_transpose(image, in_place=True)
        exif = None if is_tiff else _exif(image)  # a TIFF's tags tell how its pixels lie in the file, too
        if mode == "I;16":
            return Picture(image=Image.fromarray(wide_grey(image)), profile=profile, exif=exif)
        if image.mode == "CMYK" and profile:
            with suppress(ImageCms.PyCMSError, OSError):  # a broken profile is as none
                printed, screen = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
                image = ImageCms.profileToProfile(image, printed, screen, outputMode="RGB") or image
            profile = None
        image.load()
        return Picture(image=image if image.mode == mode else image.convert(mode), profile=profile, exif=exif)


def planes(pixels: np.ndarray) -> list[np.ndarray]:
    """Luma, then Cb and Cr if there is colour, then alpha if there is any: each (H, W) float32 on [0, 1].

    Args:
        pixels: (H, W) uint8 or uint16, or (H, W, 2 or 3 or 4) uint8: grey and alpha, RGB, RGB and alpha.
    """
    unit = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    channels = [unit] if unit.ndim == 2 else [unit[..., i] for i in range(unit.shape[2])]
    return [*_mixed(TO_YCC, channels[:3], OFFSET), *channels[3:]] if len(channels) >= 3 else channels


def with_alpha_enlarged(pixels: np.ndarray, scale: int) -> list[np.ndarray]:
    """`planes` of (H, W, 2 or 4) uint8, enlarged bicubically: each (scale H, scale W) float32 on about [0, 1].

    Near pixels that are not opaque they are as Pillow enlarges them: the colour of a pixel weighs by its alpha. So what
    is hidden below full transparency, mostly black, is not mixed into the rim of what is seen. Elsewhere they are those
    of a picture without alpha.
    """
    height, width = pixels.shape[:2]
    weighed = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    opaque = scipy.ndimage.minimum_filter(pixels[..., -1], 2 * CUBIC + 1) == 255
    opaque = opaque.repeat(scale, 0).repeat(scale, 1)
    both = zip(planes(pixels), planes(np.asarray(weighed)), strict=True)
    return [np.where(opaque, enlarge(plain, scale), by_alpha) for plain, by_alpha in both]


def without_hidden(pixels: np.ndarray) -> np.ndarray:
    """Pixels whose fully transparent ones have the colour of the nearest that is not: (H, W, 2 or 4) uint8."""
    seen = pixels[..., -1] > 0
    if seen.all() or not seen.any():
        return pixels
    rows, columns = scipy.ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
    filled = pixels[rows, columns]
    filled[..., -1] = pixels[..., -1]
    return filled


def pixels_of(planes: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The inverse of `planes`, clipped and rounded, in uint8 or uint16."""
    channels = planes
    if len(planes) >= 3:
        channels = [*_mixed(FROM_YCC, planes[:3], -FROM_YCC @ OFFSET), *planes[3:]]
    pixels = channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)
    return np.rint(np.clip(pixels, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def encoded(picture: Picture, format: Format) -> bytes:
    """Encode a picture as a file. Where the format has no 16 bits it gets 8; lossy formats lose next to nothing.

    Raises:
        ValueError: JPEG holds no alpha.
    """
    image, options = picture.image, {"jpeg": {"quality": 95, "subsampling": 0}, "webp": {"quality": 95}, "png": {}}
    if format == "jpeg" and image.mode in ("LA", "RGBA"):
        raise ValueError("JPEG holds no transparency")
    if image.mode == "I;16" and format != "png":
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    belongings = {"icc_profile": picture.profile, "exif": picture.exif}
    buffer = io.BytesIO()
    image.save(buffer, format, **options[format], **{name: value for name, value in belongings.items() if value})
    return buffer.getvalue()


def _lost(image: Image.Image) -> str:
    """What of an image `read_picture` leaves out: further frames, and bits of colour."""
    lost = []
    with suppress(Exception):  # of a file that is damaged further on
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        lost += [f"{frames} frames, of which the first is kept"] if frames > 1 else []
    bits = getattr(image, "tag_v2", {}).get(TiffImagePlugin.BITSPERSAMPLE, (8,)) if image.format == "TIFF" else ()
    tiles = getattr(image, "tile", [])
    stored = str(tiles[0][3]) if tiles else ""  # in Pillow's words, such as RGB;16B
    if not image.mode.startswith("I;16") and (";16" in stored or max(bits, default=8) > 8) and image.mode != "F":
        lost.append("16 bits a colour, of which 8 are kept")
    return " and ".join(lost)


def _mode(path: AnyPath, image: Image.Image) -> str:
    """The mode in which an image of one of Pillow's many modes is read."""
    if image.mode in ("I", "F"):
        raise ImageError(f"{path}: 32-bit pixels have no defined range; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        return "I;16"
    colour = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    return (colour + "A") if image.has_transparency_data else colour


def _exif(image: Image.Image) -> bytes | None:
    """The EXIF of a picture if it can be written again, without the size, which is no longer true."""
    with suppress(Exception):  # what is in there comes from any camera or program
        exif = image.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight):
            details.pop(tag, None)
        written = exif.tobytes()
        return written if len(exif) and len(written) <= LARGEST_EXIF else None
    return None


def _mixed(matrix: np.ndarray, channels: list[np.ndarray], offset: np.ndarray) -> list[np.ndarray]:
    # By element and not as a matrix product, whose rounding depends on where in the array a pixel stands.
    first, second, third = channels
    rows = zip(matrix.astype(np.float32), offset.astype(np.float32), strict=True)
    return [row[0] * first + row[1] * second + row[2] * third + shift for row, shift in rows]
