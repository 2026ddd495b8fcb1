"""Small odd pictures, such as people have: each as a viewer shows it, enlarged, or refused in one line."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from upath import UPath

from ail_ray.commands.chosen import chosen_model
from ail_ray.delivery.upscale import upscale as enlarged
from ail_ray.errors import printable
from ail_ray.files import digest_of
from ail_ray.imaging.images import read_image, reading
from ail_ray.imaging.pairs import PREPARATION, plan_corpus
from ail_ray.learning.config import RunConfig
from ail_ray.runs.preparation import plan_data

CASES = Path(__file__).parents[1] / "cases"
NOT_READ = {
    "float32.tif": "failed: 32-bit pixels have no defined range; save it with 8 or 16 bits",
    "heic-named-jpg.jpg": "failed: a HEIC that pillow-heif cannot read: damaged, or of a kind that it does not know",
    "truncated.jpg": "failed: cannot be read as an image (image file is truncated (16 bytes not processed))",
}
LOST = {
    "frames-apng.png": "3 frames, of which the first is kept",
    "frames.gif": "3 frames, of which the first is kept",
    "frames.webp": "3 frames, of which the first is kept",
    "pages.tif": "3 frames, of which the first is kept",
    "la16.png": "16 bits a colour, of which 8 are kept",
    "rgb16.png": "16 bits a colour, of which 8 are kept",
    "rgb16-interlaced.png": "16 bits a colour, of which 8 are kept",
}
FEW_COLOURS = ("one-bit.tif", "palette.png", "frames.gif")
ELSEWHERE = ("disc-alpha.png", "grey12.tif")
SAME_NAME = {"plain.avif": "plain-avif-x2.png", "plain.jp2": "plain-jp2-x2.png"}


def viewed(path: Path) -> Image.Image:
    """The picture as a viewer shows it, in 8 bits, over white."""
    image = Image.open(path)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def test_a_folder_of_them_is_enlarged_and_says_what_it_leaves_out(run: Callable[..., Any], tmp_path: Path) -> None:
    code, lines = run(CASES)
    assert code == 1
    said = {line.split(": ")[0].rpartition("/")[2]: line.partition(": ")[2] for line in lines[:-1]}
    assert {name: said[name] for name in NOT_READ} == NOT_READ
    assert lines[-1] == f"3 of {len(list(CASES.iterdir()))} pictures failed"
    assert {name: said[name].rpartition("; ")[2] for name in LOST} == LOST
    assert [name for name, line in said.items() if "of which" in line and name not in LOST] == []
    for path in CASES.iterdir():
        if path.name in NOT_READ:
            continue
        target = tmp_path / "out" / SAME_NAME.get(path.name, "")
        target = target if target.is_file() else next(target.glob(f"{path.stem}-x2.*"))
        source = Image.open(path)
        turned = source.size[::-1] if path.name == "turned.avif" else source.size
        with Image.open(target) as enlarged:
            assert enlarged.size == (2 * turned[0], 2 * turned[1])
            if path.name in (
                "disc-alpha.png",
                "turned.avif",
                "grey12.tif",
                "plain.jfif",
                "plain.avif",
                "cmyk.jpg",
                "frames.webp",
            ):
                continue  # looked at below, or of a lossy format
            expected = viewed(path).resize(enlarged.size, Image.Resampling.BICUBIC)
            difference = np.abs(np.asarray(viewed(target)).astype(int) - np.asarray(expected))
            assert np.quantile(difference, 0.98) <= (40 if path.name in FEW_COLOURS else 4), path.name


def test_a_transparent_edge_has_no_dark_rim(run: Callable[..., Any], tmp_path: Path) -> None:
    assert run(CASES / "disc-alpha.png")[0] == 0
    ours = np.asarray(viewed(tmp_path / "out" / "disc-alpha-x2.png")).astype(int)
    source = Image.open(CASES / "disc-alpha.png")
    premultiplied = source.resize((128, 128), Image.Resampling.BICUBIC)  # as Pillow does RGBA
    white = Image.new("RGBA", (128, 128), "white")
    pillow = np.asarray(Image.alpha_composite(white, premultiplied).convert("RGB")).astype(int)
    assert (pillow - ours).max() <= 3
    assert np.abs(pillow - ours).max() <= 12, "nor is it brighter by much"
    assert ours.min(axis=(0, 1)).tolist() != [0, 0, 0]


@pytest.mark.parametrize("model", ["bicubic", "vdsr"])
def test_hidden_colours_change_nothing_that_is_seen(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a program leaves below full transparency, and whatever the tiles."""
    generator, network = np.random.default_rng(0), chosen_model(model, 2)
    pixels = generator.integers(0, 256, (60, 70, 4), np.uint8)
    rows, columns = np.indices((60, 70))
    pixels[..., 3] = np.where((rows - 30) ** 2 + (columns - 35) ** 2 < 400, 255, 0)
    other = pixels.copy()
    other[pixels[..., 3] == 0, :3] = generator.integers(0, 256, ((pixels[..., 3] == 0).sum(), 3))
    found = [
        np.asarray(enlarged(network, Image.fromarray(each), 2, tile=tile))
        for each in (pixels, other)
        for tile in (512, 48)
    ]
    for each in found[1:]:
        seen = each[..., 3] > 3  # or rounding to 8 bits under almost full transparency makes any colour of it
        assert np.abs(each[seen].astype(int) - found[0][seen]).max() <= 1
        np.testing.assert_array_equal(each[..., 3], found[0][..., 3])


