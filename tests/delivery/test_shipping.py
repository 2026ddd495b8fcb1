"""Files for devices: plain operators, the whole picture in the graph, what is refused, and the report."""

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from test_export import network
from torch import nn

from ail_ray.commands import export as command
from ail_ray.delivery import apart, shipping
from ail_ray.delivery.onnx import Variant, session_of, to_onnx
from ail_ray.delivery.picture import phases
from ail_ray.delivery.plain import plain
from ail_ray.delivery.shipping import PLAIN, Asked, Report, Row, refused_by_delegates, ship
from ail_ray.delivery.upscale import upscale
from ail_ray.errors import ConfigError
from ail_ray.imaging.images import enlarge
from ail_ray.learning.weights import save_model
from ail_ray.networks.architectures import FSRCNN, NETWORKS, VDSR, Made, Network, Traits

DOCS = Path(__file__).parents[2] / "docs"
ASKED = Asked(targets=["onnx"], precisions=["fp32"], scale=2, picture=False, eight_bit=False, shape="dynamic",
              calibration="sample", on="sample-val", folder=".")  # fmt: skip


def enlarged(written: bytes, picture: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"picture": picture[None]})[0][0])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_deconvolution_and_a_prelu_are_replaced_by_the_same_numbers(scale: int) -> None:
    torch.manual_seed(0)
    model = FSRCNN(6, 6, scale)
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.4, 0.6)
    inputs = torch.rand(2, 1, 5, 7, dtype=torch.float64)
    replaced = plain(model)
    kinds = {type(layer) for layer in replaced.modules()}
    assert not kinds & {torch.nn.PReLU, torch.nn.ConvTranspose2d}
    assert {type(layer) for layer in model.modules()} >= {torch.nn.PReLU, torch.nn.ConvTranspose2d}, "left as it is"
    expected = model.double()(inputs)
    assert expected.abs().max() > 1
    torch.testing.assert_close(replaced.double()(inputs), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_phases_are_those_of_bicubic_enlargement(scale: int) -> None:
    image = np.random.default_rng(0).random((9, 8)).astype(np.float32)
    middle = enlarge(image, scale)[2 * scale : 7 * scale, 2 * scale : 6 * scale]
    windows = np.lib.stride_tricks.sliding_window_view(image, (5, 5))
    made = np.einsum("yxij,pij->yxp", windows, phases(scale)).reshape(5, 4, scale, scale)
    np.testing.assert_allclose(made.swapaxes(1, 2).reshape(middle.shape), middle, atol=2e-6)


@pytest.mark.parametrize(("name", "scale"), [("vdsr", 2), ("vdsr", 4), ("drrn", 3), ("fsrcnn", 3)])
def test_a_graph_of_pictures_equals_upscale_to_one_level(name: str, scale: int) -> None:
    """On twenty pictures of odd sizes, down to one pixel; red, green and blue ones among them."""
    model, rng = network(name), np.random.default_rng(0)
    written = to_onnx(model, picture=scale, wide=True)
    sizes = [(1, 1), (1, 6), (5, 1), (2, 3), *((2 * i + 3, 31 - i) for i in range(13))]
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    pictures += [np.full((6, 7, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for picture in pictures:
        expected = np.asarray(upscale(model, Image.fromarray(picture), scale))
        made = enlarged(written, picture)
        assert made.dtype == np.uint8
        assert np.abs(made.astype(int) - expected).max() <= 1, picture.shape
    assert len(pictures) == 20
    graph = onnx.load_from_string(written).graph
    assert refused_by_delegates(onnx.load_from_string(written)) == ["Cast", "Round", "Transpose", "free sizes"]
    order = [node.op_type for node in graph.node]
    assert name != "fsrcnn" or order.index("Clip") < order.index("DepthToSpace"), "values are clamped on the small grid"


def test_half_a_picture_is_near() -> None:
    model, picture = network("fsrcnn"), np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    expected = np.asarray(upscale(model, Image.fromarray(picture), 3)).astype(int)
    assert np.abs(enlarged(to_onnx(model, "fp16", picture=3), picture) - expected).max() <= 1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_needs_no_newer_runtime_than_its_operators(name: str) -> None:
    """ONNX Runtime 1.17 reads version 9 of the format at most, and operators of version 20."""
    for picture in (0, 3):
        proto = onnx.load_from_string(to_onnx(network(name), picture=picture))
        versions = [onnx.defs.get_schema(node.op_type, 18).since_version for node in proto.graph.node]
        assert (proto.ir_version, proto.opset_import[0].version) == (7, max(versions))
        assert proto.opset_import[0].version <= 14


def test_a_vdsr_of_fixed_shape_is_plain() -> None:
    proto = onnx.load_from_string(to_onnx(network("vdsr"), shape=(8, 12), wide=True, about={"scale": "2"}))
    assert refused_by_delegates(proto) == []
    assert {node.op_type for node in proto.graph.node} == {"Conv", "Relu", "Add"} <= PLAIN
    assert [side.dim_value for side in proto.graph.output[0].type.tensor_type.shape.dim] == [1, 1, 8, 12]
    assert {each.key: each.value for each in proto.metadata_props} == {"scale": "2"}
    widths = [tuple(held.dims[:2]) for held in proto.graph.initializer]
    assert widths == [(16, 1), (16, 16), (16, 16), (16, 16), (1, 16)], "of four maps each"


def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no"))
    monkeypatch.setattr("ail_ray.delivery.targets.find_spec", lambda module: None)
    asked = replace(ASKED, folder=tmp_path, targets=["ncnn", "coreml"], shape="721x1280", picture=True,
                    precisions=["int8-w7"], calibration="nowhere")  # fmt: skip
    with pytest.raises(ConfigError) as refused:
        ship(network("vdsr"), asked)
    lines = refused.value.problems
    assert lines[:4] == [
        "shape: vdsr at scale 2 makes multiples of 2, no 721x1280",
        "target: ncnn needs ncnn: pip install 'ail-ray[ncnn]'",
        "target: ncnn needs pnnx: pip install 'ail-ray[ncnn]'",
        "precision: ncnn has no int8-w7, only fp32, fp16, int8",
    ]
    assert "target: coreml needs coremltools in an environment of its own: add --make-environment" in lines
    assert lines[-1].startswith("calibration: unknown image set 'nowhere'")
    with pytest.raises(ConfigError, match="litert takes one size only"):
        ship(network("vdsr"), replace(ASKED, targets=["litert"], folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_a_program_apart_says_last_is_the_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here with the converter of litert in this environment, which knows no Tanh."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    binary = apart.folder("litert") / "bin"
    binary.mkdir(parents=True)
    import sys

    (binary / "python").symlink_to(sys.executable)
    node = onnx.helper.make_node("Tanh", ["a"], ["b"])
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, 1, 2, 2]) for name in "ab"]
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:]))
    with pytest.raises(ConfigError, match="target: litert: "):
        apart.run("litert", "litert_convert.py", {"graph.onnx": graph.SerializeToString()}, "fp32")


