"""What a round looks like, as small PNG files: a map of values, and crops side by side under their captions."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

CAPTION, GAP = 16, 4  # pixels of height above an image, of width between two


def as_png(image: np.ndarray) -> bytes:
    """(H, W) uint8 grey or (H, W, 3) uint8 RGB as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def as_webp(png: bytes) -> bytes:
    """A PNG as WebP of a third of its size, for looking at."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, "WEBP", quality=90)
    return buffer.getvalue()


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

    In rows of so many, or all in one.
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
