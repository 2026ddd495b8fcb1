"""Pictures of a round: what stands in a row comes out again, one by one, with its caption."""

import io

import numpy as np
import pytest
from PIL import Image

from ail_ray.imaging.panels import as_png, panels, side_by_side

CAPTIONS = ["bicubic 25.00 dB", "student ρ=0.8", "original"]


@pytest.mark.parametrize(("count", "zoom", "width"), [(1, 1, 7), (2, 1, 10), (3, 2, 8), (3, 1, 31)])
def test_the_images_of_a_row_come_out_as_they_went_in(count: int, zoom: int, width: int) -> None:
    images = [np.random.default_rng(i).integers(0, 256, (9, width), np.uint8) for i in range(count)]
    found = panels(as_png(side_by_side(images, CAPTIONS[:count], zoom=zoom), CAPTIONS[:count]))
    assert [caption for caption, _ in found] == CAPTIONS[:count]
    for image, (_, panel) in zip(images, found, strict=True):
        np.testing.assert_array_equal(np.asarray(panel), image.repeat(zoom, 0).repeat(zoom, 1))


def test_a_picture_without_captions_is_one_panel() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(6, 10)
    ((caption, panel),) = panels(as_png(image))
    assert caption == ""
    np.testing.assert_array_equal(np.asarray(panel), image)


def test_what_is_no_png_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "GIF")
    with pytest.raises(OSError, match="cannot identify"):
        panels(buffer.getvalue())