def test_a_report_has_a_row_for_each_file_and_fits_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shipping, "TIMED", (32, 48))
    save_model(tmp_path / "s.safetensors", VDSR(4, 3))
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(rng.integers(0, 256, (40, 44, 3), np.uint8)).save(photos / "a.png")
    words = [
        "--model",
        str(tmp_path / "s.safetensors"),
        "--picture",
        "--precision",
        "fp32",
        "int8",
        "--on",
        str(photos),
    ]
    assert command.main([*words, "--calibration", str(photos), "--out", str(tmp_path / "out")]) == 0
    page = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in page if "/" not in line) <= 80
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    stem = "vdsr-f4-x2-fp32-int8-picture-onnx-report"
    assert files.keys() == {
        "vdsr-f4-x2-fp32-picture.onnx", "vdsr-f4-x2-int8-picture.onnx", f"{stem}.json", f"{stem}.svg",
    }  # fmt: skip
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content], "no path of this machine"
    report = json.loads(files[f"{stem}.json"])
    exact, rounded = report["rows"]
    assert (exact["lost"], exact["largest"] <= 1, exact["milliseconds"]["1"] > 0) == (0, True, True)
    assert rounded["psnr"] == pytest.approx(report["compared"]["student"][0] - rounded["lost"], abs=1e-3)
    proto = onnx.load(tmp_path / "out" / exact["file"])
    said = {each.key: each.value for each in proto.metadata_props}
    assert said.keys() == {"network", "scale", "range", "colour", "reads", "parameters", "psnr", "commit", "licence"}
    assert (said["scale"], said["parameters"], said["colour"]) == ("2", "216", "RGB")
    with pytest.raises(SystemExit):
        command.main([*words, "--calibration", str(photos), "--out", str(tmp_path / "out")])
    assert "is there already" in capsys.readouterr().err


