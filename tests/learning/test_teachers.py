"""Teachers of every kind: what each makes of a pair, and what is refused before anything starts."""

import importlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tiny_files import picture
from torch import library
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.imaging.images import ImageError, degrade, downsize, luma, modcrop
from ail_ray.imaging.pairs import Pair, Sides, plan_corpus
from ail_ray.learning import public_weights
from ail_ray.learning.public_weights import OVERLAP, in_tiles
from ail_ray.learning.teachers import OwnTeacher, PictureFolder, PublicWeights, Teacher, find_teacher
from ail_ray.learning.weights import save_model, weights_digest
from ail_ray.networks.building import build_model
from ail_ray.networks.code import resolve
from ail_ray.runs.teacher_maps import write_map
from ail_ray.tensors import as_tensor, read_tensors

CPU = torch.device("cpu")
DECLARED: list[library.Library] = []


@pytest.fixture(scope="session")
def spandrel() -> Any:
    """The library; where torchvision is of another build than torch, what spandrel needs of it is declared for it."""
    try:
        return importlib.import_module("spandrel")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    declared = library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        declared.define(f"{operator}(Tensor a) -> Tensor")
    DECLARED.append(declared)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("spandrel", "torchvision")]:
        del sys.modules[name]
    return importlib.import_module("spandrel")


def _compact(scale: int = 2, channels: int = 3) -> tuple[str, dict[str, Any]]:
    return "Compact", {"num_in_ch": channels, "num_out_ch": channels, "num_feat": 8, "num_conv": 2, "upscale": scale}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Compact": _compact()[1],
    "ESRGAN": {"num_filters": 8, "num_blocks": 1, "scale": 2},
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2},
    "RCAN": {"scale": 2, "n_resgroups": 1, "n_resblocks": 1, "n_feats": 16},
    "SwinIR": {
        "upscale": 2, "img_size": 64, "window_size": 8, "depths": [2], "embed_dim": 12, "num_heads": [2],
        "upsampler": "pixelshuffledirect",
    },
}  # fmt: skip
"""Of four convolutional architectures and of a transformer, all of colour, what makes a small one."""


