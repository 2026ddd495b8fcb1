"""What a round looks like, as small PNG files: a map of values, and crops in rows under their captions."""

import io
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

CAPTION = 16  # pixels of height above an image
GAP = 4  # pixels between images in a row


UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""The exceptions that Pillow raises when a picture is damaged."""


def as_png(image: np.ndarray, captions: Sequence[str] = (), columns: int | None = None) -> bytes:
    """(H, W) uint8 grey or (H, W, 3) uint8 RGB as PNG; with the captions of `side_by_side` for `panels` to read."""
    buffer, texts = io.BytesIO(), PngInfo()
    if captions:
        texts.add_text("captions", json.dumps(list(captions)))
        texts.add_text("columns", str(columns or len(captions)))
    Image.fromarray(image).save(buffer, "PNG", optimize=True, pnginfo=texts)
    return buffer.getvalue()


def as_webp(png: bytes) -> bytes:
    """A PNG as WebP, smaller and good enough to look at."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png), formats=["PNG"]).save(buffer, "WEBP", quality=90)
    return buffer.getvalue()


def panels(png: bytes) -> list[tuple[str, Image.Image]]:
    """The images of a picture that `side_by_side` made, each with its caption; any other picture whole, without one.

    Raises:
        ValueError, OSError, SyntaxError, Image.DecompressionBombError: not such a picture (all of which Pillow raises).
    """
    image = Image.open(io.BytesIO(png), formats=["PNG"])
    image.load()
    try:
        captions = json.loads(image.info.get("captions", "[]"))
    except RecursionError:  # brackets within brackets
        raise ValueError("its captions are none") from None
    if not isinstance(captions, list) or not captions:
        return [("", image)]
    columns = max(1, int(image.info.get("columns", len(captions))))
    across, down = (image.width + GAP) // columns, image.height // -(-len(captions) // columns)
    corners = [(i % columns * across, i // columns * down) for i in range(len(captions))]
    return [
        (str(caption), image.crop((left, top + CAPTION, left + across - GAP, top + down)))
        for caption, (left, top) in zip(captions, corners, strict=True)
    ]


def grey_map(values: np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """(H, W) floats as (H, W) uint8: `low` and below is black, `high` and above white."""
    scaled = (values.astype(np.float32) - low) / (high - low)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def central_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The middle of an (H, W) image, at most `side` pixels each way."""
    top, left = (max(0, (length - side) // 2) for length in image.shape)
    return image[top : top + side, left : left + side]


def side_by_side(
    images: Sequence[np.ndarray], captions: Sequence[str], *, zoom: int = 2, columns: int | None = None
) -> np.ndarray:
    """(H, W) uint8 images of one size, enlarged by whole pixels, each under its caption: (H', W') uint8.

    `columns` images make a row; by default all are in one.
    """
    height, width = (side * zoom for side in images[0].shape)
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    canvas = Image.new("L", ((width + GAP) * columns - GAP, (height + CAPTION) * rows), 255)
    draw = ImageDraw.Draw(canvas)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = i % columns * (width + GAP), i // columns * (height + CAPTION)
        draw.text((left + 2, top + 2), caption, fill=0)
        canvas.paste(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST), (left, top + CAPTION))
    return np.asarray(canvas)