def test_the_chart_has_milliseconds_across_and_decibels_upwards() -> None:
    row = Row(file="a", target="onnx", precision="int8", kilobytes=1.0, psnr=33.0, milliseconds={1: 20.0})
    compared = {"bicubic": (30.0, 1.0), "student": (34.0, 60.0)}
    drawn = command.chart(Report(name="r", rows=[row], compared=compared, images="x", timed=(8, 8)))
    found = re.findall(r'<circle[^>]*cx="([\d.]+)"[^>]*cy="([\d.]+)"', drawn)
    (left, middle, right) = sorted((float(x), float(y)) for x, y in found)
    assert left[1] > middle[1] > right[1], "bicubic, int8, student: each slower and better than the one before"


class Grouped(Network):
    """A network of somebody's own whose second convolution takes each map alone, and that looks at whole means."""

    traits, made = Traits(upsampling=1), Made(network="grouped")

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.alone = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.alone(torch.relu(self.first(inputs))))
        return inputs + self.last(features + features.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_what_cannot_be_filled_up_is_written_all_the_same(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, luma = Grouped(), np.random.default_rng(0).random((12, 16), np.float32)
    monkeypatch.setattr("ail_ray.delivery.onnx.build_model", lambda *_, **__: Grouped())
    written = to_onnx(model, variant, wide=True, calibration=[luma])
    made = session_of(written, 1).run(None, {"luma": luma[None, None]})[0]
    with torch.no_grad():
        expected = model(torch.from_numpy(luma)[None, None]).numpy()
    assert np.abs(made - expected).max() < (1e-5 if variant == "fp32" else 0.1)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"shape": "2x2"}, "shape must be dynamic, or height and width from 5 to 16384 such as 720x1280, got 2x2"),
        ({"shape": "99999x99998"}, "shape must be dynamic, or height and width from 5 to 16384"),
        ({"shape": "1" * 5000 + "x2"}, "shape must be dynamic, or height and width from 5 to 16384"),
        ({"shape": "64x64", "on": "tiny"}, "on: {}/tiny/a.png: is too small to be compared at scale 2"),
    ],
)
def test_sizes_of_which_nothing_would_be_left_are_refused(
    changes: dict[str, str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    Image.new("RGB", (5, 5)).save("tiny/a.png")
    changes = {name: str(tmp_path / value) if name == "on" else value for name, value in changes.items()}
    with pytest.raises(ConfigError) as refused:
        ship(network("vdsr"), replace(ASKED, folder=tmp_path / "out", **changes))  # type: ignore[arg-type]
    (found,) = refused.value.problems
    assert found.startswith(line.format(tmp_path))


@pytest.mark.parametrize("block", [0, 1])
def test_the_programs_of_the_page_give_the_picture_of_upscale(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first with luma in and out, the second with the whole picture in the graph."""
    page = (DOCS / "DEVICES.md").read_text(encoding="utf-8")
    program = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)[block]
    model, picture = network("vdsr"), np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture).save("small.png")
    Path("student.onnx").write_bytes(to_onnx(model, picture=2 * block))
    (tmp_path / "client.py").write_text(program)
    runpy.run_path("client.py")
    expected = np.asarray(upscale(model, Image.fromarray(picture), 2)).astype(int)
    assert np.abs(np.asarray(Image.open("large.png")) - expected).max() <= 1
    assert len(program.splitlines()) <= (30, 8)[block]