def written(spandrel: Any, path: Path, name: str, arguments: dict[str, Any], *, gain: float = 1.0) -> torch.nn.Module:
    """Write random weights of an architecture, by spandrel's own class, matrices `gain` times as large."""
    architectures = importlib.import_module(f"spandrel.architectures.{name}")
    torch.manual_seed(3)
    model: torch.nn.Module = getattr(architectures, name)(**arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= gain if parameter.ndim > 1 else 1
    safetensors.torch.save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Pairs of a colour picture and of a grey one, whole and at half their size, at scale 2."""
    folder = tmp_path_factory.mktemp("pictures")
    planes = [picture(seed, 76, 92)[:75, :90] for seed in (1, 2, 3)]
    Image.fromarray(np.stack(planes, axis=-1)).save(folder / "colour.png")
    Image.fromarray(planes[0]).save(folder / "grey.png")
    images = [UPath(path) for path in sorted(folder.iterdir())]
    return list(plan_corpus(images, downsizes=(1.0, 0.5), scales=(2,), crop=16, shards=1).pairs)


def maps_of(teacher: Teacher, pairs: list[Pair], folder: Path, kind: Any = "errors") -> np.ndarray:
    """The map that a worker writes of these pairs."""
    path = UPath(folder / "map.safetensors")
    assert write_map(path, kind, pairs, teacher, "fp32", "cpu", 1) == ""
    (found,) = read_tensors(path)[0].values()
    return found


def luma_by_hand(rgb: np.ndarray, grey: bool) -> np.ndarray:
    """Y of BT.601 of (H, W, 3) on [0, 1], and of what was made of a grey picture the grey value."""
    weighed = rgb[..., 0] * 65.481 + rgb[..., 1] * 128.553 + rgb[..., 2] * 24.966
    return weighed / 219 if grey else (16 + weighed) / 255


def small_by_hand(pair: Pair) -> np.ndarray:
    """The small picture of a pair in colour: each plane made smaller as luma is, rounded to 8 bits."""
    image = np.asarray(Image.open(pair.path))
    planes = [image] * 3 if image.ndim == 2 else [image[..., i] for i in range(3)]
    small = [degrade(modcrop(downsize(plane, pair.downsize), pair.scale), pair.scale) for plane in planes]
    return np.stack([np.clip(np.rint(plane * 255), 0, 255) for plane in small], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_errors_of_public_weights_are_those_of_the_model_called_by_hand(
    spandrel: Any, pairs: list[Pair], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "public.safetensors"
    model = written(spandrel, path, name, ARCHITECTURES[name])
    teacher = find_teacher(str(path), (2,))
    assert isinstance(teacher, PublicWeights)
    expected = []
    for pair in pairs:
        image = np.asarray(Image.open(pair.path))
        inputs = torch.from_numpy(small_by_hand(pair).astype(np.float32) / 255).permute(2, 0, 1)[None]
        window = 8 if name == "SwinIR" else 1
        padding = (0, -inputs.shape[3] % window, 0, -inputs.shape[2] % window)
        with torch.inference_mode():
            made = model(torch.nn.functional.pad(inputs, padding, mode="reflect"))[0].permute(1, 2, 0).numpy()
        y = luma_by_hand(made[: pair.height, : pair.width].clip(0, 1), image.ndim == 2)
        hr = modcrop(downsize(luma(image), pair.downsize), pair.scale)
        expected.append(np.abs(hr / 255 - y).ravel())
    found, by_hand = maps_of(teacher, pairs, tmp_path), np.concatenate(expected)
    assert found.dtype == np.float16
    assert by_hand.max() > 0.05, "random weights err"
    np.testing.assert_allclose(found, by_hand, rtol=2**-10, atol=1e-6)


def test_public_weights_of_luma_read_luma(spandrel: Any, pairs: list[Pair], tmp_path: Path) -> None:
    path = tmp_path / "luma.safetensors"
    model = written(spandrel, path, *_compact(channels=1))
    teacher = find_teacher(str(path), (2,))
    assert isinstance(teacher, PublicWeights)
    outputs = []
    for pair in pairs:
        inputs = as_tensor(degrade(pair.sides().hr, 2))[None, None]
        with torch.inference_mode():
            outputs.append(model(inputs)[0, 0].clamp(0, 1).numpy().ravel())
    np.testing.assert_allclose(
        maps_of(teacher, pairs, tmp_path, "outputs"), np.concatenate(outputs), rtol=2**-10, atol=1e-6
    )


def test_a_large_picture_is_enlarged_in_squares_without_seams(
    spandrel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile = 64  # a third of what it is, in a third of the time
    monkeypatch.setattr(public_weights, "TILE", tile)
    torch.manual_seed(0)
    image = torch.rand(1, 3, 2 * tile + 45, tile + 2 * OVERLAP + 3)
    for name in ("Compact", "ESRGAN"):
        model = written(spandrel, tmp_path / "public.safetensors", name, ARCHITECTURES[name])
        with torch.inference_mode():
            whole, tiled = model(image), in_tiles(model, image, 2)
        assert whole.shape == tiled.shape
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)  # both reach less far than squares overlap
    for depths in ([2], [6, 6]):  # two layers of windows of 8 reach less far than squares overlap, twelve do not
        arguments = ARCHITECTURES["SwinIR"] | {"depths": depths, "num_heads": [2] * len(depths)}
        written(spandrel, tmp_path / "public.safetensors", "SwinIR", arguments, gain=5)  # or far pixels count nothing
        transformer = public_weights._loaded(UPath(tmp_path / "public.safetensors"))
        with torch.inference_mode():
            whole, tiled = transformer(image), in_tiles(transformer, image, 2)
        largest = float((whole - tiled).abs().max())
        print(f"a transformer of {sum(depths)} layers differs by {largest:.1e} at most, its windows where they were")
        assert largest < 1e-4
    with torch.inference_mode():
        unaligned = transformer(image[..., 4:])[..., : 2 * tile]
    assert float((unaligned - whole[..., 8 : 8 + 2 * tile]).abs().max()) > 1e-3, "windows elsewhere are another result"


def test_a_folder_of_pictures_is_the_model_that_made_them(
    spandrel: Any, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "public.safetensors"
    model = written(spandrel, path, "Compact", ARCHITECTURES["Compact"])
    (tmp_path / "made").mkdir()
    for pair in pairs:
        inputs = torch.from_numpy(pair.sides().small_rgb / np.float32(255)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            made = model(inputs)[0].permute(1, 2, 0).clamp(0, 1).mul(255).round().byte().numpy()
        Image.fromarray(made).save(tmp_path / "made" / f"{pair.name}.png")
    folder = find_teacher(f"{tmp_path}/made", (2,))
    assert isinstance(folder, PictureFolder)
    assert folder.lacks(pairs) == []
    rounded, exact = maps_of(folder, pairs, tmp_path), maps_of(PublicWeights(UPath(path)), pairs, tmp_path)
    grey_level = 0.5 / 219 + 2**-12
    assert 0 < np.abs(rounded.astype(np.float32) - exact).max() <= grey_level, "no more than 8 bits cost"
    code = tmp_path / "rounding.py"
    code.write_text(
        "import importlib, torch, safetensors.torch\n"
        f"model = getattr(importlib.import_module('spandrel.architectures.Compact'), 'Compact')(**{_compact()[1]})\n"
        f"model.load_state_dict(safetensors.torch.load_file({str(path)!r}))\n"
        "def enlarge(small, scale):\n"
        "    made = model(torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255)[0].permute(1, 2, 0)\n"
        "    return made.clamp(0, 1).mul(255).round().byte()\n"
    )
    monkeypatch.chdir(tmp_path)
    own = find_teacher(resolve(f"{code}:enlarge", "teacher"), (2,))
    assert isinstance(own, OwnTeacher)
    np.testing.assert_array_equal(maps_of(own, pairs, tmp_path), rounded)


def test_a_folder_says_what_it_lacks(pairs: list[Pair], tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"no pictures in this folder; `ail teacher-inputs` says what belongs there"):
        find_teacher(str(folder))
    for pair in pairs[1:]:
        Image.fromarray(np.zeros((pair.height, pair.width, 3), np.uint8)).save(folder / f"{pair.name}.png")
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(folder / f"{pairs[1].name}.png")
    lacks = PictureFolder(UPath(folder)).lacks(pairs)
    expected = f"{pairs[1].width}×{pairs[1].height}"
    assert lacks == [
        f"{folder / pairs[1].name}.png: is 9×7 pixels, expected {expected}",
        f"{folder}: lacks 1 picture of 4: {pairs[0].name}.png",
    ]
    before = PictureFolder(UPath(folder)).digest
    Image.fromarray(np.ones((pairs[2].height, pairs[2].width), np.uint8)).save(folder / f"{pairs[2].name}.png")
    assert PictureFolder(UPath(folder)).digest != before, "it is known by its content"


def test_a_folder_is_brought_to_where_every_worker_reads(pairs: list[Pair], tmp_path: Path) -> None:
    made, storage = tmp_path / "made", UPath(tmp_path / "maps")
    made.mkdir()
    for pair in pairs:
        Image.fromarray(np.full((pair.height, pair.width), 9, np.uint8)).save(made / f"{pair.name}.png")
    folder = PictureFolder(UPath(made))
    first = folder.copied(storage)
    (storage / "teacher" / f"{pairs[0].name}.png").unlink()  # as if the command had been stopped
    assert folder.copied(storage).digest == folder.digest == PictureFolder(storage / "teacher").digest
    expected = maps_of(folder, pairs, tmp_path)
    shutil.rmtree(made)
    np.testing.assert_array_equal(maps_of(first, pairs, tmp_path), expected)
    made.mkdir()
    for pair in pairs:
        Image.fromarray(np.full((pair.height, pair.width), 8, np.uint8)).save(made / f"{pair.name}.png")
    with pytest.raises(ImageError, match=r"has changed since the command began; start it again"):
        folder.copied(UPath(tmp_path / "others"))


def test_pictures_that_were_saved_without_colour_are_those_in_colour(pairs: list[Pair], tmp_path: Path) -> None:
    found = []
    for mode in ("L", "RGB"):
        folder = tmp_path / mode
        folder.mkdir()
        for seed, pair in enumerate(pairs):
            Image.fromarray(picture(seed, 96, 96)[: pair.height, : pair.width]).convert(mode).save(
                folder / f"{pair.name}.png"
            )
        found.append(maps_of(PictureFolder(UPath(folder)), pairs, tmp_path))
    np.testing.assert_array_equal(*found)


def test_what_made_a_picture_itself_errs_nowhere(pairs: list[Pair], tmp_path: Path) -> None:
    """Who returns the large picture in colour has its luma, of a grey picture too."""
    for pair in pairs:
        whole = Image.open(pair.path).convert("RGB").resize((pair.width, pair.height))  # of the whole size: as it is
        image = np.asarray(Image.open(pair.path).convert("RGB"))[: pair.height, : pair.width]
        Image.fromarray(image if pair.downsize == 1 else np.asarray(whole)).save(tmp_path / f"{pair.name}.png")
    whole_size = [pair for pair in pairs if pair.downsize == 1]
    errors = maps_of(PictureFolder(UPath(tmp_path)), whole_size, tmp_path)
    assert errors.max() <= 0.5 / 255 + 2**-12, "luma of pictures is rounded, that of teachers is not"


OWN = """
import numpy as np
def nearest(small, scale):
    return small.repeat(scale, 0).repeat(scale, 1)
class Halved:
    def __init__(self):
        self.half = np.float32(0.5)
    def __call__(self, small, scale):
        return nearest(small, scale)[..., 0] / 255 * self.half
def ragged(small, scale):
    return [[1, 2], [3]]
def sparse(small, scale):
    import torch
    return torch.eye(scale * len(small)).to_sparse()
def halved_bits(small, scale):
    import torch
    return torch.from_numpy(nearest(small, scale) / 255).bfloat16()
def itself(small, scale):
    return small
def too_small(small, scale):
    return small
def nowhere(small, scale):
    return np.full((scale * len(small), scale * small.shape[1]), np.nan)
def wide(small, scale):
    return nearest(small, scale).astype(np.uint16)
def broken(small, scale):
    raise RuntimeError("of no use\\nat all")
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], str]:
    (tmp_path / "own.py").write_text(OWN)
    return lambda name: resolve(f"{tmp_path}/own.py:{name}", "teacher")


