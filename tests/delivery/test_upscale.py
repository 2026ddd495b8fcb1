"""Pictures of every kind and size, enlarged: upright, in their colours, without seams, in bounded memory."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps

from ail_ray.commands.export import main as export_job
from ail_ray.commands.upscale import main as upscale_job
from ail_ray.delivery.upscale import SUFFIXES, prepare, upscale
from ail_ray.errors import ConfigError
from ail_ray.imaging.colour import pixels_of, planes, read_header, read_picture
from ail_ray.imaging.image_sets import find
from ail_ray.imaging.images import enlarge, luma, read_image
from ail_ray.imaging.metrics import psnr, to_uint8
from ail_ray.learning.inference import predict, super_resolve
from ail_ray.learning.precision import placed
from ail_ray.learning.weights import load_model, save_model
from ail_ray.networks.architectures import ABPN, DRRN, FSRCNN, VDSR, Network

MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "I;16": "I;16"}
"""What each is read as."""
T = Image.Transpose
TURNS = {1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM,
         5: T.TRANSPOSE, 6: T.ROTATE_270, 7: T.TRANSVERSE, 8: T.ROTATE_90}  # fmt: skip
"""What each EXIF orientation asks for."""
ROOT = Path(__file__).parents[2]


def zeros() -> Network:
    """A student that changes nothing: its luma is bicubic interpolation."""
    model = VDSR(2, 2)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def lively(model: Network) -> Network:
    """With weights so that every pixel in reach changes the output, and the output stays about [0, 1]."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 4:
                parameter.normal_(std=0.5 / np.sqrt(parameter[0].numel()))
            elif name.endswith("bias"):
                parameter.fill_(0.1)
    return model


NETWORKS: list[Callable[[], Network]] = [
    lambda: VDSR(3, 6),
    lambda: DRRN(3, 8),
    lambda: FSRCNN(6, 6, 2),
    lambda: FSRCNN(6, 5, 3),
    lambda: FSRCNN(6, 5, 4),
    lambda: ABPN(4, 5, 3),
]