def test_ten_and_twelve_bits_are_as_bright_as_sixteen(run: Callable[..., Any], tmp_path: Path) -> None:
    twelve, sixteen = read_image(CASES / "grey12.tif"), read_image(CASES / "grey16-ref.tif")
    assert np.abs(twelve.astype(int) - sixteen).max() <= 1
    run(CASES / "grey12.tif", CASES / "grey16-ref.tif")
    made = [
        np.asarray(Image.open(tmp_path / "out" / f"{name}-x2.png")).astype(int) for name in ("grey12", "grey16-ref")
    ]
    assert made[0].dtype == made[1].dtype
    assert np.abs(made[0] - made[1]).max() <= 257


def test_zero_is_white_where_a_tiff_says_so(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "black.tif")
    Image.fromarray(values).save(tmp_path / "white.tif", tiffinfo={262: 0})
    content = (tmp_path / "white.tif").read_bytes()
    with Image.open(tmp_path / "white.tif") as image:
        assert image.tag_v2[262] == 0  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read_image(tmp_path / "white.tif"), 255 - read_image(tmp_path / "black.tif"))
    assert reading(tmp_path / "white.tif", content) == "range"
    assert reading(tmp_path / "black.tif", (tmp_path / "black.tif").read_bytes()) == ""


def test_only_pictures_that_are_read_differently_make_another_corpus(tmp_path: Path) -> None:
    def digest(*names: str) -> str:
        images = [UPath(CASES / name) for name in names]
        return plan_corpus(images, downsizes=(1.0,), scales=(2,), crop=16, shards=1).digest

    def as_ever(name: str, mark: str = "") -> str:
        content = hashlib.sha256((CASES / name).read_bytes()).hexdigest()
        return digest_of([PREPARATION, 16, 1, [[content + mark, 1.0, 2]]])

    for name in ("grey16-ref.tif", "plain.png", "cmyk.tif", "one-bit.tif", "rgb16.png"):
        assert digest(name) == as_ever(name)
    assert digest("grey12.tif") == as_ever("grey12.tif", "range")


@pytest.mark.parametrize("name", ["clip::01.png", "s3:x.png", "a%20b?.png", "-dash.png", " spaced .png"])
def test_a_name_is_a_name(run: Callable[..., Any], tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(CASES / "plain.png", tmp_path / "in" / name)
    code, lines = run("in")
    assert (code, len(list((tmp_path / "out").iterdir()))) == (0, 1), lines
    assert (tmp_path / "out" / f"{Path(name).stem}-x2.png").exists()
    code, lines = run(f"./{name}" if name.startswith("-") else tmp_path / "in" / name)
    assert (code, "skipped" in lines[0]) == (0, True) or name.startswith("-")


def test_one_bad_name_costs_no_other(run: Callable[..., Any], tmp_path: Path) -> None:
    """A name that is no UTF-8, and one that is too long for its result."""
    (tmp_path / "in").mkdir()
    for name in (b"caf\xe9.png", b"n" * 250 + b".png", b"good.png"):
        shutil.copy(CASES / "plain.png", os.path.join(os.fsencode(tmp_path / "in"), name))
    code, lines = run("in")
    made = os.listdir(os.fsencode(tmp_path / "out"))
    assert sorted(made) == [b"caf\xe9-x2.png", b"good-x2.png"]
    assert code == 1
    assert sum(": failed: " in line for line in lines) == 1
    assert lines[-1] == "1 of 3 pictures failed"
    assert all(line == printable(line) for line in lines)


def test_larger_pictures_are_read_if_that_is_asked_for(run: Callable[..., Any], tmp_path: Path) -> None:
    Image.new("L", (1200, 1000)).save(tmp_path / "large.png")
    code, lines = run("large.png", "--megapixels", 1)
    said = "has 1 megapixels, more than the 1 that are read; --megapixels reads more"
    assert (code, lines) == (2, [f"error: images: {tmp_path}/large.png: {said}"])
    assert run("large.png", "--megapixels", 1.3)[0] == 0
    assert run("large.png", "--megapixels", 0)[1] == ["error: megapixels must be positive, got 0"]


def test_a_link_to_the_pictures_is_no_folder_for_results(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(CASES / "plain.png", tmp_path / "in")
    (tmp_path / "out").symlink_to(tmp_path / "in")
    code, lines = run("in")
    assert code == 2
    assert "its results would be enlarged next time; name another folder" in lines[0]


def test_test_images_are_left_out_of_training(tmp_path: Path) -> None:
    for folder, names in {"train": ("plain.png", "cmyk.tif", "interlaced.png"), "test": ("interlaced.png",)}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            shutil.copy(CASES / name, tmp_path / folder / name)
    config = RunConfig(
        train=(f"{tmp_path}/train",), validation=(), test=(f"{tmp_path}/test",), downsizes=(1.0,), crop=16, shards=1
    )
    corpus = plan_data(config, UPath(tmp_path / "storage")).corpus
    # cmyk.tif is another file of the same picture, which a digest of the content cannot tell
    assert (len(corpus.pairs), corpus.left_out) == (2, 1)


def test_an_opaque_picture_with_alpha_is_that_without(tmp_path: Path) -> None:
    network, image = chosen_model("vdsr", 2), Image.open(CASES / "plain.png")
    plain, opaque = (np.asarray(enlarged(network, image.convert(mode), 2)) for mode in ("RGB", "RGBA"))
    np.testing.assert_array_equal(opaque[..., :3], plain)