def test_code_of_ones_own_is_a_teacher(own: Callable[[str], str], pairs: list[Pair], tmp_path: Path) -> None:
    nearest, halved = find_teacher(own("nearest"), (2,)), find_teacher(own("Halved"), (2, 3, 4))
    assert nearest is not None
    assert halved is not None
    assert nearest.digest != halved.digest
    first = pairs[0]
    rgb = small_by_hand(first).repeat(2, 0).repeat(2, 1) / 255
    y = luma_by_hand(rgb, first.sides().is_grey)
    expected = np.abs(first.sides().hr / 255 - y).ravel()
    np.testing.assert_allclose(maps_of(nearest, [first], tmp_path), expected, rtol=2**-10, atol=1e-6)
    halves = maps_of(halved, [first], tmp_path, "outputs").astype(np.float32)
    np.testing.assert_allclose(halves, rgb[..., 0].ravel() / 2, rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ragged", r"own\.py:ragged@\w{6} of noise: made no picture \("),
        ("sparse", r"own\.py:sparse@\w{6} of noise: made no picture \("),
        ("too_small", r"own\.py:too_small@\w{6} of noise: made uint8 \(72, 72, 3\), expected uint8 or floats, "
                      r"\(144, 144, 3\) or \(144, 144\)"),
        ("nowhere", r"made values that are not finite"),
        ("wide", r"made uint16, expected uint8 or floats on \[0, 1\]"),
        ("broken", r"own\.py:broken@\w{6}: RuntimeError: of no use at all"),
    ],
)  # fmt: skip
def test_what_makes_no_picture_is_refused(own: Callable[[str], str], name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        find_teacher(own(name), (2,))
    assert len(refused.value.problems) == 1


def test_bfloat16_will_do(own: Callable[[str], str], pairs: list[Pair], tmp_path: Path) -> None:
    exact, rounded = (maps_of(OwnTeacher(own(name)), pairs, tmp_path, "outputs") for name in ("nearest", "halved_bits"))  # type: ignore[arg-type]
    assert 0 < np.abs(exact.astype(np.float32) - rounded).max() < 2**-8


@pytest.mark.parametrize("recipe", ["luma,noise=0..0", "noise=0..0", ""])
def test_luma_of_a_recipe_is_not_made_luma_again(
    own: Callable[[str], str], pairs: list[Pair], tmp_path: Path, recipe: str
) -> None:
    restoring = [replace(pair, scale=1, recipe=recipe) for pair in pairs if pair.downsize == 1]
    errors = maps_of(OwnTeacher(own("itself")), restoring, tmp_path)  # type: ignore[arg-type]
    assert errors.max() <= 0.6 / 219 + 1e-3, "what returns the picture errs by its rounding only"


def test_weights_with_changed_code_are_another_teacher(tmp_path: Path) -> None:
    net = (
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)\n    def forward(self, x):\n"
        "        return x + 0.1 * self.layer(x)\n"
    )
    digests = []
    for text in (net, net.replace("0.1", "0.2")):
        (tmp_path / "net.py").write_text(text)
        code = resolve(f"{tmp_path}/net.py:Net", "network")
        if not digests:
            save_model(tmp_path / "net.safetensors", build_model(code))
        teacher = find_teacher(str(tmp_path / "net.safetensors"), (2,), ["vdsr", code])
        assert teacher is not None
        digests.append(teacher.digest)
    assert digests[0] == weights_digest(tmp_path / "net.safetensors") != digests[1]