def photograph(height: int, width: int, mode: str, seed: int = 0) -> Image.Image:
    """Smooth, with an edge, and different in every corner."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (height // 8 + 2, width // 8 + 2, 4), np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return (image.convert("RGB") if mode == "P" else image).convert(mode)


@pytest.mark.parametrize("make", NETWORKS)
def test_the_radius_is_how_far_a_pixel_reaches(make: Callable[[], Network]) -> None:
    model = lively(make()).double()
    inputs = torch.rand(1, 1, 41, 41, dtype=torch.float64)
    changed = inputs.clone()
    changed[..., 20, 20] += 0.5
    with torch.no_grad():
        rows = (model(changed) - model(inputs))[0, 0].abs().amax(1).nonzero().flatten() // model.traits.upsampling
    reach = max(20 - int(rows.min()), int(rows.max()) - 20)
    assert reach <= model.traits.reach
    assert model.traits.reach - reach <= (model.name == "fsrcnn"), "and no more than that is computed in vain"


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_tiles_leave_no_seams(make: Callable[[], Network], mode: str) -> None:
    model = lively(make()).double()
    # noise, so that a pixel which is interpolated wrongly beside a tile is far from what it should be
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 91, 4), np.uint8)).convert(mode)
    for scale in (2, 3) if model.traits.upsampling == 1 else (model.traits.upsampling,):
        whole = np.asarray(upscale(model, image, scale, tile=10**6, precision="fp64"))
        for tile in (25, 64):
            tiled = np.asarray(upscale(model, image, scale, tile=tile, precision="fp64"))
            assert np.count_nonzero(tiled != whole) == 0
        assert whole.std() > 10


@pytest.mark.parametrize("make", NETWORKS)
def test_tiles_differ_from_the_whole_picture_by_one_grey_level_at_most(make: Callable[[], Network]) -> None:
    """In single precision a value next to a tie is rounded the other way here and there, and no more."""
    model, image = placed(lively(make()), "fp32", torch.device("cpu")), photograph(200, 220, "RGB")
    scale = max(2, model.traits.upsampling)
    whole = np.asarray(upscale(model, image, scale, tile=10**6)).astype(int)
    tiled = np.asarray(upscale(model, image, scale, tile=150 * (1 if model.traits.upsampling > 1 else scale)))
    assert np.abs(whole - tiled).max() <= 1
    assert np.mean(whole != tiled) < 1e-4


@pytest.mark.parametrize("make", NETWORKS)
def test_grey_is_what_the_evaluation_measures(make: Callable[[], Network]) -> None:
    model, image = lively(make()), photograph(60, 80, "L")
    scale = max(2, model.traits.upsampling)
    small = np.asarray(image, np.float32) / 255
    expected = predict(model, small if model.traits.upsampling > 1 else enlarge(small, scale)).astype(int)
    difference = np.abs(np.asarray(upscale(model, image, scale)) - expected)
    assert np.count_nonzero(difference) == 0, "the picture is one tile"


def test_colour_is_luma_through_the_network_and_bicubic_chroma() -> None:
    model, image = lively(VDSR(3, 4)), photograph(50, 60, "RGB")
    y, blue, red = planes(np.asarray(image))
    sr = predict(model, enlarge(y, 2)).astype(np.float32) / 255
    expected = pixels_of([sr, enlarge(blue, 2), enlarge(red, 2)], np.dtype(np.uint8)).astype(int)
    enlarged = np.asarray(upscale(model, image, 2))
    assert np.abs(enlarged - expected).max() <= 1, "but for the rounding of luma in between"
    np.testing.assert_array_equal(to_uint8(y), luma(np.asarray(image)))


@pytest.mark.parametrize("make", NETWORKS[:3])
def test_chroma_goes_through_the_network_if_that_is_asked_for(make: Callable[[], Network]) -> None:
    model, image = lively(make()), photograph(40, 52, "RGB")
    ours = np.asarray(upscale(model, image, 2, chroma=True, tile=48)).astype(int)
    made = []
    for plane in planes(np.asarray(image)):
        inputs = plane if model.traits.upsampling > 1 else enlarge(plane, 2)
        made.append(super_resolve(model, torch.from_numpy(inputs), "fp32").numpy())
    assert np.abs(ours - pixels_of(made, np.dtype(np.uint8))).max() <= 1
    assert np.abs(ours - np.asarray(upscale(model, image, 2))).max() > 0


def test_colours_come_back_exactly() -> None:
    colours = np.stack(np.meshgrid(*[[*range(0, 256, 5)]] * 3), -1).reshape(52, -1, 3).astype(np.uint8)
    np.testing.assert_array_equal(pixels_of(planes(colours), colours.dtype), colours)
    deep = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(pixels_of(planes(deep), deep.dtype), deep)


@settings(max_examples=60)
@given(
    mode=st.sampled_from(sorted(MODES)),
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    orientation=st.integers(1, 8),
    scale=st.sampled_from([2, 3, 4]),
)
def test_every_mode_and_size_keeps_its_place_and_its_alpha(
    tmp_path_factory: pytest.TempPathFactory, mode: str, size: tuple[int, int], orientation: int, scale: int
) -> None:
    image, exif = photograph(*size, mode), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path_factory.mktemp("any") / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path, exif=exif)
    header, picture = read_header(path), read_picture(path)
    enlarged = upscale(zeros(), picture.image, scale, tile=96)
    turn = TURNS[orientation]
    upright = image if turn is None else image.transpose(turn)
    upright = upright if mode == "I;16" else upright.convert(MODES[mode])
    assert enlarged.size == (upright.width * scale, upright.height * scale)
    assert (header.width, header.height, header.mode) == (*upright.size, MODES[mode])
    assert enlarged.mode == picture.image.mode == MODES[mode]
    np.testing.assert_array_equal(np.asarray(picture.image), np.asarray(upright))
    pixels, most = np.asarray(upright), 65535 if mode == "I;16" else 255
    channels = pixels[..., None] if pixels.ndim == 2 else pixels
    weighed = np.asarray(upright.resize(enlarged.size, Image.Resampling.BICUBIC))
    for i in range(channels.shape[2]):
        bicubic = np.clip(enlarge(channels[..., i].astype(np.float32), scale), 0, most)
        bicubic = weighed[..., i].astype(np.float32) if upright.mode in ("LA", "RGBA") else bicubic
        ours = np.asarray(enlarged).reshape(*enlarged.size[::-1], -1)[..., i]
        # colours leave the cube in the middle of the way and are clipped at its end: only alpha and grey are the same
        exact = enlarged.mode in ("L", "LA", "I;16") or i == 3
        assert np.abs(ours - bicubic).max() <= (1 if exact else 2)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 7), (12, 200, 99)])
def test_flat_stays_flat(colour: tuple[int, int, int]) -> None:
    image = Image.new("RGB", (37, 23), colour)
    assert upscale(zeros(), image, 3, tile=32).getcolors() == [(37 * 23 * 9, colour)]
    model = lively(VDSR(3, 4))
    inside = np.asarray(upscale(model, image, 2, tile=32))[8:-8, 8:-8].reshape(-1, 3)
    assert len(np.unique(inside, axis=0)) == 1, "beyond the reach of the border"


def test_transparent_palettes_keep_their_transparency(tmp_path: Path) -> None:
    pixels = Image.new("P", (6, 4))
    pixels.putpalette([10, 20, 30, 200, 100, 50])
    pixels.paste(1, (3, 0, 6, 4))
    pixels.save(tmp_path / "p.png", transparency=0)
    assert read_header(tmp_path / "p.png").mode == "RGBA"
    enlarged = np.asarray(upscale(zeros(), read_picture(tmp_path / "p.png").image, 2))
    assert enlarged[0, 0, 3] == 0
    np.testing.assert_array_equal(enlarged[-1, -1], [200, 100, 50, 255])


def test_cmyk_is_shown_through_its_profile(tmp_path: Path) -> None:
    """A profile of RGB stands for one that does not fit: it counts as none."""
    image, profile = photograph(20, 20, "CMYK"), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "a.jpg", quality=100, icc_profile=profile)
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.profile is None
    np.testing.assert_array_equal(np.asarray(picture.image), read_image(tmp_path / "a.jpg"))


# The command


def main(*arguments: str | Path, job: Callable[[list[str]], int] = upscale_job) -> int:
    """The command in this process; its exit code."""
    try:
        return job([str(argument) for argument in arguments])
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    save_model(tmp_path / "student.safetensors", zeros())
    return tmp_path / "student.safetensors"


def test_a_photograph_keeps_what_belongs_to_it(
    tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile, exif = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Camera"
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base.DateTimeOriginal: "2020:02:02 02:02:02",
                                            ExifTags.Base.ExifImageWidth: 60})  # fmt: skip
    photo = tmp_path / "in" / "photo.jpeg"
    photo.parent.mkdir()
    photograph(40, 60, "RGB").save(photo, exif=exif, icc_profile=profile, quality=95)
    photograph(40, 60, "RGBA").save(tmp_path / "in" / "drawing.webp", lossless=True)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    before = photo.read_bytes()
    assert main(tmp_path / "in", "--model", student, "--scale", "3", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in said] == [
        "passed over: 1 .txt",
        f"{tmp_path}/in/drawing.webp: {tmp_path}/out/drawing-x3.webp",
        f"{photo}: {tmp_path}/out/photo-x3.jpg",
    ]
    with Image.open(tmp_path / "out" / "photo-x3.jpg") as image:
        assert (image.size, image.format, image.info["icc_profile"]) == ((120, 180), "JPEG", profile)
        written = image.getexif()
        assert ExifTags.Base.Orientation not in written
        assert written[ExifTags.Base.Make] == "Camera"
        details = written.get_ifd(ExifTags.IFD.Exif)
        assert details == {ExifTags.Base.DateTimeOriginal: "2020:02:02 02:02:02"}
        bicubic = ImageOps.exif_transpose(Image.open(photo)).resize(image.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(image).astype(int) - np.asarray(bicubic)).mean() < 2
    with Image.open(tmp_path / "out" / "drawing-x3.webp") as image:
        assert (image.size, image.mode, image.format) == ((180, 120), "RGBA", "WEBP")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert main(tmp_path / "in", "--model", student, "--scale", "3", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[2] == f"{photo}: skipped, {tmp_path}/out/photo-x3.jpg is there already"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == stamps
    assert photo.read_bytes() == before


@pytest.mark.parametrize(("format", "mode"), [("png", "I;16"), ("jpeg", "L"), ("webp", "RGB")])
def test_sixteen_bits_stay_where_the_format_has_them(tmp_path: Path, student: Path, format: str, mode: str) -> None:
    image = Image.fromarray(np.linspace(0, 65535, 900).reshape(30, 30).astype(np.uint16))
    image.save(tmp_path / "deep.tif")
    out = tmp_path / "out"
    assert main(tmp_path / "deep.tif", "--format", format, "--model", student, "--out", out) == 0
    with Image.open(next(out.iterdir())) as enlarged:
        assert (enlarged.mode, enlarged.size) == (mode, (60, 60))
        pixels = np.asarray(enlarged).astype(float) / (65535 if mode == "I;16" else 255)
    expected = np.clip(enlarge(np.asarray(image).astype(np.float32) / 65535, 2), 0, 1)
    assert np.abs(pixels.reshape(60, 60, -1)[..., 0] - expected).max() < (1e-4 if mode == "I;16" else 0.03)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photograph(8, 9, "RGBA").save(folder / "a.png")
    photograph(8, 9, "RGB").save(folder / "b.png")
    (tmp_path / "other").mkdir()
    photograph(8, 9, "RGB").save(tmp_path / "other" / "b.png")
    (folder / "c.png").write_bytes(b"not an image")
    Image.new("F", (3, 3)).save(folder / "d.tif")
    inputs = (folder, tmp_path / "other", tmp_path / "none.png", "nowhere")
    assert main(*inputs, "--scale", "5", "--format", "jpeg", "--out", folder, "--model",
                tmp_path / "none.safetensors") == 2  # fmt: skip
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "error: scale must be 1, 2, 3 or 4, got 5",
        f"error: model: {tmp_path}/none.safetensors: no such file",
        f"error: out: {folder} is read too, its results would be enlarged next time; name another folder",
        f"error: images: {tmp_path}/none.png: no such file",
        said.err.splitlines()[4],
        f"error: images: {folder}/a.png: JPEG cannot hold its transparency; choose png or webp",
        f"error: images: {folder}/b.png and {tmp_path}/other/b.png would become the same {folder}/b-png-x5.jpg",
        f"error: images: {folder}/c.png: empty, or not an image of a known format",
        f"error: images: {folder}/d.tif: 32-bit pixels have no defined range; save it with 8 or 16 bits",
    ]
    assert said.err.splitlines()[4].startswith("error: images: unknown image set 'nowhere'")


def test_a_network_that_serves_another_scale_and_too_long_sides_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "fsrcnn.safetensors", FSRCNN(4, 5, 2))
    Image.new("L", (6000, 1)).save(tmp_path / "long.webp", lossless=True)
    with pytest.raises(ConfigError) as refused:
        prepare(
            lambda name, scale: load_model(name),
            str(tmp_path / "fsrcnn.safetensors"),
            3,
            [str(tmp_path / "long.webp")],
            str(tmp_path / "o"),
        )
    assert refused.value.problems == [
        "model: this fsrcnn upsamples by 2, it cannot serve scale 3",
        f"images: {tmp_path}/long.webp: 3×18000 pixels are too many for webp; choose png",
    ]


def test_a_damaged_picture_fails_alone(tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = io.BytesIO()
    photograph(64, 64, "RGB").save(whole, "PNG")
    (tmp_path / "a.png").write_bytes(whole.getvalue()[:-900])
    (tmp_path / "b.png").write_bytes(whole.getvalue())
    out = tmp_path / "out"
    assert main(tmp_path / "a.png", tmp_path / "b.png", "--model", student, "--out", out) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{tmp_path}/a.png: failed: cannot be read as an image")
    assert said[1].startswith(f"{tmp_path}/b.png: {out}/b-x2.png (128×128, ")
    assert said[2:] == ["1 of 2 pictures failed"]
    assert [path.name for path in out.iterdir()] == ["b-x2.png"]


def test_what_phones_write_is_enlarged(tmp_path: Path) -> None:
    image = photograph(40, 48, "RGB")
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.heic", quality=95)
    assert main(tmp_path, "--model", "bicubic", "--out", tmp_path / "out") == 0
    plain, heic = (np.asarray(Image.open(tmp_path / "out" / f"{name}-x2.png")) for name in "ab")
    assert psnr(plain[..., 1], heic[..., 1], 0) > 30


def test_a_folder_of_a_phone_says_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ail_ray.imaging.images.PLUGGED_IN", ())
    monkeypatch.setattr("ail_ray.delivery.upscale.SUFFIXES", tuple({*SUFFIXES} - {".heic", ".heif"}))
    folder, out, whole = tmp_path / "holidays", tmp_path / "out", photograph(20, 24, "RGB")
    (folder / "inside").mkdir(parents=True)
    for name, format in (("a.jfif", "JPEG"), ("b.avif", "AVIF"), ("c.jp2", "JPEG2000"), ("d.jpg", "JPEG")):
        whole.save(folder / name, format)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"
    for name in ("e.heic", "f.HEIC", "g.jpg"):
        (folder / name).write_bytes(heic)
    (folder / "h.mov").touch()
    (folder / ".DS_Store").touch()
    assert main(folder, "--model", "bicubic", "--out", out) == 1, "one of them is no picture"
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "passed over: 1 folder inside (a name that ends in /** enters them), 2 .heic, 1 .mov",
        f"{folder}/g.jpg: failed: a HEIC, which only the plug-in pillow-heif reads: pip install 'ail-ray[heic]', or "
        "save the picture as JPEG or PNG",
    ]
    taken = [f"{folder}/{name}" for name in ("a.jfif", "b.avif", "c.jp2", "d.jpg")]
    assert [line.split(": ")[0] for line in said[2:6]] == taken
    assert said[6:] == ["1 of 5 pictures failed"]
    assert sorted(path.name for path in out.iterdir()) == ["a-x2.jpg", "b-x2.png", "c-x2.png", "d-x2.jpg"]
    assert [path.name for path in find(str(folder)).paths] == ["a.jfif", "b.avif", "c.jp2", "d.jpg", "g.jpg"]
    assert main(folder / "e.heic", "--model", "bicubic", "--out", out) == 2
    assert "a HEIC, which only the plug-in" in capsys.readouterr().err


def test_bicubic_is_a_model_too(tmp_path: Path) -> None:
    image = photograph(33, 47, "RGBA")
    image.save(tmp_path / "a.png")
    save_model(tmp_path / "zeros.safetensors", zeros())
    for i, model in enumerate(("bicubic", tmp_path / "zeros.safetensors")):
        assert main(tmp_path / "a.png", "--model", model, "--scale", "3", "--out", tmp_path / str(i)) == 0
    ours, expected = (np.asarray(Image.open(tmp_path / str(i) / "a-x3.png")) for i in range(2))
    np.testing.assert_array_equal(ours, expected)


def test_only_a_network_of_ours_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--model", "bicubic", "--out", tmp_path, job=export_job) == 2
    line = "error: model: only a student or a teacher in safetensors can be written, no bicubic interpolation\n"
    assert capsys.readouterr().err == line


def test_the_network_is_laid_out_for_speed(tmp_path: Path, student: Path) -> None:
    photograph(8, 9, "RGB").save(tmp_path / "a.png")
    work = prepare(lambda word, scale: load_model(word), str(student), 2, [str(tmp_path / "a.png")], str(tmp_path))
    weight = work.network.layers[1].weight  # type: ignore[index, union-attr]
    assert weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator]


def test_an_export_is_one_file_and_replaces_none(
    tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", student, "--precision", "int8", "--bytes", "--shape", "96x96", "--out", tmp_path / "phone")
    assert main(*words, job=export_job) == 0
    file, report = sorted((tmp_path / "phone").iterdir(), reverse=True)
    assert (file.name, report.name) == ("vdsr-f2-x2-int8-bytes-96x96.onnx", f"{file.stem}-onnx-report.json")
    assert capsys.readouterr().out.startswith(f"{file}\n")
    assert main(*words, job=export_job) == 2
    remedy = "is there already; remove it, or name another folder"
    assert capsys.readouterr().err == f"error: out: {file} {remedy}\nerror: out: {report} {remedy}\n"


@pytest.mark.parametrize(
    ("job", "arguments", "line"),
    [
        (upscale_job, [], "images: name files, folders or sets to enlarge"),
        (upscale_job, ["a.png", "--scale", "2", "b.png"],
         "b.png: name it in one place with the other values of its kind"),
        (export_job, ["--precision", "int4"], "--precision: cannot read 'int4'; see --help"),
        (export_job, ["--precision", "fp16", "--calibration", "mine"], "calibration goes with --precision int8"),
    ],
)  # fmt: skip
def test_commands_that_mean_nothing_are_refused(
    job: Callable[[list[str]], int], arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(*arguments, job=job) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


PEAK = """
import resource
import torch
from PIL import Image
from ail_ray.networks.architectures import VDSR
from ail_ray.delivery.upscale import upscale
from ail_ray.learning.precision import placed
model, image = placed(VDSR(48, 2), "fp32", torch.device("cpu")), Image.new("L", (1600, 1200), 100)
upscale(model, image.crop((0, 0, 300, 300)), 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
upscale(model, image, 2)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.long
def test_memory_is_that_of_the_picture_and_not_of_the_features() -> None:
    environment: dict[str, Any] = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, env=environment)
    features = 48 * 3200 * 2400 * 4 / 2**20  # of one layer, if it were computed whole
    assert float(done.stdout) < 150 < features / 9
