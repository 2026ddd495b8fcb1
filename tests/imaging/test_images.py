"""Reading every odd kind of file, and the arithmetic of luma, cropping and resampling."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import ExifTags, Image
from upath import UPath

from ail_ray.imaging.images import ImageError, degrade, downsize, enlarge, image_size, luma, modcrop, read_image, resize

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)
scales = st.sampled_from([2, 3, 4])


def saved(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.TIFF"])
def test_lossless_formats_give_back_the_pixels(tmp_path: Path, name: str) -> None:
    for pixels in (RAMP, COLOURS):
        path = saved(tmp_path, Image.fromarray(pixels), name)
        image = read_image(path)
        np.testing.assert_array_equal(image, pixels)
        assert image.dtype == np.uint8
        assert image.flags.writeable
        assert image_size(path) == (6, 8)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_formats_come_close(tmp_path: Path, name: str) -> None:
    smooth = np.repeat(np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)
    image = read_image(saved(tmp_path, Image.fromarray(smooth), name, quality=95))
    assert image.shape == (32, 32, 3)
    assert np.abs(image.astype(int) - smooth).max() <= 6


def test_paths_of_every_kind(tmp_path: Path) -> None:
    local = saved(tmp_path, Image.fromarray(COLOURS))
    remote = UPath("memory://test_images/kinds/image.png")
    remote.parent.mkdir(parents=True, exist_ok=True)
    remote.write_bytes(local.read_bytes())
    for path in (local, str(local), UPath(local), remote, str(remote)):
        np.testing.assert_array_equal(read_image(path), COLOURS)
        assert image_size(path) == (6, 8)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path, Image.fromarray(RAMP))
    np.testing.assert_array_equal(read_image("~/image.png"), RAMP)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    halves = np.zeros((16, 32), np.uint8)
    halves[:, :8] = 255
    upright = {
        1: halves,
        2: halves[:, ::-1],
        3: halves[::-1, ::-1],
        4: halves[::-1],
        5: halves.T,
        6: np.rot90(halves, -1),
        7: halves[::-1, ::-1].T,
        8: np.rot90(halves, 1),
    }[orientation]
    path = saved(tmp_path, Image.fromarray(halves), f"a.{suffix}", exif=oriented(orientation))
    assert image_size(path) == upright.shape
    np.testing.assert_allclose(read_image(path), upright, atol=4)


def test_size_of_a_png_whose_orientation_follows_its_pixels_agrees_with_its_pixels(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(RAMP))
    content = path.read_bytes()
    exif = png_chunk(b"eXIf", oriented(6).tobytes().removeprefix(b"Exif\x00\x00"))
    path.write_bytes(content[:-12] + exif + content[-12:])
    assert image_size(path) == read_image(path).shape


def test_size_does_not_decode_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(image: Image.Image) -> None:
        raise AssertionError("decoded")

    path = saved(tmp_path, Image.fromarray(RAMP))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    assert image_size(path) == (6, 8)


def test_grey_of_16_bits_is_scaled_to_8(tmp_path: Path) -> None:
    wide = np.array([[0, 128, 129, 257, 32768, 65534, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        image = read_image(saved(tmp_path, Image.fromarray(wide), name))
        np.testing.assert_array_equal(image, [[0, 0, 1, 1, 128, 255, 255]])
        assert image.dtype == np.uint8


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path, Image.fromarray(RAMP).convert("1", dither=Image.Dither.NONE)))
    np.testing.assert_array_equal(image, np.where(RAMP >= 128, 255, 0))


def test_alpha_is_dropped_and_grey_stays_grey(tmp_path: Path) -> None:
    alpha = Image.fromarray(RAMP[::-1])
    grey, colour = Image.fromarray(RAMP), Image.fromarray(COLOURS)
    for opaque, pixels in ((grey, RAMP), (colour, COLOURS)):
        image = opaque.copy()
        image.putalpha(alpha)
        np.testing.assert_array_equal(read_image(saved(tmp_path, image)), pixels)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128, 255])])
def test_palette_becomes_rgb_grey_ones_too(tmp_path: Path, transparency: int | bytes | None) -> None:
    palette = Image.fromarray(RAMP).convert("P")
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    image = read_image(saved(tmp_path, palette, **options))
    np.testing.assert_array_equal(image, np.stack([RAMP] * 3, axis=-1))


def test_transparent_colour_of_grey_and_rgb_is_ignored(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(saved(tmp_path, Image.fromarray(RAMP), transparency=5)), RAMP)
    path = saved(tmp_path, Image.fromarray(COLOURS), transparency=(0, 200, 35))
    np.testing.assert_array_equal(read_image(path), COLOURS)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 8), (0, 255, 255, 0))
    for name in ("a.tif", "a.jpg"):
        pixels = read_image(saved(tmp_path, image, name))
        assert pixels.shape == (8, 16, 3)
        np.testing.assert_allclose(pixels, np.broadcast_to([255, 0, 0], (8, 16, 3)), atol=3)


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.png", "a.webp"])
def test_animation_gives_its_first_frame(tmp_path: Path, name: str) -> None:
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    path = saved(tmp_path, first, name, save_all=True, append_images=[second])
    pixels = read_image(path)
    np.testing.assert_allclose(pixels, np.broadcast_to([255, 0, 0], (6, 8, 3)), atol=3)
    assert image_size(path) == (6, 8)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_range_are_refused(tmp_path: Path, dtype: type) -> None:
    path = saved(tmp_path, Image.fromarray(RAMP.astype(dtype)), "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: 32-bit pixels"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty, or not an image"), (b"<html>404</html>", "empty, or not an image")],
)
def test_what_is_not_an_image_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=rf"bad\.png: {message}"):
            read(path)


def test_missing_files_folders_and_stores_are_refused(tmp_path: Path) -> None:
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=r"none\.png: no such file"):
            read(tmp_path / "none.png")
        with pytest.raises(ImageError, match=r"memory:.*none\.png: no such file"):
            read("memory://test_images/none.png")
        with pytest.raises(ImageError, match="cannot be read as an image"):
            read(tmp_path)
        with pytest.raises(ImageError, match=r"nosuchstore://bucket/a\.png: cannot be read"):
            read("nosuchstore://bucket/a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), f"cut.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}: "):
        read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@settings(deadline=None)
@given(st.data())
def test_damaged_files_are_read_or_refused_but_never_crash(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF"]))
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = UPath("memory://test_images/damaged.bin")
    path.write_bytes(bytes(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # a damaged header may promise millions
        try:
            image = read_image(path)
        except ImageError:
            return
        assert image.dtype == np.uint8
        assert image.shape[:2] == image_size(path)


def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.fromarray(RAMP), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=r"bomb\.png: has 0 megapixels, more than the 0 that are read"):
            read(path)


def test_luma_is_that_of_matlab() -> None:
    colours = {
        (0, 0, 0): 16,
        (255, 255, 255): 235,
        (255, 0, 0): 81,
        (0, 255, 0): 145,
        (0, 0, 255): 41,
        (1, 2, 3): 18,
        (200, 100, 50): 123,
    }
    image = np.array([list(colours)], np.uint8)
    np.testing.assert_array_equal(luma(image), [list(colours.values())])
    assert luma(image).dtype == np.uint8


@given(arrays.arrays(np.uint8, (5, 7, 3)))
def test_luma_is_the_rounded_formula(image: np.ndarray) -> None:
    exact = 16 + image.astype(np.float64) @ [65.481, 128.553, 24.966] / 255
    assert np.abs(luma(image) - exact).max() <= 0.5 + 1e-9


def test_single_channel_is_luma_as_it_is() -> None:
    assert luma(RAMP) is RAMP


@given(height=st.integers(1, 20), width=st.integers(1, 20), scale=scales, colour=st.booleans())
def test_modcrop_keeps_the_largest_multiple(height: int, width: int, scale: int, colour: bool) -> None:
    image = np.zeros((height, width, 3) if colour else (height, width), np.uint8)
    if min(height, width) < scale:
        with pytest.raises(ValueError, match=f"too small for scale {scale}"):
            modcrop(image, scale)
        return
    cropped = modcrop(image, scale)
    assert cropped.shape[2:] == image.shape[2:]
    for before, after in zip((height, width), cropped.shape[:2], strict=True):
        assert after % scale == 0
        assert before - scale < after <= before


def test_modcrop_keeps_the_top_left() -> None:
    np.testing.assert_array_equal(modcrop(RAMP, 4), RAMP[:4, :8])


def test_bicubic_kernel_is_that_of_a_minus_one_half() -> None:
    impulse = np.zeros((9, 9), np.float32)
    impulse[4, 4] = 1
    # Keys' kernel with a = -0.5 at distances 0.25, 0.75, 1.25, 1.75, either side of the impulse.
    kernel = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 128
    enlarged = resize(impulse, 18, 18)
    assert enlarged.dtype == np.float32
    np.testing.assert_allclose(enlarged[5:13, 5:13], np.outer(kernel, kernel), atol=1e-6)


def test_shrinking_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.float32), (16, 8))
    np.testing.assert_allclose(resize(stripes, 4, 4)[:, 1:-1], 127.5, atol=2)


@given(
    image=arrays.arrays(np.float32, (6, 9), elements=st.floats(-4, 4, width=32)),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
)
def test_resize_commutes_with_transposition_and_affine_maps(image: np.ndarray, height: int, width: int) -> None:
    resized = resize(image, height, width)
    assert resized.shape == (height, width)
    np.testing.assert_allclose(resize(image.T, width, height), resized.T, atol=1e-4)
    np.testing.assert_allclose(resize(2 * image + 1, height, width), 2 * resized + 1, atol=1e-4)


@given(value=st.integers(0, 255), scale=scales, rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_constant_images_survive_degradation(value: int, scale: int, rows: int, columns: int) -> None:
    hr = np.full((rows * scale, columns * scale), value, np.uint8)
    lr = degrade(hr, scale)
    assert lr.shape == (rows, columns)
    assert lr.dtype == np.float32
    np.testing.assert_allclose(lr, value / 255, atol=1e-6)
    sr = enlarge(lr, scale)
    assert sr.shape == hr.shape
    assert sr.dtype == np.float32
    np.testing.assert_allclose(sr, value / 255, atol=1e-6)


def test_nothing_is_rounded_or_clipped_on_the_way() -> None:
    edge = np.zeros((12, 12), np.uint8)
    edge[:, 6:] = 255
    lr = degrade(edge, 2)
    assert np.abs(lr * 255 - np.rint(lr * 255)).max() > 0.05
    sr = enlarge(lr, 2)
    assert sr.min() < -0.01
    assert sr.max() > 1.01


def test_degrade_refuses_what_modcrop_would_crop() -> None:
    with pytest.raises(ValueError, match=r"\(6, 8\) is not a multiple of scale 4"):
        degrade(RAMP, 4)


@given(y=arrays.arrays(np.uint8, (13, 10)), factor=st.floats(0.05, 1))
def test_downsize_gives_uint8_of_rounded_size(y: np.ndarray, factor: float) -> None:
    small = downsize(y, factor)
    assert small.dtype == np.uint8
    assert small.shape == (max(1, round(13 * factor)), max(1, round(10 * factor)))


def test_downsize_by_one_is_the_image_itself() -> None:
    assert downsize(RAMP, 1.0) is RAMP


def test_downsize_clips_overshoot() -> None:
    edge = np.zeros((20, 20), np.uint8)
    edge[:, 10:] = 255
    small = downsize(edge, 0.6)
    assert (small.min(), small.max()) == (0, 255)
    assert np.all(np.diff(small.astype(int), axis=1) >= 0), "an overshoot that wrapped around"


@pytest.mark.parametrize("factor", [0, -0.5, 1.5, float("nan")])
def test_downsize_refuses_other_factors(factor: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        downsize(RAMP, factor)