def test_what_lies_in_a_folder_of_pictures_is_no_trap(pairs: list[Pair], tmp_path: Path) -> None:
    for pair in pairs:
        Image.fromarray(np.zeros((pair.height, pair.width), np.uint8)).save(tmp_path / f"{pair.name}.png")
    plain = PictureFolder(UPath(tmp_path)).digest
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    folder = PictureFolder(UPath(tmp_path))
    assert (folder.digest, folder.lacks(pairs)) == (plain, [])
    Image.fromarray(np.ones((pairs[0].height, pairs[0].width), np.uint8)).save(tmp_path / f"{pairs[0].name}.png")
    said = write_map(UPath(tmp_path / "map"), "errors", pairs, folder, "fp32", "cpu", 1)
    assert said == f"{tmp_path}/{pairs[0].name}.png: has changed since the command began; start it again"
    with pytest.raises(ConfigError, match=r"cannot be read \(.*File name too long"):
        find_teacher("a" * 300 + "/")


def test_code_is_not_loaded_because_a_record_names_it(own: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match=r"is somebody's own, whose code no file brings: name it, own\.py:nearest"):
        find_teacher(str(own("nearest")))


def test_public_weights_that_cannot_be_used_are_refused(spandrel: Any, tmp_path: Path) -> None:
    written(spandrel, tmp_path / "x3.safetensors", *_compact(scale=3))
    with pytest.raises(ConfigError, match=r"this RealESRGAN Compact enlarges by 3, it cannot serve scale 2"):
        find_teacher(str(tmp_path / "x3.safetensors"), (2, 3))
    unknown = {"a.weight": torch.zeros(3)}
    safetensors.torch.save_file(unknown, tmp_path / "unknown.safetensors")
    with pytest.raises(ConfigError, match=r"not a network we know.*; spandrel 0\.\d+\.\d+ does not know it either"):
        find_teacher(str(tmp_path / "unknown.safetensors"), (2,))
    model = written(spandrel, tmp_path / "sick.safetensors", *_compact())
    deep = {**model.state_dict(), "body.1000000.weight": torch.zeros(8)}
    safetensors.torch.save_file(deep, tmp_path / "deep.safetensors")
    with pytest.raises(ConfigError, match=r"speaks of more than 5000 layers"):
        find_teacher(str(tmp_path / "deep.safetensors"), (2,))
    sick = {name: torch.full_like(value, torch.nan) for name, value in model.state_dict().items()}
    safetensors.torch.save_file(sick, tmp_path / "sick.safetensors")
    with pytest.raises(ConfigError, match=r"holds values that are not finite"):
        find_teacher(str(tmp_path / "sick.safetensors"), (2,))
    halves = {name: value.bfloat16() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(halves, tmp_path / "half.safetensors")
    assert isinstance(find_teacher(str(tmp_path / "half.safetensors"), (2,)), PublicWeights)


class Hindrance:
    """Stands in the way of importing spandrel."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, *_: object) -> None:
        if name == "spandrel":
            raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'spandrel'", name="spandrel"),
         r"which lacks spandrel here: pip install 'ail-ray\[teachers\]'"),
        (RuntimeError("operator torchvision::nms does not exist"),
         r"cannot be imported \(operator torchvision::nms does not exist\): here are torchvision \d.*, torch \d.*; "
         r"install the build of torchvision that goes with this torch"),
    ],
)  # fmt: skip
def test_where_spandrel_cannot_be_imported_a_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    safetensors.torch.save_file({"a.weight": torch.zeros(3)}, tmp_path / "public.safetensors")
    for name in [name for name in sys.modules if name.partition(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hindrance(error), *sys.meta_path])
    with pytest.raises(ConfigError, match=message) as refused:
        find_teacher(str(tmp_path / "public.safetensors"), (2,))
    assert len(refused.value.problems) == 1


def test_a_pickle_is_refused_with_how_to_convert_it(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "public.pth")
    with pytest.raises(
        ConfigError,
        match=r"pickles are never loaded; to convert one: torch\.load\(FILE, weights_only=True\), where that can do no "
        r"harm, then safetensors\.torch\.save_file",
    ):
        find_teacher(str(tmp_path / "public.pth"))


def test_half_sizes_are_made_smaller_twice_as_luma_is(pairs: list[Pair]) -> None:
    """A grey picture has the same small picture in colour as its luma rounded."""
    for pair in pairs:
        sides = pair.sides()
        assert isinstance(sides, Sides)
        np.testing.assert_array_equal(sides.small_rgb, small_by_hand(pair))
        if sides.is_grey:
            np.testing.assert_array_equal(sides.small_rgb[..., 1], np.clip(np.rint(255 * sides.small), 0, 255))


def test_the_examples_teach(pairs: list[Pair], tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "docs" / "examples" / "teachers.py"
    for name in ("lanczos", "SelfEnsemble"):
        teacher = find_teacher(resolve(f"{examples}:{name}", "teacher"), (2, 3, 4))
        assert teacher is not None
        outputs, start = maps_of(teacher, pairs, tmp_path, "outputs").astype(np.float32), 0
        for pair in pairs:
            hr = pair.sides().hr / 255
            made = outputs[start : start + pair.pixels].reshape(hr.shape)
            start += pair.pixels
            assert np.square(hr - made).mean() < np.square(hr - pair.sides().bicubic).mean()
